"""What must hold in every run, whatever went wrong: the properties at the end of the tier protocol.

P1 what was acknowledged can be had from the tiers that were said to have it, and from all together; P2 nobody is
taken for a second installation without one; P3 a real one is found before its second acknowledgement; P5 after
the faults end, one synchronisation makes tiers equal. All is looked up on the storages, not in the agent's books.
"""

from __future__ import annotations

from tests.simulation.content import Made
from tests.simulation.machines import Machine, split
from tests.simulation.places import Storage
from tests.simulation.world import Ack, Ended, Violation, World, epoch

from tandem_agent.backups import BackupInfo, list_backups
from tandem_agent.state import State
from tandem_protocol.names import ObjectType, claim_path, object_path, record_path
from tandem_protocol.snapshot import decode_snapshot


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
    made = next(made for made in reversed(world.made.values()) if made.id == id)
    assert made in listed(world, State.open(machine.folder))
    made.acked.setdefault(tier, world.now)
    world.tell(machine.name, tier, "ACKNOWLEDGED", number, id[:8])
    storage = world.storages[tier]
    if storage.rolled_back <= ended.began:
        for path in (claim_path(number), record_path(number)):
            if path not in storage.shared:
                raise Violation(f"{machine.name} acknowledged on {tier}, where {path} is not")
    written = storage.born.get(record_path(number), -1)
    if storage.rolled_back <= max(written, ended.began):
        _must_be_there(world, machine, storage, made, number)
    _one_writer(world, ended, tier)
    world.acks.append(Ack(world.now, machine, tier, epoch(machine)))


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


def _one_writer(world: World, ended: Ended, tier: str) -> None:
    """On a tier whose history nothing harmed, two installations of one epoch never both acknowledge, and one whose
    process began after a takeover's fence stood there does not either."""
    machine, ours = ended.process.machine, epoch(ended.process.machine)
    if world.storages[tier].history_harmed:
        return
    for ack in world.acks:
        same = ack.tier == tier and ack.epoch == ours
        if same and ack.machine is not machine and ack.line > split(machine, ack.machine):
            raise Violation(
                f"{machine.name} acknowledged on {tier}, where {ack.machine.name} had in line {ack.line}"
            )
    for one in world.written:
        is_fence = one.tier == tier and one.path.startswith("epochs/") and one.epoch > ours
        if is_fence and one.line < ended.began:
            raise Violation(
                f"{machine.name} (epoch {ours}) acknowledged on {tier}, where epoch {one.epoch} stood since"
                f" line {one.line}"
            )


def check_believed(world: World, ended: Ended) -> None:
    """What this machine lists as being on a tier is there. Tiers that it had no look at are left out, and those
    whose storage lost something since it began: it cannot know."""
    machine, agent = ended.process.machine, ended.process.agent
    if agent is None:
        return
    state = State.open(machine.folder)
    seen = [tier for tier in agent.tiers.tiers if tier.seen is not None]
    for made, info in listed(world, state).items():
        for tier in seen:
            storage = world.storages[tier.name]
            if not made.pruned and storage.rolled_back < ended.began and tier.name in info.tiers:
                _must_be_there(world, machine, storage, made, info.revision)
                if tier.name not in made.acked:
                    made.acked[tier.name] = world.now
                    world.tell(machine.name, tier.name, "LISTS", info.revision, made.id[:8])


def listed(world: World, state: State) -> dict[Made, BackupInfo]:
    """The backups that were made in full, as a machine lists them."""
    found: dict[Made, BackupInfo] = {}
    for info in list_backups(state):
        if info.snapshot is not None:
            data = world.bytes_of[object_path(ObjectType.SNAPSHOT, info.snapshot)]
            made = world.made[info.id.hex(), decode_snapshot(world.ring, data).root]
            if made in found:
                raise Violation(f"{info.name} and {found[made].name} are the same backup {made.id[:8]}")
            made.snapshot = info.snapshot
            found[made] = info
    return found


def check_alarm(world: World, ended: Ended) -> None:
    """A second installation was found: there must be one, and it must have written."""
    machine = ended.process.machine
    world.tell(machine.name, "ALARM")
    machine.stopped = True
    ours = epoch(machine)
    for one in world.written:
        if one.machine is not machine and one.epoch >= ours and one.line > split(machine, one.machine):
            return
    if State.open(machine.folder).takeover() is not None:
        return  # its own takeover, which was not ended
    raise Violation(f"false alarm on {machine.name}: {ended.fault}")


def check_equal(world: World, machine: Machine) -> bool:
    """All tiers hold the same live objects and records, from the base on that the last of them starts at. A revision
    that needs an object which faults destroyed on every tier cannot be written where it is not yet: that is for a
    repair to name. Gives whether all is there."""
    state = State.open(machine.folder)
    start = max(row.start for row in state.tiers())
    # A tier that starts at a base does not need the lists of the base before.
    wanted = [o for o in state.live().values() if o.type is not ObjectType.LIST or o.added >= start]
    live = {object_path(o.type, o.name) for o in wanted}
    gone = live - set().union(*(storage.shared for storage in world.storages.values()))
    if unexplained := gone - set().union(*(storage.harmed for storage in world.storages.values())):
        raise Violation(f"live objects are nowhere, though no fault took them: {sorted(unexplained)[:4]}")
    counted = live | {record_path(number) for number in state.journal if number >= start}
    found = {name: counted & storage.shared.keys() for name, storage in world.storages.items()}
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


def check_listed(world: World, machine: Machine) -> None:
    """In the end, what was acknowledged to anybody is listed by the machine that writes, as being on some tier."""
    known = listed(world, State.open(machine.folder))
    for made in world.made.values():
        if made.pruned or not made.acked or (made in known and known[made].tiers):
            continue
        if not all(_was_harmed(world, world.storages[tier], made) for tier in made.acked):
            raise Violation(
                f"{machine.name} {'gave up' if made in known else 'does not list'} backup {made.id[:8]}, acknowledged"
                f" on {sorted(made.acked)}"
            )


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
