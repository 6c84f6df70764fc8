"""Making a repository: ids and keys are fixed here first, then each tier gets its identity, then revision 1.

Can be stopped anywhere and run again: what was fixed locally is used again, and a tier that has its identity
already is gone on with. A place that holds another repository, or something else, is never touched.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tandem_agent.agent_key import make_agent_key
from tandem_agent.config import Config, TierConfig
from tandem_agent.exclusive import prove_exclusive
from tandem_agent.pinning import Confirm, pin_host_key
from tandem_agent.progress import Progress
from tandem_agent.resync import sync
from tandem_agent.state import Setup, State
from tandem_agent.tiers.writing import Revision
from tandem_agent.wiring import (
    Agent,
    make_retrying,
    make_tiers,
    process_lock,
    unlock_with_passphrase,
)
from tandem_protocol import names
from tandem_protocol.certificates import Certificate, Installation
from tandem_protocol.errors import Corrupt, Exists, Missing, Refused, TandemError, Unavailable, Usage
from tandem_protocol.identity import MAX_SIZE, Identity, decode_identity
from tandem_protocol.keys import KeyRing, agent_slot, passphrase_slot
from tandem_protocol.names import ObjectType, object_name
from tandem_protocol.revision import Kind
from tandem_protocol.store import Store

INIT_ATTEMPTS = 3
"""Somebody is watching: say soon that a place cannot be reached."""


@dataclass(frozen=True, slots=True)
class InitResult:
    """16-byte repository id, the tiers' names in order, and whether an earlier run was completed."""

    repository_id: bytes
    tiers: list[str]
    resumed: bool


async def init_repository(config: Config, passphrase: str, confirm_host_key: Confirm) -> InitResult:
    """Make the repository on every tier of ``config``. Raises if any tier is not reachable: run it again."""
    _check_places(config.tiers)
    with process_lock(config):
        for tier in config.tiers:
            await pin_host_key(config, tier, confirm_host_key)
        state = State.open(config.state_dir)
        try:
            return await _init(config, state, passphrase)
        finally:
            state.close()


def _check_places(tiers: Sequence[TierConfig]) -> None:
    """One place holds one disk at a time."""
    for number, tier in enumerate(tiers):
        for other in tiers[:number]:
            if tier.url == other.url:
                raise Usage(
                    f"tiers {other.name} and {tier.name} have the same URL",
                    f"begin with one disk; then plug in the next one and run: tandem tier add {tier.name} {tier.url}",
                )


async def _init(config: Config, state: State, passphrase: str) -> InitResult:
    resumed = state.setup() is not None
    if resumed:
        ring = unlock_with_passphrase(state, passphrase)
        _check_same_tiers(config, state)
    else:
        for tier in config.tiers:
            await _check_free(config, tier)
        ring = _found(config, state, passphrase)
    setup = state.setup()
    assert setup is not None
    if _is_done(state):
        for tier in config.tiers:
            await _check_there(config, tier, state)
        return InitResult(setup.repository_id, [tier.name for tier in config.tiers], True)
    for tier in config.tiers:
        if _is_made(state, tier.name):
            # Never again: an empty folder in its place is a disk that is not mounted.
            await _check_there(config, tier, state)
        else:
            await _write_identity(config, tier, state)
    await _write_first_revision(config, state, ring)
    return InitResult(setup.repository_id, [tier.name for tier in config.tiers], resumed)


def _is_done(state: State) -> bool:
    return all(_is_made(state, row.name) for row in state.tiers())


def _is_made(state: State, name: str) -> bool:
    """Whether this tier has had revision init. It may lag since, or have been rolled back by its storage."""
    row = next(row for row in state.tiers() if row.name == name)
    first = state.last_of_kinds([Kind.INIT])
    return bool(first) and (row.to_compare or first not in state.missing(row.id))


def _check_same_tiers(config: Config, state: State) -> None:
    known = [row.name for row in state.tiers()]
    wanted = [tier.name for tier in config.tiers]
    if sorted(known) != sorted(wanted):
        raise Usage(
            f"the repository here was begun with the tiers {', '.join(known)}, not {', '.join(wanted)}",
            "run init with those, or choose another --state-dir",
        )


def _found(config: Config, state: State, passphrase: str) -> KeyRing:
    """Fix everything random, durably, before any tier is written."""
    repository_id = os.urandom(16)
    ring = KeyRing.generate(repository_id)
    assert ring.root_private is not None
    installation = Installation.generate()
    certificate = Certificate.issue(ring.root_private, repository_id, installation, 1)
    now = int(time.time())
    slots = [
        passphrase_slot(ring, passphrase, "init", created=now),
        agent_slot(ring, make_agent_key(config), "agent", created=now),
    ]
    tiers = [
        (t.name, Identity(repository_id, t.tier_id or os.urandom(16), ring.root_public)) for t in config.tiers
    ]
    setup = Setup(repository_id, ring.root_public, installation, certificate)
    state.found(setup, tiers, {object_name(slot): slot for slot in slots})
    return ring


async def _check_free(config: Config, tier: TierConfig) -> None:
    """Nothing is fixed and nothing made while a place cannot be reached or holds a repository already."""
    store = make_retrying(config, tier, make_root=True, attempts=INIT_ATTEMPTS)
    try:
        await store.open()
        if await _identity(store) is not None:
            raise Refused(
                f"tier {tier.name}: there is a repository at {tier.url} already",
                "choose another folder, or restore from it with --from URL",
            )
    finally:
        await store.close()
    await prove_exclusive(tier.name, lambda: make_retrying(config, tier, True, INIT_ATTEMPTS))


async def _identity(store: Store) -> bytes | None:
    try:
        return await store.read(names.IDENTITY, 0, MAX_SIZE + 1)
    except Missing:
        return None


async def _write_identity(config: Config, tier: TierConfig, state: State) -> None:
    row = next(row for row in state.tiers() if row.name == tier.name)
    store = make_retrying(config, tier, make_root=True, attempts=INIT_ATTEMPTS)
    try:
        await store.open()
        try:
            await store.create(names.IDENTITY, row.identity.encode())
        except Exists:
            await _check_ours(store, tier, row.identity)
    finally:
        await store.close()


async def _check_there(config: Config, tier: TierConfig, state: State) -> None:
    """A repository that was made must be where the configuration says: another place is not one more tier."""
    row = next(row for row in state.tiers() if row.name == tier.name)
    store = make_retrying(config, tier, attempts=INIT_ATTEMPTS)
    try:
        await store.open()
        await _check_ours(store, tier, row.identity)
    except (Missing, Unavailable, Refused) as fault:
        raise Usage(
            f"the repository of this state folder ({config.state_dir}) is not at {tier.url} ({fault.what})",
            "correct the URL; for a new repository name another --state-dir",
        ) from None
    finally:
        await store.close()


async def _check_ours(store: Store, tier: TierConfig, ours: Identity) -> None:
    try:
        found: Identity | None = decode_identity(await _identity(store) or b"")
    except Corrupt:
        found = None
    if found != ours:
        raise Refused(f"tier {tier.name}: another repository is at {tier.url}", "choose another folder")


async def _write_first_revision(config: Config, state: State, ring: KeyRing) -> None:
    """Revision 1, kind init, on every tier: the set of tiers and the key slots."""
    tiers = make_tiers(config, state, ring)
    try:
        await tiers.contact(patience_s=float("inf"))
        missing = [t for t in tiers.tiers if not t.reachable]
        if missing:
            raise _not_reachable(missing[0].name, missing[0].reason)
        agent = Agent(config, state, ring, tiers)
        if not state.has_kind(Kind.INIT):
            await _commit_init(agent)
        if not _is_done(state):
            await sync(agent, (), False, Progress())
        for tier in tiers.tiers:
            if not _is_made(state, tier.name):
                raise _not_reachable(tier.name, tier.reason)
    finally:
        await tiers.close()


async def _commit_init(agent: Agent) -> None:
    state = agent.state
    rows = state.tiers()
    async with await Revision.begin(agent.tiers, agent.tiers.tiers, Progress()) as revision:
        for data in state.key_slots().values():
            await revision.add(ObjectType.KEY, data)
        await revision.commit(Kind.INIT, {}, tiers={row.id: row.name for row in rows})


def _not_reachable(name: str, reason: str) -> TandemError:
    return Refused(
        f"tier {name} could not be made ready ({reason})", "run the same init again when it is back"
    )
