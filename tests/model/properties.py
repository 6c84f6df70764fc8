"""The promises, checked in every state, and the quiet run that P4 and P5 ask for.

P2 and P3 are checked by the steps that could break them, P1 where something is said to be on a tier; here P1 is
checked again in every state, and from every state in which nobody is at work the faults end: links are up, the
newest installation synchronises, backs up, and everything has to come right.
"""

from __future__ import annotations

from tests.model import agent, choosing, contact, taking, things
from tests.model.choosing import indexes_told, live_of, restorable
from tests.model.context import BACKUP, BUDGET, Context, spend
from tests.model.looking import epoch_of, glance
from tests.model.steps import is_genuine
from tests.model.things import DAMAGED, NUMBERS, bits
from tests.model.world import IDENTITY_DAMAGED, NOTHING, RUNNING, STOPPED, Inst, Row, State

ROUNDS = 4
"""Of repair and synchronisation: naming what is lost may show that something else is bad."""

MOST_ENDS = 2_000_000
"""Ends of quiet operations that are remembered."""

QUIET_STEPS = 200
"""More steps than any operation takes."""


def broken_promise(ctx: Context, state: State) -> str:
    """The promise that this state breaks; "" for none."""
    for backup in state.backups:
        for t in bits(backup.demand):
            if not restorable(state.disks[t], backup.record, 0, indexes_told(ctx, state, t)):
                number = things.docs[backup.record].number
                return f"P1: backup {number} was said to be on tier {t}, and cannot be restored from it"
    if any(inst.run is not None for inst in state.insts):
        return ""
    return _quiet(ctx, state)


def _quiet(ctx: Context, state: State) -> str:
    key = hash((state.disks, state.insts, state.backups))
    if key in ctx.quiet:
        return ""
    broken = _comes_right(ctx, state)
    if not broken:
        ctx.quiet.add(key)
    return broken


_UNLIMITED = tuple(
    1 if what in ("sync", "full", "collect", "purge", "repair", "takeover", "replace") else 0
    for what in BUDGET
)
_WITH_BACKUP = spend(_UNLIMITED, BACKUP, -1)


def _comes_right(ctx: Context, state: State) -> str:
    """From here without faults: one pass of synchronisation, a backup, and all tiers are equal."""
    state = state._replace(budget=_UNLIMITED)
    i = _owner(state)
    broken = _can_back_up(ctx, state, i, [1 << t for t in _usable(state, i)])
    if broken:
        return broken
    calm: State | str = state
    if _is_taking_over(state.insts[i]):
        calm, i = _taken_over(ctx, state, i)
    if not isinstance(calm, str):
        calm = _replaced(ctx, calm, i)
    if not isinstance(calm, str):
        calm = _operate(ctx, calm, i, "sync")
    if isinstance(calm, str):
        return calm
    if is_genuine(calm, i):
        # It is found by the next write at the latest.
        written = _operate(ctx, calm._replace(budget=_WITH_BACKUP), i, "backup")
        if isinstance(written, str):
            return written
        if written.insts[i].active == STOPPED:
            calm = written._replace(budget=_UNLIMITED)
    if calm.insts[i].active == STOPPED:
        calm, i = _taken_over(ctx, calm)
        if not isinstance(calm, str):
            calm = _operate(ctx, calm, i, "sync")
        if isinstance(calm, str):
            return calm
    unequal = ""
    for _ in range(ROUNDS):
        calm = _repaired(ctx, calm, i)
        if isinstance(calm, str):
            return calm
        unequal = _unequal(ctx, calm, i)
        if not unequal:
            return _can_back_up(ctx, calm, i, [(1 << ctx.tiers) - 1])
    return unequal


def _owner(state: State) -> int:
    """The newest installation that has written."""
    return max(range(len(state.insts)), key=lambda j: (epoch_or_0(state.insts[j]), -j))


def _is_taking_over(inst: Inst) -> bool:
    return inst.intent is not None and bool(inst.intent.epoch)


def _taken_over(ctx: Context, state: State, i: int = -1) -> tuple[State | str, int]:
    """A takeover is ended; without ``i`` it is a new installation's, because there is a second one."""
    if i < 0:
        rows = tuple(Row(start=0, last=0, imported=0) for _ in state.disks)
        i = len(state.insts)
        state = state._replace(insts=(*state.insts, Inst(RUNNING, 0, NOTHING, None, rows, writer=i)))
    for _ in range(3):
        calm = _run_out(ctx, taking.begin(ctx, state, i, 0), i)
        if isinstance(calm, str):
            return calm, i
        state = calm
        if calm.insts[i].journal != NOTHING and not _is_taking_over(calm.insts[i]):
            return calm, i
    return f"P4: the takeover of installation {i} does not end", i


def epoch_or_0(inst: Inst) -> int:
    return epoch_of(inst) if inst.cert else 0


def _replaced(ctx: Context, state: State, i: int) -> State | str:
    """People replace what was wiped; where nothing is left there is nobody to tell it to."""
    lost = agent.to_replace(state, state.insts[i])
    if len(lost) == ctx.tiers:
        return state
    calm: State | str = state
    for t in lost:
        if not isinstance(calm, str):
            calm = _operate(ctx, calm, i, "replace", t)
    return calm


def _operate(ctx: Context, state: State, i: int, purpose: str, tier: int = -1) -> State | str:
    """One operation in which everything goes well; nothing, if it has ended with exit code 4 before."""
    if state.insts[i].active == STOPPED:
        return state
    return _run_out(ctx, contact.contact(ctx, state, i, purpose, 0, tier), i)


def _run_out(ctx: Context, begun: State | str, i: int) -> State | str:
    """To the end of an operation in which everything goes well. Ways that meet are walked once."""
    passed: list[tuple[int, int]] = []
    for _ in range(QUIET_STEPS):
        if isinstance(begun, str) or begun.insts[i].run is None:
            break
        key = (hash(begun), i)
        known = ctx.ends.get(key)
        if known is not None:
            begun = known
            break
        passed.append(key)
        begun = agent.steps_of(ctx, begun, i)[0][1]
    else:
        return f"P4: an operation of installation {i} does not end"
    if len(ctx.ends) > MOST_ENDS:
        ctx.ends.clear()
    for key in passed:
        ctx.ends[key] = begun
    return begun


def _repaired(ctx: Context, state: State, i: int) -> State | str:
    """What no tier has any more is named, and what that frees is synchronised."""
    if not ctx.rules.repair or not any(row.missing or row.lacking for row in state.insts[i].rows):
        return state
    after = _operate(ctx, state, i, "repair")
    if isinstance(after, str):
        return after
    return _operate(ctx, after, i, "sync")


def _usable(state: State, i: int) -> list[int]:
    """The tiers that are there: a wiped one waits for somebody to replace it."""
    rows = state.insts[i].rows
    return [t for t, disk in enumerate(state.disks) if disk.ident in (rows[t].generation, IDENTITY_DAMAGED)]


def _unequal(ctx: Context, state: State, i: int) -> str:
    """Why the tiers are not equal; "" if they are."""
    inst = state.insts[i]
    live = live_of(ctx, inst)
    for t in _usable(state, i):
        disk, row = state.disks[t], inst.rows[t]
        if row.missing or row.compare or not row.imported:
            return f"P5: tier {t} still lacks revisions {list(bits(row.missing))} after synchronisation"
        seen = glance(ctx, disk, inst, t)
        if seen.repairs and not ctx.rules.mend:
            return f"P5: {seen.repairs} stays damaged on tier {t}"
        for n in range(row.start, NUMBERS):
            if inst.journal[n] and disk.records[n] not in (inst.journal[n], DAMAGED):
                return f"P5: something else stands on tier {t} as revision {n}, and stays there"
        if live.on[t] & ~(disk.objs | disk.gone & ~row.lacking):
            return f"P5: tier {t} still lacks objects after synchronisation"
    for backup in state.backups:
        if not backup.demand:
            continue
        number = things.docs[backup.record].number
        snapshot = things.docs[backup.record].added & things.SNAPSHOTS
        for t in _usable(state, i):
            disk = state.disks[t]
            forgiven = disk.gone & ~inst.rows[t].lacking
            if backup.pruned >> t & 1:
                continue
            if not (live.on[t] & snapshot and live.on[t] & things.DATA and live.on[t] & things.INDEXES):
                return f"P5: backup {number} was acknowledged and is forgotten for tier {t}"
            if not restorable(disk, backup.record, forgiven):
                return f"P5: backup {number} cannot be restored from tier {t} after synchronisation"
    return ""


def _can_back_up(ctx: Context, state: State, i: int, choices: list[int]) -> str:
    """P4: with each of these sets of tiers (masks), a backup comes to its end."""
    if not _usable(state, i) or state.insts[i].active != RUNNING or not state.insts[i].cert:
        return ""
    if _is_taking_over(state.insts[i]):
        return ""
    for there in choices:
        begun = contact.contact(ctx, state._replace(budget=_WITH_BACKUP), i, "backup", ~there)
        begun = _run_out(ctx, begun, i)
        if isinstance(begun, str):
            return begun
        if begun.insts[i].active == STOPPED:
            continue
        if len(begun.backups) == len(state.backups):
            if _next(begun, i) < NUMBERS:
                return f"P4: no backup is possible with tiers {list(bits(there))}"
            continue
        last = begun.backups[-1]
        if not last.demand and not _forgivable(begun, i, last.record):
            return f"P4: a backup with tiers {list(bits(there))} is not acknowledged"
    return ""


def _next(state: State, i: int) -> int:
    return choosing.next_number(state.insts[i], 0)


def _forgivable(state: State, i: int, record: int) -> bool:
    """Damage that nobody has seen yet keeps a backup from being held to."""
    rows = state.insts[i].rows
    return any(restorable(disk, record, disk.gone & ~rows[t].lacking) for t, disk in enumerate(state.disks))
