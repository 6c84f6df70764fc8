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
from tests.support.formats import AGENT_KEY, CHEAP, PHRASE, make_ring

from tandem_agent import init
from tandem_agent.config import Config, RetryConfig, TierConfig
from tandem_agent.places import Place
from tandem_agent.state import Setup, State
from tandem_agent.wiring import Agent, agent_key_path, make_tiers, process_lock
from tandem_protocol import envelope
from tandem_protocol.certificates import Certificate, Installation
from tandem_protocol.envelope import DocType
from tandem_protocol.errors import SecondInstallation, TandemError
from tandem_protocol.identity import Identity
from tandem_protocol.keys import agent_slot, passphrase_slot
from tandem_protocol.names import IDENTITY, ObjectType, claim_path, object_folders, object_name, record_path

RETRIES = RetryConfig(attempts=3, first_delay_seconds=0.5)
PATIENCE_S = 15.0
LAST_WORD_S = 10_000.0
HISTORY = ("revisions/", "epochs/", IDENTITY)

Op = Callable[[Agent], Awaitable[Any]]
Body = Callable[[Process], Awaitable[Any]]


@dataclass(frozen=True)
class Written:
    """A machine created an epoch, claim or record of ``epoch`` on a tier; ``line`` is the trace's."""

    line: int
    machine: Machine
    tier: str
    path: str
    epoch: int


@dataclass(frozen=True)
class Ack:
    """A machine of ``epoch`` said that a backup is on a tier."""

    line: int
    machine: Machine
    tier: str
    epoch: int


class Violation(AssertionError):
    """Something that must never happen."""


@dataclass
class Ended:
    """How a process ended: its answer, or why there is none."""

    process: Process
    began: int
    answer: Any = None
    fault: BaseException | None = None


def _epoch_of(path: str, data: bytes) -> int:
    """The epoch of whoever wrote an epoch file, a claim or a record."""
    if not path.startswith("revisions/"):
        return int(path[-16:], 16) if path.startswith("epochs/") else 0
    document = envelope.unverified_body(data, DocType.CLAIM if path.endswith(".claim") else DocType.RECORD)
    return int(envelope.unverified_body(document["certificate"], DocType.CERTIFICATE)["epoch"])


def epoch(machine: Machine) -> int:
    """The epoch that a machine writes in; 0 before it has an installation."""
    setup = State.open(machine.folder).setup()
    return 0 if setup is None else setup.certificate.epoch


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
        self.made: dict[tuple[str, bytes], Made] = {}
        self.bytes_of: dict[str, bytes] = {}
        """The good bytes of every object that was ever put anywhere, by path."""
        self.acks: list[Ack] = []
        self.written: list[Written] = []
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
            epoch = _epoch_of(name, storage.shared[name])
            self.written.append(Written(self.now, process.machine, storage.name, name, epoch))

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
        # Also what a copy made in the meantime brings back.
        again = storage.harmed & shared.keys()
        storage.flipped = {p for p in again if shared[p] != self.bytes_of.get(p, shared[p])}
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

    def new_machine(self, name: str) -> Machine:
        """A machine that knows nothing yet."""
        links = {tier: Link(storage) for tier, storage in self.storages.items()}
        machine = self.disks.add(Machine(name, f"{self.folder}/{name}", new_disk(), links, {}))
        self.machines.append(machine)
        return machine

    def found(self) -> Machine:
        """The first machine, with the local state of a new repository; its tiers have their identities."""
        machine = self.new_machine("alpha")
        state = State.open(machine.folder)
        assert self.ring.root_private is not None
        repository = self.ring.repository_id
        installation = Installation(self.make.randbytes(16), self.make.randbytes(32))
        certificate = Certificate.issue(self.ring.root_private, repository, installation, 1)
        tiers = [
            (name, Identity(repository, self.make.randbytes(16), self.ring.root_public))
            for name in self.storages
        ]
        with open(agent_key_path(self.config(machine)), "wb") as file:
            file.write(AGENT_KEY)
        slots = [
            agent_slot(self.ring, AGENT_KEY, "agent"),
            passphrase_slot(self.ring, PHRASE, "desk", **CHEAP),
        ]
        setup = Setup(repository, self.ring.root_public, installation, certificate)
        state.found(setup, tiers, {object_name(slot): slot for slot in slots})
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

    def config(self, machine: Machine) -> Config:
        tiers = tuple(TierConfig(name, Place("file", f"/{name}"), retries=RETRIES) for name in self.storages)
        return Config(tiers, machine.folder, patience_seconds=PATIENCE_S)

    def store(self, _config: Config, tier: TierConfig, *_: object) -> LinkedStore:
        """`wiring.make_store`, for the process that asks."""
        process = PROCESS.get()
        return LinkedStore(self, process, process.machine.links[tier.name])

    def folders(self, kind: ObjectType) -> list[str]:
        """`object_folders`, but for those that are empty everywhere: there are hundreds of them."""
        filled = {path.rpartition("/")[0] for storage in self.storages.values() for path in storage.shared}
        return [folder for folder in object_folders(kind) if folder in filled]

    def with_agent(self, op: Op) -> Body:
        """A process that opens its installation for ``op``."""

        async def body(process: Process) -> Any:
            config = self.config(process.machine)
            with process_lock(config):
                state = State.open(config.state_dir)
                agent = process.agent = Agent(config, state, self.ring, make_tiers(config, state, self.ring))
                try:
                    return await op(agent)
                finally:
                    await agent.tiers.close()

        return body

    def process(self, machine: Machine) -> Process:
        return Process(machine, self.loop, self._scanned)

    def _scanned(self, process: Process, files: Files, root: bytes, blocks: set[bytes]) -> None:
        assert process.agent is not None
        intent = process.agent.state.intent()
        assert intent is not None
        name = intent.backup["id"]
        # The last one tried is last.
        again = self.made.pop((name, root), None)
        self.made[name, root] = again or Made(name, files, root, blocks)

    async def run(self, process: Process, body: Body) -> Ended:
        """One process from its start to its end, whatever that is."""
        ended = Ended(process, self.now)
        context = copy_context()
        context.run(PROCESS.set, process)
        main = self.loop.create_task(body(process), context=context)
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

    async def _wait_for(self, process: Process, main: asyncio.Task[Any]) -> None:
        """Until the process has ended with all its tasks; a dead one's are thrown away."""
        while not main.done():
            await asyncio.wait({main}, timeout=LAST_WORD_S)
            if process.dead:
                main.cancel()
        left = [task for task in process.tasks if not task.done()]
        if left and not process.dead:
            await asyncio.wait(left, timeout=LAST_WORD_S)
            names = [task.get_name() for task in left if not task.done()]
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
            await agent.tiers.contact(60)
            await init._commit_init(agent)  # the part of init that comes after host keys and free places

        ended = await self.run(self.process(machine), self.with_agent(op))
        if ended.fault is not None:
            raise Violation(f"init failed: {ended.fault}")

    def is_alarm(self, ended: Ended) -> bool:
        return isinstance(ended.fault, SecondInstallation)
