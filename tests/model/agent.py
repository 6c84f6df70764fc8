"""All steps that installations can take in a state: what is put together from writing, syncing and taking over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

from tests.model import contact, syncing, taking, waiting, writing
from tests.model.choosing import live_of
from tests.model.context import BUDGET, CUT, TAKEOVER, Context, spend
from tests.model.drafting import removed_by_record
from tests.model.rules import Rules
from tests.model.steps import Step, ran
from tests.model.things import SNAPSHOTS
from tests.model.world import IDENTITY_DAMAGED, RUNNING, Inst, Run, State

_STEPS: dict[str, Callable[[Context, State, int, Run], list[Step]]] = {
    "level": contact.level,
    "intent": writing.intent,
    "claim": writing.claim,
    "objects": writing.objects,
    "record": writing.record,
    "confirm": writing.confirm,
    "sync": syncing.sync,
    "copy": syncing.copy,
    "finish": syncing.finish,
    "collect": syncing.collect,
    "purge": syncing.purge,
    "read": syncing.read,
    "wait": waiting.wait,
    "held": waiting.held,
    "fence": taking.fence,
    "import": taking.read_whole,
    "unite": taking.unite,
    "publish": taking.publish,
}

PURPOSES = (
    "sync",
    "full",
    "collect",
    "purge",
    "read",
    "backup",
    "long",
    "prune",
    "prune_one",
    "check",
    "repair",
    "replace",
)


def make_context(tiers: int, rules: Rules) -> Context:
    ctx = Context(tiers, rules)
    ctx.join = taking.join
    ctx.serve = syncing.serve
    ctx.serve_on = syncing.marked
    return ctx


def steps_of(ctx: Context, state: State, i: int) -> list[Step]:
    """What installation ``i`` may do next."""
    inst = state.insts[i]
    if inst.active != RUNNING:
        return []
    if inst.run is not None:
        return _STEPS[inst.run.step](ctx, state, i, inst.run)
    steps: list[Step] = []
    if not inst.cert or (inst.intent is not None and inst.intent.epoch):
        if state.budget[TAKEOVER] or inst.intent is not None:
            for away, after in _links(ctx, state):
                steps.append((f"{i} begins a takeover{_without(away)}", taking.begin(ctx, after, i, away)))
        return steps
    for purpose in PURPOSES:
        if not state.budget[BUDGET.index(purpose)] or not _is_useful(ctx, state, inst, purpose):
            continue
        about = [-1]
        if purpose == "prune_one":
            about = list(range(ctx.tiers))
        elif purpose == "replace":
            about = to_replace(state, inst)
        if purpose in contact.WRITES:
            started = state._replace(budget=spend(state.budget, BUDGET.index(purpose)))
        else:
            started = state
        if purpose == "purge" and not ctx.rules.purge_look:
            every = (1 << ctx.tiers) - 1
            run = Run("purge", purpose, every, every)
            steps.append((f"{i} purges without a look", ran(state, i, run)))
            continue
        for away, after in _links(ctx, started):
            for t in about:
                label = f"{i} begins {purpose}{f' of {t}' if t >= 0 else ''}{_without(away)}"
                steps.append((label, contact.contact(ctx, after, i, purpose, away, t)))
    return steps


def to_replace(state: State, inst: Inst) -> list[int]:
    """The tiers that were wiped, and those whose replacement was begun."""
    known = [(row.generation, IDENTITY_DAMAGED) for row in inst.rows]
    return [t for t, disk in enumerate(state.disks) if disk.ident not in known[t]]


def _without(away: int) -> str:
    return f", {contact.names(away)} away" if away else ""


def _links(ctx: Context, state: State) -> Iterator[tuple[int, State]]:
    """Which tiers cannot be reached now, each paid for; never all of them."""
    yield 0, state
    for count in range(1, min(ctx.tiers, state.budget[CUT] + 1)):
        for away in combinations(range(ctx.tiers), count):
            mask = sum(1 << t for t in away)
            yield mask, state._replace(budget=spend(state.budget, CUT, count))


def _is_useful(ctx: Context, state: State, inst: Inst, purpose: str) -> bool:
    """Leaves out operations that would only look and go."""
    if purpose == "sync":
        rows = inst.rows
        return inst.intent is not None or any(
            r.missing or r.lacking or r.compare or not r.imported for r in rows
        )
    if purpose in ("prune", "prune_one"):
        return bool(live_of(ctx, inst).anywhere & SNAPSHOTS)
    if purpose == "collect":
        view = live_of(ctx, inst)
        return any(
            disk.objs & removed_by_record(ctx, inst, t) & (~view.on[t] if ctx.rules.net_effect else -1)
            for t, disk in enumerate(state.disks)
        )
    if purpose == "purge":
        return any(disk.quar for disk in state.disks)
    if purpose == "read":
        return any(disk.bad | disk.gone for disk in state.disks)
    if purpose == "check":
        anywhere = live_of(ctx, inst).anywhere if ctx.rules.orphans_named else 0
        return any(disk.objs & ~anywhere for disk in state.disks)
    return True
