"""Copying objects between stores, verified by name: the same for the agent's synchronisation and a server's
collection. Needs no key, for an object's name is the hash of its bytes. Decides nothing about what to copy.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from .errors import Corrupt, Exists, Full, Missing, SecondInstallation, TandemError, Unavailable
from .history import LiveObject
from .names import DAMAGED, ObjectType, object_folders, object_name, object_path, parse_object_name
from .revision import ObjectRef
from .store import Store

LIST_ABOVE = 1000
"""More objects than this are looked for by listing their folders instead of asking for each."""

WRITERS = 4
"""Most objects written at once, where the target takes several."""

READ_AHEAD = 2
"""Objects read while others are being written."""

IN_MEMORY = 96 * 1024 * 1024
"""Bytes of objects that are held in memory for all of that; a larger object is carried alone."""

REFUSED_IN_A_ROW = 3
"""An object that a target refuses is left out; so many in a row and it is the target that is at fault."""


@dataclass(slots=True)
class Outcome:
    """What `replicate` did: names copied, their bytes together, and what no source had, with the reason.
    ``stopped``: whoever ran it had to stop before the end."""

    copied: list[bytes] = field(default_factory=list)
    size: int = 0
    failed: dict[bytes, str] = field(default_factory=dict)
    stopped: bool = False


async def sizes_of(store: Store, refs: Sequence[ObjectRef | LiveObject]) -> dict[bytes, int]:
    """Sizes in bytes of those of ``refs`` that are on ``store``, by name."""
    if len(refs) > LIST_ABOVE:
        return await _listed_sizes(store, {ref.type for ref in refs})
    found: dict[bytes, int] = {}

    async def ask(ref: ObjectRef | LiveObject) -> None:
        try:
            found[ref.name] = await store.size(object_path(ref.type, ref.name))
        except Missing:
            return

    await in_parallel(store.parallel, [partial(ask, ref) for ref in refs])
    return found


async def _listed_sizes(store: Store, kinds: Iterable[ObjectType]) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for kind in sorted(kinds):
        for folder in object_folders(kind):
            async for name, size in objects_in(store, folder):
                found[name] = size
    return found


async def objects_in(store: Store, folder: str) -> AsyncGenerator[tuple[bytes, int], None]:
    """Names and sizes in bytes of the objects in ``folder``, in any order."""
    async for entry in store.list(folder):
        name = parse_object_name(entry.name)
        if name is not None and not entry.is_folder:
            yield name, entry.size


async def move_aside(store: Store, path: str) -> None:
    """Move something damaged to quarantine, under a name of its own; gone already is fine."""
    try:
        await store.move(path, f"{DAMAGED}/{path}.{os.urandom(8).hex()}")
    except Missing:
        return


async def in_parallel(width: int, jobs: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """Run ``jobs`` at most ``width`` at a time; the first fault cancels the rest and is raised."""
    waiting = iter(jobs)
    broken = False

    async def work() -> None:
        nonlocal broken
        for job in waiting:
            if broken:
                return  # the fault is on its way to the caller
            try:
                await job()
            except BaseException:
                broken = True
                raise

    workers = [asyncio.ensure_future(work()) for _ in range(max(1, min(width, len(jobs))))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def read_verified(store: Store, ref: ObjectRef | LiveObject) -> bytes:
    """The whole object; `Corrupt` if its bytes are not what its name says."""
    data = await store.read(object_path(ref.type, ref.name), 0, ref.size + 1)
    if len(data) != ref.size or object_name(data) != ref.name:
        raise Corrupt(f"{ref.type} {ref.name.hex()[:12]} is damaged there")
    return data


async def is_good(store: Store, ref: ObjectRef | LiveObject) -> bool:
    """Whether the store has the whole object undamaged, found out by reading it."""
    try:
        await read_verified(store, ref)
    except (Corrupt, Missing):
        return False
    return True


async def replicate(
    refs: Sequence[ObjectRef | LiveObject],
    sources: Mapping[bytes, Sequence[Store]],
    target: Store,
    *,
    heal: Callable[[str], Awaitable[None]],
    sent: Callable[[int], None] | None = None,
    source_failed: Callable[[Store, ObjectRef | LiveObject, TandemError], None] | None = None,
    outcome: Outcome | None = None,
) -> Outcome:
    """Copy ``refs``, about in order, to ``target`` from the first of ``sources`` (by object name) that verifies;
    several at once where the target takes them. What is done goes into ``outcome``, also if it is cancelled.

    ``heal(path)`` moves aside what stands in the way with another size. What no source has is left out and
    told in the outcome, as is a single object that the target refuses; any other fault of the target is raised,
    after which a repeated call goes on. A second installation found on a source is raised too.
    """
    found = Outcome() if outcome is None else outcome
    copying = _Copying(sources, target, found, heal, sent, source_failed)
    await in_parallel(copying.width + READ_AHEAD, [partial(copying.copy, ref) for ref in refs])
    return found


class _Copying:
    """One `replicate`: what its copies share. Each takes room in memory, a turn at a source, one at the target."""

    def __init__(
        self,
        sources: Mapping[bytes, Sequence[Store]],
        target: Store,
        outcome: Outcome,
        heal: Callable[[str], Awaitable[None]],
        sent: Callable[[int], None] | None,
        source_failed: Callable[[Store, ObjectRef | LiveObject, TandemError], None] | None,
    ) -> None:
        self.width = max(1, min(target.parallel, WRITERS))
        self._sources = sources
        self._target = target
        self._outcome = outcome
        self._heal = heal
        self._sent = sent
        self._source_failed = source_failed
        self._room = _Room(IN_MEMORY)
        self._writing = asyncio.Semaphore(self.width)
        self._reading: dict[int, asyncio.Semaphore] = {}
        self._gone: set[int] = set()
        self._refused = 0

    async def copy(self, ref: ObjectRef | LiveObject) -> None:
        async with self._room.taken(ref.size):
            data = await self._from_any(ref)
            if data is None:
                return
            async with self._writing:
                await self._give(ref, data)

    async def _give(self, ref: ObjectRef | LiveObject, data: bytes) -> None:
        """To the target. An object that it refuses is left out, but so many in a row and it is at fault itself."""
        try:
            await self._put(object_path(ref.type, ref.name), data)
        except (Unavailable, Full, SecondInstallation):
            raise
        except TandemError as fault:
            self._refused += 1
            if self._refused > REFUSED_IN_A_ROW:
                raise
            self._outcome.failed[ref.name] = str(fault)
            return
        self._refused = 0
        self._outcome.copied.append(ref.name)
        self._outcome.size += len(data)

    async def _put(self, path: str, data: bytes) -> None:
        try:
            await self._target.put(path, data, self._sent)
        except Exists:
            await self._heal(path)
            await self._target.put(path, data, self._sent)

    async def _from_any(self, ref: ObjectRef | LiveObject) -> bytes | None:
        """The bytes from the first source that has them good. A store that fails in another way than by one
        object is not asked again: each question to a dead link takes minutes."""
        reason = "no other tier has it"
        for store in self._sources.get(ref.name, ()):
            try:
                async with self._turn(store):
                    if id(store) in self._gone:
                        continue
                    return await read_verified(store, ref)
            except SecondInstallation:
                raise
            except TandemError as fault:
                reason = str(fault)
                if not isinstance(fault, (Corrupt, Missing)):
                    self._gone.add(id(store))
                if self._source_failed is not None:
                    self._source_failed(store, ref, fault)
        self._outcome.failed[ref.name] = reason
        return None

    def _turn(self, store: Store) -> asyncio.Semaphore:
        """A store takes as many verbs at once as it says."""
        return self._reading.setdefault(id(store), asyncio.Semaphore(max(1, store.parallel)))


class _Room:
    """Bounds the bytes in memory. What is larger than all of it gets all of it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def taken(self, size: int) -> AsyncIterator[None]:
        while self._used and self._used + size > self._limit:
            self._freed.clear()
            await self._freed.wait()
        self._used += size
        try:
            yield
        finally:
            self._used -= size
            self._freed.set()
