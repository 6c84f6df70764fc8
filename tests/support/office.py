"""A small office for tests: local state, keys, and tiers on memory stores, without configuration or data path.

`Office` owns the shared dictionaries, so that a test can look into a tier, damage it, take it off line, or make
a second installation's clone by copying the state folder.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tandem_agent.config import Config
from tandem_agent.progress import Progress
from tandem_agent.state import Setup, State
from tandem_agent.tiers.targets import reachable_targets
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.tierset import TierSet
from tandem_agent.tiers.writing import Revision
from tandem_agent.wiring import Agent
from tandem_protocol.certificates import Certificate, Installation
from tandem_protocol.errors import Unavailable
from tandem_protocol.identity import Identity
from tandem_protocol.keys import KeyRing, agent_slot
from tandem_protocol.names import IDENTITY, ObjectType, object_name
from tandem_protocol.revision import Kind
from tandem_protocol.store import Buffer, Store
from tandem_protocol.stores.memory import MemoryStore
from tandem_protocol.stores.retrying import RetryingStore, RetryPolicy


class SwitchedStore(MemoryStore):
    """A memory store whose link a test can cut: every verb then fails as a dead link does."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.shared)
        self._place = place

    async def open(self) -> None:
        self._place.check()
        await super().open()

    def _check(self, name: str) -> None:
        self._place.check()
        super()._check(name)

    async def create(self, name: str, data: Buffer) -> None:
        if self._place.says("create", name):
            await super().create(name, data)
        self._place.reply("create", name)

    async def put(self, name: str, data: Buffer, sent: Callable[[int], None] | None = None) -> None:
        if self._place.says("put", name):
            await super().put(name, data, sent)
        self._place.reply("put", name)

    async def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self._place.says("read", name)
        return await super().read(name, offset, length)

    async def move(self, source: str, target: str) -> None:
        if self._place.says("move", source):
            await super().move(source, target)
        self._place.reply("move", source)


class Place:
    """Where a tier is: its bytes, and whether its link is up. ``after``: verbs left before the link breaks.
    ``hook`` is told verb and name before they act; what it raises is raised, and if it gives False the verb is
    said to be done and is not. ``lost``: verbs and names whose reply gets lost once after they are done;
    ``lost_in``: so is the reply to a change after as many others."""

    def __init__(self) -> None:
        self.shared: dict[str, bytes] = {}
        self.up = True
        self.after: int | None = None
        self.hook: Callable[[str, str], bool | None] | None = None
        self.lost: list[tuple[str, str]] = []
        self.lost_in: int | None = None

    def reply(self, verb: str, name: str) -> None:
        if self.lost_in is not None:
            self.lost_in -= 1
            if self.lost_in < 0:
                self.lost_in = None
                raise Unavailable("the reply was lost")
        if (verb, name) in self.lost:
            self.lost.remove((verb, name))
            raise Unavailable("the reply was lost")

    def says(self, verb: str, name: str) -> bool:
        return self.hook is None or self.hook(verb, name) is not False

    def paths(self, start: str) -> list[str]:
        """What is there below ``start``, in order."""
        return sorted(path for path in self.shared if path.startswith(start))

    def damage(self, path: str) -> None:
        """Flip a bit in the middle."""
        data = bytearray(self.shared[path])
        data[len(data) // 2] ^= 1
        self.shared[path] = bytes(data)

    def roll_back(self, to: dict[str, bytes]) -> None:
        self.shared.clear()
        self.shared.update(to)

    def check(self) -> None:
        if self.after is not None:
            self.after -= 1
            if self.after < 0:
                self.up, self.after = False, None
        if not self.up:
            raise Unavailable("the link is down")

    def store(self) -> Store:
        return SwitchedStore(self)


async def no_sleep(_seconds: float) -> None:
    """Virtual patience."""


class Office:
    """``names`` are the tiers in order. `open` gives the tier set of a fresh process on the same state."""

    def __init__(self, folder: Path, names: tuple[str, ...] = ("vault", "remote"), seed: int = 1) -> None:
        self.folder = folder
        self.places = {name: Place() for name in names}
        self.ring = KeyRing.generate(os.urandom(16))
        self._opened: list[State] = []
        state = self._state()
        assert self.ring.root_private is not None
        installation = Installation.generate()
        certificate = Certificate.issue(self.ring.root_private, self.ring.repository_id, installation, 1)
        tiers = [(n, Identity(self.ring.repository_id, os.urandom(16), self.ring.root_public)) for n in names]
        slot = agent_slot(self.ring, bytes(32), "test")
        setup = Setup(self.ring.repository_id, self.ring.root_public, installation, certificate)
        state.found(setup, tiers, {object_name(slot): slot})
        for name, identity in tiers:
            self.places[name].shared[IDENTITY] = identity.encode()

    def _state(self) -> State:
        state = State.open(str(self.folder))
        self._opened.append(state)
        return state

    def clone(self, folder: Path) -> Office:
        """A second machine with a copy of the local state, on the same tiers."""
        shutil.copytree(self.folder, folder)
        other = object.__new__(Office)
        other.folder, other.places, other.ring, other._opened = folder, self.places, self.ring, []
        return other

    def open(self, patient: RetryPolicy | None = None) -> TierSet:
        """A fresh process: what was not made durable is gone. ``patient``: retries that really wait."""
        state = self._state()
        policy = patient or RetryPolicy(2, 0, 0, 0)
        sleep = asyncio.sleep if patient else no_sleep
        tiers = []
        for row in state.tiers():
            store = RetryingStore(self.places[row.name].store, policy, sleep=sleep)
            tier = Tier(row, f"memory:{row.name}", store, state, self.ring)
            store.on_session = tier.on_session
            tiers.append(tier)
        return TierSet(tiers, state, self.ring, 60.0)

    def close(self) -> None:
        for state in self._opened:
            state.close()

    def agent(self, tiers: TierSet | None = None) -> Agent:
        """What the use cases take; without ``tiers`` of a fresh process."""
        tiers = tiers or self.open()
        return Agent(Config((), str(self.folder)), tiers.state, self.ring, tiers)

    async def contacted(self) -> TierSet:
        """A fresh process after its first contact."""
        tiers = self.open()
        await tiers.contact(60)
        return tiers

    def down(self, *names: str) -> None:
        """Cut these links; all others are up."""
        for name, place in self.places.items():
            place.up, place.after = name not in names, None

    async def write(self, tiers: TierSet | None = None, objects: int = 1, wait_s: float = 1.0) -> list[str]:
        """One revision with some packs of 100 bytes; the names of the tiers that were confirmed."""
        tiers = tiers or self.open()
        revision = await Revision.begin(tiers, await reachable_targets(tiers, wait_s), Progress())
        for _ in range(objects):
            await revision.add(ObjectType.PACK, os.urandom(100))
        return [tier.name for tier in await revision.commit(Kind.CHECKPOINT, {})]

    async def init(self) -> TierSet:
        """Revision 1 on every tier."""
        tiers = self.open()
        await tiers.contact(60)
        revision = await Revision.begin(tiers, tiers.tiers, Progress())
        for data in tiers.state.key_slots().values():
            await revision.add(ObjectType.KEY, data)
        await revision.commit(Kind.INIT, {}, tiers={row.id: row.name for row in tiers.state.tiers()})
        return tiers
