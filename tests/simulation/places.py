"""Tiers of a simulation: what each keeps, the links to them, and all that goes wrong with either.

A `Storage` is what a tier keeps, shared by every machine; its faults are those of disks (bits flip, it goes back
to an earlier copy, it is full). A `Link` is one machine's way to it; its faults are those of networks and
servers (down, cut, slow, a reply lost, a write that is said to be done and is not). Every verb leaves a line.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from tandem_protocol.errors import Full, TandemError, Unavailable
from tandem_protocol.store import Buffer, Entry, Store
from tandem_protocol.stores.memory import MemoryStore

if TYPE_CHECKING:
    from tests.simulation.machines import Process
    from tests.simulation.world import World

_T = TypeVar("_T")
CHANGING = ("create", "put", "move", "delete")


@dataclass
class Storage:
    """What stands on one tier. ``images``: earlier copies. ``flipped``: paths whose bytes a fault changed.
    ``at``: what happens before the verb with that number, counted over all machines."""

    name: str
    shared: dict[str, bytes] = field(default_factory=dict)
    images: list[dict[str, bytes]] = field(default_factory=list)
    flipped: set[str] = field(default_factory=set)
    harmed: set[str] = field(default_factory=set)
    """Every path that a fault ever changed or took away."""
    full: bool = False
    verbs: int = 0
    at: dict[int, Callable[[], None]] = field(default_factory=dict)
    born: dict[str, int] = field(default_factory=dict)
    """When each path was last written (number of the trace's line)."""
    rolled_back: int = -1
    """When it last went back to an earlier copy; -1 for never."""
    history_harmed: bool = False
    """Whether a claim, record or epoch was ever damaged, or taken away by going back."""

    def act(self) -> None:
        self.verbs += 1
        event = self.at.pop(self.verbs, None)
        if event is not None:
            event()


@dataclass
class Link:
    """One machine's way to a storage. ``down_until`` is virtual time; ``cut_in``: verbs until it breaks, for
    ``cut_for`` seconds; ``lose_in``: changes until a reply is lost; ``drop_in``: writes until one is forgotten."""

    storage: Storage
    latency: float = 0.01
    down_until: float = 0.0
    cut_in: int | None = None
    cut_for: float = 0.0
    lose_in: int | None = None
    drop_in: int | None = None

    def mend(self) -> None:
        self.down_until, self.cut_in, self.lose_in, self.drop_in = 0.0, None, None, None
        self.latency = 0.01


def _due(left: int | None) -> tuple[int | None, bool]:
    """A countdown after one more step, and whether it has come."""
    if left is None:
        return None, False
    return (None, True) if left <= 0 else (left - 1, False)


class LinkedStore(Store):
    """One session of a process over a link."""

    parallel = 4

    def __init__(self, world: World, process: Process, link: Link) -> None:
        self._world, self._process, self._link = world, process, link
        self._inner = MemoryStore(link.storage.shared)
        self._broken = False

    async def open(self) -> None:
        self._broken = False
        await self._verb("open", "", self._inner.open)

    async def close(self) -> None:
        await self._inner.close()

    async def create(self, name: str, data: Buffer) -> None:
        await self._verb("create", name, lambda: self._inner.create(name, data))

    async def put(self, name: str, data: Buffer, sent: Callable[[int], None] | None = None) -> None:
        await self._verb("put", name, lambda: self._inner.put(name, data, sent))

    async def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return await self._verb("read", name, lambda: self._inner.read(name, offset, length))

    async def size(self, name: str) -> int:
        return await self._verb("size", name, lambda: self._inner.size(name))

    async def list(self, folder: str) -> AsyncIterator[Entry]:
        async def gather() -> list[Entry]:
            return [entry async for entry in self._inner.list(folder)]

        for entry in await self._verb("list", folder, gather):
            yield entry

    async def move(self, source: str, target: str) -> None:
        await self._verb("move", source, lambda: self._inner.move(source, target))

    async def delete(self, name: str) -> None:
        await self._verb("delete", name, lambda: self._inner.delete(name))

    async def _verb(self, verb: str, name: str, act: Callable[[], Awaitable[_T]]) -> _T:
        """There and back: the way takes time, the act none. A process that dies on the way may have sent it."""
        link, process = self._link, self._process
        process.check_alive()
        if self._broken:
            raise Unavailable("this session broke before")
        try:
            await asyncio.sleep(link.latency)
        except asyncio.CancelledError:
            await self._on_its_way(verb, name, act)
            raise
        try:
            self._before(verb)
            answer = await self._done(verb, name, act)
        except TandemError as fault:
            self._world.tell(process.machine.name, link.storage.name, verb, name, type(fault).__name__)
            self._broken = self._broken or isinstance(fault, Unavailable)
            raise
        process.step()
        return answer

    async def _on_its_way(self, verb: str, name: str, act: Callable[[], Awaitable[object]]) -> None:
        """Who asked is gone; what was asked for may happen all the same."""
        self._broken = True
        if verb in CHANGING and self._world.chance(0.5):
            with suppress(TandemError):
                self._before(verb)
                await self._done(verb, name, act)

    def _before(self, verb: str) -> None:
        link = self._link
        link.cut_in, cut = _due(link.cut_in)
        now = asyncio.get_running_loop().time()
        if cut:
            link.down_until = now + link.cut_for
        if now < link.down_until:
            raise Unavailable("the link is down")
        link.storage.act()
        if link.storage.full and verb in ("create", "put"):
            raise Full("no space left on the tier")

    async def _done(self, verb: str, name: str, act: Callable[[], Awaitable[_T]]) -> _T:
        link, world, process = self._link, self._world, self._process
        if verb in ("create", "put"):
            link.drop_in, dropped = _due(link.drop_in)
            if dropped:
                world.tell(process.machine.name, link.storage.name, verb, name, "DROPPED")
                return None  # type: ignore[return-value]  # neither verb answers anything
        answer = await act()
        if verb in CHANGING:
            world.changed(process, link.storage, verb, name)
            link.lose_in, lost = _due(link.lose_in)
            if lost:
                world.tell(process.machine.name, link.storage.name, verb, name, "LOST")
                self._broken = True
                raise Unavailable("the reply was lost")
        world.tell(process.machine.name, link.storage.name, verb, name, "ok")
        return answer
