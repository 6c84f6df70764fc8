"""Which revision numbers a look has to ask for, and which of them stand on a tier.

A gap is a row of numbers of which it is not known that the tier holds them. A few are simply asked for (`contact`). Of
many only those that are listed are: folder by folder from the top, and no folder that has none of them, so that a gap
into which nobody wrote costs a few listings, however wide it is.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from functools import partial

from tandem_protocol import names
from tandem_protocol.browse import listed_numbers
from tandem_protocol.replicate import in_parallel
from tandem_protocol.store import Store

LEAF = 256
"""Numbers in one leaf folder of ``revisions``."""

BRANCH = 256 * LEAF
"""Numbers in one folder of leaf folders."""

LEAVES_UP_TO = 2
"""So many leaf folders are listed without asking first which there are: the folder above costs a listing too."""

_BRANCH_NAME = re.compile(r"[0-9a-f]{12}")
_LEAF_NAME = re.compile(r"[0-9a-f]{2}")


async def claims_that_stand(store: Store) -> AsyncGenerator[int, None]:
    """Every number that has a claim."""
    async with aclosing(listed_numbers(store)) as listed:
        async for number, what in listed:
            if what == "claim":
                yield number


def gaps_between(low: int, top: int, held: Collection[int]) -> list[range]:
    """The numbers from ``low`` to ``top`` without those in ``held``, as ranges in ascending order."""
    gaps: list[range] = []
    at = low
    for number in sorted(held):
        if low <= number <= top:
            if number > at:
                gaps.append(range(at, number))
            at = number + 1
    if at <= top:
        gaps.append(range(at, top + 1))
    return gaps


async def numbers_above(store: Store, top: int) -> set[int]:
    """The numbers above ``top`` that have a claim or record, as far as its leaf folder, or near its end the next one
    too, shows them. They are listed and not probed one by one: somebody else may have left a gap there."""
    first = min(top + 1, names.MAX_NUMBER)
    leaves = {names.number_folder(n) for n in (first, min(first + LEAF // 16, names.MAX_NUMBER))}
    found: set[int] = set()
    for folder in sorted(leaves):
        async for entry in store.list(folder):
            parsed = names.parse_numbered(f"{folder}/{entry.name}")
            if parsed is not None and parsed[0] > top:
                found.add(parsed[0])
    return found


async def numbers_that_stand(store: Store, gaps: Sequence[range]) -> set[int]:
    """The numbers in ``gaps`` (ascending ranges) that have a claim or record, by listings."""
    found: set[int] = set()

    async def list_leaf(start: int) -> None:
        folder = names.number_folder(max(start, 1))
        async for entry in store.list(folder):
            parsed = names.parse_numbered(f"{folder}/{entry.name}")
            if parsed is not None and _touches(gaps, parsed[0], 1):
                found.add(parsed[0])

    leaves = _few_leaves(gaps)
    if leaves is None:
        leaves = await _leaves_there(store, gaps)
    await in_parallel(store.parallel, [partial(list_leaf, start) for start in sorted(leaves)])
    return found


def _few_leaves(gaps: Sequence[range]) -> set[int] | None:
    """The first numbers of all leaf folders that ``gaps`` touch; None if they are more than a few."""
    leaves: set[int] = set()
    for gap in gaps:
        for start in range(gap.start // LEAF * LEAF, gap.stop, LEAF):
            leaves.add(start)
            if len(leaves) > LEAVES_UP_TO:
                return None
    return leaves


async def _leaves_there(store: Store, gaps: Sequence[range]) -> set[int]:
    """The first numbers of the leaf folders that are there and that ``gaps`` touch."""
    leaves: set[int] = set()

    async def list_branch(name: str) -> None:
        async for entry in store.list(f"{names.REVISIONS}/{name}"):
            if _LEAF_NAME.fullmatch(entry.name):
                start = int(name, 16) * BRANCH + int(entry.name, 16) * LEAF
                if _touches(gaps, start, LEAF):
                    leaves.add(start)

    branches = [
        entry.name
        async for entry in store.list(names.REVISIONS)
        if _BRANCH_NAME.fullmatch(entry.name) and _touches(gaps, int(entry.name, 16) * BRANCH, BRANCH)
    ]
    await in_parallel(store.parallel, [partial(list_branch, name) for name in sorted(branches)])
    return leaves


def _touches(gaps: Sequence[range], start: int, count: int) -> bool:
    """Whether a number of ``count`` from ``start`` on is in one of ``gaps``."""
    at = bisect_left(gaps, start, key=lambda gap: gap.stop - 1)
    return at < len(gaps) and gaps[at].start < start + count
