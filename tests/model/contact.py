"""The beginning of every operation: contact, what was left open, and what can be levelled at once.

Mirrors `TierSet.contact` and `write_revisions`. Each step gives all that may come of it, what goes well first.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.model import choosing, things
from tests.model.context import CUT, Context, spend
from tests.model.looking import fence_of
from tests.model.steps import (
    Step,
    confirmed,
    decided,
    ended,
    is_usable,
    parents_of,
    put_claim,
    put_epoch,
    put_record,
    ran,
    torn,
    visit,
)
from tests.model.things import DAMAGED, NUMBERS, RecordDoc, bits
from tests.model.world import Disk, Inst, Row, Run, State, highest_held, with_disk, with_inst

from tandem_protocol.revision import Kind
from tandem_protocol.verdict import Case

WRITES = ("backup", "long", "last", "prune", "prune_one", "check", "repair", "replace", "mark")

Onward = Callable[[Context, State, int, Run], State]


def contact(
    ctx: Context, state: State, i: int, purpose: str, away: int, tier: int = -1, before: Run | None = None
) -> State | str:
    """Look at every tier but those ``away``, end what was left open, and see what can be levelled at once."""
    reach = late = top = 0
    for t in range(ctx.tiers):
        if away >> t & 1:
            continue
        after, seen = visit(ctx, state, i, t, first=True)
        if seen is None or isinstance(after, str):
            return after
        state = after
        top = max(top, seen.top)
        if seen.case is Case.LATE_SIDE or not state.insts[i].rows[t].imported:
            late |= 1 << t
        elif is_usable(seen) or seen.case is Case.ROLLED_BACK:
            reach |= 1 << t
    inst = _pending_ended(ctx, state.insts[i], away)
    if inst is None:
        return ended(state, i)
    state = with_inst(state, i, inst)
    run = Run("level", purpose, reach, 0, top=top, tier=tier, before=before)
    if late:
        return ctx.join(ctx, state, i, run, late)
    return level_or_on(ctx, state, i, run)


def _pending_ended(ctx: Context, inst: Inst, away: int) -> Inst | None:
    """As `TierSet._end_pending`. None: it may not be ended now (only where a rule is out)."""
    intent = inst.intent
    if intent is None or intent.epoch:
        return inst
    if intent.decided:
        return inst._replace(intent=None)
    if away and not ctx.rules.decide_alone:
        return None
    return aborted(ctx, inst)


def aborted(ctx: Context, inst: Inst) -> Inst:
    """As `TierSet.abort_pending`."""
    intent = inst.intent
    assert intent is not None
    if ctx.rules.numbers_once:
        doc = RecordDoc(intent.number, inst.cert, intent.nonce, Kind.ABORTED, parents_of(inst))
        inst = decided(ctx, inst, things.record(doc))
    return inst._replace(intent=None)


def level_or_on(ctx: Context, state: State, i: int, run: Run) -> State:
    """Level the reachable tiers that have what missing revisions added, or go on with the purpose."""
    inst = state.insts[i]
    todo = 0
    for t in bits(run.reach):
        row = inst.rows[t]
        if (
            row.missing
            and not row.compare
            and choosing.writable(ctx, inst, t, state.disks[t].objs, at_contact=True)
        ):
            todo |= 1 << t
    if todo:
        return ran(state, i, run._replace(step="level", todo=todo))
    return purposeful(ctx, state, i, run)


def purposeful(ctx: Context, state: State, i: int, run: Run) -> State:
    """What the operation is for, after contact."""
    inst, purpose = state.insts[i], run.purpose
    if purpose == "wait":
        return ran(state, i, run._replace(step="held", todo=0))
    if purpose not in WRITES or (purpose == "check" and not ctx.rules.orphans_named):
        return ctx.serve(ctx, state, i, run)
    chosen = choosing.targets(ctx, inst, run.reach)
    if not chosen:
        compare = sum(1 << t for t in bits(run.reach) if inst.rows[t].compare)
        if compare and not run.targets:
            # Their comparison comes first; ``targets`` keeps that it was tried.
            return ran(state, i, run._replace(step="sync", todo=compare, targets=compare))
        return ended(state, i)
    return ran(state, i, run._replace(step="intent", todo=0, targets=chosen))


def level(ctx: Context, state: State, i: int, run: Run) -> list[Step]:
    """As `write_revisions` on the first tier to do: claims, records, look, confirm."""
    t = next(bits(run.todo))
    run = run._replace(todo=run.todo & ~(1 << t))
    inst, disk = state.insts[i], state.disks[t]
    numbers = choosing.writable(ctx, inst, t, disk.objs, at_contact=True)
    label = f"{i} levels {t}"
    steps = written_records(ctx, state, i, t, numbers, run, label, _after_level)
    return steps + cut(state, i, t, run, label, _after_level, ctx)


def _after_level(ctx: Context, state: State, i: int, run: Run) -> State:
    if run.todo:
        return ran(state, i, run)
    return purposeful(ctx, state, i, run)


def cut(state: State, i: int, t: int, run: Run, label: str, onward: Onward, ctx: Context) -> list[Step]:
    """The link to the tier is lost before the step: it leaves."""
    if not state.budget[CUT]:
        return []
    left = state._replace(budget=spend(state.budget, CUT))
    return [(f"{label}, link lost", onward(ctx, left, i, without(run, t)))]


def without(run: Run, t: int) -> Run:
    keep = ~(1 << t)
    return run._replace(reach=run.reach & keep, targets=run.targets & keep, todo=run.todo & keep)


def written_records(
    ctx: Context, state: State, i: int, t: int, numbers: int, run: Run, label: str, onward: Onward
) -> list[Step]:
    """Claims, then records of ``numbers`` on a tier, the highest last, a look, and they are confirmed."""
    if not numbers:
        return [(f"{label}: not any more", onward(ctx, state, i, run))]
    stages = _stages(ctx, state.insts[i], state.insts[i].rows[t], state.disks[t], numbers)
    if stages is None:
        # Damaged or foreign: a look tells which, and mends what is ours.
        after, seen = visit(ctx, state, i, t)
        if seen is None or isinstance(after, str):
            return [(f"{label}: something else is there", after)]
        state = after
        stages = _stages(ctx, state.insts[i], state.insts[i].rows[t], state.disks[t], numbers)
        if stages is None or not is_usable(seen):
            return [(f"{label}: something else is there", onward(ctx, state, i, without(run, t)))]
    steps: list[Step] = []
    created = newest_created(state.disks[t], stages[-1][1])
    newest = numbers.bit_length() - 1
    row = state.insts[i].rows[t]
    stood = created != newest
    in_order = not stood or (numbers == 1 << newest and newest > highest_held(state.insts[i].journal, row))
    done = state._replace(disks=with_disk(state.disks, t, stages[-1][1]))
    after, seen = visit(ctx, done, i, t)
    if seen is None or isinstance(after, str):
        steps.append((label, after))
    elif not in_order:
        # Which of them came last cannot be told: synchronisation marks them.
        steps.append((label, onward(ctx, after, i, run)))
    elif not is_usable(seen) or not stand(after.disks[t], numbers):
        steps.append((f"{label}: not confirmed", onward(ctx, after, i, without(run, t))))
    else:
        held = confirmed(ctx, after, i, t, numbers, 0 if stood and row.last else newest)
        steps.append((label, held if isinstance(held, str) else onward(ctx, held, i, run)))
    for what, stage in stages:
        effect = state._replace(disks=with_disk(state.disks, t, stage))
        left = onward(ctx, effect, i, without(run, t))
        steps += torn(ctx, f"{label} as far as {what}", effect, i, left)
    return steps


def newest_created(before: Disk, after: Disk) -> int:
    """The highest number whose record was created; 0 for none."""
    return max((n for n in range(NUMBERS) if before.records[n] != after.records[n]), default=0)


def _stages(ctx: Context, inst: Inst, row: Row, disk: Disk, numbers: int) -> list[tuple[str, Disk]] | None:
    """The tier with the claims, then with one record after the other; None if something else is there."""
    at = claims_put(ctx, inst, row, disk, numbers)
    if at is None:
        return None
    stages = [("claims", at)]
    for number in bits(numbers):
        at = put_record(ctx, at, inst.journal[number])
        if at is None:
            return None
        stages.append((f"record {number}", at))
    return stages


def claims_put(ctx: Context, inst: Inst, row: Row, disk: Disk, numbers: int) -> Disk | None:
    """Our epoch and the claims of ``numbers`` of the journal; None if something else is there."""
    after = put_epoch(ctx, disk, inst.cert)
    fenced = fence_of(inst, row) if ctx.rules.fence_stays and ctx.rules.claims_too else 0
    for number in bits(numbers):
        if after is not None and number != fenced:
            after = put_claim(ctx, after, inst, things.docs[inst.journal[number]].nonce, number)
    return after


def stand(disk: Disk, numbers: int) -> bool:
    """As `Tier.verify`: claim and record of each stand there and can be read."""
    return all(disk.claims[n] > DAMAGED and disk.records[n] > DAMAGED for n in bits(numbers))


def names(mask: int) -> str:
    return "+".join(str(t) for t in bits(mask)) or "none"
