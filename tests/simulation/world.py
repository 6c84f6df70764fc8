"""One simulated office: storages, machines, the trace of all that happened, and what was promised.

It starts processes on machines and ends them; it knows who wrote what and when, and which backups were
acknowledged where. What happens next is `scenario`'s business, and what must hold is `checks`'s.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from tests.simulation.content import Catalogue, Made
from tests.simulation.machines import PROCESS, Disks, Files, Killed, Machine, Process, new_disk
from tests.simulation.places import Link, LinkedStore, Storage
from tests.support.formats import AGENT_KEY, make_ring

from tandem_agent.config import Config
from tandem_agent.progress import Progress
from tandem_agent.state import Setup, State
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.tierset import TierSet
from tandem_agent.tiers.writing import Revision
from tandem_agent.wiring import Agent
from tandem_protocol.errors import SecondInstallation, TandemError
from tandem_protocol.identity import Identity
from tandem_protocol.keys import agent_slot
from tandem_protocol.names import IDENTITY, ObjectType, claim_path, object_name, record_path
from tandem_protocol.revision import Certificate, Installation, Kind
from tandem_protocol.stores.retrying import RetryingStore, RetryPolicy

POLICY = RetryPolicy(attempts=3)
PATIENCE_S = 15.0
LAST_WORD_S = 10_000.0
HISTORY = ("revisions/", "epochs/", IDENTITY)

Op = Callable[[Agent], Awaitable[Any]]


class Violation(AssertionError):
    """Something that must never happen."""


@dataclass
class Ended:
    """How a process ended: its answer, or why there is none."""

    process: Process
    began: int
    answer: Any = None
    fault: BaseException | None = None


def _may_stay(task: asyncio.Task[Any]) -> bool:
    """The sender of a target that left before the end waits for an object that never comes; it does nothing."""
    return task.get_name().startswith("upload to ")


class World:
    """``loop`` is the virtual one; ``folder`` is for what needs a file."""

    def __init__(self, seed: int, folder: str, loop: Any, names: tuple[str, ...]) -> None:
        self.make = random.Random(f"scenario {seed}")
        self.loop = loop
        self.folder = folder
        self.trace: list[str] = []
        self.ring = make_ring(seed)
        self.catalogue = Catalogue(self.ring)
        self.storages = {name: Storage(name) for name in names}
        self.disks = Disks()
        self.machines: list[Machine] = []
        self.made: dict[str, Made] = {}
        self.bytes_of: dict[str, bytes] = {}
        """The good bytes of every object that was ever put anywhere, by path."""
        self.acks: list[tuple[int, Machine, str, str]] = []
        """(line, machine, tier, backup id) of every acknowledgement."""
        self.written: list[tuple[int, Machine, str, str]] = []
        """(line, machine, tier, path) of every epoch, claim and record that a machine created."""
        loop.made = self._task_made

    # The trace

    @property
    def now(self) -> int:
        return len(self.trace)

    def tell(self, *words: object) -> None:
        self.trace.append(f"{self.loop.time():12.3f} {' '.join(map(str, words))}")

    def chance(self, probability: float) -> bool:
        return self.make.random() < probability

    def changed(self, process: Process, storage: Storage, verb: str, name: str) -> None:
        """A verb changed what stands on a storage."""
        if verb != "put" or storage.shared[name] == self.bytes_of.get(name, storage.shared[name]):
            storage.flipped.discard(name)
        if verb in ("create", "put"):
            storage.born[name] = self.now
        if verb == "put":
            self.bytes_of.setdefault(name, storage.shared[name])
        if verb == "create":
            self.written.append((self.now, process.machine, storage.name, name))

    # What storages do by themselves

    def flip(self, storage: Storage, path: str) -> None:
        data = bytearray(storage.shared[path])
        at = self.make.randrange(len(data))
        data[at] ^= 1 << self.make.randrange(8)
        storage.shared[path] = bytes(data)
        storage.flipped.add(path)
        storage.harmed.add(path)
        storage.history_harmed |= path.startswith(HISTORY)
        self.tell("STORAGE", storage.name, "flips a bit of", path)

    def roll_back(self, storage: Storage, image: dict[str, bytes]) -> None:
        shared = storage.shared
        gone = {path for path in shared if image.get(path) != shared[path]}
        storage.harmed |= gone
        for machine in self.machines:
            if not self._will_notice(machine, storage.name, image):
                machine.excused.setdefault(storage.name, set()).update(gone)
        storage.history_harmed |= any(path.startswith(HISTORY) for path in gone)
        shared.clear()
        shared.update(image)
        storage.flipped = {
            p for p in storage.flipped | gone if shared.get(p) != self.bytes_of.get(p, shared.get(p))
        }
        storage.flipped &= shared.keys()
        storage.rolled_back = self.now
        self.tell("STORAGE", storage.name, f"goes back to an earlier copy: {len(gone)} files gone or other")

    def _will_notice(self, machine: Machine, tier: str, image: dict[str, bytes]) -> bool:
        """Whether the next look must tell: the last written or highest held revision is not in the image."""
        state = State.open(machine.folder)
        row = next((row for row in state.tiers() if row.name == tier), None)
        if row is None or row.to_compare:
            return True
        known = {row.last_written, state.highest_held(row.id)} - {0}
        return any(record_path(n) not in image or claim_path(n) not in image for n in known)

    # Machines and processes

    def _task_made(self, task: asyncio.Task[Any]) -> None:
        process = PROCESS.get(None)
        if process is not None:
            process.tasks.append(task)

    def found(self) -> Machine:
        """The first machine, with the local state of a new repository; its tiers have their identities."""
        links = {name: Link(storage) for name, storage in self.storages.items()}
        machine = self.disks.add(Machine("alpha", f"{self.folder}/alpha", new_disk(), links, {}))
        self.machines.append(machine)
        state = State.open(machine.folder)
        assert self.ring.root_private is not None
        repository = self.ring.repository_id
        installation = Installation(self.make.randbytes(16), self.make.randbytes(32))
        certificate = Certificate.issue(self.ring.root_private, repository, installation, 1)
        tiers = [
            (name, Identity(repository, self.make.randbytes(16), self.ring.root_public))
            for name in self.storages
        ]
        slot = agent_slot(self.ring, AGENT_KEY, "agent")
        setup = Setup(repository, self.ring.root_public, installation, certificate)
        state.found(setup, tiers, {object_name(slot): slot})
        for name, identity in tiers:
            self.storages[name].shared[IDENTITY] = identity.encode()
        return machine

    def copy_machine(self, machine: Machine, name: str, disk: Any, born: int, files: Files) -> Machine:
        """A machine that goes on with a copy of another's state, made at line ``born``."""
        links = {name: Link(storage) for name, storage in self.storages.items()}
        other = Machine(name, f"{self.folder}/{name}", disk, links, dict(files), machine, born)
        other.excused = {tier: set(paths) for tier, paths in machine.excused.items()}
        self.machines.append(self.disks.add(other))
        return other

    def agent(self, process: Process) -> Agent:
        """What the use cases take, in a fresh process."""
        machine = process.machine
        state = State.open(machine.folder)
        tiers = []
        for row in state.tiers():
            store = RetryingStore(self._session(process, row.name), POLICY)
            tier = Tier(row, f"memory:{row.name}", store, state, self.ring)
            store.on_session = tier.on_session
            tiers.append(tier)
        return Agent(
            Config((), machine.folder), state, self.ring, TierSet(tiers, state, self.ring, PATIENCE_S)
        )

    def _session(self, process: Process, tier: str) -> Callable[[], LinkedStore]:
        return lambda: LinkedStore(self, process, process.machine.links[tier])

    def process(self, machine: Machine) -> Process:
        return Process(machine, self.loop, self._scanned)

    def _scanned(self, process: Process, files: Files, blocks: set[bytes]) -> None:
        assert process.agent is not None
        intent = process.agent.state.intent()
        assert intent is not None
        name = intent.backup["id"]
        self.made[name] = Made(name, files, blocks)

    async def run(self, process: Process, op: Op) -> Ended:
        """One process from its start to its end, whatever that is."""
        ended = Ended(process, self.now)
        context = copy_context()
        context.run(PROCESS.set, process)
        main = self.loop.create_task(self._body(process, op), context=context)
        process.main = main
        await self._wait_for(process, main)
        try:
            ended.answer = main.result()
        except asyncio.CancelledError as fault:
            ended.fault = fault
        except Killed as fault:
            ended.fault = fault
        except TandemError as fault:
            ended.fault = fault
        except BaseException as fault:
            if not process.dead:
                text = "".join(traceback.format_exception(fault))
                raise Violation(f"the agent on {process.machine.name} failed with a bug:\n{text}") from fault
            ended.fault = fault
        if process.dead:
            ended.fault = ended.fault or Killed()
        name = type(ended.fault).__name__ if ended.fault is not None else "done"
        self.tell(process.machine.name, "ends:", name, "" if ended.fault is None else str(ended.fault)[:200])
        return ended

    async def _body(self, process: Process, op: Op) -> Any:
        agent = self.agent(process)
        process.agent = agent
        try:
            return await op(agent)
        finally:
            await agent.tiers.close()

    async def _wait_for(self, process: Process, main: asyncio.Task[Any]) -> None:
        """Until the process has ended with all its tasks; a dead one's are thrown away."""
        while not main.done():
            await asyncio.wait({main}, timeout=LAST_WORD_S)
            if process.dead:
                main.cancel()
        left = [task for task in process.tasks if not task.done()]
        if left and not process.dead:
            await asyncio.wait(left, timeout=LAST_WORD_S)
            names = [task.get_name() for task in left if not task.done() and not _may_stay(task)]
            if names:
                raise Violation(f"tasks were left running: {names}")
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        for task in process.tasks:
            if task.done() and not task.cancelled():
                task.exception()  # seen, so that no one complains of it

    async def init(self, machine: Machine) -> None:
        """Revision 1 on every tier."""

        async def op(agent: Agent) -> None:
            tiers = agent.tiers
            await tiers.contact(60)
            revision = await Revision.begin(tiers, tiers.tiers, Progress())
            for data in tiers.state.key_slots().values():
                await revision.add(ObjectType.KEY, data)
            rows = tiers.state.tiers()
            await revision.commit(Kind.INIT, {}, tier_ids=[row.id for row in rows])

        ended = await self.run(self.process(machine), op)
        if ended.fault is not None:
            raise Violation(f"init failed: {ended.fault}")

    def is_alarm(self, ended: Ended) -> bool:
        return isinstance(ended.fault, SecondInstallation)
