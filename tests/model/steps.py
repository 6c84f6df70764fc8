"""What all steps of an agent share: one look within a state, alarms, publishing once, and what is said to be where.

A step is a pair of a label and what comes of it: a `State`, or the text of a broken promise.
"""

from __future__ import annotations

from tests.model import things
from tests.model.choosing import live_of, restorable
from tests.model.context import CRASH, LOST, Context, spend
from tests.model.looking import ALARM, Look, epoch_of, fence_of, look
from tests.model.things import DAMAGED, DATA, INDEXES, SNAPSHOTS, bits, claim
from tests.model.world import (
    STOPPED,
    Backup,
    Disk,
    Inst,
    Row,
    Run,
    State,
    head_of,
    highest_held,
    put,
    revision_of,
    with_disk,
    with_inst,
    with_row,
)

from tandem_protocol.revision import Kind
from tandem_protocol.verdict import Case
from tandem_protocol.verdict import State as TierState

Step = tuple[str, State | str]


def is_genuine(state: State, i: int) -> bool:
    """Whether there is another installation that ``i`` has to be told of: not one that it has taken over from."""
    mine = _highest_epoch(state.insts[i])
    others = (other for j, other in enumerate(state.insts) if j != i and other.cert)
    return any(_highest_epoch(other) >= mine for other in others)


def _highest_epoch(inst: Inst) -> int:
    return max(epoch_of(inst), inst.intent.epoch if inst.intent is not None else 0)


def alarmed(state: State, i: int, t: int) -> State | str:
    """Installation ``i`` ends with exit code 4; a promise is broken if there is no other."""
    if not is_genuine(state, i):
        return f"P2: installation {i} sees a second installation on tier {t}, and there is none"
    return with_inst(state, i, state.insts[i]._replace(active=STOPPED, run=None))


def visit(
    ctx: Context, state: State, i: int, t: int, *, first: bool = False
) -> tuple[State | str, Look | None]:
    """Installation ``i`` looks at tier ``t``: what comes of it, and None if the operation has ended with it."""
    inst = state.insts[i]
    disk, after, seen, broken = look(ctx, state.disks[t], inst, t, first=first)
    if broken:
        return broken, None
    if seen.case is ALARM:
        return alarmed(state, i, t), None
    if disk is not state.disks[t] or after is not inst:
        insts = (*state.insts[:i], after, *state.insts[i + 1 :])
        state = State(with_disk(state.disks, t, disk), insts, state.backups, state.budget)
    return state, seen


def is_usable(seen: Look) -> bool:
    return seen.case is Case.LEVEL and seen.state in (TierState.ONLINE, TierState.LAGGING)


def ended(state: State, i: int) -> State:
    """The operation is over."""
    return with_inst(state, i, state.insts[i]._replace(run=None))


def ran(state: State, i: int, run: Run) -> State:
    return with_inst(state, i, state.insts[i]._replace(run=run))


def torn(ctx: Context, label: str, effect: State, i: int, left: State) -> list[Step]:
    """A write that took effect and was not answered: the link is lost (``left``: how the operation goes on without
    this tier), or the agent dies. ``effect`` and ``left`` have it on the tier."""
    steps: list[Step] = []
    if effect.budget[LOST]:
        steps.append((f"{label}, reply lost", left._replace(budget=spend(left.budget, LOST))))
    if effect.budget[CRASH]:
        died = crashed(ctx, effect, i)
        steps.append((f"{label}, crash", died._replace(budget=spend(died.budget, CRASH))))
    return steps


def crashed(ctx: Context, state: State, i: int) -> State:
    """Only what is durable is left."""
    inst = state.insts[i]._replace(run=None)
    if not ctx.rules.intent and inst.intent is not None and not inst.intent.decided:
        inst = inst._replace(intent=None)
    if not ctx.rules.holds_durable:
        for t, disk in enumerate(state.disks):
            there = sum(1 << n for n, code in enumerate(inst.journal) if code and disk.records[n] == code)
            row = inst.rows[t]
            inst = with_row(inst, t, row._replace(missing=row.missing & ~there, last=there.bit_length() - 1))
    return with_inst(state, i, inst)


# Publishing once


def put_epoch(ctx: Context, disk: Disk, cert: int) -> Disk | None:
    """With the epoch file of ``cert``; None if another one stands there."""
    epoch = things.real_certificate(cert).epoch
    there = disk.epochs[epoch]
    if there == cert:
        return disk
    if there and ctx.rules.exclusive:
        return None
    return disk._replace(epochs=put(disk.epochs, epoch, cert))


def put_claim(ctx: Context, disk: Disk, inst: Inst, nonce: int, number: int) -> Disk | None:
    there = disk.claims[number]
    if there > DAMAGED and things.real_claim(there).nonce == nonce.to_bytes(24, "big"):
        return disk
    if there and ctx.rules.exclusive:
        return None
    return disk._replace(
        claims=put(disk.claims, number, claim(inst.cert, nonce, number, inst.writer, disk.era))
    )


def put_record(ctx: Context, disk: Disk, code: int) -> Disk | None:
    number = things.docs[code].number
    there = disk.records[number]
    if there == code:
        return disk
    if there and ctx.rules.exclusive:
        return None
    return disk._replace(records=put(disk.records, number, code))


def put_objects(disk: Disk, mask: int, healed: int = 0) -> Disk:
    """What is there already under a name stays as it is, but what is known to be bad (``healed``)."""
    bad = disk.bad & (disk.objs | ~mask) & ~healed
    return disk._replace(objs=disk.objs | mask, gone=disk.gone & (bad | ~mask), bad=bad)


# What is said to be where


def said_on(ctx: Context, inst: Inst, t: int, backup: Backup) -> bool:
    """Whether the installation tells people that the backup is on the tier."""
    doc = things.docs[backup.record]
    number, row = doc.number, inst.rows[t]
    ours = inst.journal[number] == backup.record
    if not ours and (inst.journal[number] or number >= row.start or not row.imported):
        return False
    live = live_of(ctx, inst)
    if not live.on[t] & doc.added & SNAPSHOTS:
        return False
    if not ours and not (live.anywhere & DATA and live.anywhere & INDEXES):
        return False  # found by its snapshot alone, and not whole
    if row.confirmed >> number & 1:
        return True
    if not ctx.rules.on_needs_before and ours and not row.missing >> number & 1:
        return True
    lacking = row.lacking if ctx.rules.base_lacking or not epoch_of(inst) > 1 else 0
    return not lacking and revision_of(inst.journal, row) >= number


def believed(ctx: Context, state: State, i: int, t: int, late: int = 0) -> State | str:
    """After something was confirmed on tier ``t``: what is now said to be there is there, and is held to it.
    ``late``: tiers struck when the operation had looked for the last time, which nobody can know yet."""
    inst, disk = state.insts[i], state.disks[t]
    backups = list(state.backups)
    for place, backup in enumerate(backups):
        if backup.demand >> t & 1 or backup.pruned >> t & 1 or not said_on(ctx, inst, t, backup):
            continue
        if late >> t & 1:
            continue
        forgiven = disk.gone & ~inst.rows[t].lacking
        number = things.docs[backup.record].number
        named = number < inst.rows[t].start or _is_named(disk.records[number], backup.record)
        indexes = live_of(ctx, inst).on[t] & INDEXES
        # A segment that a repair wrote again, and that is still to come here: a reader asks the packs until then.
        forgiven |= indexes & _added_by_repair(inst, inst.rows[t].missing)
        if not named or not restorable(disk, backup.record, forgiven, indexes):
            return f"P1: installation {i} says that backup {number} is on tier {t}, and it is not"
        if restorable(disk, backup.record, 0, indexes):
            backups[place] = backup._replace(demand=backup.demand | 1 << t)
    return state._replace(backups=tuple(backups))


def _added_by_repair(inst: Inst, numbers: int) -> int:
    docs = (things.docs[inst.journal[n]] for n in bits(numbers) if inst.journal[n])
    return sum(doc.added for doc in docs if doc.kind is Kind.REPAIR)


def _is_named(there: int, record: int) -> bool:
    """Whether the record stands there, or its damage, or what a takeover closed its damage with."""
    if there in (record, DAMAGED) or not there:
        return bool(there)
    doc = things.docs[there]
    return doc.kind is Kind.ABORTED and doc.cert != things.docs[record].cert


def confirmed(
    ctx: Context,
    state: State,
    i: int,
    t: int,
    numbers: int,
    last: int,
    *,
    as_target: bool = False,
    late: int = 0,
) -> State | str:
    """As `State.confirm`: tier ``t`` holds ``numbers`` (a mask), of which ``last`` was created last;
    0: nothing was."""
    inst = state.insts[i]
    row = inst.rows[t]
    if ctx.rules.list_again and numbers >> fence_of(inst, row) & 1:
        # What was listed before the base stood there may have been rolled back since.
        row = row._replace(lacking=row.lacking | live_of(ctx, inst).on[t] & ~state.disks[t].objs)
    row = row._replace(
        missing=row.missing & ~numbers,
        lacking=row.lacking & ~_stored_again(inst, numbers & row.written),
        last=last or row.last,
        confirmed=row.confirmed | (numbers if as_target else numbers & row.written),
        written=row.written & ~numbers,
        floor=0 if numbers >> row.floor & 1 else row.floor,
    )
    row = row._replace(claims=_remembered(inst, row, state.disks[t], numbers))
    return believed(ctx, with_inst(state, i, with_row(inst, t, row)), i, t, late)


def _stored_again(inst: Inst, numbers: int) -> int:
    """What these revisions, written to the tier as a target and confirmed only now, had stored there afresh. The real
    pack has a new name then, which nobody has found bad; here it keeps its name."""
    return DATA if any(things.docs[inst.journal[n]].added & DATA for n in bits(numbers)) else 0


def _remembered(inst: Inst, row: Row, disk: Disk, numbers: int) -> tuple[tuple[int, int], ...]:
    """The claims of the highest held and the last written, as they stand there now if they were just looked at."""
    before = dict(row.claims)
    wanted = {highest_held(inst.journal, row), row.last} - {0}
    claims = {n: disk.claims[n] if numbers >> n & 1 else before.get(n, 0) for n in wanted}
    return tuple(sorted((n, code) for n, code in claims.items() if code > DAMAGED))


def noted_lacking(inst: Inst, t: int, mask: int) -> Inst:
    """As `State.add_lacking`: what was confirmed before may need it, so it counts no more as such."""
    row = inst.rows[t]
    if not mask & ~row.lacking:
        return inst
    return with_row(inst, t, row._replace(lacking=row.lacking | mask, confirmed=0, written=0))


def decided(ctx: Context, inst: Inst, code: int) -> Inst:
    """As `State.decide`: the record is revision n, missing everywhere until confirmed."""
    number = things.docs[code].number
    inst = inst._replace(journal=put(inst.journal, number, code))
    anywhere = live_of(ctx, inst).anywhere
    written_to = inst.run.targets if inst.run is not None and not ctx.rules.lagging else -1
    rows = tuple(
        row._replace(
            missing=row.missing | (1 << number if written_to >> t & 1 else 0), lacking=row.lacking & anywhere
        )
        for t, row in enumerate(inst.rows)
    )
    intent = inst.intent
    if intent is not None:
        intent = intent._replace(decided=1)
    return inst._replace(rows=rows, intent=intent)


def parents_of(inst: Inst) -> tuple[int, ...]:
    head = head_of(inst.journal)
    return (inst.journal[head],) if head else ()
