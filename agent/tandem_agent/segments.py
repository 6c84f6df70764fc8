"""Index segments read from the tiers and written again as fewer: what the conversion of an index and merging share.

What is written is decoded again and compared before anybody relies on it. Which segments, and in which revision, is for
the callers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from tandem_agent.engine.fetch import Fetcher
from tandem_protocol.errors import Corrupt, Missing, TandemError, Unavailable, Unsupported
from tandem_protocol.history import LiveObject
from tandem_protocol.index import (
    MAX_SEGMENT_BLOBS,
    MAX_SEGMENT_PACKS,
    PackEntry,
    decode_segment,
    encode_segment,
)
from tandem_protocol.keys import KeyRing
from tandem_protocol.names import ObjectType

if TYPE_CHECKING:
    from tandem_agent.state import State

_AT_ONCE = 4


async def read_segments(
    fetcher: Fetcher, segments: Sequence[LiveObject]
) -> AsyncGenerator[tuple[LiveObject, list[PackEntry] | TandemError], None]:
    """The packs that each of ``segments`` names, or why no tier has it good. A few are fetched at once, one at a time
    is decoded. Raises `NoTierReachable`."""
    for start in range(0, len(segments), _AT_ONCE):
        part = segments[start : start + _AT_ONCE]
        for segment, data in zip(part, await _fetched(fetcher, part), strict=True):
            if isinstance(data, TandemError):
                yield segment, data
                continue
            try:
                yield segment, await asyncio.to_thread(decode_segment, fetcher.ring, data)
            except (Corrupt, Unsupported) as fault:
                yield segment, fault


async def _fetched(fetcher: Fetcher, segments: Iterable[LiveObject]) -> list[bytes | TandemError]:
    async def one(segment: LiveObject) -> bytes | TandemError:
        try:
            return await fetcher.whole(ObjectType.INDEX, segment.name)
        except (Missing, Corrupt, Unavailable) as fault:  # damaged on one tier, while the other is away
            return fault

    return list(await asyncio.gather(*(one(segment) for segment in segments)))


def encode_checked(ring: KeyRing, entries: Sequence[PackEntry]) -> bytes:
    """A segment of ``entries`` that says the same when it is read."""
    data = encode_segment(ring, entries)
    if decode_segment(ring, data) != list(entries):
        raise Corrupt(
            "an index segment does not say what it was made of", "nothing was changed; report this, please"
        )
    return data


class Grouping:
    """Takes in what segments say and gives it out in groups that fill a segment each, every live pack once. What is
    said of packs that are not live, or of another size than they have, is left out."""

    def __init__(self, state: State, give: Callable[[list[PackEntry]], Awaitable[None]]) -> None:
        self._state = state
        self._give = give
        self._group: list[PackEntry] = []
        self._room = 0
        self.named: set[bytes] = set()
        """Names of all packs taken in, and of those that were to be left out."""
        self.packs = self.blobs = 0

    def leave_out(self, packs: Iterable[bytes]) -> None:
        """These are named by segments that stay."""
        self.named.update(packs)

    async def take(self, entries: Iterable[PackEntry]) -> None:
        new = {entry.name: entry for entry in entries if entry.name not in self.named}
        live = self._state.live_among(new)
        for name, entry in new.items():
            found = live.get(name)
            if found is None or found.type is not ObjectType.PACK or found.size != entry.size:
                continue
            blobs = entry.blobs
            if blobs > self._room or len(self._group) == MAX_SEGMENT_PACKS:
                await self.finish()
            self._group.append(entry)
            self._room -= blobs
            self.blobs += blobs
            self.packs += 1
            self.named.add(name)

    async def finish(self) -> None:
        """Give out what is left."""
        group, self._group = self._group, []
        self._room = MAX_SEGMENT_BLOBS
        if group:
            await self._give(group)
