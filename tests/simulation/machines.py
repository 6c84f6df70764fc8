"""Machines and the processes that run on them: what survives a crash, and what does not.

A machine keeps its SQLite state (in memory, as committed), its files and its caches' folder. A process dies
between any two things that anybody else can see: a verb on a tier, or a commit of its state. A dead process
changes nothing any more, but for a request that was already on its way.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.simulation.places import Link

from tandem_agent.database import Database
from tandem_protocol.errors import Full

if TYPE_CHECKING:
    from tandem_agent.wiring import Agent

Files = dict[bytes, list[bytes]]
"""Name of a file to its blocks."""

PROCESS: ContextVar[Process] = ContextVar("process")


class Killed(BaseException):
    """Ends a process where it is."""


def new_disk() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None)


def copied(disk: sqlite3.Connection) -> sqlite3.Connection:
    copy = new_disk()
    disk.backup(copy)
    return copy


@dataclass
class Machine:
    """``born`` is when its state was copied off ``parent`` (number of the trace's line)."""

    name: str
    folder: str
    disk: sqlite3.Connection
    links: dict[str, Link]
    files: dict[bytes, list[bytes]]
    parent: Machine | None = None
    born: int = 0
    stopped: bool = False
    """It found a second installation, or is switched off: it writes no more."""
    excused: dict[str, set[str]] = field(default_factory=dict)
    """By tier: what a storage took away in a way that no look of this machine can notice."""

    def copied_disk(self) -> sqlite3.Connection:
        return copied(self.disk)

    def lineage(self) -> list[tuple[Machine, int]]:
        """This machine and those it comes from, each with when the way here left it (now: no limit)."""
        found: list[tuple[Machine, int]] = [(self, 1 << 60)]
        while found[-1][0].parent is not None:
            found.append((found[-1][0].parent, found[-1][0].born))
        return found


def split(a: Machine, b: Machine) -> int:
    """When two machines became two (number of the trace's line); what came before is of both."""
    ours = {id(machine): left for machine, left in a.lineage()}
    for machine, left in b.lineage():
        if id(machine) in ours:
            return min(left, ours[id(machine)])
    return 0


OnScan = Callable[["Process", Files, bytes, set[bytes]], None]


class Process:
    """One run of the agent on a machine. ``dies_in``: steps (verbs and commits) until it dies; ``full_in``:
    commits until the machine's disk is full."""

    def __init__(self, machine: Machine, loop: asyncio.AbstractEventLoop, on_scan: OnScan) -> None:
        self.machine = machine
        self.dead = False
        self.dies_in: int | None = None
        self.stops_in: int | None = None
        self.full_in: int | None = None
        self.main: asyncio.Task[Any] | None = None
        self.tasks: list[asyncio.Task[Any]] = []
        self.agent: Agent | None = None
        self.scan_s = 0.0
        """Seconds that the scanner takes between two packs."""
        self._loop = loop
        self._on_scan = on_scan

    def scanned(self, files: Files, root: bytes, blocks: set[bytes]) -> None:
        """The pipeline knows what it will back up: ``blocks`` are the ids of all that it needs."""
        self._on_scan(self, files, root, blocks)

    def check_alive(self) -> None:
        if self.dead:
            raise Killed

    def step(self) -> None:
        """Something was done that can be seen: here it may die, or be told to stop."""
        if self.stops_in is not None:
            self.stops_in -= 1
            if self.stops_in < 0 and self.main is not None:
                self.stops_in = None
                self.main.cancel()
        if self.dies_in is not None:
            self.dies_in -= 1
            if self.dies_in < 0:
                self.die()
        self.check_alive()

    def die(self) -> None:
        self.dead = True
        self._loop.call_soon(self._bury)

    def _bury(self) -> None:
        for task in self.tasks:
            task.cancel()


class SimulatedDatabase(Database):
    """The machine's state in one process."""

    def __init__(self, machine: Machine, process: Process | None) -> None:
        super().__init__(machine.disk, "state.sqlite")
        self._process = process

    def close(self) -> None:
        """The disk stays."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        process = self._process
        if process is not None:
            process.check_alive()
            if process.full_in is not None:
                process.full_in -= 1
                if process.full_in < 0:
                    raise Full("no space for the local state", "make room there")
        with super().transaction():
            yield
        if process is not None:
            process.step()


class Disks:
    """Opens the right machine's state: `Database.open` in a simulation."""

    def __init__(self) -> None:
        self.machines: dict[str, Machine] = {}

    def open(self, folder: str, _file: str) -> Database:
        return SimulatedDatabase(self.machines[folder], PROCESS.get(None))

    def add(self, machine: Machine) -> Machine:
        os.makedirs(machine.folder)
        self.machines[machine.folder] = machine
        return machine
