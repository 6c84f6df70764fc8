"""Machines with configurations of their own on the same tiers in memory: for takeovers and joins.

`Machine` runs the real use cases (init, backup, sync, takeover); its tiers are `Place` objects, shared by all
machines of a `Site`, so that a test can cut links, damage, roll back and kill at any verb.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import pytest
from tests.support.office import Place, SwitchedStore

from tandem_agent import init as init_module
from tandem_agent import keyslots, wiring
from tandem_agent.backup import BackupResult, backup
from tandem_agent.backups import BackupInfo, list_backups
from tandem_agent.config import Config, TierConfig
from tandem_agent.init import init_repository
from tandem_agent.opening import open_place
from tandem_agent.places import Place as Url
from tandem_agent.progress import Progress
from tandem_agent.restore import restore
from tandem_agent.resync import SyncResult, sync
from tandem_agent.state import State
from tandem_agent.takeover import TakeoverResult, take_over
from tandem_agent.wiring import open_agent
from tandem_protocol.keys import passphrase_slot
from tandem_protocol.stores.retrying import RetryPolicy

PHRASE = "correct horse"


class Killed(BaseException):
    """Ends a process where it is."""


class Site:
    """The tiers, in order; ``folder`` is for the machines' sources and state."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *tiers: str) -> None:
        self.folder = folder
        self.places = {name: Place() for name in tiers}
        self._left: int | None = None
        monkeypatch.setattr(wiring, "make_store", self._store)
        monkeypatch.setattr(
            wiring, "RetryPolicy", lambda attempts, *_: RetryPolicy(min(attempts, 2), 0, 0, 0)
        )
        cheap = partial(passphrase_slot, memory_kib=8, passes=1, lanes=1)
        for module in (init_module, keyslots):
            monkeypatch.setattr(module, "passphrase_slot", cheap)

    def _store(self, _config: Config, tier: TierConfig, *_: object) -> SwitchedStore:
        return SwitchedStore(self.places[tier.place.path.strip("/")])

    def machine(self, name: str) -> Machine:
        tiers = tuple(TierConfig(tier, Url("file", f"/{tier}")) for tier in self.places)
        return Machine(self, Config(tiers, str(self.folder / name), patience_seconds=30))

    def down(self, *names: str) -> None:
        """Cut these links; all others are up, and nobody is killed any more."""
        for name, place in self.places.items():
            place.up, place.after, place.hook = name not in names, None, None

    def kill_after(self, verbs: int) -> None:
        """Whoever works is killed at the verb after so many more, on whichever tier."""
        left = [verbs]

        def hook(_verb: str, _name: str) -> bool:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return True

        for place in self.places.values():
            place.hook = hook

    def live(self, *folders: str) -> list[dict[str, bytes]]:
        """What each tier has in these folders."""
        return [
            {path: data for path, data in place.shared.items() if path.startswith(folders)}
            for place in self.places.values()
        ]


class Machine:
    """One configuration with its state folder."""

    def __init__(self, site: Site, config: Config) -> None:
        self.site, self.config = site, config
        self.source = site.folder / "source"
        self.source.mkdir(exist_ok=True)
        self._made = 0

    async def init(self) -> None:
        await init_repository(self.config, PHRASE, lambda *_: False)

    async def backup(self, content: str, **files: str) -> BackupResult:
        """Back up a folder that has just one file with ``content``, and ``files``."""
        for path in self.source.iterdir():
            path.unlink()
        for name, text in {"file": content, **files}.items():
            (self.source / name).write_text(text)
        async with open_agent(self.config, lambda: PHRASE) as agent:
            return await backup(agent, [str(self.source).encode()], wait_s=0, progress=Progress())

    async def sync(self, full: bool = False) -> SyncResult:
        async with open_agent(self.config, lambda: PHRASE) as agent:
            return await sync(agent, (), full, Progress())

    async def contact(self) -> dict[str, str]:
        """State by tier after one contact."""
        async with open_agent(self.config, lambda: PHRASE) as agent:
            await agent.tiers.contact(1)
            return {tier.name: tier.state.value for tier in agent.tiers.tiers}

    async def take_over(self) -> TakeoverResult:
        return await take_over(self.config, lambda: PHRASE, lambda *_: False, lambda _: True, Progress())

    def backups(self) -> list[BackupInfo]:
        state = State.open(self.config.state_dir)
        try:
            return [found for found in list_backups(state) if found.status != "failed"]
        finally:
            state.close()

    def alone(self, tier: str) -> Config:
        """A configuration that has only this tier, and no local state."""
        tiers = tuple(t for t in self.config.tiers if t.name == tier)
        return dataclasses.replace(self.config, tiers=tiers, state_dir="/nonexistent")

    async def read(self, backup_id: str, tier: str) -> str:
        """What is in the file of a backup, restored from ``tier`` alone, with the passphrase alone."""
        self._made += 1
        target = self.site.folder / f"restored-{self.config.state_dir.rsplit('/', 1)[1]}-{self._made}"
        async with open_place(self.alone(tier), lambda: PHRASE) as view:
            snapshot = next(b.snapshot for b in view.backups if b.id.hex() == backup_id)
            assert snapshot is not None
            await restore(view, snapshot, str(target), durable=False)
        return Path(f"{target}{self.source}/file").read_text()


async def first_with(site: Site, *contents: str) -> tuple[Machine, list[str]]:
    """The first machine after a backup of each of ``contents``, and their ids."""
    first = site.machine("first")
    await first.init()
    return first, [(await first.backup(content)).id for content in contents]
