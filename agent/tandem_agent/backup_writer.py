"""A backup's side of the write protocol: takes sealed packs, makes checkpoints, and ends with the backup.

A long backup is several revisions: checkpoints every few minutes, then one of kind backup. An interruption loses
only what came after the last checkpoint. Only tiers that were confirmed targets of every checkpoint are targets
of the last revision.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any

from tandem_agent.engine.blobindex import BlobIndex
from tandem_agent.engine.packtable import PackSet
from tandem_agent.merging import read_for_merging
from tandem_agent.noting import note_found
from tandem_agent.progress import Progress
from tandem_agent.segments import encode_checked
from tandem_agent.tiers.pace import LagBudget, Pace
from tandem_agent.tiers.targets import wait_until_held
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.writing import Revision
from tandem_agent.wiring import Agent
from tandem_protocol.errors import NoTierReachable
from tandem_protocol.index import PackEntry, entry_of, split_entries
from tandem_protocol.names import ObjectType, object_name
from tandem_protocol.pack import SealedPack
from tandem_protocol.planning import usable_packs
from tandem_protocol.revision import MAX_OBJECTS, Kind, Removal

CHECKPOINT_S = 300.0
"""Seconds after which a revision of a long backup is closed by a checkpoint."""

CHECKPOINT_OBJECTS = MAX_OBJECTS // 2
"""Objects after which it is closed in any case: a record names at most twice as many."""

PACKS_AT_ONCE = 10_000
"""Packs that are looked up together when it is asked which may be referred to."""


class BackupWriter:
    """Use `begin`, give packs to `take`, then `finish` or `abort`. ``confirmed`` are the tiers that have it."""

    def __init__(
        self,
        agent: Agent,
        index: BlobIndex,
        progress: Progress,
        about: dict[str, Any],
        wait_s: float | None = None,
    ) -> None:
        self._wait_s = wait_s
        self.confirmed: list[Tier] = []
        self.bytes_stored = 0
        self._agent = agent
        self._index = index
        self._progress = progress
        self._about = about
        self._pace = Pace(_budgets(agent))
        self._entries: list[PackEntry] = []
        self._usable = PackSet()
        self._lock = asyncio.Lock()
        self._since = time.monotonic()
        self._revision: Revision | None = None
        self.checkpoints = 0
        """How many were made and are on a tier."""

    @classmethod
    async def begin(
        cls,
        agent: Agent,
        targets: Iterable[Tier],
        index: BlobIndex,
        progress: Progress,
        about: dict[str, Any],
        wait_s: float | None = None,
    ) -> BackupWriter:
        """The first revision's intent and claims on ``targets``, and what deduplication may refer to there.
        ``wait_s``: how long a checkpoint that lost every tier waits for one (None: for ever)."""
        writer = cls(agent, index, progress, about, wait_s)
        targets = list(targets)
        writer._usable = _usable_numbers(agent, targets, index)
        await writer._begin(targets)
        return writer

    async def _begin(self, targets: Iterable[Tier]) -> None:
        self._revision = await Revision.begin(
            self._agent.tiers, targets, self._progress, self._about, self._pace
        )
        self._since = time.monotonic()

    @property
    def _current(self) -> Revision:
        assert self._revision is not None
        return self._revision

    @property
    def targets(self) -> list[Tier]:
        return self._current.targets

    @property
    def begun_with(self) -> list[Tier]:
        return self._current.begun_with

    @property
    def revision_number(self) -> int:
        return self._current.number

    def known(self, content_id: bytes) -> bool:
        """Whether every target has this content, so that it need not be stored again. Called in threads."""
        return self._index.known(content_id, self._usable)

    @property
    def packs_ahead(self) -> int:
        """How many packs may be kept in memory on their way to targets, beyond one that is and one that waits."""
        return max(0, self._current.packs_behind - 1)

    async def take(self, pack: SealedPack) -> asyncio.Future[None]:
        """The engine's sink: hand a finished pack to every target; waits while they are too far behind. Gives what
        is done when the pack's buffer is free again."""
        async with self._lock:
            if self._is_due():
                await self._checkpoint()
            entry = entry_of(pack, self._current.number)
            self._entries.append(entry)
            self._usable.include(self._index.add_pack(entry))
            return await self._store(ObjectType.PACK, pack.name, pack.data, len(pack.buffer))

    def _is_due(self) -> bool:
        objects = len(self._current.added) >= CHECKPOINT_OBJECTS
        return bool(self._entries) and (objects or time.monotonic() - self._since >= CHECKPOINT_S)

    async def _store(
        self, kind: ObjectType, name: bytes, data: bytes | memoryview, weight: int | None = None
    ) -> asyncio.Future[None]:
        self.bytes_stored += len(data)
        self._progress.bytes_stored = self.bytes_stored
        return await self._current.upload(kind, name, data, weight)

    async def _checkpoint(self) -> None:
        segments = await self._write_segments()
        confirmed = await self._current.commit(Kind.CHECKPOINT, {"backup": self._about["id"]})
        if not confirmed:
            written_to = self._current.begun_with
            confirmed = await wait_until_held(
                self._agent.tiers, self._current.number, written_to, self._wait_s, self._progress, others=True
            )
            self._progress.phase = "backing up"
        if not confirmed:
            raise NoTierReachable(
                "every tier was lost at a checkpoint", "run the backup again; what was sent is kept"
            )
        self._seen(segments)
        self.checkpoints += 1
        # The targets are looked at when it is claimed there; another installation may be at work on the others.
        await self._agent.tiers.look_at(t for t in self._agent.tiers.tiers if t not in confirmed)
        await self._begin(confirmed)

    async def _write_segments(self, others: Sequence[PackEntry] = ()) -> list[tuple[bytes, list[PackEntry]]]:
        """Index segments naming the packs of this revision, and ``others``, on every target."""
        segments = []
        for group in split_entries([*others, *self._entries]):
            data = await asyncio.to_thread(encode_checked, self._agent.ring, group)
            name = object_name(data)
            await self._store(ObjectType.INDEX, name, data)
            segments.append((name, group))
        self._entries = []
        return segments

    def _seen(self, segments: Iterable[tuple[bytes, list[PackEntry]]]) -> None:
        for name, entries in segments:
            self._index.add_segment(name, entries)

    async def finish(self, snapshot: bytes, about: dict[str, Any]) -> None:
        """Segments, snapshot, record: the revision that alone carries the backup's id and name."""
        async with self._lock:
            merge = await read_for_merging(self._agent)
            segments = await self._write_segments(merge.entries)
            await self._store(ObjectType.SNAPSHOT, object_name(snapshot), snapshot)
            self.confirmed = await self._current.commit(
                Kind.BACKUP,
                {"backup": about},
                removed=[Removal(segment.type, segment.name) for segment in merge.replaced],
                backup=about,
            )
            self._seen(segments)
            note_found(self._agent.tiers, merge.damage)

    async def abort(self, reason: str) -> None:
        """Give up: the backup is listed as failed; packs since the last checkpoint become orphans."""
        await self._current.abort(reason)
        self._agent.tiers.list_failed(self._about, reason)


def _budgets(agent: Agent) -> dict[bytes, LagBudget]:
    """How far each tier may fall behind, as configured."""
    configured = {tier.name: tier.lag_budget for tier in agent.config.tiers}
    return {tier.id: configured[tier.name] for tier in agent.tiers.tiers if tier.name in configured}


def _usable_numbers(agent: Agent, targets: list[Tier], index: BlobIndex) -> PackSet:
    """Numbers of the packs that deduplication may refer to: see `usable_packs`."""
    naming = index.naming()
    facts = [tier.facts() for tier in targets]
    usable = PackSet()
    numbered = ((name, number) for number, name in enumerate(index.pack_names()))
    while some := dict(islice(numbered, PACKS_AT_ONCE)):
        # Some at a time: of a million packs the numbers fit into memory, all that is live does not.
        named = {name: naming.get(number, ()) for name, number in some.items()}
        live = agent.state.live_among({*named, *chain.from_iterable(named.values())})
        for name in usable_packs(live, facts, named):
            usable.include(some[name])
    return usable
