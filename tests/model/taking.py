"""Takeover and join as small steps: fence, read whole and close, decide, publish.

Mirrors ``takeover`` and ``tiers.joining``: the intent (with the epoch, for a takeover) is durable first; epoch and
claim are a fence before anything is read; what a tier showed is forgotten in a crash; the base decides.
"""

from __future__ import annotations

from tests.model import things
from tests.model.contact import aborted, cut, level_or_on, names, without, written_records
from tests.model.context import TAKEOVER, Context, spend
from tests.model.steps import Step, ended, is_usable, put_claim, put_epoch, ran, torn, visit
from tests.model.things import DAMAGED, NUMBERS, RecordDoc, bits
from tests.model.uniting import SideKey, joined, taken_over
from tests.model.world import (
    EPOCHS,
    IDENTITY_DAMAGED,
    Inst,
    Intent,
    Run,
    State,
    head_of,
    put,
    with_disk,
    with_inst,
    with_row,
)

from tandem_protocol.revision import Kind


def begin(ctx: Context, state: State, i: int, away: int) -> State | str:
    """Step 1 of a takeover: a number and an epoch above all that is seen, durable before anything is sent."""
    inst = state.insts[i]
    reach = highest = epoch = 0
    ours = inst.intent
    for t, disk in enumerate(state.disks):
        if away >> t & 1 or disk.ident in (0, IDENTITY_DAMAGED):
            continue
        reach |= 1 << t
        for n in range(NUMBERS):
            claimed = disk.claims[n]
            mine = ours is not None and claimed and _has_nonce(claimed, ours.nonce)
            if (claimed or disk.records[n]) and not mine:
                highest = max(highest, n)
        epoch = max([epoch, *(e for e, code in enumerate(disk.epochs) if code and code != inst.cert)])
    if not reach:
        return ended(state, i)
    lost = ours is not None and (ours.number < highest or ours.epoch < epoch)
    if ctx.rules.raise_after_loss and ours is not None:
        lost = ours.number <= highest or ours.epoch <= epoch
    if ours is None or lost:
        number, epoch = highest + 1, epoch + 1
        if ours is not None:
            number, epoch = max(number, ours.number + 1), max(epoch, ours.epoch + 1)
        if number >= NUMBERS or epoch >= EPOCHS:
            return ended(state, i)
        if ours is None:
            state = state._replace(budget=spend(state.budget, TAKEOVER))
        inst = inst._replace(
            cert=things.certificate(i, epoch), intent=Intent(number, things.nonce(i, number), epoch=epoch)
        )
    first = "fence" if ctx.rules.fence_first else "import"
    run = Run(first, "takeover", reach, reach, targets=reach)
    return with_inst(state, i, inst._replace(run=run))


def _has_nonce(claimed: int, nonce: int) -> bool:
    return claimed > DAMAGED and things.real_claim(claimed).nonce == nonce.to_bytes(24, "big")


def join(ctx: Context, state: State, i: int, run: Run, late: int) -> State:
    """Step 1 of a join of the first of the tiers ``late``, as `join_late`: a number above all that it and the others
    show. Each has a revision of its own."""
    inst = state.insts[i]
    first = late & -late
    disk = state.disks[first.bit_length() - 1]
    stand = [n for n in range(NUMBERS) if disk.claims[n] or disk.records[n]]
    number = max(run.top, head_of(inst.journal), *stand) + 1
    if number >= NUMBERS:
        return ended(state, i)
    asked = Intent(number, things.nonce(i, number))
    step = "fence" if ctx.rules.fence_first else "import"
    run = run._replace(step=step, todo=first, targets=first, queue=late & ~first, sides=())
    return with_inst(state, i, inst._replace(intent=asked, run=run))


def _next_join(ctx: Context, state: State, i: int, run: Run) -> State:
    """The late tier is joined, or left for the next time: now the others, then what else contact does."""
    run = run._replace(targets=0, todo=0, sides=())
    if run.queue:
        return join(ctx, state, i, run, run.queue)
    return level_or_on(ctx, state, i, run)


def _is_takeover(run: Run) -> bool:
    return run.purpose == "takeover"


def fence(ctx: Context, state: State, i: int, run: Run) -> list[Step]:
    """Step 2: the epoch, then the claim; from now on whoever wrote before is told at its next look."""
    t = next(bits(run.todo))
    run = run._replace(todo=run.todo & ~(1 << t))
    inst = state.insts[i]
    asked = inst.intent
    assert asked is not None
    label = f"{i} fences {t} with epoch {things.real_certificate(inst.cert).epoch} and claim {asked.number}"
    first = put_epoch(ctx, state.disks[t], inst.cert)
    disk = None if first is None else put_claim(ctx, first, inst, asked.nonce, asked.number)
    if first is None or disk is None:
        # The epoch file stays, if it was not that one.
        half = state if first is None else state._replace(disks=with_disk(state.disks, t, first))
        return [(f"{label}: lost to another", _again(ctx, half, i, t, run))]
    effect = state._replace(disks=with_disk(state.disks, t, disk))
    steps: list[Step] = [(label, _fenced(ctx, effect, i, run))]
    steps += cut(state, i, t, run, label, _fenced, ctx)
    half = state._replace(disks=with_disk(state.disks, t, first))
    steps += torn(ctx, f"{label}: epoch only", half, i, _fenced(ctx, half, i, without(run, t)))
    return steps + torn(ctx, label, effect, i, _fenced(ctx, effect, i, without(run, t)))


def _again(ctx: Context, state: State, i: int, t: int, run: Run) -> State:
    """Somebody was faster. A takeover is begun again, higher; a late tier is joined another time."""
    if _is_takeover(run):
        return ended(state, i)
    return _fenced(ctx, state, i, without(run, t))


def _fenced(ctx: Context, state: State, i: int, run: Run) -> State:
    if run.todo:
        return ran(state, i, run)
    if not run.targets:
        return _given_up(ctx, state, i, run)
    step = "import" if ctx.rules.fence_first else "unite"
    todo = run.targets if step == "import" else 0
    return ran(state, i, run._replace(step=step, todo=todo))


def _given_up(ctx: Context, state: State, i: int, run: Run) -> State:
    """No tier is left: a takeover stays pending, a join ends in an aborted number."""
    if _is_takeover(run):
        return ended(state, i)
    return _next_join(ctx, with_inst(state, i, aborted(ctx, state.insts[i])), i, run)


def read_whole(ctx: Context, state: State, i: int, run: Run) -> list[Step]:
    """Step 3: everything on one tier is read, and every open lower number is closed there."""
    t = next(bits(run.todo))
    run = run._replace(todo=run.todo & ~(1 << t))
    inst, disk = state.insts[i], state.disks[t]
    asked = inst.intent
    assert asked is not None
    label = f"{i} reads {t} whole"
    higher = any(disk.claims[n] or disk.records[n] for n in range(asked.number + 1, NUMBERS))
    epoch = things.real_certificate(inst.cert).epoch
    higher |= any(code and e > epoch for e, code in enumerate(disk.epochs))
    if higher:
        return [(f"{label}: something higher is there", _again(ctx, state, i, t, run))]
    closed, ended_by = disk, dict(inst.rows[t].closed)
    for n in range(1, asked.number):
        if inst.journal[n] and ctx.rules.close_foreign:
            continue  # ours: nobody else can complete it
        if (disk.claims[n] or disk.records[n]) and disk.records[n] <= DAMAGED:
            claimed = disk.claims[n]
            nonce = int.from_bytes(things.real_claim(claimed).nonce, "big") if claimed > DAMAGED else 0
            doc = RecordDoc(n, inst.cert, nonce or things.nonce(i, n), Kind.ABORTED)
            ended_by[n] = things.record(doc)
            closed = closed._replace(records=put(closed.records, n, ended_by[n]))
    effect = state._replace(disks=with_disk(state.disks, t, closed))
    if not _is_takeover(run) and ctx.rules.closings_ours and ctx.rules.close_foreign:
        known = inst.rows[t]._replace(closed=tuple(sorted(ended_by.items())))
        effect = with_inst(effect, i, with_row(inst, t, known))
    side: SideKey = (t, closed._replace(snap=(), quar=0, bad=0, gone=0))
    steps: list[Step] = [(label, _imported(ctx, effect, i, run._replace(sides=(*run.sides, side))))]
    steps += cut(state, i, t, run, label, _imported, ctx)
    if closed is not disk:
        steps += torn(ctx, f"{label} and closes", effect, i, _imported(ctx, effect, i, without(run, t)))
    return steps


def _imported(ctx: Context, state: State, i: int, run: Run) -> State:
    if run.todo:
        return ran(state, i, run)
    if not run.targets:
        return _given_up(ctx, state, i, run)
    if ctx.rules.fence_first:
        return ran(state, i, run._replace(step="unite"))
    return ran(state, i, run._replace(step="fence", todo=run.targets))


def unite(ctx: Context, state: State, i: int, run: Run) -> list[Step]:
    """Step 4: the base is fixed and decided, of what was read on the tiers that are still there."""
    inst = state.insts[i]
    asked = inst.intent
    assert asked is not None
    label = (
        f"{i} decides {'takeover' if _is_takeover(run) else 'join'} {asked.number} of {names(run.targets)}"
    )
    steps: list[Step] = [(label, _decided(ctx, state, i, run, run.targets))]
    for t in bits(run.targets):
        steps += cut(state, i, t, run, f"{label}, {t} gone before", _united_without, ctx)
    return steps


def _united_without(ctx: Context, state: State, i: int, run: Run) -> State:
    if not run.targets:
        return _given_up(ctx, state, i, run)
    read = sum(1 << t for t, _ in run.sides)
    decided = _decided(ctx, state, i, run, run.targets if ctx.rules.imported_decided else read)
    assert isinstance(decided, State)
    return decided


def _decided(ctx: Context, state: State, i: int, run: Run, imported: int) -> State | str:
    """Decided; a takeover is written on the tiers that were read, a joined tier is looked at, and levelled as any."""
    state = _united(ctx, state, i, run, imported)
    if _is_takeover(run):
        publish_on = run._replace(
            step="publish", todo=run.targets, reach=run.reach | run.targets, sides=(), targets=0
        )
        return ran(state, i, publish_on)
    after, seen = visit(ctx, state, i, next(bits(run.targets)))
    if seen is None or isinstance(after, str):
        return after
    reach = run.reach | run.targets if is_usable(seen) else run.reach
    return _next_join(ctx, after, i, run._replace(reach=reach))


def _united(ctx: Context, state: State, i: int, run: Run, imported: int) -> State:
    inst = state.insts[i]
    asked = inst.intent
    assert asked is not None
    sides = tuple(side for side in run.sides if run.targets >> side[0] & 1)
    if not ctx.rules.by_number:
        inst = inst._replace(heard=_heard(inst, sides))
    inst = inst._replace(run=None)
    key = ("unite", sides, inst, imported, _is_takeover(run))
    found = ctx.plans.get(key)
    if found is None:
        union = taken_over if _is_takeover(run) else joined
        found = ctx.plans[key] = union(ctx, inst, asked, sides, imported)
    return with_inst(state, i, found)


def _heard(inst: Inst, sides: tuple[SideKey, ...]) -> tuple[bytes, ...]:
    found = set(inst.heard)
    for _, disk in sides:
        found |= {things.real_claim(code).nonce for code in disk.claims if code > DAMAGED}
        found |= {things.real_record(code).nonce for code in disk.records if code > DAMAGED}
    if inst.intent is not None:
        found.discard(inst.intent.nonce.to_bytes(24, "big"))
    return tuple(sorted(found))


def publish(ctx: Context, state: State, i: int, run: Run) -> list[Step]:
    """Steps 7 and 8 of a takeover on a tier that was read; the others get it when they are synchronised."""
    t = next(bits(run.todo))
    run = run._replace(todo=run.todo & ~(1 << t))
    inst = state.insts[i]
    asked = inst.intent
    assert asked is not None
    label = f"{i} publishes {asked.number} on {t}"
    steps = written_records(ctx, state, i, t, 1 << asked.number, run, label, _published)
    return steps + cut(state, i, t, run, label, _published, ctx)


def _published(ctx: Context, state: State, i: int, run: Run) -> State:
    if run.todo:
        return ran(state, i, run)
    return with_inst(state, i, state.insts[i]._replace(intent=None, run=None))
