"""Comparing a whole tier with what is live for it: folder by folder, by merging two sorted listings.

For where the journal does not suffice: a tier that was rolled back, `sync --full`, the periodic audit. Memory is that
of a few folders, each a 256th of a type, however much the tier holds. Tells what is not there and what has a wrong
size; what the tier holds more is left alone, and nothing is changed or read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from tandem_protocol import names
from tandem_protocol.history import LiveObject
from tandem_protocol.names import ObjectType, object_path
from tandem_protocol.replicate import in_parallel, objects_in
from tandem_protocol.store import Store

TOGETHER = 8
"""First bytes of names whose folders are listed together where the store takes several questions at once."""

_IN_ONE_FOLDER = {kind for kind in ObjectType if len(names.object_folders(kind)) == 1}


@dataclass(frozen=True, slots=True)
class Difference:
    """``found`` is live, and on the tier it is not there (``size`` is None) or has this size, in bytes."""

    found: LiveObject
    size: int | None


async def compare(
    store: Store, live_named: Callable[[int], list[LiveObject]], tier_id: bytes
) -> AsyncGenerator[list[Difference], None]:
    """Every difference between ``store`` and what is live for the tier, in pieces; the pieces are in the order of
    names, but for types that have only one folder: those come last. ``live_named(byte)``: the live objects whose
    names begin with that byte."""
    width = max(1, min(store.parallel, TOGETHER))
    few: list[LiveObject] = []
    for start in range(0, 256, width):
        folders: dict[str, list[LiveObject]] = {}
        for first in range(start, min(start + width, 256)):
            for found in live_named(first):
                if not found.live_on(tier_id):
                    continue
                if found.type in _IN_ONE_FOLDER:
                    few.append(found)
                else:
                    folders.setdefault(_folder_of(found), []).append(found)
        yield await _compare_folders(store, folders)
    last: dict[str, list[LiveObject]] = {}
    for found in few:
        last.setdefault(_folder_of(found), []).append(found)
    yield await _compare_folders(store, last)


def _folder_of(found: LiveObject) -> str:
    return object_path(found.type, found.name).rpartition("/")[0]


async def _compare_folders(store: Store, folders: dict[str, list[LiveObject]]) -> list[Difference]:
    differences: list[Difference] = []

    async def compare_one(folder: str, live: list[LiveObject]) -> None:
        differences.extend(merged(sorted(live, key=lambda o: o.name), await _listed(store, folder)))

    await in_parallel(store.parallel, [partial(compare_one, *item) for item in folders.items()])
    return sorted(differences, key=lambda difference: difference.found.name)


async def _listed(store: Store, folder: str) -> list[tuple[bytes, int]]:
    """Names and sizes of the objects in ``folder``, in order: a store lists in any."""
    return sorted([found async for found in objects_in(store, folder)])


def merged(live: Iterable[LiveObject], listed: Iterable[tuple[bytes, int]]) -> Iterator[Difference]:
    """Where ``listed`` (name, size) falls short of ``live``; both in ascending order of names."""
    there = iter(listed)
    at = next(there, None)
    for found in live:
        while at is not None and at[0] < found.name:
            at = next(there, None)
        size = at[1] if at is not None and at[0] == found.name else None
        if size != found.size:
            yield Difference(found, size)
