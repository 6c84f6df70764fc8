"""Keeping index segments few: every backup adds one, and now and then one writes those of several again as one.

Segments are of sizes that go up by a factor of four; where four of a size have come together, they become one of the
next, in the backup's own revision, which removes them. So a thousand backups have about twenty, each entry is written
again once per size, and a machine without local state has few to read. Full ones are left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from tandem_agent.engine.fetch import Damage, Fetcher
from tandem_agent.segments import Grouping, read_segments
from tandem_agent.tiers.readers import readers
from tandem_agent.wiring import Agent
from tandem_protocol.errors import SecondInstallation, TandemError
from tandem_protocol.history import LiveObject
from tandem_protocol.index import PackEntry
from tandem_protocol.names import ObjectType

log = logging.getLogger(__name__)

TOGETHER = 4
"""Segments of a size that become one; also the factor between sizes."""

SMALLEST = 4 << 10
"""Bytes of the first size, and all below."""

FULL = 4 << 20
"""Bytes from which a segment is left as it is."""

MOST = 1_000
"""Segments that one backup merges, and `MOST_BYTES` of them: what is in memory at once."""

MOST_BYTES = 4 * FULL


@dataclass
class Merge:
    """What a backup writes again: ``entries`` of live packs, in place of the segments in ``replaced``."""

    entries: list[PackEntry] = field(default_factory=list)
    replaced: list[LiveObject] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)


def to_merge(segments: Iterable[LiveObject]) -> list[LiveObject]:
    """Which of the live ``segments`` become one now, smallest first; what comes out of one size counts for the next."""
    sizes: dict[int, list[LiveObject]] = {}
    for segment in sorted(segments, key=lambda o: (o.size, o.name)):
        if segment.size < FULL and not segment.dead:
            sizes.setdefault(_size(segment.size), []).append(segment)
    chosen: list[LiveObject] = []
    for size in range(_size(FULL) + 1):
        members = sizes.get(size, [])
        if len(members) + bool(chosen) >= TOGETHER:
            chosen += members
        elif chosen:
            break
    return _bounded(chosen)


def _size(length: int) -> int:
    size = 0
    while length >= SMALLEST:
        length //= TOGETHER
        size += 1
    return size


def _bounded(segments: Iterable[LiveObject]) -> list[LiveObject]:
    chosen: list[LiveObject] = []
    length = 0
    for segment in segments:
        length += segment.size
        if len(chosen) == MOST or length > MOST_BYTES:
            break
        chosen.append(segment)
    return chosen


async def read_for_merging(agent: Agent) -> Merge:
    """What is to be merged, as the tiers have it. A segment that cannot be read is left as it is; nothing is merged
    where none can: no backup fails for it."""
    merge = Merge()
    live = agent.state.live_of(ObjectType.INDEX)
    facts = [tier.facts_about(live) for tier in agent.tiers.tiers]
    # A tier that lacks one would get the packs that it names, and neither it nor, for a while, what replaces it.
    chosen = to_merge(found for found in live.values() if all(known.holds_last(found) for known in facts))
    if not chosen:
        return merge

    async def take(group: list[PackEntry]) -> None:
        merge.entries += group

    grouping = Grouping(agent.state, take)
    try:
        fetcher = Fetcher(agent.ring, readers(agent.tiers), found=merge.damage)
        async for segment, entries in read_segments(fetcher, chosen):
            if not isinstance(entries, TandemError):
                await grouping.take(entries)
                merge.replaced.append(segment)
        await grouping.finish()
    except SecondInstallation:
        raise
    except TandemError as fault:
        log.warning("index segments are not merged now: %s", fault)
        return Merge(damage=merge.damage)
    return merge if len(merge.replaced) > 1 else Merge(damage=merge.damage)
