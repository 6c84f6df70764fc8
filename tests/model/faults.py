"""What the world does to the agent: crashes, roll-backs, wiped tiers, damage, a clone, a fresh installation.

A fault is a step like any other, paid from the budget. A tier that was struck is no longer held to what it can no
longer give; what it can still give, it still has to.
"""

from __future__ import annotations

from tests.model import choosing
from tests.model.context import (
    CLONE,
    CRASH,
    DAMAGE,
    DAMAGE_EPOCH,
    DAMAGE_IDENTITY,
    FRESH,
    ROLL,
    ROLL_AWAY,
    ROT,
    SNAP,
    VANISH,
    WIPE,
    Context,
    spend,
)
from tests.model.steps import Step, crashed
from tests.model.things import DAMAGED, DATA, INDEXES, NUMBERS, SNAPSHOTS
from tests.model.world import (
    EPOCHS,
    IDENTITY_DAMAGED,
    NOTHING,
    RUNNING,
    Disk,
    Inst,
    Row,
    State,
    put,
    with_disk,
)


def faults(ctx: Context, state: State) -> list[Step]:
    """Every fault that may strike now."""
    budget = state.budget
    steps: list[Step] = []
    if budget[CRASH]:
        for i, inst in enumerate(state.insts):
            if inst.run is not None:
                died = crashed(ctx, state, i)
                steps.append((f"{i} crashes", died._replace(budget=spend(budget, CRASH))))
    if budget[CLONE] and len(state.insts) < 3:
        twin = state.insts[0]
        if twin.active == RUNNING:
            insts = (*state.insts, twin._replace(run=None, writer=len(state.insts)))
            steps.append(("0 is cloned", state._replace(insts=insts, budget=spend(budget, CLONE))))
    if budget[FRESH] and len(state.insts) < 3:
        rows = tuple(Row(start=0, last=0, imported=0) for _ in state.disks)
        fresh = Inst(RUNNING, 0, NOTHING, None, rows, writer=len(state.insts))
        after = state._replace(insts=(*state.insts, fresh), budget=spend(budget, FRESH))
        steps.append(("another installation comes", after))
    for t, disk in enumerate(state.disks):
        steps += _on_tier(ctx, state, t, disk)
    return steps


def _on_tier(ctx: Context, state: State, t: int, disk: Disk) -> list[Step]:
    budget = state.budget
    steps: list[Step] = []

    def struck(label: str, after: Disk, cost: int, **changes: object) -> None:
        steps.append((label, _struck(ctx, state, t, after, cost, changes)))

    if budget[SNAP] and not disk.snap:
        kept = disk._replace(snap=())
        disks = with_disk(state.disks, t, disk._replace(snap=tuple(kept)))
        steps.append(
            (f"storage of {t} keeps a snapshot", state._replace(disks=disks, budget=spend(budget, SNAP)))
        )
    if disk.snap and tuple(disk._replace(snap=())) != disk.snap:
        kept = Disk(*disk.snap)  # type: ignore[arg-type]  # its fields, as they were kept
        # What was good again before is not forgiven.
        back = kept._replace(gone=kept.gone & disk.gone, era=disk.era + 1)
        if budget[ROLL]:
            struck(f"{t} is rolled back", back, ROLL, rolled=True)
        if budget[ROLL_AWAY] and any(inst.run is not None for inst in state.insts):
            struck(f"{t} is rolled back while away", back, ROLL_AWAY, rolled=True, away=True)
    if budget[WIPE] and disk.ident:
        struck(f"{t} is wiped", Disk(0, (0,) * EPOCHS, NOTHING, NOTHING), WIPE, wiped=True)
    if budget[DAMAGE_IDENTITY] and disk.ident not in (0, IDENTITY_DAMAGED):
        struck(f"identity of {t} is damaged", disk._replace(ident=IDENTITY_DAMAGED), DAMAGE_IDENTITY)
    if budget[DAMAGE_EPOCH]:
        for epoch, code in enumerate(disk.epochs):
            if code > DAMAGED:
                torn = disk._replace(epochs=put(disk.epochs, epoch, DAMAGED))
                struck(f"epoch {epoch} on {t} is damaged", torn, DAMAGE_EPOCH)
    if budget[DAMAGE]:
        for n in range(2, NUMBERS):
            if disk.claims[n] > DAMAGED:
                torn = disk._replace(claims=put(disk.claims, n, DAMAGED))
                struck(f"claim {n} on {t} is damaged", torn, DAMAGE)
            if disk.records[n] > DAMAGED:
                torn = disk._replace(records=put(disk.records, n, DAMAGED))
                struck(f"record {n} on {t} is damaged", torn, DAMAGE)
    for what, kind in ((DATA, "data"), (INDEXES, "index"), (SNAPSHOTS, "snapshot")):
        hit = disk.objs & ~disk.bad & what
        hit &= -hit
        if hit and budget[ROT]:
            struck(f"{kind} on {t} rots", disk._replace(bad=disk.bad | hit, gone=disk.gone | hit), ROT)
        if hit and budget[VANISH]:
            lost = disk._replace(objs=disk.objs & ~hit, gone=disk.gone | hit)
            struck(f"{kind} on {t} vanishes", lost, VANISH)
    return steps


def _struck(ctx: Context, state: State, t: int, disk: Disk, cost: int, changes: dict[str, object]) -> State:
    """The tier as it is now; what it can no longer give is no longer asked of it."""
    told = choosing.indexes_told(ctx, state, t)
    backups = tuple(
        backup._replace(demand=backup.demand & ~(1 << t))
        if backup.demand >> t & 1 and not choosing.restorable(disk, backup.record, 0, told)
        else backup
        for backup in state.backups
    )
    insts = state.insts
    if changes.get("rolled"):
        insts = tuple(_unaware(inst, t, bool(changes.get("away"))) for inst in insts)
    if changes.get("wiped"):
        insts = tuple(_unaware(inst, t, False)._replace(unannounced=inst.unannounced) for inst in insts)
    return State(with_disk(state.disks, t, disk), insts, backups, spend(state.budget, cost))


def _unaware(inst: Inst, t: int, away: bool) -> Inst:
    """An installation that is at work and has taken its last look at the tier cannot know before it confirms; where
    its session breaks, it has to look once more."""
    run = inst.run
    if run is not None:
        bit = 1 << t
        run = run._replace(foreign=run.foreign & ~bit)
        if away:
            run = run._replace(broken=run.broken | bit)
        elif (run.purpose == "wait" and not run.todo & bit) or (
            run.step in ("record", "confirm") and run.targets & bit & ~run.todo
        ):
            run = run._replace(late=run.late | bit)
    return inst._replace(run=run, unannounced=inst.unannounced | 1 << t)
