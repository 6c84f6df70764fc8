"""Bringing one tier level with the head, from any tier that has what it lacks.

Works from what local state says is missing (the net effect at the head, not step by step) in batches of revisions,
each confirmed before the next is begun; or, with ``full`` and for a tier that was rolled back, after a comparison
of everything. Only adds: what a tier holds more is left alone. What is there already is not sent again, so a run
that was stopped, wherever it was, goes on there: a write stops it at once (`TierSet.stop_levelling`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from functools import partial

from tandem_agent.progress import Progress
from tandem_agent.state import State
from tandem_agent.tiers.batching import Batch, Batches
from tandem_agent.tiers.comparing import compare
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.tierset import TierSet, confirm, refresh
from tandem_agent.tiers.writing import Revision
from tandem_protocol import names
from tandem_protocol.errors import Corrupt, Missing, SecondInstallation, TandemError, Unavailable
from tandem_protocol.history import LiveObject
from tandem_protocol.planning import writable_now
from tandem_protocol.replicate import Outcome, in_parallel, is_good, replicate, sizes_of
from tandem_protocol.revision import Kind, ObjectRef, Record
from tandem_protocol.store import Store
from tandem_protocol.verdict import State as TierState

log = logging.getLogger(__name__)


async def level_tier(tiers: TierSet, tier: Tier, full: bool, progress: Progress) -> Outcome:
    """Level one reachable tier as far as can be now; what fails becomes its state. A write that begins, or is
    under way, stops it: ``stopped`` in the outcome. One with revisions that are not imported is left to be joined.
    Raises `SecondInstallation`."""
    outcome = Outcome()
    if not tier.row.imported:
        return outcome
    if tiers.state.intent() is not None:
        outcome.stopped = True
        return outcome
    announce(tiers, [tier], progress)
    progress.phase = f"synchronising {tier.name}"
    reason = tier.reason
    tier.set_state(TierState.SYNCING, reason)
    levelling = _Levelling(tiers, tier, progress, outcome)
    work = asyncio.ensure_future(levelling.run(full))
    with tiers.levelling(work):
        try:
            await work
        except SecondInstallation:
            raise
        except TandemError as fault:
            tier.fail(fault)
        except asyncio.CancelledError:
            here = asyncio.current_task()
            reason = "its synchronisation was stopped, and goes on where it was"
            if here is not None and here.cancelling():
                raise
            outcome.stopped = True
        finally:
            if tier.state is TierState.SYNCING:
                tier.set_state(TierState.LAGGING, reason)
                refresh(tier)
    if (levelling.unmarked or levelling.needs_mark) and tier.reachable and not outcome.stopped:
        await _mark(tiers, tier, levelling.unmarked)
    return outcome


async def _mark(tiers: TierSet, tier: Tier, brought: set[bytes]) -> None:
    """What was brought without a record of its own counts once a record stands there that was written after it:
    only what was last written is missed when a storage is rolled back. An empty revision of kind check, there and
    on all that are level."""
    others = [other for other in tiers.tiers if other is not tier and other.reachable and other.is_complete]
    reason = tier.reason
    try:
        async with await Revision.begin(tiers, [tier, *others], Progress()) as revision:
            confirmed = await revision.commit(
                Kind.CHECK, {"reason": "what was mended there counts from here"}
            )
        # Looked for once more: what was rolled back before that record came is not there.
        wanted = list(tiers.state.live_among(brought).values())
        there = await sizes_of(tier.store, wanted) if tier in confirmed else {}
    except SecondInstallation:
        raise
    except TandemError as fault:
        log.warning("tier %s: what was brought does not count yet: %s", tier.name, fault)
        return
    if tier in confirmed:
        tiers.state.remove_lacking(tier.id, {o.name for o in wanted if there.get(o.name) == o.size})
        refresh(tier)
        if not tier.is_complete:
            tier.set_state(TierState.LAGGING, reason)


def announce(tiers: TierSet, lagging: Iterable[Tier], progress: Progress) -> None:
    """Show all that these tiers lack as waiting for them; once, however often it is called."""
    for tier in lagging:
        counters = progress.tier(tier.name)
        if not counters.announced:
            counters.announced = True
            counters.queued_bytes += tiers.state.lacked_total(tier.id)[1]


class _Levelling:
    """One synchronisation of one tier. Safe to cancel wherever it waits."""

    def __init__(self, tiers: TierSet, tier: Tier, progress: Progress, outcome: Outcome) -> None:
        self._others = [t for t in tiers.tiers if t is not tier]
        self._tier = tier
        self._state: State = tiers.state
        self._counters = progress.tier(tier.name)
        self._outcome = outcome
        self._different: dict[bytes, int | None] | None = None
        """What a comparison with all that is live found not to be there, or of another size; None before one."""
        self.unmarked: set[bytes] = set()
        """What was brought and no record there was written after."""
        self.needs_mark = False
        """Records came below one that stood there already: that one says nothing of them."""

    async def run(self, full: bool) -> None:
        tier, state = self._tier, self._state
        full = full or tier.row.to_compare
        if full:
            await tier.audit()
        self._different = await self._compare() if full else None
        await tier.write_epoch()
        # Each is made when the one before is done: what that brought is not asked for again.
        for batch in Batches(state, tier, self._different):
            await self._level(batch)
        if full:
            # Once more: a roll-back between the first listing and the claims would have gone unnoticed.
            await self._compare()
            state.add_lacking(tier.id, self._outcome.failed)
            state.set_compared(tier.id)
        tier.set_state(TierState.LAGGING, tier.reason)
        refresh(tier)
        if failed := self._outcome.failed:
            name, reason = next(iter(failed.items()))
            tier.set_state(
                TierState.LAGGING, f"objects cannot be had now: {len(failed)} ({name.hex()[:12]}: {reason})"
            )

    async def _compare(self) -> dict[bytes, int | None]:
        """Look for everything that is live for the tier: what is not there (None), or has another size. What was
        believed to be there and is not is lacking from now on, durable before anything is copied."""
        tier, state = self._tier, self._state
        facts = tier.facts()
        different: dict[bytes, int | None] = {}
        async with aclosing(compare(tier.store, state.live_named, tier.id)) as pieces:
            async for piece in pieces:
                lost = [one.found for one in piece if facts.holds_last(one.found)]
                if lost:
                    state.add_lacking(tier.id, [found.name for found in lost])
                self._counters.queued_bytes += sum(found.size for found in lost)
                different |= {one.found.name: one.size for one in piece}
        return different

    # Claims, copies, records, look, confirm

    async def _level(self, batch: Batch) -> None:
        """Bring a batch over. Where no comparison has told what is there, the tier is asked."""
        if not batch.records and not batch.wanted:
            return
        tier = self._tier
        facts = tier.facts()
        batch.sort()
        await self._claim(batch.records)
        if self._different is None:
            present = await sizes_of(tier.store, batch.wanted)
        else:
            found = {o.name: self._different.get(o.name, o.size) for o in batch.wanted}
            present = {name: size for name, size in found.items() if size is not None}
        await self._set_aside(batch.wanted, present, facts.lacking)
        self._counters.queued_bytes -= sum(o.size for o in batch.wanted if o.name in present)
        missing = [o for o in batch.wanted if o.name not in present]
        # Where the record stands already, nothing is written after these: lacking until something is.
        recorded = tier.seen.recorded if tier.seen is not None else frozenset()
        self._state.add_lacking(tier.id, [o.name for o in missing if o.added in recorded])
        present |= await self._copy(missing)
        await self._finish(batch, present)

    async def _claim(self, records: Iterable[Record]) -> None:
        """Those that the last look found there, ours, are not written again: a run that is stopped again and
        again has to get beyond them."""
        tier = self._tier
        there = tier.seen.claimed if tier.seen is not None else frozenset()

        async def claim(record: Record) -> None:
            await tier.write_claim(record.number, record.nonce, record.claim_parents)

        await in_parallel(tier.store.parallel, [partial(claim, r) for r in records if r.number not in there])

    async def _set_aside(
        self, wanted: Iterable[LiveObject], present: dict[bytes, int], lacking: frozenset[bytes]
    ) -> None:
        """Make room for good bytes: what has a wrong size goes to quarantine, and what was found bad before, if
        reading it shows that it still is."""
        for found in wanted:
            size = present.get(found.name)
            if size is None or (size == found.size and found.name not in lacking):
                continue
            if size != found.size or not await is_good(self._tier.store, found):
                await self._tier.move_aside(names.object_path(found.type, found.name))
                del present[found.name]

    async def _copy(self, refs: Sequence[LiveObject]) -> dict[bytes, int]:
        """The sizes of what was copied, as they are on the tier."""
        others = [(other, other.facts()) for other in self._others if other.reachable]
        # Those known to hold it first; the rest may have it all the same, and it is verified anyway.
        sources = {
            ref.name: [o.store for o, _ in sorted(others, key=lambda pair: not pair[1].holds_last(ref))]
            for ref in refs
        }
        before = len(self._outcome.copied)
        sent_before = self._counters.sent_bytes

        def sent(count: int) -> None:
            self._counters.sent_bytes += count

        await replicate(
            refs,
            sources,
            self._tier.store,
            heal=self._tier.move_aside,
            sent=sent,
            source_failed=self._note_bad,
            outcome=self._outcome,
        )
        # What went twice, or was there in part, or cannot be had: nothing of these waits any more.
        self._counters.queued_bytes += self._counters.sent_bytes - sent_before - sum(ref.size for ref in refs)
        copied = set(self._outcome.copied[before:])
        return await sizes_of(self._tier.store, [ref for ref in refs if ref.name in copied])

    def _note_bad(self, store: Store, ref: ObjectRef | LiveObject, fault: TandemError) -> None:
        """A source that turned out not to have it good lacks it from now on, until it is healed."""
        other = next(o for o in self._others if o.store is store)
        if not isinstance(fault, (Corrupt, Missing)):
            other.fail(fault)
        elif isinstance(ref, LiveObject) and other.facts().holds_last(ref):
            self._state.add_lacking(other.id, [ref.name])
            refresh(other)

    async def _finish(self, batch: Batch, present: dict[bytes, int]) -> None:
        """The records whose objects are all there, the highest last; a look, and the sizes once more; then it is
        known. A record that was written after them is what a roll-back cannot take away unnoticed: without one, what
        was brought goes on counting as lacking until there is (`unmarked`)."""
        tier, state = self._tier, self._state
        held = tier.facts()
        known = {o.name: o.size for o in batch.live.values() if held.holds_last(o)}
        ready = writable_now(batch.records, known | present, tier.id, batch.live, tier.row.start)
        there_already = tier.seen.recorded if tier.seen is not None else frozenset()
        created: list[int] = []
        later = [
            partial(self._write, number, created) for number in ready[:-1] if number not in there_already
        ]
        await in_parallel(tier.store.parallel, later)
        for number in ready[-1:]:
            await self._write(number, created)
        marked = ready[-1:] == created[-1:] != []
        if reason := await tier.verify(ready):
            raise Unavailable(f"tier {tier.name}: {reason}")
        tier.set_state(TierState.SYNCING, tier.reason)
        brought = [o for o in batch.wanted if present.get(o.name) == o.size]
        there = await sizes_of(tier.store, brought)
        if any(there.get(o.name) != o.size for o in brought):
            raise Unavailable(f"tier {tier.name} lost what it had just been sent")
        self.unmarked |= {o.name for o in brought if o.name in held.lacking}
        alone = ready[0] if len(ready) == 1 else 0
        # The highest held is missed at any look, whenever it was written; of others that stood there nobody can tell
        # what came after them.
        if ready and not marked and alone <= state.highest_held(tier.id):
            self.needs_mark = True
            unsure = {o.name for o in batch.live.values() if o.added in ready}
            state.add_lacking(tier.id, unsure)
            self.unmarked |= unsure
        await confirm(tier, state, ready, max(created, default=0 if tier.row.last_written else alone))
        if marked:
            self.needs_mark = False
            state.remove_lacking(tier.id, self.unmarked)
            self.unmarked.clear()

    async def _write(self, number: int, created: list[int]) -> None:
        if await self._tier.write_record(self._state.record(number)):
            created.append(number)
