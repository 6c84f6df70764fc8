"""The decision of a takeover or join: what several tiers hold together, by the real `joining`; what a base says
then, and what the installation knows of its tiers from there on."""

from __future__ import annotations

from tests.model import things
from tests.model.choosing import live_of, mask_of
from tests.model.context import Context
from tests.model.steps import decided
from tests.model.things import DAMAGED, NUMBERS, LiveView, RecordDoc, bits, name_of, tier_id
from tests.model.world import Disk, Inst, Intent, Row, head_of, put

from tandem_protocol import joining
from tandem_protocol.lists import ListEntry
from tandem_protocol.revision import Kind, Record
from tandem_protocol.verdict import Fault

SideKey = tuple[int, Disk]
"""A tier and what reading it whole has shown."""

Lives = tuple[tuple[int, int], ...]


def _real_side(t: int, disk: Disk) -> joining.Side:
    return joining.Side(
        tier_id(t, disk.ident),
        {
            e: Fault.DAMAGED if code == DAMAGED else things.real_certificate(code)
            for e, code in enumerate(disk.epochs)
            if code
        },
        {
            n: Fault.DAMAGED if code == DAMAGED else things.real_claim(code)
            for n, code in enumerate(disk.claims)
            if code
        },
        {
            n: Fault.DAMAGED if code == DAMAGED else things.real_record(code)
            for n, code in enumerate(disk.records)
            if code
        },
        {name_of(b): (things.object_type(b), things.size_of(b)) for b in bits(disk.objs)},
    )


def _codes(
    records: dict[bytes, Record], wanted: tuple[bytes, ...], sides: tuple[SideKey, ...]
) -> tuple[int, ...]:
    by_hash = {things.real_record(c).hash: c for _, disk in sides for c in disk.records if c > DAMAGED}
    return tuple(by_hash[one] for one in wanted if one in records)


def _lives(view: LiveView, tiers: int) -> tuple[tuple[int, int], ...]:
    return tuple(
        (b, sum(1 << t for t in range(tiers) if not view.on[t] >> b & 1)) for b in bits(view.anywhere)
    )


def _lists(sides: tuple[SideKey, ...]) -> dict[bytes, list[ListEntry]]:
    """The lists of the bases that stand there: who can read the record can read them."""
    found: dict[bytes, list[ListEntry]] = {}
    for _, disk in sides:
        for code in disk.records:
            if code > DAMAGED:
                found |= things.lists_of(code)
    return found


def taken_over(ctx: Context, inst: Inst, asked: Intent, sides: tuple[SideKey, ...], imported: int) -> Inst:
    real = [_real_side(t, disk) for t, disk in sides]
    union = joining.unite(real, _lists(sides))
    live = union.live
    if not ctx.rules.keep_unnamed:
        live = {name: found for name, found in live.items() if name not in union.kept}
    view = things.view_of(live, ctx.tiers)
    heads = _codes(joining.records_of(real), union.heads, sides)
    lives = _lives(view, ctx.tiers)
    code = things.record(RecordDoc(asked.number, inst.cert, asked.nonce, Kind.TAKEOVER, heads, lives=lives))
    rows = []
    present = dict(sides)
    for t in range(ctx.tiers):
        row = Row(start=asked.number, missing=1 << asked.number, last=0, imported=imported >> t & 1)
        if t in present:
            side = real[[at for at, _ in sides].index(t)]
            row = row._replace(generation=present[t].ident or 1, lacking=mask_of(joining.lacking(side, live)))
        rows.append(row)
    journal = put((0,) * NUMBERS, asked.number, code)
    return inst._replace(journal=journal, rows=tuple(rows), intent=asked._replace(decided=1, epoch=0))


def _known(inst: Inst) -> set[int]:
    """The records of our own history, as far as their parents tell."""
    found: set[int] = set()
    todo = [code for code in inst.journal if code]
    while todo:
        code = todo.pop()
        if code not in found:
            found.add(code)
            todo += things.docs[code].parents
    return found


def joined(ctx: Context, inst: Inst, asked: Intent, sides: tuple[SideKey, ...], imported: int) -> Inst:
    real = [_real_side(t, disk) for t, disk in sides]
    known = _known(inst)
    named = 0
    for code in known:
        doc = things.docs[code]
        named |= doc.added
        for bit, _ in doc.lives or ():
            named |= 1 << bit
    union = joining.unite(
        real,
        _lists(sides),
        {things.real_record(code).hash for code in known},
        {name_of(b) for b in bits(named)},
    )
    revived, after_lives = _revived(ctx, inst, things.view_of(union.live, ctx.tiers))
    heads = _codes(joining.records_of(real), union.heads, sides)
    parents = (inst.journal[head_of(inst.journal)], *heads)
    doc = RecordDoc(
        asked.number, inst.cert, asked.nonce, Kind.JOIN, parents, lives=after_lives, revived=revived
    )
    after = decided(ctx, inst, things.record(doc))
    view = live_of(ctx, after)
    mask = sum(1 << b for b, _ in revived)
    rows = [row._replace(lacking=row.lacking | mask) for row in after.rows]
    for side, (t, _) in zip(real, sides, strict=True):
        lacking = mask_of(joining.lacking(side, view.real))
        start, generation = asked.number, rows[t].generation
        rows[t] = Row(start, 1 << start, lacking, last=0, imported=1, generation=generation)
    return after._replace(rows=tuple(rows))


def _revived(ctx: Context, inst: Inst, theirs: LiveView) -> tuple[Lives, Lives]:
    """What they have live and we have not, at all or for some tier; and all that is live then."""
    ours = live_of(ctx, inst)
    removed = 0
    if not ctx.rules.join_voids:
        for code in inst.journal:
            if code and things.docs[code].removed:
                removed |= things.docs[code].removed[0]
    revived, after = [], []
    for b in bits(ours.anywhere | theirs.anywhere & ~removed):
        dead_here = sum(1 << t for t in range(ctx.tiers) if not ours.on[t] >> b & 1)
        dead_there = sum(1 << t for t in range(ctx.tiers) if not theirs.on[t] >> b & 1)
        both = dead_here & dead_there
        if both != dead_here and not removed >> b & 1:
            revived.append((b, both))
            dead_here = both
        after.append((b, dead_here))
    return tuple(revived), tuple(after)
