"""The conversion of a repository's index to form 2: at the first backup after the program was upgraded, by itself.

A revision of kind upgrade adds segments of form 2 that name every live pack once, and removes those that were there.
What they say is read from the tiers, verified by name, segment by segment; what is good on none is made again from the
packs themselves. It is a revision like any other: stopped before it is decided it has changed nothing and is begun
again by the next backup, after that it is completed. A segment that could not be read stays as long as a pack may be
named by it alone. What follows is the check in ``indexcheck``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from tandem_agent.engine.fetch import Damage, Fetcher
from tandem_agent.noting import note_found
from tandem_agent.progress import Progress
from tandem_agent.reading import read_entries
from tandem_agent.segments import Grouping, encode_checked, read_segments
from tandem_agent.tiers.readers import readers
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.writing import Revision
from tandem_agent.wiring import Agent
from tandem_protocol.errors import TandemError
from tandem_protocol.history import LiveObject
from tandem_protocol.index import PackEntry
from tandem_protocol.names import ObjectType, object_name
from tandem_protocol.revision import INDEX_2, MAX_OBJECTS, NEWEST, Kind, Record, Removal, Requires

log = logging.getLogger(__name__)

_FEATURES = Requires(NEWEST, NEWEST)
_LISTS = 64
"""Rows of a record that are left for the lists of a base."""
_PACKS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class IndexUpgrade:
    """What a conversion did. ``entries``: blobs that the index names; sizes of segments in bytes; ``remaining``: old
    segments that could not be read and stay, because a pack may be named by them alone."""

    revision: int
    entries: int
    packs: int
    segments_before: int
    bytes_before: int
    segments_after: int
    bytes_after: int
    remaining: int


def upgrade_is_due(agent: Agent) -> bool:
    """Whether the index, or what is left of the old one, is to be converted now."""
    state = agent.state
    if INDEX_2 not in state.requires().read:
        return True
    facts = [tier.facts() for tier in agent.tiers.reachable]
    return any(known.holds_last(segment) for segment in _old(agent) for known in facts)


def _old(agent: Agent) -> list[LiveObject]:
    """The live segments of form 1, as far as it is known, oldest first."""
    state = agent.state
    below = state.head + 1
    if INDEX_2 in state.requires().read:
        # A conversion that was cut, or could not read all of them, has left some. From the first on (a long one has
        # several records, and one may follow for what was left) all that is added is of form 2.
        below = state.first_of_kind(Kind.UPGRADE)
    found = state.live_of(ObjectType.INDEX).values() if below else ()
    return sorted((o for o in found if o.added < below), key=lambda o: (o.added, o.name))


async def upgrade_index(agent: Agent, targets: Sequence[Tier], progress: Progress) -> IndexUpgrade:
    """Convert the index on ``targets``, which a look just found fit. Raises `NoTierReachable`."""
    return await _Upgrade(agent, progress).run(targets)


class _Upgrade:
    """One conversion."""

    def __init__(self, agent: Agent, progress: Progress) -> None:
        self._agent = agent
        self._progress = progress
        self._old = _old(agent)
        self._damage: list[Damage] = []
        self._grouping = Grouping(agent.state, self._write)
        self._written: list[int] = []
        self._revision: Revision | None = None

    async def run(self, targets: Sequence[Tier]) -> IndexUpgrade:
        async with await Revision.begin(self._agent.tiers, targets, self._progress) as revision:
            self._revision = revision
            removed = await self._convert()
            confirmed, left = await self._commit(revision, removed)
        while left and confirmed:
            async with await Revision.begin(self._agent.tiers, confirmed, self._progress) as another:
                confirmed, left = await self._commit(another, left)
        note_found(self._agent.tiers, self._damage)
        upgrade = IndexUpgrade(
            revision=revision.number,
            entries=self._grouping.blobs,
            packs=self._grouping.packs,
            segments_before=len(self._old),
            bytes_before=sum(segment.size for segment in self._old),
            segments_after=len(self._written),
            bytes_after=sum(self._written),
            remaining=len(self._old) - len(removed),
        )
        log.info("the index was converted: %s", upgrade)
        return upgrade

    async def _convert(self) -> list[LiveObject]:
        """Everything up to the decision; gives the segments that are of no more use after it."""
        fetcher = Fetcher(self._agent.ring, readers(self._agent.tiers), found=self._damage)
        self._grouping.leave_out(await self._named_elsewhere(fetcher))
        read: list[LiveObject] = []
        self._say(0)
        async for segment, entries in read_segments(fetcher, self._old):
            if isinstance(entries, TandemError):
                log.warning("index segment %s is not used: %s", segment.name.hex()[:16], entries)
            else:
                await self._grouping.take(entries)
                read.append(segment)
                self._say(len(read))
        missing = await self._take_unnamed(fetcher)
        await self._grouping.finish()
        # Where every pack is named by what was written, nothing is lost with a segment that nobody could read.
        return read if missing else list(self._old)

    def _say(self, done: int) -> None:
        self._progress.phase = f"converting the index: {done} of {len(self._old)} segments"

    async def _named_elsewhere(self, fetcher: Fetcher) -> set[bytes]:
        """The packs that segments name which stay: those of form 2, where a conversion goes on."""
        old = {segment.name for segment in self._old}
        live = self._agent.state.live_of(ObjectType.INDEX)
        named: set[bytes] = set()
        async for _, entries in read_segments(fetcher, [o for o in live.values() if o.name not in old]):
            if not isinstance(entries, TandemError):
                named.update(entry.name for entry in entries)
        return named

    async def _take_unnamed(self, fetcher: Fetcher) -> int:
        """Take in the live packs that nothing read names, from their own trailers; how many could not be read."""
        missing = 0
        for first in range(256):
            packs = [
                o
                for o in self._agent.state.live_named(first)
                if o.type is ObjectType.PACK and o.name not in self._grouping.named
            ]
            for start in range(0, len(packs), _PACKS_AT_ONCE):
                self._progress.phase = "converting the index: reading packs that it does not name"
                part = packs[start : start + _PACKS_AT_ONCE]
                entries = await read_entries(fetcher, part)
                missing += len(part) - len(entries)
                await self._grouping.take(entries)
        return missing

    async def _write(self, entries: list[PackEntry]) -> None:
        data = await asyncio.to_thread(encode_checked, self._agent.ring, entries)
        assert self._revision is not None
        await self._revision.upload(ObjectType.INDEX, object_name(data), data)
        self._written.append(len(data))

    async def _commit(
        self, revision: Revision, removed: Sequence[LiveObject]
    ) -> tuple[list[Tier], list[LiveObject]]:
        """Decide and write ``revision``; gives who has it, and what it had no room to remove."""
        room = max(1, MAX_OBJECTS - len(revision.added) - _LISTS)
        now, left = removed[:room], list(removed[room:])

        def within(record: Record) -> None:
            self._agent.state.set_check_due(record.number)

        self._progress.phase = "converting the index: finishing"
        confirmed = await revision.commit(
            Kind.UPGRADE,
            {},
            removed=[Removal(segment.type, segment.name) for segment in now],
            within=within,
            requires=_FEATURES,
        )
        return confirmed, left
