"""A small office for tests: local state, keys, and tiers on memory stores, without configuration or data path.

`Office` owns the shared dictionaries, so that a test can look into a tier, damage it, take it off line, or make
a second installation's clone by copying the state folder.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tandem_agent.progress import Progress
from tandem_agent.state import Setup, State
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.tierset import TierSet
from tandem_agent.tiers.writing import Revision
from tandem_protocol.errors import Unavailable
from tandem_protocol.identity import Identity
from tandem_protocol.keys import KeyRing, agent_slot
from tandem_protocol.names import IDENTITY, ObjectType, object_name
from tandem_protocol.revision import Certificate, Installation, Kind
from tandem_protocol.store import Store
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


class Place:
    """Where a tier is: its bytes, and whether its link is up. ``after``: verbs left before the link breaks."""

    def __init__(self) -> None:
        self.shared: dict[str, bytes] = {}
        self.up = True
        self.after: int | None = None

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

    def open(self) -> TierSet:
        """A fresh process: what was not made durable is gone."""
        state = self._state()
        policy = RetryPolicy(2, 0, 0, 0)
        tiers = []
        for row in state.tiers():
            store = RetryingStore(self.places[row.name].store, policy, sleep=no_sleep)
            tier = Tier(row, f"memory:{row.name}", store, state, self.ring)
            store.on_session = tier.on_session
            tiers.append(tier)
        return TierSet(tiers, state, self.ring, 60.0)

    def close(self) -> None:
        for state in self._opened:
            state.close()

    async def init(self) -> TierSet:
        """Revision 1 on every tier."""
        tiers = self.open()
        await tiers.contact(60)
        revision = await Revision.begin(tiers, tiers.tiers, Progress())
        for data in tiers.state.key_slots().values():
            await revision.add(ObjectType.KEY, data)
        await revision.commit(Kind.INIT, {}, tier_ids=[row.id for row in tiers.state.tiers()])
        return tiers
