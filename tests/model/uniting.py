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


def _unread(union: joining.Union, sides: tuple[SideKey, ...]) -> tuple[int, ...]:
    told = [things.docs[code] for _, disk in sides for code in disk.records if code > DAMAGED]
    below = {code for doc in told for code in doc.parents + doc.unread}
    return tuple(sorted(code for code in below if things.real_record(code).hash in union.unread))


def _lives(view: LiveView, tiers: int) -> tuple[tuple[int, int], ...]:
    return tuple(
        (b, sum(1 << t for t in range(tiers) if not view.on[t] >> b & 1)) for b in bits(view.anywhere)
    )


def _lists(
    sides: tuple[SideKey, ...], records: dict[bytes, Record], known: set[bytes]
) -> dict[bytes, list[ListEntry]]:
    """As `importing.read_lists`: of the bases that matter; who can read the record can read them."""
    stand: dict[bytes, list[ListEntry]] = {}
    for _, disk in sides:
        for code in disk.records:
            if code > DAMAGED:
                stand |= things.lists_of(code)
    lists: dict[bytes, list[ListEntry]] = {}
    while wanted := joining.lists_wanted(records, lists, (), known):
        lists |= {name: stand[name] for name in wanted}
    return lists


def taken_over(ctx: Context, inst: Inst, asked: Intent, sides: tuple[SideKey, ...], imported: int) -> Inst:
    real = [_real_side(t, disk) for t, disk in sides]
    records = joining.records_of(real)
    lists = _lists(sides, records, set())
    union = joining.unite(real, lists)
    live = union.live
    if not ctx.rules.keep_unnamed:
        live = {name: found for name, found in live.items() if name not in union.kept}
    view = things.view_of(live, ctx.tiers)
    heads = _codes(records, union.heads, sides)
    lives = _lives(view, ctx.tiers)
    doc = RecordDoc(asked.number, inst.cert, asked.nonce, Kind.TAKEOVER, heads, lives=lives)
    code = things.record(doc._replace(unread=_unread(union, sides)))
    rows = []
    present = dict(sides)
    for t in range(ctx.tiers):
        row = Row(start=asked.number, missing=1 << asked.number, last=0, imported=imported >> t & 1)
        if t in present:
            side = real[[at for at, _ in sides].index(t)]
            row = row._replace(generation=present[t].ident or 1, lacking=mask_of(joining.lacking(side, live)))
        rows.append(row)
    journal = put((0,) * NUMBERS, asked.number, code)
    inst = inst._replace(ancestors=_whole(ctx, sides, records, lists, ()))
    return inst._replace(journal=journal, rows=tuple(rows), intent=asked._replace(decided=1, epoch=0))


def _whole(
    ctx: Context,
    sides: tuple[SideKey, ...],
    records: dict[bytes, Record],
    lists: dict[bytes, list[ListEntry]],
    known: tuple[int, ...],
) -> tuple[int, ...]:
    """The records that are from now on said to be in our history: those whose line was read whole, by the real rule."""
    hashes = {things.real_record(code).hash for code in known}
    found = joining.whole(records, lists, hashes) if ctx.rules.whole_lines else hashes | records.keys()
    return tuple(sorted({*known, *_codes(records, tuple(found), sides)}))


def _names_told(ctx: Context, inst: Inst) -> int:
    """As `State.names_told`: what is live, and what a record of the journal has named."""
    named = live_of(ctx, inst).anywhere
    for code in inst.journal:
        if code:
            named |= things.docs[code].added
            for mask in things.docs[code].removed:
                named |= mask
    return named


def joined(ctx: Context, inst: Inst, asked: Intent, sides: tuple[SideKey, ...], imported: int) -> Inst:
    real = [_real_side(t, disk) for t, disk in sides]
    ours = (*(code for code in inst.journal if code), *inst.ancestors)
    known = {things.real_record(code).hash for code in ours}
    records = joining.records_of(real)
    lists = _lists(sides, records, known)
    union = joining.unite(real, lists, known, {name_of(b) for b in bits(_names_told(ctx, inst))})
    revived, after_lives = _revived(ctx, inst, things.view_of(union.live, ctx.tiers))
    heads = _codes(records, union.heads, sides)
    parents = (inst.journal[head_of(inst.journal)], *heads)
    doc = RecordDoc(
        asked.number, inst.cert, asked.nonce, Kind.JOIN, parents, lives=after_lives, revived=revived
    )._replace(unread=_unread(union, sides))
    after = decided(ctx, inst, things.record(doc))
    view = live_of(ctx, after)
    mask = sum(1 << b for b, _ in revived)
    rows = [row._replace(lacking=row.lacking | mask) for row in after.rows]
    for side, (t, _) in zip(real, sides, strict=True):
        lacking = mask_of(joining.lacking(side, view.real))
        start, generation = asked.number, rows[t].generation
        rows[t] = Row(start, 1 << start, lacking, last=0, imported=1, generation=generation)
    return after._replace(rows=tuple(rows), intent=None, ancestors=_whole(ctx, sides, records, lists, ours))


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
