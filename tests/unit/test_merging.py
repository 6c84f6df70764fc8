"""Index segments stay few: which are merged, and that a thousand backups leave about twenty (B1; storage.md)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.support.format1 import Format1

from tandem_agent import segments
from tandem_agent.merging import FULL, MOST, MOST_BYTES, SMALLEST, TOGETHER, to_merge
from tandem_agent.progress import Progress
from tandem_agent.resync import sync
from tandem_agent.wiring import open_agent, open_state
from tandem_protocol.errors import NoTierReachable
from tandem_protocol.history import LiveObject
from tandem_protocol.index import decode_segment
from tandem_protocol.names import ObjectType, object_path


def segment(number: int, size: int, dead: frozenset[bytes] = frozenset()) -> LiveObject:
    return LiveObject(ObjectType.INDEX, number.to_bytes(32, "big"), size, number, dead)


def some(*sizes: int) -> list[LiveObject]:
    return [segment(number, size) for number, size in enumerate(sizes)]


def test_four_of_a_size_become_one() -> None:
    assert to_merge([]) == to_merge(some(300, 300, 300)) == []
    assert len(to_merge(some(300, 300, 300, 4000))) == 4
    assert to_merge(some(300, 300, 300, SMALLEST)) == []
    assert len(to_merge(some(*[5 * SMALLEST] * 4, 1))) == 4


def test_what_comes_out_counts_for_the_next_size() -> None:
    three = [SMALLEST] * 3
    assert len(to_merge(some(*[100] * 4, *three))) == 7
    assert len(to_merge(some(*[100] * 4, *three[:2]))) == 4
    assert len(to_merge(some(*[100] * 4, *[16 * SMALLEST] * 3))) == 4


def test_full_ones_and_those_dead_on_a_tier_are_left_alone() -> None:
    assert to_merge(some(*[FULL] * 9)) == []
    assert to_merge([segment(n, 100, frozenset({bytes(16)})) for n in range(9)]) == []


def test_one_merge_is_bounded() -> None:
    assert len(to_merge(some(*[100] * 5000))) == MOST
    assert sum(o.size for o in to_merge(some(*[FULL - 1] * 50))) <= MOST_BYTES


def test_a_thousand_backups_leave_about_twenty() -> None:
    """And each entry is written again about once per size."""
    source = random.Random(3)
    live: dict[bytes, LiveObject] = {}
    most = written = fresh = 0
    for number in range(1, 1001):
        new = source.choice((300, 2_000, 30_000))
        replaced = to_merge(live.values())
        for old in replaced:
            del live[old.name]
        size = new + sum(old.size for old in replaced)
        live |= {o.name: o for o in [segment(number, size)]}
        most, written, fresh = max(most, len(live)), written + size, fresh + new
    assert most <= 22
    assert written < 8 * fresh
    assert TOGETHER == 4


# In backups


@pytest.fixture
def old(tmp_path: Path) -> Format1:
    return Format1(tmp_path)


def live_segments(old: Format1) -> list[LiveObject]:
    with open_state(old.config) as state:
        return list(state.live_of(ObjectType.INDEX).values())


async def change_and_back_up(old: Format1, number: int) -> None:
    (old.folder / "source" / f"added-{number}").write_bytes(random.Random(number).randbytes(500))
    done = await old.backup()
    assert done.status == "complete" and done.warnings == []


async def test_backups_merge(old: Format1) -> None:
    for number in range(14):
        await change_and_back_up(old, number)
        assert len(live_segments(old)) <= 2 * TOGETHER
    async with open_agent(old.config, lambda: old.passphrase) as agent:
        live = agent.state.live_of(ObjectType.PACK)
        named = [
            entry.name
            for found in live_segments(old)
            for entry in decode_segment(
                agent.ring, (old.folder / "vault" / object_path(found.type, found.name)).read_bytes()
            )
        ]
    assert sorted(named) == sorted(live)  # every pack once
    # What is in merged segments is deduplicated against, and restores from each tier alone.
    done = await old.backup()
    assert done.bytes_stored < 3_000
    for tier in old.tiers:
        await old.same(tier, 0)
        await old.same(tier, 5)


async def test_what_a_tier_lacks_is_not_merged(old: Format1) -> None:
    """It would get what such a segment names, but not the segment, which is gone; and what replaces it only later."""
    await change_and_back_up(old, 0)
    old.away("remote")
    before = set(live_segments(old))
    for number in range(1, 9):
        await change_and_back_up(old, number)
    assert len(live_segments(old)) >= 8
    replaced = before - set(live_segments(old))
    with open_state(old.config) as state:
        added = {found.added for found in replaced}
        assert all(added.isdisjoint(state.missing(row.id)) for row in state.tiers())
    old.back("remote")
    async with open_agent(old.config, lambda: old.passphrase) as agent:
        await sync(agent, (), False, Progress())
    await change_and_back_up(old, 9)
    assert len(live_segments(old)) <= TOGETHER


async def test_a_segment_that_cannot_be_read_is_left_and_noted(old: Format1) -> None:
    for number in range(3):
        await change_and_back_up(old, number)
    newest = max(live_segments(old), key=lambda o: o.added)
    for tier in old.tiers:
        old.damage(old.folder / tier / object_path(newest.type, newest.name))
    for number in range(3, 6):
        await change_and_back_up(old, number)
    left = live_segments(old)
    assert newest in left and len(left) <= 4
    with open_state(old.config) as state:
        assert all(newest.name in state.lacking(row.id) for row in state.tiers())


async def test_no_backup_fails_for_it(old: Format1, monkeypatch: pytest.MonkeyPatch) -> None:
    await change_and_back_up(old, 0)

    async def none_reachable(*_arguments: object) -> list[bytes]:
        raise NoTierReachable("nobody can be asked")

    monkeypatch.setattr(segments, "_fetched", none_reachable)
    for number in range(1, 7):
        await change_and_back_up(old, number)
    assert len(live_segments(old)) == 1 + 7
    monkeypatch.undo()
    await change_and_back_up(old, 7)
    assert len(live_segments(old)) == 2
