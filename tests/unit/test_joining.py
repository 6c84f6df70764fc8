"""The union of what several tiers hold (takeover and join): heads, what is live, what is closed, what is kept in doubt.
Pure; every branch is run here."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.documents import OTHER_TIER, TIER, Writer, ref

from tandem_protocol.history import LiveObject
from tandem_protocol.joining import (
    BELIEVABLE,
    Side,
    heads,
    highest_epoch,
    highest_number,
    lacking,
    lists_wanted,
    open_numbers,
    records_of,
    unite,
    whole,
)
from tandem_protocol.lists import ListEntry
from tandem_protocol.names import ObjectType
from tandem_protocol.revision import Kind, Record, Removal
from tandem_protocol.verdict import Fault

WRITER, OTHER = Writer(), Writer(epoch=2)
PACK, SNAPSHOT, LIST = ObjectType.PACK, ObjectType.SNAPSHOT, ObjectType.LIST


def line(
    *steps: dict[str, Any], writer: Writer = WRITER, first: int = 1, parent: Record | None = None
) -> list[Record]:
    """Records one after the other, each the parent of the next."""
    made: list[Record] = []
    for number, step in enumerate(steps, first):
        last = made[-1] if made else parent
        made.append(writer.record(number, parents=(last.hash,) if last else (), **step))
    return made


def adds(*numbers: int, kind: ObjectType = PACK) -> dict[str, Any]:
    return {"added": tuple(ref(number, kind) for number in numbers)}


def removes(*numbers: int, tiers: frozenset[bytes] | None = None) -> dict[str, Any]:
    return {
        "removed": tuple(Removal(PACK, ref(number).name, tiers) for number in numbers),
        "kind": Kind.PRUNE,
    }


def side(*records: Record | Fault, tier: bytes = TIER, present: tuple[int, ...] = (), **more: Any) -> Side:
    numbered = {r.number if isinstance(r, Record) else 99 + n: r for n, r in enumerate(records)}
    return Side(tier, records=numbered, present={ref(n).name: (PACK, 100) for n in present}, **more)


def live(*sides: Side, **more: Any) -> set[int]:
    union = unite(sides, more.pop("lists", {}), **more)
    return {int.from_bytes(name, "big") for name in union.live}


def test_one_line_on_two_tiers_with_gaps_has_one_head() -> None:
    records = line(adds(1), adds(2), removes(1), adds(4))
    first, second = side(*records[:3]), side(*records[2:], tier=OTHER_TIER)
    assert [r.number for r in heads(records_of([first, second]))] == [4]
    assert live(first, second) == {2, 4}


def test_two_branches_keep_what_either_has_and_void_removals_that_are_not_shared() -> None:
    common = line(adds(1, 2, 3))
    left = line(removes(1, 2), adds(10), first=2, parent=common[0])
    right = line({**adds(11), **removes(2)}, first=2, parent=common[0])
    union = unite([side(*common, *left), side(*common, *right, tier=OTHER_TIER)], {})
    assert set(union.heads) == {left[-1].hash, right[-1].hash}
    assert live(side(*common, *left), side(*common, *right)) == {1, 3, 10, 11}


def test_what_is_dead_for_a_tier_on_one_branch_only_is_live_there() -> None:
    common = line(adds(1, 2))
    left = line(removes(1, 2, tiers=frozenset({TIER})), first=2, parent=common[0])
    right = line(removes(1, tiers=frozenset({TIER, OTHER_TIER})), first=2, parent=common[0])
    union = unite([side(*common, *left), side(*common, *right, tier=OTHER_TIER)], {})
    assert union.live[ref(1).name].dead == {TIER}
    assert union.live[ref(2).name].dead == frozenset()


def test_records_of_our_own_history_are_no_heads_and_bring_nothing() -> None:
    records = line(adds(1), adds(2))
    known = {record.hash for record in records}
    union = unite([side(*records, present=(1, 2))], {}, known)
    assert (union.heads, union.live, union.kept, union.tiers) == ((), {}, frozenset(), frozenset())


def test_a_record_that_only_closed_a_number_is_no_head() -> None:
    closing = OTHER.record(2, kind=Kind.ABORTED)
    assert heads(records_of([side(*line(adds(1)), closing)]))[0].number == 1


def base(
    number: int, lists: tuple[int, ...], *parents: Record, writer: Writer = WRITER, **more: Any
) -> Record:
    names = tuple(ref(n, LIST).name for n in lists)
    added = tuple(ref(n, LIST) for n in lists)
    return writer.record(
        number,
        lists=names,
        added=added,
        tiers=(TIER, OTHER_TIER),
        parents=tuple(p.hash for p in parents),
        **more,
    )


def entries(*numbers: int) -> list[ListEntry]:
    return [ListEntry(PACK, ref(n).name, 100) for n in numbers]


def test_reading_starts_at_the_newest_base_whose_lists_are_known() -> None:
    old = line(adds(1), adds(2))
    start = base(3, (50,), old[-1])
    after = line(adds(4), first=4, parent=start)
    found = side(start, *after)
    lists = {ref(50).name: entries(1, 2)}
    assert live(found, lists=lists) == {1, 2, 4}
    assert unite([found], lists).tiers == {TIER, OTHER_TIER}
    assert unite([found], lists).kept == frozenset()


def test_lists_are_asked_for_until_a_base_is_known_or_none_is_left() -> None:
    first = base(1, (50,))
    second = base(2, (51, 52), first)
    records = records_of([side(first, second)])
    assert lists_wanted(records, {}, ()) == {ref(51).name, ref(52).name}
    half = {ref(51).name: entries(1)}
    assert lists_wanted(records, half, ()) == {ref(52).name}
    assert lists_wanted(records, {**half, ref(52).name: entries(2)}, ()) == set()
    assert lists_wanted(records, half, {ref(52).name}) == {ref(50).name}
    assert lists_wanted(records, half, {ref(52).name, ref(50).name}) == set()
    assert lists_wanted(records, {}, (), {second.hash, first.hash}) == set()


def test_a_fork_below_a_base_without_lists_is_followed_both_ways() -> None:
    """A takeover whose lists are lost: its parents say what was live."""
    left, right = line(adds(1), removes(1)), line(adds(2), first=1, writer=OTHER)
    taken = base(5, (50,), left[-1], right[-1], writer=OTHER, kind=Kind.TAKEOVER)
    assert live(side(*left, taken), side(*right, tier=OTHER_TIER)) == {2}


def test_a_broken_line_keeps_what_is_there_and_nobody_names() -> None:
    records = line(adds(1), adds(2), adds(3))
    whole, broken = side(*records, present=(1, 2, 3, 9)), side(records[0], records[2], present=(1, 2, 3, 9))
    assert live(whole) == {1, 2, 3}
    union = unite([broken], {})
    assert {int.from_bytes(n, "big") for n in union.live} == {1, 2, 3, 9}
    assert union.kept == {ref(2).name, ref(9).name}


def test_a_torn_record_and_a_snapshot_that_nobody_names_are_doubt_too() -> None:
    records = line(adds(1))
    assert live(side(*records, Fault.DAMAGED, present=(1, 9))) == {1, 9}
    lost = Side(
        TIER, records={1: records[0]}, present={ref(8).name: (SNAPSHOT, 100), ref(9).name: (PACK, 100)}
    )
    assert live(lost) == {1, 8, 9}
    assert live(lost, ours={ref(8).name}) == {1}
    assert live(side(*records, Fault.DAMAGED, present=(9,)), ours={ref(9).name}) == {1}


def test_lists_that_lie_about_are_never_live() -> None:
    records = [base(1, (50,))]
    found = Side(TIER, records={1: records[0], 2: Fault.DAMAGED}, present={ref(60).name: (LIST, 100)})
    assert live(found) == set()


def test_what_was_removed_is_not_kept_in_doubt() -> None:
    records = line(adds(1), removes(1))
    assert live(side(*records, Fault.DAMAGED, present=(1,))) == set()


def test_open_numbers_are_those_that_nobody_ended() -> None:
    found = Side(
        TIER,
        claims={1: WRITER.claim(1), 2: WRITER.claim(2), 3: Fault.DAMAGED, 7: WRITER.claim(7)},
        records={1: WRITER.record(1), 4: Fault.DAMAGED, 5: WRITER.record(5)},
    )
    assert open_numbers(found, 7) == [2, 3, 4]


def test_the_highest_number_counts_damage_only_where_it_can_be_believed() -> None:
    assert highest_number([]) == 0
    far = 5 + BELIEVABLE + 1
    found = Side(TIER, claims={5: WRITER.claim(5), 9: Fault.DAMAGED, far: Fault.DAMAGED})
    assert highest_number([found]) == 9
    assert highest_number([found, Side(OTHER_TIER, records={20: WRITER.record(20)})]) == far


def test_the_highest_epoch_is_in_epoch_files_and_in_documents() -> None:
    assert highest_epoch([]) == 0
    assert highest_epoch([Side(TIER, epochs={3: Fault.DAMAGED})]) == 3
    assert highest_epoch([Side(TIER, claims={1: OTHER.claim(1)}, records={1: Fault.DAMAGED})]) == 2


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ({}, {1}),
        ({ref(1).name: (PACK, 99)}, {1}),
        ({ref(1).name: (SNAPSHOT, 100)}, {1}),
        ({ref(1).name: (PACK, 100)}, set()),
    ],
)
def test_what_a_listing_lacks(present: dict[bytes, tuple[ObjectType, int]], expected: set[int]) -> None:
    objects = {
        ref(1).name: LiveObject(PACK, ref(1).name, 100, 1),
        ref(2).name: LiveObject(PACK, ref(2).name, 100, 1, frozenset({TIER})),
    }
    assert lacking(Side(TIER, present=present), objects) == {ref(number).name for number in expected}


def test_a_record_is_whole_only_if_all_below_it_was_read() -> None:
    """A later revision may stand on a tier that misses those before it; what is below it is then not known."""
    records = line(adds(1), adds(2), adds(3), adds(4))
    read = records_of([side(records[0], records[2], records[3])])
    assert whole(read, {}) == {records[0].hash}
    assert whole(read, {}, {records[1].hash}) == {record.hash for record in records}
    start = base(5, (50,), records[3])
    assert start.hash not in whole(records_of([side(start)]), {})
    assert whole(records_of([side(start)]), {ref(50).name: entries(1)}) == {start.hash}
