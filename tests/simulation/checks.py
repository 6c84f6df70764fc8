"""What must hold in every run, whatever went wrong: the properties at the end of the tier protocol.

P1 what was acknowledged can be had from the tiers that were said to have it, and from all together; P2 nobody is
taken for a second installation without one; P3 a real one is found before its second acknowledgement; P5 after
the faults end, one synchronisation makes tiers equal. All is looked up on the storages, not in the agent's books.
"""

from __future__ import annotations

from tests.simulation.content import Made
from tests.simulation.machines import Machine, split
from tests.simulation.places import Storage
from tests.simulation.world import Ended, Violation, World

from tandem_agent.state import State
from tandem_protocol.names import object_path, record_path


def check_answer(world: World, ended: Ended) -> None:
    """After a process ended well: what it was told, and what it now believes, is so."""
    machine = ended.process.machine
    result = ended.answer
    for tier in getattr(result, "tiers", ()):
        if getattr(tier, "has_it", False):
            acknowledge(world, ended, machine, result.id, tier.name, result.revision)
    check_believed(world, ended)


def acknowledge(world: World, ended: Ended, machine: Machine, id: str, tier: str, number: int) -> None:
    """A backup was said to be on a tier: it must be there now."""
    made = world.made[id]
    assert made in listed(world, State.open(machine.folder))
    made.acked.setdefault(tier, world.now)
    world.tell(machine.name, tier, "ACKNOWLEDGED", number, id[:8])
    storage = world.storages[tier]
    written = storage.born.get(record_path(number), -1)
    if storage.rolled_back <= max(written, ended.began):
        _must_be_there(world, machine, storage, made, number)
    _one_writer(world, machine, tier)
    world.acks.append((world.now, machine, tier, id))


def _must_be_there(world: World, machine: Machine, storage: Storage, made: Made, number: int) -> None:
    reason = world.catalogue.lost(storage.shared, made)
    if not reason:
        return
    harmed = storage.flipped | machine.excused.get(storage.name, set())
    if harmed:
        repaired = dict(storage.shared)
        for path in harmed:
            if path in world.bytes_of:
                repaired[path] = world.bytes_of[path]
        if not world.catalogue.lost(repaired, made):
            return
    raise Violation(
        f"{machine.name} says that backup {made.id[:8]} (revision {number}) is on {storage.name}, but {reason}"
    )


def _one_writer(world: World, machine: Machine, tier: str) -> None:
    """Two installations of one epoch never both acknowledge on one tier whose history nothing harmed."""
    if world.storages[tier].history_harmed:
        return
    for line, other, where, _ in world.acks:
        if where == tier and other is not machine and line > split(machine, other):
            raise Violation(f"{machine.name} acknowledged on {tier}, where {other.name} had in line {line}")


def check_believed(world: World, ended: Ended) -> None:
    """What this machine lists as being on a tier is there. Tiers that it had no look at are left out, and those
    whose storage lost something since it began: it cannot know."""
    machine, agent = ended.process.machine, ended.process.agent
    assert agent is not None
    state = State.open(machine.folder)
    seen = [tier for tier in agent.tiers.tiers if tier.seen is not None]
    for made, number in listed(world, state).items():
        for tier in seen:
            storage = world.storages[tier.name]
            if not made.pruned and storage.rolled_back < ended.began and state.is_on(number, tier.id):
                _must_be_there(world, machine, storage, made, number)
                made.acked.setdefault(tier.name, world.now)


def listed(world: World, state: State) -> dict[Made, int]:
    """The backups that were made in full, as a machine lists them, with their revisions."""
    found = {}
    for number, info in state.backups():
        if info["status"] != "failed" and info["id"] in world.made:
            made = world.made[info["id"]]
            made.snapshot = bytes.fromhex(info["snapshot"])
            found[made] = number
    return found


def check_alarm(world: World, ended: Ended) -> None:
    """A second installation was found: there must be one, and it must have written."""
    machine = ended.process.machine
    world.tell(machine.name, "ALARM")
    machine.stopped = True
    for line, other, _, _ in world.written:
        if other is not machine and line > split(machine, other):
            return
    raise Violation(f"false alarm on {machine.name}: {ended.fault}")


def check_equal(world: World, machine: Machine) -> bool:
    """All tiers hold the same live objects and records. A revision that needs an object which faults destroyed on
    every tier cannot be written where it is not yet: that is for a repair to name. Gives whether all is there."""
    state = State.open(machine.folder)
    live = {object_path(o.type, o.name) for o in state.live().values()}
    gone = live - set().union(*(storage.shared for storage in world.storages.values()))
    if unexplained := gone - set().union(*(storage.harmed for storage in world.storages.values())):
        raise Violation(f"live objects are nowhere, though no fault took them: {sorted(unexplained)[:4]}")
    found = {
        name: {path for path in storage.shared if path in live or path.endswith(".record")}
        for name, storage in world.storages.items()
    }
    for number in state.journal:
        if any(object_path(ref.type, ref.name) in gone for ref in state.record(number).added):
            for paths in found.values():
                paths.discard(record_path(number))
    first, *others = found.values()
    if any(other != first for other in others):
        everything: set[str] = set().union(*found.values())
        told = [f"{path} is not on {n}" for n, paths in found.items() for path in sorted(everything - paths)]
        raise Violation("tiers are not equal after the faults ended: " + "; ".join(told[:6]))
    return not gone


def check_nothing_lost(world: World) -> None:
    """Every acknowledged backup can be had from all tiers together, unless each tier that was said to have it was
    harmed in what it needs."""
    together: dict[str, bytes] = {}
    for storage in world.storages.values():
        together |= {path: data for path, data in storage.shared.items() if path not in storage.flipped}
    for made in world.made.values():
        if made.pruned or not made.acked:
            continue
        reason = world.catalogue.lost(together, made)
        if reason and not all(_was_harmed(world, world.storages[tier], made) for tier in made.acked):
            raise Violation(f"backup {made.id[:8]}, acknowledged on {sorted(made.acked)}, is lost: {reason}")


def _was_harmed(world: World, storage: Storage, made: Made) -> bool:
    needs = world.catalogue.having(world.bytes_of, made.blocks)
    if made.snapshot is not None:
        needs.add(f"snapshots/{made.snapshot.hex()[:2]}/{made.snapshot.hex()}")
    return bool(needs & storage.harmed)
