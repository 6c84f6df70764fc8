"""Planning reads: by pack in first-use order, few and large, bounded (storage.md, Restore)."""

from __future__ import annotations

import random

from tandem_agent.engine.plan import Limits, Window

SMALL = Limits(max_bytes=1000, max_uses=10, merge_gap=50, max_range=400)


def fill(window: Window[str], frames: list[tuple[int, int, int, int]]) -> None:
    for pack, frame, offset, length in frames:
        window.add_use(window.add_frame(pack, frame, offset, length), f"{pack}/{frame}", length)


def spans(window: Window[str]) -> list[tuple[int, int, int, list[int]]]:
    return [(r.pack, r.offset, r.length, [f.frame for f in r.frames]) for r in window.ranges()]


def test_packs_come_in_first_use_order_and_offsets_rise() -> None:
    window: Window[str] = Window(Limits(merge_gap=0))
    fill(window, [(7, 3, 300, 10), (2, 0, 0, 10), (7, 1, 100, 10), (2, 5, 500, 10)])
    assert spans(window) == [(7, 100, 10, [1]), (7, 300, 10, [3]), (2, 0, 10, [0]), (2, 500, 10, [5])]


def test_gaps_up_to_the_limit_are_read_along() -> None:
    window: Window[str] = Window(SMALL)
    fill(window, [(1, 0, 0, 100), (1, 1, 150, 100), (1, 2, 301, 10)])
    assert spans(window) == [(1, 0, 250, [0, 1]), (1, 301, 10, [2])]


def test_a_read_ends_before_it_gets_too_long_but_takes_a_long_frame_whole() -> None:
    window: Window[str] = Window(SMALL)
    fill(window, [(1, 0, 0, 300), (1, 1, 300, 150), (1, 2, 450, 900)])
    assert spans(window) == [(1, 0, 300, [0]), (1, 300, 150, [1]), (1, 450, 900, [2])]


def test_a_frame_used_twice_is_read_once() -> None:
    window: Window[str] = Window()
    for use in ("a", "b", "c"):
        window.add_use(window.add_frame(1, 4, 40, 10), use, 5)
    (read,) = window.ranges()
    assert read.frames[0].uses == ["a", "b", "c"]


def test_full_by_bytes_or_by_uses() -> None:
    window: Window[str] = Window(SMALL)
    fill(window, [(1, 0, 0, 999)])
    assert not window.full
    fill(window, [(1, 0, 0, 1)])
    assert window.full
    window = Window(SMALL)
    fill(window, [(1, n, n, 1) for n in range(10)])
    assert window.full


def test_every_frame_is_in_exactly_one_read_that_covers_it() -> None:
    chance = random.Random(4)
    for _ in range(200):
        window: Window[str] = Window(SMALL)
        places = {}
        for pack in range(3):
            at = 0
            for frame in range(chance.randrange(1, 30)):
                at += chance.randrange(120)
                length = chance.randrange(1, 500)
                places[pack, frame] = (at, length)
                at += length
        wanted = chance.sample(sorted(places), chance.randrange(1, len(places) + 1))
        fill(window, [(p, f, *places[p, f]) for p, f in wanted])
        seen = []
        for read in window.ranges():
            assert read.length <= SMALL.max_range or len(read.frames) == 1
            for use in read.frames:
                assert read.offset <= use.offset and use.end <= read.offset + read.length
                seen.append((read.pack, use.frame))
        assert sorted(seen) == sorted(wanted)
