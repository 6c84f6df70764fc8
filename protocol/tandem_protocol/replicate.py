"""Copying objects between stores, verified by name: the same for the agent's synchronisation and a server's
collection. Needs no key, for an object's name is the hash of its bytes. Decides nothing about what to copy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

from .errors import Corrupt, Exists, Full, Missing, SecondInstallation, TandemError, Unavailable
from .history import LiveObject
from .names import ObjectType, object_folders, object_name, object_path, parse_object_name
from .revision import ObjectRef
from .store import Store

LIST_ABOVE = 1000
"""More objects than this are looked for by listing their folders instead of asking for each."""

READ_AHEAD = 2
"""Objects read while another is being written; each takes memory of its size."""

REFUSED_IN_A_ROW = 3
"""An object that a target refuses is left out; so many in a row and it is the target that is at fault."""


@dataclass(slots=True)
class Outcome:
    """What `replicate` did: names copied, their bytes together, and what no source had, with the reason."""

    copied: list[bytes] = field(default_factory=list)
    size: int = 0
    failed: dict[bytes, str] = field(default_factory=dict)


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
            async for entry in store.list(folder):
                name = parse_object_name(entry.name)
                if name is not None and not entry.is_folder:
                    found[name] = entry.size
    return found


async def in_parallel(width: int, jobs: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Run ``jobs`` at most ``width`` at a time; the first fault cancels the rest and is raised."""
    waiting = iter(jobs)

    async def work() -> None:
        for job in waiting:
            await job()

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


async def replicate(
    refs: Sequence[ObjectRef | LiveObject],
    sources: Mapping[bytes, Sequence[Store]],
    target: Store,
    *,
    heal: Callable[[str], Awaitable[None]],
    sent: Callable[[int], None] | None = None,
    source_failed: Callable[[Store, ObjectRef | LiveObject, TandemError], None] | None = None,
) -> Outcome:
    """Copy ``refs``, in order, to ``target`` from the first of ``sources`` (by object name) that verifies.

    ``heal(path)`` moves aside what stands in the way with another size. What no source has is left out and
    told in the outcome, as is a single object that the target refuses; any other fault of the target is raised,
    after which a repeated call goes on. A second installation found on a source is raised too.
    """
    outcome = Outcome()
    refused = 0
    async with aclosing(_read_ahead(refs, sources, outcome, source_failed)) as objects:
        async for ref, data in objects:
            try:
                await _put(target, object_path(ref.type, ref.name), data, heal, sent)
            except (Unavailable, Full, SecondInstallation):
                raise
            except TandemError as fault:
                refused += 1
                if refused > REFUSED_IN_A_ROW:
                    raise
                outcome.failed[ref.name] = str(fault)
                continue
            refused = 0
            outcome.copied.append(ref.name)
            outcome.size += len(data)
    return outcome


async def _put(
    target: Store,
    path: str,
    data: bytes,
    heal: Callable[[str], Awaitable[None]],
    sent: Callable[[int], None] | None,
) -> None:
    try:
        await target.put(path, data, sent)
    except Exists:
        await heal(path)
        await target.put(path, data, sent)


async def _read_ahead(
    refs: Sequence[ObjectRef | LiveObject],
    sources: Mapping[bytes, Sequence[Store]],
    outcome: Outcome,
    source_failed: Callable[[Store, ObjectRef | LiveObject, TandemError], None] | None,
) -> AsyncGenerator[tuple[ObjectRef | LiveObject, bytes], None]:
    """Read the next objects while the caller writes one."""
    queue: asyncio.Queue[tuple[ObjectRef | LiveObject, bytes] | Exception | None] = asyncio.Queue(READ_AHEAD)
    gone: set[int] = set()

    async def produce() -> None:
        for ref in refs:
            stores = [store for store in sources.get(ref.name, ()) if id(store) not in gone]
            data = await _from_any(ref, stores, outcome, source_failed, gone)
            if data is not None:
                await queue.put((ref, data))

    async def produce_to_the_end() -> None:
        try:
            await produce()
        except Exception as fault:
            await queue.put(fault)
        else:
            await queue.put(None)

    producer = asyncio.create_task(produce_to_the_end(), name="read ahead")
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        producer.cancel()
        await asyncio.gather(producer, return_exceptions=True)


async def _from_any(
    ref: ObjectRef | LiveObject,
    stores: Sequence[Store],
    outcome: Outcome,
    source_failed: Callable[[Store, ObjectRef | LiveObject, TandemError], None] | None,
    gone: set[int],
) -> bytes | None:
    """The bytes from the first of ``stores`` that has them good. A store that fails in another way than by one
    object (``gone``) is not asked again: each question to a dead link takes minutes."""
    reason = "no other tier has it"
    for store in stores:
        try:
            return await read_verified(store, ref)
        except SecondInstallation:
            raise
        except TandemError as fault:
            reason = str(fault)
            if not isinstance(fault, (Corrupt, Missing)):
                gone.add(id(store))
            if source_failed is not None:
                source_failed(store, ref, fault)
    outcome.failed[ref.name] = reason
    return None
