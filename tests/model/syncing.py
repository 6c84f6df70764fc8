"""Synchronisation, removal and reading as small steps.

`sync` mirrors `levelling`: claims, what is there, what is copied; then records, look, confirm. Collecting moves
what is dead to quarantine, purging deletes it from there, reading notes what is found bad: as the protocol says.
"""

from __future__ import annotations

from tests.model import choosing, things
from tests.model.choosing import live_of
from tests.model.contact import claims_put, cut, newest_created, purposeful, stand, without
from tests.model.context import Context
from tests.model.drafting import removed_by_record
from tests.model.steps import (
    Step,
    confirmed,
    ended,
    is_genuine,
    is_usable,
    noted_lacking,
    put_record,
    ran,
    torn,
    visit,
)
from tests.model.things import DAMAGED, bits
from tests.model.world import Disk, Inst, Run, State, highest_held, with_disk, with_inst, with_row

from tandem_protocol.verdict import Case


def serve(ctx: Context, state: State, i: int, run: Run) -> State:
    """After contact: what is to do for a purpose that writes no revision."""
    inst = state.insts[i]
    todo = 0
    for t in bits(run.reach):
        row = inst.rows[t]
        if run.purpose == "sync" and not (row.missing or row.lacking or row.compare):
            continue
        if run.purpose in ("collect", "purge") and row.compare:
            continue
        todo |= 1 << t
    if run.purpose == "check":
        return _checked_by_listing(state, i, run)
    if run.purpose == "full":
        # To a full comparison every tier is in doubt.
        return _go_on(ctx, state, i, run._replace(step="sync", todo=todo))
    return _go_on(ctx, state, i, run._replace(step=run.purpose, todo=todo))


def _checked_by_listing(state: State, i: int, run: Run) -> State:
    """A mutant: whatever no readable record on a tier names is deleted there."""
    for t in bits(run.reach):
        disk = state.disks[t]
        named = 0
        for code in disk.records:
            if code > DAMAGED:
                named |= things.docs[code].added
                for bit, _ in things.docs[code].lives or ():
                    named |= 1 << bit
        state = state._replace(disks=with_disk(state.disks, t, disk._replace(objs=disk.objs & named)))
    return ended(state, i)


def _go_on(ctx: Context, state: State, i: int, run: Run) -> State:
    if run.todo:
        return ran(state, i, run)
    if run.purpose in ("sync", "full", "collect", "purge", "read"):
        return ended(state, i)
    return purposeful(ctx, state, i, run)


def _is_full(inst: Inst, t: int, run: Run) -> bool:
    return run.purpose == "full" or bool(inst.rows[t].compare)


def sync(ctx: Context, state: State, i: int, run: Run) -> list[Step]:
    """The first part for one tier: claims of all that it misses."""
    t = next(bits(run.todo))
    inst, disk = state.insts[i], state.disks[t]
    label = f"{i} claims what {t} misses"
    claimed = claims_put(ctx, inst, inst.rows[t], disk, inst.rows[t].missing)
    if claimed is None:
        after, seen = visit(ctx, state, i, t)
        if seen is None or isinstance(after, str):
            return [(f"{label}: something else is there", after)]
        state, inst, disk = after, after.insts[i], after.disks[t]
        claimed = claims_put(ctx, inst, inst.rows[t], disk, inst.rows[t].missing)
        if claimed is None or not is_usable(seen):
            return [(f"{label}: something else is there", _go_on(ctx, state, i, without(run, t)))]
    if claimed == disk:
        return copy(ctx, state, i, run)
    effect = state._replace(disks=with_disk(state.disks, t, claimed))
    steps: list[Step] = [(label, ran(effect, i, run._replace(step="copy")))]
    steps += cut(state, i, t, run, label, _go_on, ctx)
    return steps + torn(ctx, label, effect, i, _go_on(ctx, effect, i, without(run, t)))


def copy(ctx: Context, state: State, i: int, run: Run) -> list[Step]:
    """The second part: what is not there noted, what can be had copied."""
    t = next(bits(run.todo))
    inst, disk = state.insts[i], state.disks[t]
    label = f"{i} copies to {t}"
    on = live_of(ctx, inst).on[t]
    lacked = choosing.lacks(ctx, inst, t)
    wanted = on if _is_full(inst, t, run) else lacked
    inst = noted_lacking(inst, t, wanted & on & ~lacked & ~disk.objs)
    if ctx.rules.lacking_first:
        # Where a record stands already, what comes now has none after it: see `_completed`.
        standing = sum(1 << n for n in bits(inst.rows[t].missing) if disk.records[n])
        inst = noted_lacking(inst, t, choosing.added_by(ctx, inst, standing) & wanted & ~disk.objs)
    # What was found bad before and still is goes to quarantine, to make room for good bytes.
    aside = wanted & inst.rows[t].lacking & disk.bad
    disk = disk._replace(objs=disk.objs & ~aside, bad=disk.bad & ~aside, gone=disk.gone | aside)
    source = disk.quar
    for other in bits(run.reach & ~(1 << t)):
        there = state.disks[other]
        # A source that turns out not to have it good lacks it from now on, as in `_note_bad`.
        believed = live_of(ctx, inst).on[other] & ~choosing.lacks(ctx, inst, other)
        inst = noted_lacking(inst, other, wanted & ~disk.objs & believed & (there.bad | ~there.objs))
        source |= (there.objs & ~there.bad) | there.quar
    copied = wanted & ~disk.objs & source
    full = disk._replace(objs=disk.objs | copied, gone=disk.gone & ~copied)
    if not ctx.rules.no_mirror:
        full = full._replace(objs=full.objs & on)
    effect = with_inst(state, i, inst)._replace(disks=with_disk(state.disks, t, full))
    onward = run._replace(step="finish", added=wanted & full.objs)
    steps: list[Step] = [(label, ran(effect, i, onward))]
    if copied:
        left = without(run, t)._replace(step="sync")
        steps += cut(state, i, t, run._replace(step="sync"), label, _go_on, ctx)
        steps += torn(ctx, label, effect, i, _go_on(ctx, effect, i, left))
    return steps


def finish(ctx: Context, state: State, i: int, run: Run) -> list[Step]:
    """The second half: records whose objects are all there, the highest last, a look, and it is known."""
    t = next(bits(run.todo))
    inst, disk = state.insts[i], state.disks[t]
    label = f"{i} completes {t}"
    on = live_of(ctx, inst).on[t]
    held = on & ~choosing.lacks(ctx, inst, t)
    present = held | run.added
    numbers = choosing.writable(ctx, inst, t, present)
    order = list(bits(numbers))
    if run.broken >> t & 1 and ctx.rules.new_session:
        after, seen = visit(ctx, state, i, t)
        run = run._replace(broken=run.broken & ~(1 << t))
        if seen is None or isinstance(after, str):
            return [(f"{label}: new session", after)]
        if not is_usable(seen):
            return [
                (
                    f"{label}: new session",
                    _go_on(ctx, after, i, without(run, t)._replace(step="sync", added=0)),
                )
            ]
        state, inst, disk = after, after.insts[i], after.disks[t]
    stages = _records_put(ctx, inst, disk, order)
    if stages is None:
        after, seen = visit(ctx, state, i, t)
        if seen is None or isinstance(after, str):
            return [(f"{label}: something else is there", after)]
        state, inst, disk = after, after.insts[i], after.disks[t]
        stages = _records_put(ctx, inst, disk, order)
        if stages is None or not is_usable(seen):
            left = without(run, t)._replace(step="sync", added=0)
            return [(f"{label}: something else is there", _go_on(ctx, state, i, left))]
    done = state._replace(disks=with_disk(state.disks, t, stages[-1]))
    steps: list[Step] = []
    after, seen = visit(ctx, done, i, t)
    onward = run._replace(step="sync", todo=run.todo & ~(1 << t), added=0)
    if seen is None or isinstance(after, str):
        return [(label, after)]
    kept = not run.added & ~after.disks[t].objs or not ctx.rules.sync_sizes
    if seen.case is not Case.LEVEL or not stand(after.disks[t], numbers) or not kept:
        steps.append((f"{label}: not confirmed", _go_on(ctx, after, i, without(onward, t))))
    else:
        created = newest_created(disk, stages[-1])
        steps.append((label, _completed(ctx, after, i, t, numbers, onward, run.added, created)))
    steps += cut(state, i, t, run._replace(step="sync", added=0), label, _go_on, ctx)
    for number, stage in zip(order, stages[1:], strict=True):
        effect = state._replace(disks=with_disk(state.disks, t, stage))
        left_state = _go_on(ctx, effect, i, without(onward, t))
        steps += torn(ctx, f"{label} as far as record {number}", effect, i, left_state)
    return steps


def _records_put(ctx: Context, inst: Inst, disk: Disk, order: list[int]) -> list[Disk] | None:
    """The tier with one record after the other; None if something else is there."""
    stages = [disk]
    for number in order:
        written = put_record(ctx, stages[-1], inst.journal[number])
        if written is None:
            return None
        stages.append(written)
    return stages


def _completed(
    ctx: Context, state: State, i: int, t: int, numbers: int, run: Run, present: int, created: int
) -> State | str:
    """It is known. Without a record created after what was brought, that goes on counting as lacking until an empty
    revision marks it: only what was last written is missed when a storage is rolled back."""
    inst = state.insts[i]
    row = inst.rows[t]
    disk = state.disks[t]
    full = _is_full(inst, t, run)
    good = present & ~disk.bad
    newest = numbers.bit_length() - 1 if numbers else 0
    is_marked = (created and created == newest) or not ctx.rules.mark
    lacked = good & row.lacking
    if full:
        inst = noted_lacking(inst, t, live_of(ctx, inst).on[t] & ~present)
    if is_marked:
        inst = with_row(inst, t, inst.rows[t]._replace(lacking=inst.rows[t].lacking & ~good))
    else:
        inst = noted_lacking(inst, t, lacked)
    row = inst.rows[t]
    inst = with_row(inst, t, row._replace(compare=0 if full else row.compare))
    alone = newest if numbers == 1 << newest else 0
    # Of what stood there, and is not the highest held from now on, nobody can tell what came after it.
    is_unsure = not is_marked and numbers and alone <= highest_held(inst.journal, row)
    if is_unsure:
        lacked |= live_of(ctx, inst).on[t] & choosing.added_by(ctx, inst, numbers)
        inst = noted_lacking(inst, t, lacked)
    last = created or (0 if row.last else alone)
    held = confirmed(ctx, with_inst(state, i, inst), i, t, numbers, last)
    needs_mark = not is_marked and (lacked or is_unsure)
    if isinstance(held, str) or not needs_mark:
        return held if isinstance(held, str) else _go_on(ctx, held, i, run)
    others = sum(1 << o for o in bits(run.reach & ~(1 << t)) if choosing.is_complete(held.insts[i], o))
    top = max(run.top, max(n for n in range(len(disk.claims)) if disk.claims[n]))
    return ran(
        held,
        i,
        run._replace(
            step="intent",
            purpose="mark",
            targets=1 << t | others,
            top=top,
            tier=t,
            brought=lacked,
            before=run,
        ),
    )


def marked(ctx: Context, state: State, i: int, run: Run) -> State:
    """The empty revision is confirmed: where it stands, what was brought counts; the synchronisation goes on."""
    t, before = run.tier, run.before
    assert before is not None
    if run.targets >> t & 1:
        inst = state.insts[i]
        row = inst.rows[t]
        there = run.brought & state.disks[t].objs if ctx.rules.mark_sizes else run.brought
        state = with_inst(state, i, with_row(inst, t, row._replace(lacking=row.lacking & ~there)))
    return _go_on(ctx, state, i, before._replace(reach=before.reach & run.reach))


def collect(ctx: Context, state: State, i: int, run: Run) -> list[Step]:
    """What is dead for a tier, and was removed by a record that it holds, goes to quarantine."""
    t = next(bits(run.todo))
    run = run._replace(todo=run.todo & ~(1 << t))
    inst, disk = state.insts[i], state.disks[t]
    dead = disk.objs & removed_by_record(ctx, inst, t)
    if ctx.rules.net_effect:
        dead &= ~live_of(ctx, inst).on[t]
    quar = disk.quar | dead if ctx.rules.quarantine else disk.quar
    # What an installation that was superseded takes away is found by an audit, not by a look.
    gone = disk.gone | dead if is_genuine(state, i) else disk.gone
    moved = disk._replace(objs=disk.objs & ~dead, quar=quar, gone=gone)
    after = state._replace(disks=with_disk(state.disks, t, moved))
    label = f"{i} collects on {t}"
    return [(label, _go_on(ctx, after, i, run)), *cut(state, i, t, run, label, _go_on, ctx)]


def purge(ctx: Context, state: State, i: int, run: Run) -> list[Step]:
    """Delete from quarantine, right after a clean look, what is not live again."""
    t = next(bits(run.todo))
    run = run._replace(todo=run.todo & ~(1 << t))
    label = f"{i} purges {t}"
    if ctx.rules.purge_look:
        after, seen = visit(ctx, state, i, t)
        if seen is None or isinstance(after, str):
            return [(label, after)]
        if not is_usable(seen) or after.insts[i].rows[t].compare:
            return [(f"{label}: not clean", _go_on(ctx, after, i, without(run, t)))]
        state = after
    disk = state.disks[t]
    keep = live_of(ctx, state.insts[i]).on[t]
    after = state._replace(disks=with_disk(state.disks, t, disk._replace(quar=disk.quar & keep)))
    return [(label, _go_on(ctx, after, i, run))]


def read(ctx: Context, state: State, i: int, run: Run) -> list[Step]:
    """A restore or audit reads all that is live on a tier: what is bad or not there is known from now on."""
    t = next(bits(run.todo))
    run = run._replace(todo=run.todo & ~(1 << t))
    inst, disk = state.insts[i], state.disks[t]
    held = live_of(ctx, inst).on[t] & ~choosing.lacks(ctx, inst, t)
    inst = noted_lacking(inst, t, held & (disk.bad | ~disk.objs))
    return [(f"{i} reads {t}", _go_on(ctx, with_inst(state, i, inst), i, run))]
