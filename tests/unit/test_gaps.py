"""Which numbers a look asks for: gaps, and what of them is listed (A5; "reading past gaps in a look")."""

from __future__ import annotations

import random

import pytest

from tandem_agent.tiers.gaps import BRANCH, LEAF, gaps_between, numbers_that_stand
from tandem_protocol import names
from tandem_protocol.stores.memory import MemoryStore


@pytest.mark.parametrize(
    ("low", "top", "held", "gaps"),
    [
        (5, 4, [], []),
        (5, 5, [], [range(5, 6)]),
        (5, 5, [5], []),
        (1, 9, [4, 5, 7], [range(1, 4), range(6, 7), range(8, 10)]),
        (3, 9, [1, 2, 3, 9, 10], [range(4, 9)]),
        (3, 9, [9, 3], [range(4, 9)]),
    ],
)
def test_gaps_are_what_is_not_held(low: int, top: int, held: list[int], gaps: list[range]) -> None:
    assert gaps_between(low, top, held) == gaps


class Listing(MemoryStore):
    """Remembers which folders were listed."""

    def __init__(self, numbers: set[int]) -> None:
        super().__init__({names.claim_path(n): b"" for n in numbers})
        self.shared |= {f"{names.REVISIONS}/zz/ab": b"", f"{names.REVISIONS}/{5:012x}/file": b""}
        self.listed: list[str] = []

    def list(self, folder: str):  # type: ignore[no-untyped-def]  # passed on as it is
        self.listed.append(folder)
        return super().list(folder)


async def standing(numbers: set[int], gaps: list[range]) -> tuple[set[int], list[str]]:
    store = Listing(numbers)
    await store.open()
    return await numbers_that_stand(store, gaps), store.listed


async def test_two_leaf_folders_are_listed_at_once_and_more_from_the_top() -> None:
    found, listed = await standing({1, 250, 300, 600}, [range(200, 500)])
    assert (found, listed) == ({250, 300}, [names.number_folder(1), names.number_folder(256)])
    found, listed = await standing({1, 250, 300, 600}, [range(200, 600)])
    branch = f"{names.REVISIONS}/{0:012x}"
    assert found == {250, 300}
    assert listed == [names.REVISIONS, branch, f"{branch}/00", f"{branch}/01", f"{branch}/02"]


async def test_a_gap_into_which_nobody_wrote_costs_two_listings_however_wide() -> None:
    found, listed = await standing({1, 2}, [range(LEAF, 2**62)])
    assert (found, listed) == (
        set(),
        [names.REVISIONS, f"{names.REVISIONS}/{0:012x}", f"{names.REVISIONS}/{5:012x}"],
    )


@pytest.mark.parametrize("seed", range(20))
async def test_what_is_found_is_what_stands_in_the_gaps(seed: int) -> None:
    make = random.Random(seed)
    top = make.choice([300, 2_000, 3 * BRANCH])
    numbers = {make.randrange(1, top + 1) for _ in range(make.randrange(200))}
    held = {make.randrange(1, top + 1) for _ in range(make.randrange(40))}
    gaps = gaps_between(make.randrange(1, top), top, held)
    found, _ = await standing(numbers, gaps)
    inside = {number for gap in gaps for number in gap}
    if len(inside) > 8:
        assert found == numbers & inside, seed
