"""The real `planning` asked with the model's masks, and its answers as masks again.

What a mutant leaves out is left out here: the question is spoiled, or the answer.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.model import things
from tests.model.context import Context
from tests.model.things import DATA, INDEXES, LiveView, bits, live_after, name_of, tier_id
from tests.model.world import Disk, Inst, State, highest_held

from tandem_protocol import planning
from tandem_protocol.history import Live
from tandem_protocol.names import ObjectType
from tandem_protocol.planning import TierFacts
from tandem_protocol.verdict import State as TierState


def mask_of(names: Iterable[bytes]) -> int:
    mask = 0
    for name in names:
        mask |= 1 << int.from_bytes(name, "big")
    return mask


def live_of(ctx: Context, inst: Inst) -> LiveView:
    return live_after(inst.journal, ctx.tiers)


def facts(ctx: Context, inst: Inst, t: int, state: TierState) -> TierFacts:
    row = inst.rows[t]
    lacking = row.lacking if ctx.rules.dedup_good else 0
    missing = row.missing
    if not ctx.rules.dedup_last_added:
        missing &= ~sum(1 << n for n in range(1, highest_held(inst.journal, row) + 1))
    return TierFacts(
        tier_id(t),
        state,
        bool(row.compare),
        frozenset(bits(missing)),
        frozenset(map(name_of, bits(lacking))),
        row.floor,
        bool(row.imported),
    )


def plain_facts(inst: Inst, t: int, state: TierState) -> TierFacts:
    row = inst.rows[t]
    lacking = frozenset(map(name_of, bits(row.lacking)))
    missing = frozenset(bits(row.missing))
    return TierFacts(tier_id(t), state, bool(row.compare), missing, lacking, row.floor, bool(row.imported))


def state_of(inst: Inst, t: int) -> TierState:
    """Of a tier that is reachable and as the journal says."""
    return TierState.ONLINE if is_complete(inst, t) else TierState.LAGGING


def is_complete(inst: Inst, t: int) -> bool:
    row = inst.rows[t]
    return not row.missing and not row.lacking and not row.compare


def added_by(ctx: Context, inst: Inst, numbers: int) -> int:
    """The live objects that these revisions were the last to add."""
    return mask_of(name for name, found in live_of(ctx, inst).real.items() if numbers >> found.added & 1)


def targets(ctx: Context, inst: Inst, reach: int) -> int:
    """The tiers a write goes to, by the real `choose_targets`."""
    key = ("targets", inst.journal, inst.rows, reach)
    found = ctx.plans.get(key)
    if found is None:
        asked = [plain_facts(inst, t, state_of(inst, t)) for t in bits(reach)]
        chosen = planning.choose_targets(asked, live_of(ctx, inst).real)
        found = sum(1 << t for t in bits(reach) if tier_id(t) in chosen)
        ctx.plans[key] = found
    return int(found)


def lacks(ctx: Context, inst: Inst, t: int) -> int:
    """What is live for a tier and not known to be good there, by the real `lacks`."""
    key = ("lacks", inst.journal, inst.rows[t], t)
    found = ctx.plans.get(key)
    if found is None:
        lacking = planning.lacks(plain_facts(inst, t, state_of(inst, t)), live_of(ctx, inst).real)
        found = ctx.plans[key] = mask_of(o.name for o in lacking)
    return int(found)


def may_refer(ctx: Context, inst: Inst, chosen: int) -> bool:
    """Whether a backup on these targets need not store the data again, by the real `usable_packs`."""
    key = ("refer", inst.journal, inst.rows, chosen)
    found = ctx.plans.get(key)
    if found is None:
        found = ctx.plans[key] = _may_refer(ctx, inst, chosen)
    return bool(found)


def _may_refer(ctx: Context, inst: Inst, chosen: int) -> bool:
    rules = ctx.rules
    live = live_of(ctx, inst).real
    if not rules.dedup_per_tier:
        live = things.alive_for(live, frozenset())
    if not rules.dedup_live:
        live = things.ever_added(inst.journal)
    if not rules.dedup_everywhere:
        live = things.alive_for(live, frozenset(tier_id(t) for t in bits(chosen)))
    asked = [facts(ctx, inst, t, state_of(inst, t)) for t in bits(chosen)]
    if not rules.dedup_all:
        return any(_usable(things.alive_for(live, frozenset({one.tier_id})), [one]) for one in asked)
    if not rules.dedup_index:
        pack = live.get(name_of(0))
        return pack is not None and all(one.holds_last(pack) for one in asked)
    return _usable(live, asked)


def _usable(live: Live, asked: list[TierFacts]) -> bool:
    segments = [name for name, found in live.items() if found.type is ObjectType.INDEX]
    return bool(planning.usable_packs(live, asked, {name_of(0): segments}))


def indexes_told(ctx: Context, state: State, t: int) -> int:
    """The index segments that some installation knows to be live on a tier: one that nobody names helps nobody."""
    told = 0
    for inst in state.insts:
        told |= live_of(ctx, inst).on[t]
    return told & INDEXES


def writable(ctx: Context, inst: Inst, t: int, present: int, *, at_contact: bool = False) -> int:
    """The missing revisions (a mask) that can be written with these objects there, by the real rule. At contact a
    base that stands for what is below it is left to synchronisation."""
    row = inst.rows[t]
    missing = row.missing & ~(1 << row.floor) if at_contact else row.missing
    floor = 0 if at_contact else row.start
    key = ("writable", inst.journal, missing, t, present, floor)
    found = ctx.plans.get(key)
    if found is None:
        records = [things.real_record(inst.journal[n]) for n in bits(missing)]
        sizes = {name_of(b): things.size_of(b) for b in bits(present)}
        numbers = planning.writable_now(records, sizes, tier_id(t), live_of(ctx, inst).real, floor)
        found = ctx.plans[key] = sum(1 << n for n in numbers)
    return int(found)


def next_number(inst: Inst, top: int) -> int:
    return planning.next_number(max((n for n, c in enumerate(inst.journal) if c), default=0), [top])


def restorable(disk: Disk, record: int, forgiven: int = 0, indexes: int = INDEXES) -> bool:
    """Whether the objects of a backup are good on a tier, in quarantine counted; its data needs one of ``indexes``."""
    good = (disk.objs & ~disk.bad) | disk.quar | forgiven
    snapshot = things.docs[record].added & things.SNAPSHOTS
    return bool(good & DATA and good & indexes and good & snapshot)
