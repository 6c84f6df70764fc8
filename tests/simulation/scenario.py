"""One run: steps drawn from a seed, faults armed around them, then peace, and the checks.

A seed first draws which kinds of fault it has at all, so that many runs have few of them and the checks can be
strict there. Steps are whole commands (backup, synchronisation, a prune made of a record's own parts), changes of
links, damage to storages, and copies of machines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from tests.simulation import checks
from tests.simulation.machines import Machine, Process, copied
from tests.simulation.places import Link, Storage
from tests.simulation.restoring import check_restores
from tests.simulation.world import Body, Ended, Op, Violation, World, epoch
from tests.support.formats import PHRASE

from tandem_agent.backup import backup
from tandem_agent.progress import Progress
from tandem_agent.resync import sync
from tandem_agent.state import State
from tandem_agent.takeover import take_over
from tandem_agent.tiers.targets import reachable_targets
from tandem_agent.tiers.writing import Revision
from tandem_agent.wiring import Agent
from tandem_protocol.names import IDENTITY, ObjectType, object_path
from tandem_protocol.revision import Kind, Removal

FOREVER = 1e12
LINK_FAULTS = ("away", "cut", "lost", "dropped", "slow")
AGENT_FAULTS = ("crash", "stop", "state full")
STORAGE_FAULTS = ("full", "flip object", "flip history", "roll back")
COPIES = ("clone", "image", "takeover", "takeover")


class Scenario:
    """The steps of one seed. ``steps``: how many at most; ``faults``: the kinds to have, instead of drawn ones."""

    def __init__(self, world: World, steps: int, faults: Collection[str] = ()) -> None:
        self.world = world
        self.make = world.make
        self.steps = self.make.randrange(steps // 3, steps + 1)
        kinds = LINK_FAULTS + AGENT_FAULTS + STORAGE_FAULTS
        self.faults = {kind for kind in kinds if self.make.random() < 0.35}
        if self.make.random() < 0.3:
            self.faults |= {self.make.choice(COPIES), self.make.choice(COPIES)}
        self.faults = set(faults) or self.faults
        names = sorted(world.storages)
        self.harmed = names if self.make.random() < 0.3 else [self.make.choice(names)]
        self.copies = 0
        self.images: list[tuple[Any, int, Machine]] = []

    async def run(self) -> None:
        world = self.world
        world.tell("faults:", *sorted(self.faults), "harm to:", *self.harmed)
        await world.init(world.found())
        self.keep_images()
        for _ in range(self.steps):
            await self.step()
        await self.end()

    # Steps

    async def step(self) -> None:
        acts: list[tuple[int, Callable[[], Awaitable[None]], str | None]] = [
            (8, self.backup, None),
            (4, self.sync, None),
            (1, self.prune, None),
            (3, self.links, "away"),
            (1, self.flip, "flip object"),
            (1, self.flip_history, "flip history"),
            (1, self.roll_back, "roll back"),
            (1, self.fill, "full"),
            (3, self.clone, "clone"),
            (3, self.image, "image"),
            (2, self.both, "clone"),
            (4, self.both, "takeover"),
            (3, self.take_over, "takeover"),
        ]
        possible = [(weight, act) for weight, act, needs in acts if needs is None or needs in self.faults]
        act = self.make.choices([act for _, act in possible], [weight for weight, _ in possible])[0]
        if "away" in self.faults and self.make.random() < 0.4:
            await self.links()
        self.world.tell("STEP", act.__name__)
        await act()
        self.calm()
        self.keep_images()

    def machine(self) -> Machine | None:
        alive = self.alive()
        return self.make.choice(alive) if alive else None

    def alive(self) -> list[Machine]:
        """The machines that may write, as far as they know."""
        return [machine for machine in self.world.machines if not machine.stopped and epoch(machine)]

    async def backup(self) -> None:
        if (machine := self.machine()) is not None:
            await self.back_up(machine)

    async def back_up(self, machine: Machine) -> None:
        self.change_files(machine)
        wait_s = self.make.choice((0.0, 0.0, 20.0, 300.0))
        await self.play(machine, lambda agent: backup(agent, [b"/home"], wait_s=wait_s, progress=Progress()))

    async def sync(self) -> None:
        full = self.make.random() < 0.2
        if (machine := self.machine()) is not None:
            await self.play(machine, lambda agent: sync(agent, (), full, Progress()))

    async def both(self) -> None:
        """Two machines at once."""
        alive = self.alive()
        chosen = self.make.sample(alive, min(2, len(alive)))
        first: list[Awaitable[None]] = [self.back_up(machine) for machine in chosen[:1]]
        if "takeover" in self.faults and self.make.random() < 0.5:
            await asyncio.gather(*first, self.take_over())
        else:
            await asyncio.gather(*first, *(self.back_up(machine) for machine in chosen[1:]))

    async def play(self, machine: Machine, op: Op) -> None:
        """Run one command on a machine with faults around it, and check what came of it."""
        await self.perform(machine, self.world.with_agent(op))

    async def perform(self, machine: Machine, body: Body) -> Ended:
        process = self.world.process(machine)
        self.arm(process)
        ended = await self.world.run(process, body)
        self.judge(ended)
        return ended

    def judge(self, ended: Ended) -> None:
        if self.world.is_alarm(ended):
            checks.check_alarm(self.world, ended)
        elif ended.fault is None:
            checks.check_answer(self.world, ended)

    def change_files(self, machine: Machine) -> None:
        """New files, changed ones, and now and then old content again."""
        make = self.make
        for _ in range(make.randrange(3)):
            blocks = [make.randbytes(make.randrange(20, 200)) for _ in range(make.randrange(1, 4))]
            olds = [made for made in self.world.made.values() if made.files]
            if olds and make.random() < 0.4:
                blocks = make.choice(sorted(make.choice(olds).files.values()))
            machine.files[b"file %d" % make.randrange(6)] = blocks
        if machine.files and make.random() < 0.2:
            del machine.files[make.choice(sorted(machine.files))]
        if not machine.files:
            machine.files[b"file"] = [make.randbytes(50)]

    async def prune(self) -> None:
        machine = self.machine()
        if machine is None:
            return
        made = [m for m in checks.listed(self.world, State.open(machine.folder)) if not m.pruned]
        dropped = [m for m in made if self.make.random() < 0.4]

        async def op(agent: Agent) -> None:
            tiers = agent.tiers
            targets = await reachable_targets(tiers, 0.0)
            for one in dropped:
                one.pruned = True
            kept = [m for m in self.world.made.values() if not m.pruned]
            needed = self.world.catalogue.having(self.world.bytes_of, set().union(*(m.blocks for m in kept)))
            needed |= {object_path(ObjectType.SNAPSHOT, m.snapshot) for m in kept if m.snapshot}
            kinds = (ObjectType.PACK, ObjectType.INDEX, ObjectType.SNAPSHOT)
            live = [o for o in tiers.state.live().values() if o.type in kinds]
            gone = [Removal(o.type, o.name) for o in live if object_path(o.type, o.name) not in needed]
            revision = await Revision.begin(tiers, targets, Progress())
            try:
                await revision.commit(Kind.PRUNE, {}, removed=sorted(gone, key=lambda r: r.name))
            except BaseException as fault:
                await revision.abort(str(fault))
                raise

        await self.play(machine, op)

    # Faults

    async def links(self) -> None:
        """Each machine sees all tiers, one of them, or any."""
        for machine in self.world.machines:
            self.place(machine)

    def place(self, machine: Machine) -> None:
        kind = self.make.random()
        only = self.make.choice(sorted(machine.links))
        for name, link in sorted(machine.links.items()):
            up = kind < 0.3 or (name == only if kind < 0.8 else self.make.random() < 0.5)
            link.down_until = 0.0 if up else FOREVER

    def arm(self, process: Process) -> None:
        """What may go wrong in this command."""
        make = self.make
        for name, link in sorted(process.machine.links.items()):
            self.arm_link(link)
            self.arm_storage(self.world.storages[name], name in self.harmed)
        if "crash" in self.faults and make.random() < 0.5:
            process.dies_in = self.some_time()
        if "stop" in self.faults and make.random() < 0.3:
            process.stops_in = self.some_time()
        if "state full" in self.faults and make.random() < 0.2:
            process.full_in = make.randrange(12)
        process.scan_s = make.choice((0.0, 0.0, 1.0, 200.0))

    def some_time(self) -> int:
        """A number of steps, within the length of a command: the beginning is as likely as the end."""
        return self.make.randrange(self.make.choice((10, 40, 120)))

    def arm_link(self, link: Link) -> None:
        make = self.make
        if "cut" in self.faults and make.random() < 0.4:
            link.cut_in, link.cut_for = self.some_time(), make.choice((0.0, 2.0, 60.0, FOREVER))
        if "lost" in self.faults and make.random() < 0.5:
            link.lose_in = make.randrange(10)
        if "dropped" in self.faults and make.random() < 0.3:
            link.drop_in = make.randrange(10)
        slow = "slow" in self.faults and make.random() < 0.3
        link.latency = make.choice((1.0, 10.0)) if slow else make.choice((0.0, 0.01, 0.01, 0.1))

    def arm_storage(self, storage: Storage, may_harm: bool) -> None:
        make = self.make
        if not may_harm:
            return
        when = storage.verbs + 1 + self.some_time()
        if "roll back" in self.faults and make.random() < 0.1:
            storage.at[when] = lambda: self.back_in_time(storage)
        elif "flip object" in self.faults and make.random() < 0.1:
            storage.at[when] = lambda: self.flip_object(storage)
        elif "roll back" in self.faults:
            storage.at[when] = lambda: storage.images.append(dict(storage.shared))

    def calm(self) -> None:
        """What was armed and did not come is over; what is down stays down."""
        for machine in self.world.machines:
            for link in machine.links.values():
                link.cut_in = link.lose_in = link.drop_in = None
        for storage in self.world.storages.values():
            storage.at.clear()

    def keep_images(self) -> None:
        if "roll back" in self.faults:
            for storage in self.world.storages.values():
                storage.images.append(dict(storage.shared))
        if "image" in self.faults and self.make.random() < 0.3:
            machine = self.machine()
            if machine is not None:
                self.images.append((machine.copied_disk(), self.world.now, machine))

    async def flip(self) -> None:
        self.flip_object(self.world.storages[self.make.choice(self.harmed)])

    def flip_object(self, storage: Storage) -> None:
        starts: tuple[str, ...] = ("packs/", "index/", "snapshots/", "keys/")
        if storage.name != self.harmed[0]:
            starts = starts[:3]  # a passphrase that opens nothing anywhere is the end of all
        self.flip_one(storage, starts)

    async def flip_history(self) -> None:
        storage = self.world.storages[self.make.choice(self.harmed)]
        starts: tuple[str, ...] = ("revisions/", "epochs/", IDENTITY)
        if IDENTITY in storage.flipped or IDENTITY not in storage.shared:
            return  # nothing more may be lost of what says whose the tier is
        if self.faults & set(COPIES) or any(path.startswith(starts) for path in storage.flipped):
            starts = starts[:2]
        self.flip_one(storage, starts)

    def flip_one(self, storage: Storage, starts: tuple[str, ...]) -> None:
        paths = sorted(
            path for path in storage.shared if path.startswith(starts) and path not in storage.flipped
        )
        if paths:
            self.world.flip(storage, self.make.choice(paths))

    async def roll_back(self) -> None:
        self.back_in_time(self.world.storages[self.make.choice(self.harmed)])

    def back_in_time(self, storage: Storage) -> None:
        if storage.images:
            recent = storage.images[-6:]
            self.world.roll_back(storage, self.make.choice(recent))

    async def fill(self) -> None:
        for storage in self.world.storages.values():
            storage.full = self.make.random() < 0.4

    # More than one machine

    async def clone(self) -> None:
        machine = self.machine()
        if machine is not None and self.copies < 2:
            self.copies += 1
            name = ("beta", "gamma")[self.copies - 1]
            self.world.copy_machine(machine, name, machine.copied_disk(), self.world.now, machine.files)

    async def image(self) -> None:
        """A machine is put back to an earlier image of its disk."""
        if self.images and self.copies < 2:
            disk, born, machine = self.make.choice(self.images)
            if machine.stopped:
                return
            machine.stopped = True
            self.copies += 1
            name = ("beta", "gamma")[self.copies - 1]
            self.world.copy_machine(machine, name, copied(disk), born, machine.files)

    async def take_over(self) -> None:
        """A machine becomes the one that writes: a new one, or one that is there, stopped or not."""
        world = self.world
        if self.make.random() < 0.5 and self.copies < 3:
            self.copies += 1
            machine = world.new_machine(("one", "two", "three")[self.copies - 1])
            if "away" in self.faults:
                self.place(machine)
        else:
            machine = self.make.choice(world.machines)
        ended = await self.perform(machine, self.taking_over)
        if ended.fault is None:
            machine.stopped = False

    async def taking_over(self, process: Process) -> Any:
        config = self.world.config(process.machine)
        return await take_over(config, lambda: PHRASE, lambda *_: False, lambda _: True, Progress())

    # The end

    async def end(self) -> None:
        world = self.world
        world.tell("PEACE")
        for storage in world.storages.values():
            storage.full = False
        for each in world.machines:
            for link in each.links.values():
                link.mend()
        alive = self.alive()
        machine = self.winner()
        if machine is None:
            machine = world.new_machine("omega")
            await self.in_peace(machine, self.taking_over)
        await self.settle(machine)
        checks.check_listed(world, machine)
        for old in alive:
            if old is not machine:
                await self.must_not_write(old)
        checks.check_nothing_lost(world)
        await self.restore(machine)

    async def restore(self, machine: Machine) -> None:
        """What is listed restores from each tier that no fault has left bad bytes on."""
        listed = checks.listed(self.world, State.open(machine.folder))
        for name, storage in self.world.storages.items():
            wanted = [made for made, info in listed.items() if name in info.tiers and not made.pruned]
            if not storage.flipped:
                await check_restores(self.world, storage, wanted)

    def winner(self) -> Machine | None:
        """The one machine that may write: of the highest epoch that anybody ever took, and alone in it."""
        highest = max(one.epoch for one in self.world.written)
        known = {id(one.machine): one.machine for one in self.world.written if one.epoch == highest}
        machines = [
            machine for machine in self.world.machines if id(machine) in known or epoch(machine) == highest
        ]
        if len(machines) != 1 or machines[0].stopped or epoch(machines[0]) != highest:
            return None
        return machines[0]

    async def must_not_write(self, machine: Machine) -> None:
        """Another installation has taken over: whoever wrote before is told."""
        self.change_files(machine)
        ended = await self.world.run(self.world.process(machine), self.world.with_agent(self.backing_up))
        self.judge(ended)
        if not self.world.is_alarm(ended):
            raise Violation(f"{machine.name} was taken over, and is not told: {ended.fault or 'it wrote'}")

    async def backing_up(self, agent: Agent) -> Any:
        return await backup(agent, [b"/home"], wait_s=60.0, progress=Progress())

    async def settle(self, machine: Machine) -> None:
        """In peace: one synchronisation of each tier, all are equal, and writing goes on."""
        world = self.world
        for _ in range(2 if any(s.harmed for s in world.storages.values()) else 1):
            await self.in_peace(machine, world.with_agent(self.levelling))
        whole = checks.check_equal(world, machine)
        self.change_files(machine)
        ended = await self.in_peace(machine, world.with_agent(self.backing_up))
        without = [tier.name for tier in ended.answer.tiers if not tier.has_it]
        if without if whole else len(without) == len(ended.answer.tiers):
            raise Violation(f"in peace a backup of {machine.name} is not on {without}")

    async def levelling(self, agent: Agent) -> Any:
        return await sync(agent, (), False, Progress(), 60.0)

    async def in_peace(self, machine: Machine, body: Body) -> Ended:
        ended = await self.world.run(self.world.process(machine), body)
        self.judge(ended)
        if ended.fault is not None:
            raise Violation(f"in peace {machine.name} failed: {ended.fault}")
        return ended
