"""The comparison of a whole tier with what is live: complete, folder by folder, in any order of listing (A7, A8)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.bigrepo import BigRepo
from tests.support.bigstore import BigStore

from tandem_agent.tiers.comparing import Difference, compare, merged
from tandem_protocol.history import LiveObject
from tandem_protocol.names import ObjectType, object_path
from tandem_protocol.store import Entry, Store
from tandem_protocol.stores.folder import CONTENT
from tandem_protocol.stores.memory import MemoryStore

TIER, OTHER = b"t" * 16, b"u" * 16


class Shuffled(MemoryStore):
    """Lists in any order, and remembers what was listed."""

    def __init__(self, shared: dict[str, bytes], make: random.Random, parallel: int) -> None:
        super().__init__(shared)
        self.parallel = parallel
        self._make = make
        self.listed: list[str] = []

    async def list(self, folder: str) -> AsyncIterator[Entry]:
        self.listed.append(folder)
        entries = [entry async for entry in super().list(folder)]
        self._make.shuffle(entries)
        for entry in entries:
            yield entry


async def differences(store: Store, live: dict[bytes, LiveObject]) -> dict[bytes, int | None]:
    await store.open()

    def live_named(first: int) -> list[LiveObject]:
        return [found for name, found in sorted(live.items()) if name[0] == first]

    found: list[Difference] = []
    async for piece in compare(store, live_named, TIER):
        found += piece
    assert len({one.found.name for one in found}) == len(found)
    return {one.found.name: one.size for one in found}


@pytest.mark.parametrize("seed", range(10))
async def test_every_difference_is_found_and_what_is_more_is_left_alone(seed: int) -> None:
    make = random.Random(seed)
    shared: dict[str, bytes] = {}
    live: dict[bytes, LiveObject] = {}
    expected: dict[bytes, int | None] = {}
    for _ in range(make.choice([0, 1, 30, 600])):
        kind, name = make.choice(list(ObjectType)), make.randbytes(32)
        dead = make.random() < 0.1
        live[name] = LiveObject(kind, name, 5, 1, frozenset([TIER if dead else OTHER]))
        size = make.choice([5, 5, 5, 4, 0, None])
        if size is not None:
            form = make.choice(["", f"/{CONTENT}"])
            shared[object_path(kind, name) + form] = bytes(size)
        if size != 5 and not dead:
            expected[name] = size
    for kind in ObjectType:
        shared[object_path(kind, make.randbytes(32))] = b"an orphan"
        shared[object_path(kind, bytes(32)).rpartition("/")[0] + "/no-name"] = b"?"
    assert await differences(Shuffled(shared, make, make.choice([1, 4, 1024])), live) == expected, seed


async def test_only_folders_that_should_hold_something_are_listed_and_each_once() -> None:
    live = {bytes([b] * 32): LiveObject(ObjectType.PACK, bytes([b] * 32), 5, 1) for b in (3, 250)}
    live[b"k" * 32] = LiveObject(ObjectType.KEY, b"k" * 32, 5, 1)
    store = Shuffled({}, random.Random(1), 4)
    assert await differences(store, live) == dict.fromkeys(live)
    assert store.listed == ["packs/03", "packs/fa", "keys"]


def test_merging_tells_what_falls_short() -> None:
    live = [LiveObject(ObjectType.PACK, bytes([n]), 10, 1) for n in (2, 4, 6, 8)]
    listed = [(bytes([n]), size) for n, size in ((1, 10), (2, 10), (3, 1), (4, 9), (8, 10), (9, 10))]
    assert list(merged(live, listed)) == [Difference(live[1], 9), Difference(live[2], None)]
    assert list(merged([], listed)) == []
    assert [one.size for one in merged(live, [])] == [None] * 4


async def test_a_large_tier_is_compared_a_folder_at_a_time(memory_path: Path) -> None:
    """A tier that missed the last tenth, from the local state's own rows."""
    repo = BigRepo(memory_path, 200, 20_000, {"vault": None, "remote": 180})
    try:
        store = BigStore(repo, repo.tiers[1], parallel=4)
        await store.open()
        found: set[bytes] = set()
        largest = 0
        async for piece in compare(store, repo.state.live_named, store.tier.identity.tier_id):
            found |= {one.found.name for one in piece}
            largest = max(largest, len(piece))
        live = repo.state.live()
        assert found == {name for name, o in live.items() if o.added > 180}
        assert largest < len(found) / 20
        assert store.verbs["list"] <= 3 * 256 + 2
        assert set(store.verbs) == {"list"}
    finally:
        repo.state.close()
