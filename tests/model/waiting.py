"""A revision that was decided and lost every tier before it was confirmed: waiting until it is on one.

Mirrors `wait_until_held`: contact again and again; a tier that it was written to is confirmed as a target once the
record is there and nothing else has come to be missing.
"""

from __future__ import annotations

from tests.model import contact
from tests.model.context import CUT, Context, spend
from tests.model.steps import Step, confirmed, ended, ran
from tests.model.things import bits
from tests.model.world import Inst, Run, State, is_on

from tandem_protocol.revision import Kind


def begin(state: State, i: int, run: Run, number: int) -> State:
    """``run`` lost its last target after it was decided."""
    rows = state.insts[i].rows
    waits = tuple((t, rows[t].lacking, rows[t].missing) for t in bits(run.begun))
    return ran(state, i, Run("wait", run.purpose, 0, 0, kind=run.kind, waits=waits, number=number))


def wait(ctx: Context, state: State, i: int, run: Run) -> list[Step]:
    """Contact with whatever can be reached, or an end of patience."""
    steps: list[Step] = []
    for away in range((1 << ctx.tiers) - 1):
        cost = away.bit_count()
        if cost <= state.budget[CUT]:
            paid = state._replace(budget=spend(state.budget, CUT, cost))
            label = f"{i} waits for {run.number}{f', {contact.names(away)} away' if away else ''}"
            steps.append((label, contact.contact(ctx, paid, i, "wait", away, before=run)))
    return [*steps, (f"{i} waits no longer", ended(state, i))]


def held(ctx: Context, state: State, i: int, run: Run) -> list[Step]:
    """After contact: where it is now, or a comparison first, or waiting on."""
    return [(f"{i} looks where it is", _held(ctx, state, i, run))]


def _held(ctx: Context, state: State, i: int, run: Run) -> State | str:
    before = run.before
    assert before is not None
    for t, lacking, missing in before.waits:
        row = state.insts[i].rows[t]
        there = run.reach >> t & 1 and not row.missing >> before.number & 1
        grown = row.lacking & ~lacking or row.missing & ~missing
        if there and not grown:
            after = confirmed(ctx, state, i, t, 1 << before.number, 0, as_target=True, late=run.late)
            if isinstance(after, str):
                return after
            state = after
    inst = state.insts[i]
    holders = sum(1 << t for t, row in enumerate(inst.rows) if is_on(inst, row, before.number))
    if not holders:
        compare = _to_compare(inst, run)
        if compare:
            return ran(state, i, run._replace(step="sync", todo=compare, targets=compare))
        return ran(state, i, before)
    if before.kind is Kind.CHECKPOINT and holders & run.reach:
        last = Run(
            "intent", "last", run.reach, 0, targets=holders & run.reach, top=max(run.top, before.number)
        )
        return ran(state, i, last)
    return ended(state, i)


def _to_compare(inst: Inst, run: Run) -> int:
    """The tiers that wait to be compared, if that was not tried and there is no other."""
    compare = sum(1 << t for t in bits(run.reach) if inst.rows[t].compare)
    return compare if compare == run.reach and not run.targets else 0
