"""Opens the repository of a configuration for reading: `ls`, `restore`, `backups`.

With local state, what is known there says which tier holds what, and each tier is connected to only when it is
asked for something. Without, one tier is read as it stands, with the passphrase alone. Nothing is written to a
tier, nothing is claimed or judged: a second installation may read. What was found damaged is noted in local state.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from tandem_agent.backups import came_to, list_backups
from tandem_agent.config import Config, TierConfig
from tandem_agent.engine.fetch import Damage
from tandem_agent.noting import note_damage
from tandem_agent.reading import NamedStore, Objects, RepositoryView, open_index, open_store
from tandem_agent.scanning import cache_dir
from tandem_agent.state import State, TierRow
from tandem_agent.wiring import (
    make_retrying,
    open_any_slot,
    open_state,
    process_lock,
    unlock,
)
from tandem_protocol.browse import read_identity
from tandem_protocol.errors import (
    Absent,
    Busy,
    Corrupt,
    Missing,
    NoTierReachable,
    Refused,
    TandemError,
    Unavailable,
)
from tandem_protocol.names import EPOCHS, parse_epoch, record_path
from tandem_protocol.store import Store

READ_ATTEMPTS = 3
"""Where another tier can answer instead, and at a first contact, a dead link is not retried for long."""

OTHERS = "without --tier the others are asked too"
"""What to do about damage where one of several tiers is read alone."""


@asynccontextmanager
async def open_reader(
    config: Config, passphrase: Callable[[], str], only: str | None = None
) -> AsyncIterator[RepositoryView]:
    """The repository as local state and the configured tiers (or ``only`` one) show it; where there is no
    local state, as the first tier that can be read shows it."""
    tiers = [tier for tier in config.tiers if only in (None, tier.name)]
    async with AsyncExitStack() as stack:
        if _has_state(config):
            view = await stack.enter_async_context(_from_state(config, tiers, passphrase))
        else:
            view = await _from_first(config, tiers, passphrase, stack)
        view.remedy = OTHERS if len(tiers) < len(config.tiers) else ""
        yield view


@asynccontextmanager
async def open_place(config: Config, passphrase: Callable[[], str]) -> AsyncIterator[RepositoryView]:
    """The repository as the one tier of ``config`` shows it, whatever local state there is."""
    async with AsyncExitStack() as stack:
        yield await _from_first(config, list(config.tiers), passphrase, stack)


def _has_state(config: Config) -> bool:
    try:
        with open_state(config) as state:
            return state.setup() is not None
    except TandemError as fault:
        if fault.exit_code == 2:  # before init
            return False
        raise


async def _from_first(
    config: Config, tiers: list[TierConfig], passphrase: Callable[[], str], stack: AsyncExitStack
) -> RepositoryView:
    last: TandemError = NoTierReachable("no tier is configured", "name one with --from URL")
    for tier in tiers:
        store = make_retrying(config, tier)
        patient = store.at_most(READ_ATTEMPTS)
        opened = open_store(tier.name, store, lambda slots: open_any_slot(slots, passphrase()))
        try:
            view = await stack.enter_async_context(opened)
            store.policy = patient
            return view
        except (Unavailable, Missing, Corrupt) as fault:
            last = fault
    if isinstance(last, Unavailable):
        raise NoTierReachable(last.what, last.remedy or "check the address, and that what is there runs")
    raise last


@asynccontextmanager
async def _from_state(
    config: Config, tiers: list[TierConfig], passphrase: Callable[[], str]
) -> AsyncIterator[RepositoryView]:
    with open_state(config) as state:
        ring = unlock(config, state, passphrase)
        state.requires()  # a head that needs a newer program says so
        live, backups = state.live(), list_backups(state)
        rows = {row.name: row for row in state.tiers()}
        came = came_to(state, _row(rows, tiers[0])) if len(tiers) == 1 else set()
        told: list[str] = []
        links = [
            _Link(config, tier, row, _holder(state, row, live), len(tiers), told)
            for tier, row in ((tier, _row(rows, tier)) for tier in tiers)
        ]
    named = [link.named for link in links]
    damage: list[Damage] = []
    folder = tempfile.mkdtemp(prefix="tandem-index-")
    try:
        try:
            with process_lock(config):
                kept = os.path.join(cache_dir(config), "index")
                index, notices = await open_index(kept, ring, live, named, damage)
        except Busy:  # a backup is at work on that index: a passing one of our own
            index, notices = await open_index(folder, ring, live, named, damage)
        told += notices
        try:
            yield RepositoryView(ring, live, backups, named, index, told, damage, came)
        finally:
            index.close()
            told += await asyncio.to_thread(note_damage, config, damage)
    finally:
        await asyncio.gather(*(link.close() for link in links))
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _row(rows: dict[str, TierRow], tier: TierConfig) -> TierRow:
    if tier.name not in rows:
        raise Refused(f"the repository has no tier called {tier.name}", f"it has {', '.join(rows)}")
    return rows[tier.name]


def _holder(state: State, row: TierRow, live: Objects) -> Callable[[bytes], bool]:
    """Whether a tier is known to hold an object. One that must be compared again may still have it, and
    every block is verified, so there it is asked."""
    facts = dataclasses.replace(state.facts(row.id), to_compare=False)
    return lambda name: name in live and facts.holds_last(live[name])


class _Link:
    """One tier, connected to when first asked; the identity says whether it is the right place. ``told`` takes
    what a person should know of it: for reading, a second installation is only a notice."""

    def __init__(
        self,
        config: Config,
        tier: TierConfig,
        row: TierRow,
        has: Callable[[bytes], bool],
        of: int,
        told: list[str],
    ) -> None:
        self._config = config
        self._told = told
        self._row = row
        self._store = make_retrying(config, tier)
        self._patient = self._store.at_most(READ_ATTEMPTS)
        self._store.on_session = self._check
        self._is_only = of == 1
        self.named = NamedStore(tier.name, self._store, has, self._once())

    def _once(self) -> Callable[[], Awaitable[None]]:
        lock, done = asyncio.Lock(), False

        async def connect() -> None:
            nonlocal done
            async with lock:
                if not done:
                    await self._store.open()
                    await self._check(self._store)
                    await self._tell_of_others(self._store)
                    if self._is_only:  # where its link breaks later, nobody else goes on for it
                        self._store.policy = self._patient
                    done = True

        return connect

    async def _check(self, store: Store) -> None:
        name = self._row.name
        try:
            found = await read_identity(store)
        except Missing:
            raise Absent(
                f"tier {name}: there is no repository in its folder", "is its disk or share mounted?"
            ) from None
        except Corrupt:
            return  # every block is verified anyway
        if found != self._row.identity:
            raise Absent(f"tier {name}: another disk or repository is there", "connect the right one")

    async def _tell_of_others(self, store: Store) -> None:
        """Whether somebody else has written there since: what is known here is then not the newest."""
        with open_state(self._config) as state:
            setup, head = state.setup(), state.head
        assert setup is not None
        listed = [parse_epoch(entry.name) async for entry in store.list(EPOCHS)]
        taken = any(epoch is not None and epoch > setup.certificate.epoch for epoch in listed)
        try:
            await store.size(record_path(head + 1))
        except Missing:
            if not taken:
                return
        self._told.append(
            f"another installation has written to tier {self._row.name} since: this machine does not know the newest "
            "backups (they can be had with --from URL)"
        )

    async def close(self) -> None:
        await self._store.close()
