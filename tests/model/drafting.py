"""What a write adds and removes, the decision that fixes it, and what the promises must remember of it."""

from __future__ import annotations

from tests.model import choosing, things
from tests.model.choosing import live_of
from tests.model.context import Context
from tests.model.looking import epoch_of
from tests.model.steps import decided, noted_lacking, parents_of
from tests.model.things import DAMAGED, DATA, INDEXES, NUMBERS, SNAPSHOTS, RecordDoc, bits
from tests.model.world import Backup, Inst, Row, Run, State, with_inst, with_row

from tandem_protocol.revision import Kind

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
        return _repairing(ctx, state, i, run, number)
    return None


def _repairing(ctx: Context, state: State, i: int, run: Run, number: int) -> Draft | None:
    """As `repairing`: what no tier is believed to hold is read everywhere, and given up if it is good nowhere. An index
    segment that is lost alone is written again, from the packs themselves."""
    inst = state.insts[i]
    asked = sum(1 << t for t in bits(run.reach) if not inst.rows[t].compare)
    if asked != (1 << ctx.tiers) - 1 and ctx.rules.repair_all:
        return None
    view = live_of(ctx, inst)
    lost = held = good = 0
    for t in bits(run.reach):
        lacked = choosing.lacks(ctx, inst, t)
        lost |= lacked
        held |= view.on[t] & ~lacked
        good |= state.disks[t].objs & ~state.disks[t].bad | state.disks[t].quar
    lost &= ~held & ~good
    if not lost:
        return None
    again = ctx.rules.index_again and good & DATA and _is_unnamed(ctx, inst, lost, good)
    return Kind.REPAIR, things.index_bit(i, number) if again else 0, (lost,)


def _is_unnamed(ctx: Context, inst: Inst, lost: int, good: int) -> bool:
    """Whether the pack has lost its last segment. One counts only if it is live wherever the pack is."""
    live_on = (on & ~lost for on in live_of(ctx, inst).on)
    return bool(lost & INDEXES) and any(on & DATA and not on & INDEXES & good for on in live_on)


def pack_read_by(ctx: Context, state: State, i: int, run: Run, draft: Draft) -> Inst:
    """A repair that writes segments again reads the packs: what is good nowhere is known from now on."""
    inst = state.insts[i]
    good = 0
    for t in bits(run.reach):
        good |= state.disks[t].objs & ~state.disks[t].bad | state.disks[t].quar
    if good & DATA or not ctx.rules.index_again or not _is_unnamed(ctx, inst, draft[2][0], good):
        return inst
    for t in bits(run.reach):
        inst = noted_lacking(inst, t, DATA & live_of(ctx, inst).on[t] & ~choosing.lacks(ctx, inst, t))
    return inst


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
    t = run.tier
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
        strange = any(
            code > DAMAGED and epoch >= mine and code != inst.cert for epoch, code in enumerate(disk.epochs)
        )
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


def deciding(ctx: Context, state: State, i: int, run: Run) -> State:
    """Step 6: the record is fixed, enters the journal and is the head."""
    inst = state.insts[i]
    asked = inst.intent
    assert asked is not None
    kind, removed = run.kind, run.removed
    assert kind is not None
    lives = _lives_after(ctx, inst) if kind is Kind.TIERS else None
    doc = RecordDoc(asked.number, inst.cert, asked.nonce, kind, parents_of(inst), run.added, removed, lives)
    code = things.record(doc)
    backups = state.backups
    if kind is Kind.BACKUP:
        backups = (*backups, Backup(code, 0, 0))
    elif kind is Kind.PRUNE:
        backups = tuple(_let_go(backup, removed, ctx.tiers) for backup in backups)
    inst = decided(ctx, inst, code)
    for t in bits(run.targets):
        inst = with_row(inst, t, inst.rows[t]._replace(written=inst.rows[t].written | 1 << asked.number))
    if kind is Kind.REPAIR:
        live = live_of(ctx, inst).anywhere
        backups = tuple(_reported(backup, live, ctx.tiers) for backup in backups)
    if kind is Kind.TIERS:
        t, n = run.tier, asked.number
        new = Row(n, 1 << n, last=0, generation=inst.rows[t].generation + 1, floor=n)
        inst = with_row(inst, t, new)
    return with_inst(state, i, inst)._replace(backups=backups)


def _reported(backup: Backup, live: int, tiers: int) -> Backup:
    """A backup that needs what was given up is reported as damaged: it is said to be nowhere from now on. One that
    some tier is held to must not come to that. Index segments are no loss: they are written again."""
    whole = live & DATA and live & things.docs[backup.record].added & SNAPSHOTS
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
