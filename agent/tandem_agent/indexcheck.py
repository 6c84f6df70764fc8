"""The check of an index after its conversion: what each tier holds of it is read back and compared with what is live.

Findings are noted like any damage, so that the next synchronisation mends them, and told. Nothing is written here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tandem_agent.noting import note_on_tier
from tandem_agent.progress import Progress
from tandem_agent.tiers.comparing import compare
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.tierset import refresh
from tandem_agent.wiring import Agent
from tandem_protocol.errors import Corrupt, Missing, SecondInstallation, TandemError, Unsupported
from tandem_protocol.history import LiveObject
from tandem_protocol.index import PackEntry, decode_segment
from tandem_protocol.names import ObjectType
from tandem_protocol.replicate import read_verified

_CHECKED = (ObjectType.PACK, ObjectType.INDEX)


async def check_index(agent: Agent, tiers: Sequence[Tier], progress: Progress) -> list[str]:
    """Read the index back from each of ``tiers``: every live pack that the tier has is named once, with its size, and
    is there with that size. Gives a line for people for each kind of finding on each tier; the check stays due until
    one tier at least could be asked."""
    told: list[str] = []
    done = False
    for tier in tiers:
        progress.phase = f"checking the index on {tier.name}"
        try:
            told += await _Check(agent, tier).run()
            done = True
        except SecondInstallation:
            raise
        except TandemError as fault:
            tier.fail(fault)
            told.append(f"the index on tier {tier.name} could not be checked ({fault.what})")
    if done:
        agent.state.set_check_due(0)
    return told


class _Check:
    """The check of one tier. Memory: the names of the packs, and one segment."""

    def __init__(self, agent: Agent, tier: Tier) -> None:
        self._agent = agent
        self._tier = tier
        self._facts = tier.facts()
        self._named: set[bytes] = set()
        self._bad: set[bytes] = set()
        self._twice = self._wrong = 0

    async def run(self) -> list[str]:
        segments = self._agent.state.live_of(ObjectType.INDEX).values()
        for segment in segments:
            if self._facts.holds_last(segment):
                await self._read(segment)
        async for differences in compare(self._tier.store, self._held, self._tier.id):
            self._bad |= {difference.found.name for difference in differences}
        unnamed = sum(
            1
            for first in range(256)
            for found in self._held(first)
            if found.type is ObjectType.PACK and found.name not in self._named
        )
        if note_on_tier(self._agent.state, self._tier.row, self._bad):
            refresh(self._tier)
        found = [
            (
                len(self._bad),
                "segments or packs are damaged or missing: tandem sync mends them from the others",
            ),
            (unnamed, "packs are named by no segment that is good there"),
            (self._twice, "packs are named more than once"),
            (self._wrong, "packs are named with another size than they have"),
        ]
        return [f"index check, tier {self._tier.name}: {count} {what}" for count, what in found if count]

    def _held(self, first: int) -> list[LiveObject]:
        live = self._agent.state.live_named(first)
        return [o for o in live if o.type in _CHECKED and self._facts.holds_last(o)]

    async def _read(self, segment: LiveObject) -> None:
        try:
            data = await read_verified(self._tier.store, segment)
            entries = await asyncio.to_thread(decode_segment, self._agent.ring, data)
        except (Missing, Corrupt, Unsupported):
            self._bad.add(segment.name)
            return
        self._compare(entries)

    def _compare(self, entries: Sequence[PackEntry]) -> None:
        live = self._agent.state.live_among(entry.name for entry in entries)
        for entry in entries:
            found = live.get(entry.name)
            if found is None:
                continue  # removed since
            self._twice += entry.name in self._named
            self._wrong += found.size != entry.size
            self._named.add(entry.name)
