"""One write operation as small steps: contact, level, intent, claim, objects and decide, record and look, confirm.

Mirrors `TierSet.contact`, `Revision` and `BackupWriter`. A step is what one tier is asked for, or one durable
local transaction. Targets take their steps in turn: with links that fail at any of them this reaches every mix of
stages that tasks of their own reach. Each step gives all that may come of it, what goes well first.
"""

from __future__ import annotations

from collections.abc import Callable

from tandem_protocol.revision import Kind
from tandem_protocol.verdict import Case
from tests.model import choosing, things
from tests.model.choosing import live_of
from tests.model.context import CUT, Context, spend
from tests.model.looking import epoch_of, fence_of
from tests.model.steps import (
    Step,
    confirmed,
    decided,
    ended,
    is_usable,
    parents_of,
    put_claim,
    put_epoch,
    put_objects,
    put_record,
    ran,
    torn,
    visit,
)
from tests.model.things import DAMAGED, DATA, INDEXES, NUMBERS, SNAPSHOTS, RecordDoc, bits
from tests.model.world import Backup, Disk, Inst, Intent, Row, Run, State, with_disk, with_inst, with_row

WRITES = ("backup", "long", "last", "prune", "prune_one", "check", "repair", "replace")

Onward = Callable[[Context, State, int, Run], State]


def contact(ctx: Context, state: State, i: int, purpose: str, away: int, extra: tuple[object, ...] = ()) -> State | str:
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
    run = Run("level", purpose, reach, 0, top=top, extra=extra)
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
        if row.missing and not row.compare and choosing.writable(ctx, inst, t, state.disks[t].objs, at_contact=True):
            todo |= 1 << t
    if todo:
        return ran(state, i, run._replace(step="level", todo=todo))
    return purposeful(ctx, state, i, run)


def purposeful(ctx: Context, state: State, i: int, run: Run) -> State:
    """What the operation is for, after contact."""
    inst, purpose = state.insts[i], run.purpose
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


def cut(
    state: State, i: int, t: int, run: Run, label: str, onward: Onward, ctx: Context
) -> list[Step]:
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
    if not ctx.rules.last_created:
        created = numbers.bit_length() - 1
    done = state._replace(disks=with_disk(state.disks, t, stages[-1][1]))
    after, seen = visit(ctx, done, i, t)
    if seen is None or isinstance(after, str):
        steps.append((label, after))
    elif not is_usable(seen) or not stand(after.disks[t], numbers):
        steps.append((f"{label}: not confirmed", onward(ctx, after, i, without(run, t))))
    else:
        held = confirmed(ctx, after, i, t, numbers, created)
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
            after = put_claim(ctx, after, inst.cert, things.docs[inst.journal[number]].nonce, number)
    return after


def stand(disk: Disk, numbers: int) -> bool:
    """As `Tier.verify`: claim and record of each stand there and can be read."""
    return all(disk.claims[n] > DAMAGED and disk.records[n] > DAMAGED for n in bits(numbers))


# Intent


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
    kind, added, removed = draft
    run = run._replace(
        step="claim",
        todo=run.targets,
        added=added,
        foreign=foreign_on(ctx, state, i, run.targets),
        late=0,
        broken=0,
        extra=(kind, removed, *run.extra),
    )
    if run.purpose == "replace":
        # An explicit command, which writes the identity of the new tier.
        t = int(str(run.extra[-1]))
        identity = state.disks[t]._replace(ident=inst.rows[t].generation + 1)
        state = state._replace(disks=with_disk(state.disks, t, identity))
    after = with_inst(state, i, inst._replace(intent=asked, run=run))
    return [(f"{i} intends {number} ({kind}) on {names(run.targets)}", after)]


def names(mask: int) -> str:
    return "+".join(str(t) for t in bits(mask)) or "none"


Draft = tuple[Kind, int, tuple[int, ...]]


def drafted(ctx: Context, state: State, i: int, run: Run, number: int) -> Draft | None:
    """Kind, what is added, and what is removed (masks: everywhere, then per tier)."""
    inst = state.insts[i]
    if run.purpose == "mark":
        return Kind.CHECK, 0, ()
    if run.purpose == "last":
        return Kind.BACKUP, things.snapshot_bit(i, number), ()
    if run.purpose in ("backup", "long"):
        refer = choosing.may_refer(ctx, inst, run.targets)
        data = 0 if refer else DATA | things.index_bit(i, number)
        if run.purpose == "long" and data:
            return Kind.CHECKPOINT, data, ()
        return Kind.BACKUP, data | things.snapshot_bit(i, number), ()
    if run.purpose == "replace":
        return Kind.TIERS, 0, ()
    if run.purpose in ("prune", "prune_one"):
        return _pruned(ctx, inst, run)
    view = live_of(ctx, inst)
    if run.purpose == "check":
        named = 0
        for t in bits(run.reach):
            disk = state.disks[t]
            named |= disk.objs & ~view.anywhere & ~removed_by_record(ctx, inst, t)
        return (Kind.CHECK, 0, (named,)) if named else None
    if run.purpose == "repair":
        if run.reach != (1 << ctx.tiers) - 1 and ctx.rules.repair_all:
            return None
        lost = view.anywhere
        for t in bits(run.reach):
            disk = state.disks[t]
            lost &= ~(disk.objs & ~disk.bad | disk.quar)
        return (Kind.REPAIR, 0, (lost,)) if lost else None
    return None


def _pruned(ctx: Context, inst: Inst, run: Run) -> Draft | None:
    """The oldest backup goes, from everywhere or from one tier; its data too where no other one needs it."""
    view = live_of(ctx, inst)
    snapshots = view.anywhere & SNAPSHOTS
    if run.purpose == "prune":
        if not snapshots:
            return None
        oldest = snapshots & -snapshots
        rest = snapshots & ~oldest
        return Kind.PRUNE, 0, (oldest if rest else oldest | view.anywhere & (DATA | INDEXES),)
    t = int(str(run.extra[0]))
    there = view.on[t] & SNAPSHOTS
    if not there:
        return None
    oldest = there & -there
    gone = oldest if there & ~oldest else oldest | view.on[t] & (DATA | INDEXES)
    return Kind.PRUNE, 0, (0, *(gone if at == t else 0 for at in range(ctx.tiers)))


def removed_by_record(ctx: Context, inst: Inst, t: int) -> int:
    """What a record that the tier holds removed for it."""
    mask = 0
    for number, code in enumerate(inst.journal):
        if code and not inst.rows[t].missing >> number & 1:
            removed = things.docs[code].removed
            for place in (0, t + 1):
                if place < len(removed):
                    mask |= removed[place]
    return mask


def foreign_on(ctx: Context, state: State, i: int, targets: int) -> int:
    """Ghost: on which targets something stands that another installation wrote, and that this one has to see."""
    if len(state.insts) < 2:
        return 0
    inst = state.insts[i]
    mine = epoch_of(inst)
    found = 0
    for t in bits(targets):
        disk, row = state.disks[t], inst.rows[t]
        strange = any(code > DAMAGED and epoch >= mine and code != inst.cert for epoch, code in enumerate(disk.epochs))
        for number in range(row.start, NUMBERS):
            claimed, written, ours = disk.claims[number], disk.records[number], inst.journal[number]
            if written > DAMAGED and written != ours:
                strange = True
            if claimed > DAMAGED and not (
                ours and things.real_claim(claimed).nonce == things.real_record(ours).nonce
            ):
                strange = True
        found |= strange << t
    return found


# Claim, objects, record, confirm


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
        disk = put_claim(ctx, disk, inst.cert, asked.nonce, asked.number)
    if disk is None:
        after, seen = visit(ctx, state, i, t)
        went = after if isinstance(after, str) or seen is None else _after_claim(ctx, after, i, without(run, t))
        return [(f"{label}: something else is there", went)]
    if not ctx.rules.record_then_remove and run.purpose == "prune":
        kind, removed, *_ = run.extra
        assert isinstance(removed, tuple)
        disk = disk._replace(objs=disk.objs & ~removed[0])
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
        return lost_all(ctx, state, i)
    if run.todo:
        return ran(state, i, run)
    return ran(state, i, run._replace(step="objects", todo=run.targets))


def lost_all(ctx: Context, state: State, i: int) -> State:
    """No target is left: not decided, it is aborted; decided, it will be completed."""
    inst = state.insts[i]
    asked = inst.intent
    if asked is None or asked.decided:
        return with_inst(state, i, inst._replace(intent=None, run=None))
    return with_inst(state, i, aborted(ctx, inst)._replace(run=None))


def objects(ctx: Context, state: State, i: int, run: Run) -> list[Step]:
    """Step 5 on one target, and step 6 when it is the first that has everything."""
    t = next(bits(run.todo))
    run = run._replace(todo=run.todo & ~(1 << t))
    label = f"{i} sends objects to {t}" if run.added else f"{i} is ready on {t}"
    state, run, gone = same_session(ctx, state, i, t, run)
    if gone is not None:
        return [(f"{label}: new session", gone if isinstance(gone, str) or run.step == "over" else _after_objects(ctx, gone, i, run))]
    healed = run.added & state.insts[i].rows[t].lacking
    effect = state._replace(disks=with_disk(state.disks, t, put_objects(state.disks[t], run.added, healed)))
    done = effect
    asked = state.insts[i].intent
    assert asked is not None
    if not asked.decided and ctx.rules.decide_first:
        done = deciding(ctx, effect, i, run)
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


def deciding(ctx: Context, state: State, i: int, run: Run) -> State:
    """Step 6: the record is fixed, enters the journal and is the head."""
    inst = state.insts[i]
    asked = inst.intent
    assert asked is not None
    kind, removed, *_ = run.extra
    assert isinstance(kind, Kind) and isinstance(removed, tuple)
    lives = _lives_after(ctx, inst) if kind is Kind.TIERS else None
    doc = RecordDoc(asked.number, inst.cert, asked.nonce, kind, parents_of(inst), run.added, removed, lives)
    code = things.record(doc)
    backups = state.backups
    if kind is Kind.BACKUP:
        backups = (*backups, Backup(code, 0, 0))
    elif kind is Kind.PRUNE:
        backups = tuple(_let_go(backup, removed, ctx.tiers) for backup in backups)
    inst = decided(ctx, inst, code)
    if kind is Kind.REPAIR:
        live = live_of(ctx, inst).anywhere
        backups = tuple(_reported(backup, live, ctx.tiers) for backup in backups)
    if kind is Kind.TIERS:
        t, n = int(str(run.extra[-1])), asked.number
        new = Row(n, 1 << n, last=0, generation=inst.rows[t].generation + 1, floor=n)
        inst = with_row(inst, t, new)
    return with_inst(state, i, inst)._replace(backups=backups)


def _reported(backup: Backup, live: int, tiers: int) -> Backup:
    """A backup that needs what was given up is reported as damaged: it is said to be nowhere from now on. One that
    some tier is held to must not come to that."""
    whole = live & DATA and live & INDEXES and live & things.docs[backup.record].added & SNAPSHOTS
    return backup if whole or backup.demand else backup._replace(pruned=(1 << tiers) - 1)


def _lives_after(ctx: Context, inst: Inst) -> tuple[tuple[int, int], ...]:
    """What the lists of a base tell."""
    view = live_of(ctx, inst)
    return tuple(
        (b, sum(1 << t for t in range(ctx.tiers) if not view.on[t] >> b & 1)) for b in bits(view.anywhere)
    )


def _let_go(backup: Backup, removed: tuple[int, ...], tiers: int) -> Backup:
    """Nobody is held to a backup where it was removed on purpose."""
    snapshot = things.docs[backup.record].added & SNAPSHOTS
    pruned = backup.pruned
    for place, mask in enumerate(removed):
        if mask & snapshot:
            pruned |= (1 << tiers) - 1 if place == 0 else 1 << (place - 1)
    return backup._replace(pruned=pruned, demand=backup.demand & ~pruned)


def _after_objects(ctx: Context, state: State, i: int, run: Run) -> State:
    if not run.targets:
        return lost_all(ctx, state, i)
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
        return [(f"{label}: new session", gone if isinstance(gone, str) or run.step == "over" else _after_record(ctx, gone, i, run))]
    code = state.insts[i].journal[asked.number]
    decides = not asked.decided
    if decides:
        code = deciding(ctx, state, i, run).insts[i].journal[asked.number]
    disk = put_record(ctx, state.disks[t], code)
    if disk is None:
        after, seen = visit(ctx, state, i, t)
        went = after if isinstance(after, str) or seen is None else _after_record(ctx, after, i, without(run, t))
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
        return lost_all(ctx, state, i)
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
        return [(f"{label}: none is left", lost_all(ctx, state, i))]
    kind = run.extra[0]
    foreign = run.targets & run.foreign
    if kind is Kind.BACKUP and foreign and foreign_on(ctx, state, i, foreign):
        where = names(foreign)
        return [(label, f"P3: installation {i} acknowledges on {where}, where another one had written before")]
    for t in bits(run.targets):
        inst = state.insts[i]
        row = inst.rows[t]
        state = with_inst(state, i, with_row(inst, t, row._replace(lacking=row.lacking & ~run.added)))
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


