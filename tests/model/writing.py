"""One write operation as small steps: intent, claim, objects and decide, record and look, confirm.

Mirrors `Revision` and `BackupWriter`. A step is what one tier is asked for, or one durable local transaction. Targets
take their steps in turn: with links that fail at any of them this reaches every mix of stages that tasks of their
own reach.
"""

from __future__ import annotations

from tests.model import choosing, things, waiting
from tests.model.contact import aborted, cut, names, stand, without
from tests.model.context import WAIT, Context
from tests.model.drafting import deciding, drafted, foreign_on, pack_read_by
from tests.model.steps import (
    Step,
    confirmed,
    ended,
    is_usable,
    put_claim,
    put_epoch,
    put_objects,
    put_record,
    ran,
    torn,
    visit,
)
from tests.model.things import NUMBERS, bits
from tests.model.world import Disk, Intent, Run, State, with_disk, with_inst, with_row

from tandem_protocol.revision import Kind


def intent(ctx: Context, state: State, i: int, run: Run) -> list[Step]:
    """Step 2 and 3: the number, the nonce, the targets, and what the write will add or remove."""
    inst = state.insts[i]
    number = choosing.next_number(inst, run.top)
    if number >= NUMBERS:
        return [("no number left in the model", ended(state, i))]
    draw = 0 if ctx.rules.numbers_once else sum(state.budget)
    asked = Intent(number, things.nonce(i, number, draw))
    draft = drafted(ctx, state, i, run, number)
    if draft is None:
        return [("nothing to write", ended(state, i))]
    if run.purpose == "repair":
        inst = pack_read_by(ctx, state, i, run, draft)
    kind, added, removed = draft
    run = run._replace(
        step="claim",
        todo=run.targets,
        begun=run.targets,
        added=added,
        foreign=foreign_on(ctx, state, i, run.targets),
        late=0,
        broken=0,
        kind=kind,
        removed=removed,
    )
    if run.purpose == "replace":
        # An explicit command, which writes the identity of the new tier.
        t = run.tier
        identity = state.disks[t]._replace(ident=inst.rows[t].generation + 1)
        state = state._replace(disks=with_disk(state.disks, t, identity))
    after = with_inst(state, i, inst._replace(intent=asked, run=run))
    return [(f"{i} intends {number} ({kind}) on {names(run.targets)}", after)]


def claim(ctx: Context, state: State, i: int, run: Run) -> list[Step]:
    """Step 4 on one target: epoch and claim, answered, look."""
    t = next(bits(run.todo))
    run = run._replace(todo=run.todo & ~(1 << t))
    inst = state.insts[i]
    asked = inst.intent
    assert asked is not None
    label = f"{i} claims {asked.number} on {t}"
    steps: list[Step] = []
    disk = put_epoch(ctx, state.disks[t], inst.cert)
    if disk is not None:
        disk = put_claim(ctx, disk, inst, asked.nonce, asked.number)
    if disk is None:
        after, seen = visit(ctx, state, i, t)
        went = (
            after if isinstance(after, str) or seen is None else _after_claim(ctx, after, i, without(run, t))
        )
        return [(f"{label}: something else is there", went)]
    if not ctx.rules.record_then_remove and run.purpose == "prune":
        disk = disk._replace(objs=disk.objs & ~run.removed[0])
    effect = state._replace(disks=with_disk(state.disks, t, disk))
    answered = asked._replace(answered=asked.answered | 1 << t)
    after, seen = visit(ctx, with_inst(effect, i, inst._replace(intent=answered)), i, t)
    if seen is None or isinstance(after, str):
        steps.append((label, after))
    elif is_usable(seen):
        steps.append((label, _after_claim(ctx, after, i, run)))
    else:
        steps.append((f"{label}: {seen.case.value}", _after_claim(ctx, after, i, without(run, t))))
    steps += cut(state, i, t, run, label, _after_claim, ctx)
    return steps + torn(ctx, label, effect, i, _after_claim(ctx, effect, i, without(run, t)))


def _after_claim(ctx: Context, state: State, i: int, run: Run) -> State:
    if not run.targets:
        return lost_all(ctx, state, i, run)
    if run.todo:
        return ran(state, i, run)
    return ran(state, i, run._replace(step="objects", todo=run.targets))


def lost_all(ctx: Context, state: State, i: int, run: Run) -> State:
    """No target is left: not decided, it is aborted; decided, it will be completed, and may be waited for."""
    inst = state.insts[i]
    asked = inst.intent
    if asked is None or asked.decided:
        if asked is not None and state.budget[WAIT] and run.kind in (Kind.BACKUP, Kind.CHECKPOINT):
            return waiting.begin(with_inst(state, i, inst._replace(intent=None)), i, run, asked.number)
        return with_inst(state, i, inst._replace(intent=None, run=None))
    return with_inst(state, i, aborted(ctx, inst)._replace(run=None))


def objects(ctx: Context, state: State, i: int, run: Run) -> list[Step]:
    """Step 5 on one target, and step 6 when it is the first that has everything."""
    t = next(bits(run.todo))
    run = run._replace(todo=run.todo & ~(1 << t))
    label = f"{i} sends objects to {t}" if run.added else f"{i} is ready on {t}"
    state, run, gone = same_session(ctx, state, i, t, run)
    if gone is not None:
        return [
            (
                f"{label}: new session",
                gone if isinstance(gone, str) or run.step == "over" else _after_objects(ctx, gone, i, run),
            )
        ]
    healed = run.added & state.insts[i].rows[t].lacking
    effect = state._replace(disks=with_disk(state.disks, t, put_objects(state.disks[t], run.added, healed)))
    done = effect
    asked = state.insts[i].intent
    assert asked is not None
    if not asked.decided and ctx.rules.decide_first:
        done = deciding(ctx, effect, i, run)
    if done is not effect or asked.decided:
        # Written anew where it was known to be bad, and added again: its record tells from now on.
        row = done.insts[i].rows[t]
        known = with_row(done.insts[i], t, row._replace(lacking=row.lacking & ~run.added))
        done = with_inst(done, i, known)
    steps: list[Step] = [(label, _after_objects(ctx, done, i, run))]
    steps += cut(state, i, t, run, label, _after_objects, ctx)
    if run.added:
        steps += torn(ctx, label, effect, i, _after_objects(ctx, effect, i, without(run, t)))
    return steps


def same_session(
    ctx: Context, state: State, i: int, t: int, run: Run
) -> tuple[State, Run, State | str | None]:
    """A session that broke begins anew with a look. The last value is what comes of it where the tier leaves."""
    if not run.broken >> t & 1 or not ctx.rules.new_session:
        return state, run, None
    run = run._replace(broken=run.broken & ~(1 << t))
    after, seen = visit(ctx, state, i, t)
    if seen is None or isinstance(after, str):
        return state, run._replace(step="over"), after
    if is_usable(seen):
        return after, run, None
    return after, without(run, t), after


def _after_objects(ctx: Context, state: State, i: int, run: Run) -> State:
    if not run.targets:
        return lost_all(ctx, state, i, run)
    if run.todo:
        return ran(state, i, run)
    return ran(state, i, run._replace(step="record", todo=run.targets))


def record(ctx: Context, state: State, i: int, run: Run) -> list[Step]:
    """Step 7 on one target: the record, a look, and sizes again."""
    t = next(bits(run.todo))
    run = run._replace(todo=run.todo & ~(1 << t))
    asked = state.insts[i].intent
    assert asked is not None
    label = f"{i} writes record {asked.number} on {t}"
    state, run, gone = same_session(ctx, state, i, t, run)
    if gone is not None:
        return [
            (
                f"{label}: new session",
                gone if isinstance(gone, str) or run.step == "over" else _after_record(ctx, gone, i, run),
            )
        ]
    code = state.insts[i].journal[asked.number]
    decides = not asked.decided
    if decides:
        code = deciding(ctx, state, i, run).insts[i].journal[asked.number]
    disk = put_record(ctx, state.disks[t], code)
    if disk is None:
        after, seen = visit(ctx, state, i, t)
        went = (
            after if isinstance(after, str) or seen is None else _after_record(ctx, after, i, without(run, t))
        )
        return [(f"{label}: something else is there", went)]
    effect = state._replace(disks=with_disk(state.disks, t, disk))
    done = deciding(ctx, effect, i, run) if decides else effect
    steps: list[Step] = [(label, _looked(ctx, done, i, t, run, asked.number))]
    steps += cut(state, i, t, run, label, _after_record, ctx)
    return steps + torn(ctx, label, effect, i, _after_record(ctx, effect, i, without(run, t)))


def _looked(ctx: Context, state: State, i: int, t: int, run: Run, number: int) -> State | str:
    if not ctx.rules.look_after or not ctx.rules.bytes:
        return _after_record(ctx, state, i, run)
    after, seen = visit(ctx, state, i, t)
    if seen is None or isinstance(after, str):
        return after
    if is_usable(seen) and _all_there(ctx, after.disks[t], number, run):
        return _after_record(ctx, after, i, run)
    return _after_record(ctx, after, i, without(run, t))


def _all_there(ctx: Context, disk: Disk, number: int, run: Run) -> bool:
    """Claim, record, and what was added, by size."""
    return (stand(disk, 1 << number) or not ctx.rules.claims_too) and not run.added & ~disk.objs


def _after_record(ctx: Context, state: State, i: int, run: Run) -> State:
    if not run.targets:
        return lost_all(ctx, state, i, run)
    if run.todo:
        return ran(state, i, run)
    return ran(state, i, run._replace(step="confirm"))


def confirm(ctx: Context, state: State, i: int, run: Run) -> list[Step]:
    """Step 8: these targets hold it; and it is acknowledged."""
    asked = state.insts[i].intent
    assert asked is not None
    label = f"{i} confirms {asked.number} on {names(run.targets)}"
    for t in bits(run.targets & run.broken):
        state, run, gone = same_session(ctx, state, i, t, run)
        if isinstance(gone, str) or run.step == "over":
            assert gone is not None
            return [(f"{label}: new session", gone)]
        if gone is not None:
            state = gone
        elif ctx.rules.new_session and not _all_there(ctx, state.disks[t], asked.number, run):
            run = without(run, t)
    if not run.targets:
        return [(f"{label}: none is left", lost_all(ctx, state, i, run))]
    kind = run.kind
    foreign = run.targets & run.foreign
    if kind is Kind.BACKUP and foreign and foreign_on(ctx, state, i, foreign):
        where = names(foreign)
        return [
            (label, f"P3: installation {i} acknowledges on {where}, where another one had written before")
        ]
    for t in bits(run.targets):
        after = confirmed(ctx, state, i, t, 1 << asked.number, asked.number, as_target=True, late=run.late)
        if isinstance(after, str):
            return [(label, after)]
        state = after
    inst = state.insts[i]
    state = with_inst(state, i, inst._replace(intent=None))
    if run.purpose == "mark":
        return [(label, ctx.serve_on(ctx, state, i, run))]
    if kind is not Kind.CHECKPOINT:
        return [(label, ended(state, i))]
    targets = run.targets if ctx.rules.last_on_checkpointed else (1 << ctx.tiers) - 1
    top = max(run.top, asked.number)
    return [(label, ran(state, i, Run("intent", "last", run.reach, 0, targets=targets, top=top)))]
