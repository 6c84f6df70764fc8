"""Bringing one tier level with the head, from any tier that has what it lacks.

Works from what local state says is missing (the net effect at the head, not step by step), or, with ``full`` and
for a tier that was rolled back, from listings of everything. Only adds: what a tier holds more is left alone.
What is there already is not sent again, so a stopped run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from tandem_agent.progress import Progress
from tandem_agent.state import State
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.tierset import TierSet, refresh
from tandem_protocol import names
from tandem_protocol.errors import Corrupt, Missing, SecondInstallation, TandemError, Unavailable
from tandem_protocol.history import Live, LiveObject
from tandem_protocol.names import ObjectType
from tandem_protocol.planning import lacks, writable_now
from tandem_protocol.replicate import Outcome, in_parallel, read_verified, replicate, sizes_of
from tandem_protocol.revision import ObjectRef
from tandem_protocol.store import Store
from tandem_protocol.verdict import State as TierState

_ORDER = [ObjectType.KEY, ObjectType.LIST, ObjectType.PACK, ObjectType.INDEX, ObjectType.SNAPSHOT]
"""Keys first, names of things last: a reader that finds a snapshot finds what it needs."""


async def level_tier(tiers: TierSet, tier: Tier, full: bool, progress: Progress) -> Outcome:
    """Level one reachable tier as far as can be now; what fails becomes its state. Raises `SecondInstallation`."""
    progress.phase = f"synchronising {tier.name}"
    tier.set_state(TierState.SYNCING, tier.reason)
    try:
        return await _Levelling(tiers, tier, progress).run(full)
    except SecondInstallation:
        raise
    except TandemError as fault:
        tier.fail(fault)
        return Outcome()


class _Levelling:
    """One synchronisation of one tier."""

    def __init__(self, tiers: TierSet, tier: Tier, progress: Progress) -> None:
        self._others = [t for t in tiers.tiers if t is not tier]
        self._tier = tier
        self._state: State = tiers.state
        self._counters = progress.tier(tier.name)

    async def run(self, full: bool) -> Outcome:
        tier, state = self._tier, self._state
        full = full or state.tier(tier.id).to_compare
        facts = tier.facts()
        live = state.live()
        wanted = [o for o in live.values() if o.live_on(tier.id)] if full else lacks(facts, live)
        wanted.sort(key=lambda o: (_ORDER.index(o.type), o.added, o.name))
        numbers = sorted(facts.missing)
        await self._claim(numbers)
        present = await sizes_of(tier.store, wanted)
        # Durable before anything is copied: a run that is stopped here must not leave it counted as held.
        lost = [o.name for o in wanted if facts.holds_last(o) and present.get(o.name) != o.size]
        state.add_lacking(tier.id, lost)
        await self._set_aside(wanted, present, facts.lacking)
        outcome = await self._copy([o for o in wanted if o.name not in present])
        present |= await sizes_of(tier.store, [live[name] for name in outcome.copied])
        await self._finish(numbers, present, live)
        if full:
            state.add_lacking(tier.id, outcome.failed)
            state.set_compared(tier.id)
        refresh(tier)
        if outcome.failed:
            name, reason = next(iter(outcome.failed.items()))
            tier.set_state(
                TierState.LAGGING,
                f"{len(outcome.failed)} objects cannot be had now ({name.hex()[:12]}: {reason})",
            )
        return outcome

    async def _set_aside(
        self, wanted: Iterable[LiveObject], present: dict[bytes, int], lacking: frozenset[bytes]
    ) -> None:
        """Make room for good bytes: what has a wrong size goes to quarantine, and what was found bad before, if
        reading it shows that it still is."""
        for found in wanted:
            size = present.get(found.name)
            if size is None or (size == found.size and found.name not in lacking):
                continue
            if size != found.size or not await self._is_good(found):
                await self._tier.move_aside(names.object_path(found.type, found.name))
                del present[found.name]

    async def _is_good(self, found: LiveObject) -> bool:
        try:
            await read_verified(self._tier.store, found)
        except (Corrupt, Missing):
            return False
        return True

    async def _claim(self, numbers: Sequence[int]) -> None:
        await self._tier.write_epoch()

        async def claim(number: int) -> None:
            record = self._state.record(number)
            await self._tier.write_claim(number, record.nonce, record.parents)

        await in_parallel(self._tier.store.parallel, [partial(claim, n) for n in numbers])

    async def _copy(self, refs: Sequence[LiveObject]) -> Outcome:
        others = [(other, other.facts()) for other in self._others if other.reachable]
        # Those known to hold it first; the rest may have it all the same, and it is verified anyway.
        sources = {
            ref.name: [o.store for o, _ in sorted(others, key=lambda pair: not pair[1].holds_last(ref))]
            for ref in refs
        }
        self._counters.queued_bytes += sum(ref.size for ref in refs)

        def sent(count: int) -> None:
            self._counters.sent_bytes += count

        return await replicate(
            refs,
            sources,
            self._tier.store,
            heal=self._tier.move_aside,
            sent=sent,
            source_failed=self._note_bad,
        )

    def _note_bad(self, store: Store, ref: ObjectRef | LiveObject, fault: TandemError) -> None:
        """A source that turned out not to have it good lacks it from now on, until it is healed."""
        other = next(o for o in self._others if o.store is store)
        if not isinstance(fault, (Corrupt, Missing)):
            other.fail(fault)
        elif isinstance(ref, LiveObject) and other.facts().holds_last(ref):
            self._state.add_lacking(other.id, [ref.name])
            refresh(other)

    async def _finish(self, numbers: Sequence[int], present: dict[bytes, int], live: Live) -> None:
        """The records whose objects are all there, the highest last; a look; then it is known."""
        tier, state = self._tier, self._state
        held = tier.facts()
        known = {o.name: o.size for o in live.values() if held.holds_last(o)}
        records = [state.record(number) for number in numbers]
        ready = writable_now(records, known | present, tier.id, live, held.floor)
        for number in ready:
            await tier.write_record(state.record(number))
        if reason := await tier.verify(ready):
            raise Unavailable(f"tier {tier.name}: {reason}")
        good = {name for name, size in present.items() if name in live and live[name].size == size}
        state.remove_lacking(tier.id, state.lacking(tier.id) & good)
        state.confirm(ready, [tier.id])
