"""Decisions of a write and of a synchronisation: targets (F5), deduplication, bases, what can be written (A4, A7)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from tests.support.documents import Writer, ref

from tandem_protocol.history import Live, LiveObject
from tandem_protocol.names import ObjectType
from tandem_protocol.planning import (
    BASE_EVERY,
    BASE_OFTEN,
    LIST_ENTRY_SIZE,
    SMALL_LIST,
    TierFacts,
    base_is_due,
    choose_targets,
    lacks,
    next_number,
    trusted_up_to,
    usable_packs,
    writable_now,
)
from tandem_protocol.verdict import State

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16


def tier(tier_id: bytes, state: State = State.ONLINE, **more: Any) -> TierFacts:
    return TierFacts(
        tier_id,
        state,
        more.get("to_compare", False),
        frozenset(more.get("missing", ())),
        frozenset(more.get("lacking", ())),
    )


def lagging(tier_id: bytes, *missing: int, **more: Any) -> TierFacts:
    return tier(tier_id, State.LAGGING, missing=missing, **more)


def name(number: int) -> bytes:
    return number.to_bytes(32, "big")


def live_of(*objects: tuple[int, int], size: int = 100) -> Live:
    """Packs by (number of the name, revision that added it)."""
    return {name(n): LiveObject(ObjectType.PACK, name(n), size, added) for n, added in objects}


# Targets


def test_online_and_complete_tiers_are_the_targets_in_configured_order() -> None:
    assert choose_targets([tier(B), tier(A), lagging(C, 3)], {}) == [B, A]


@pytest.mark.parametrize(
    "other",
    [
        tier(B, missing=[1]),
        tier(B, lacking=[name(1)]),
        tier(B, to_compare=True),
        *(tier(B, state) for state in State if state is not State.ONLINE),
    ],
)
def test_a_tier_that_is_not_online_or_not_complete_is_none(other: TierFacts) -> None:
    assert choose_targets([tier(A), other], {}) == [A]


def test_without_a_complete_tier_the_one_that_lacks_the_fewest_bytes() -> None:
    live = live_of((1, 3), (2, 4))
    live[name(2)] = dataclasses.replace(live[name(2)], size=1)
    assert choose_targets([lagging(A, 3), lagging(B, 4)], live) == [B]


def test_the_first_configured_wins_a_tie() -> None:
    live = live_of((1, 3), (2, 4))
    assert choose_targets([lagging(A, 3), lagging(B, 4)], live) == [A]
    assert choose_targets([lagging(B, 4), lagging(A, 3)], live) == [B]


def test_others_that_lack_exactly_the_same_are_targets_too() -> None:
    live = live_of((1, 3), (2, 4))
    assert choose_targets([lagging(A, 3), lagging(B, 4), lagging(C, 3)], live) == [A, C]


def test_the_same_objects_but_other_revisions_are_not_the_same() -> None:
    """A revision that only aborted adds nothing, but a tier without it cannot be said to hold what follows."""
    assert choose_targets([lagging(A, 3), lagging(B, 4)], live_of()) == [A]


def test_the_same_revisions_but_another_damaged_object_are_not_the_same() -> None:
    live = live_of((1, 3), (2, 4))
    tiers = [lagging(A, 4, lacking=[name(1)]), lagging(B, 4)]
    assert choose_targets(tiers, live) == [B]


def test_what_is_dead_for_a_tier_is_not_lacked_there() -> None:
    live = live_of((1, 3))
    live[name(1)] = dataclasses.replace(live[name(1)], dead=frozenset([A]))
    assert lacks(lagging(A, 3), live) == []
    assert lacks(lagging(B, 3), live) == [live[name(1)]]


@pytest.mark.parametrize("state", [State.OFFLINE, State.BLOCKED, State.SYNCING])
def test_an_unreachable_lagging_tier_is_no_target(state: State) -> None:
    assert choose_targets([tier(A, state, missing=[1])], {}) == []


def test_a_tier_that_waits_to_be_compared_is_no_target() -> None:
    """Its comparison comes first."""
    assert choose_targets([lagging(A, 1, to_compare=True)], {}) == []
    assert choose_targets([], {}) == []


def test_reaching_and_being_complete() -> None:
    assert [tier(A, state).reachable for state in State] == [True, True, False, False, False]
    assert tier(A).complete
    assert not any(t.complete for t in (lagging(A, 1), tier(A, lacking=[b""]), tier(A, to_compare=True)))


# Numbers


def test_a_number_is_above_the_journal_and_all_that_was_seen() -> None:
    assert next_number(0, []) == 1
    assert next_number(7, [3]) == 8
    assert next_number(7, iter([3, 9])) == 10


# Deduplication

PACK, SEGMENT = name(1), name(50)


def eligible(tiers: list[TierFacts], live: Live) -> bool:
    return usable_packs(live, tiers, {PACK: [SEGMENT]}) == {PACK}


def indexed(pack_added: int = 2, segment_added: int = 2) -> Live:
    live = live_of((1, pack_added))
    live[SEGMENT] = LiveObject(ObjectType.INDEX, SEGMENT, 10, segment_added)
    return live


def test_a_pack_good_on_every_target_with_a_good_index_is_eligible() -> None:
    assert eligible([tier(A), tier(B)], indexed())


@pytest.mark.parametrize(
    "second",
    [
        lagging(B, 2),
        tier(B, lacking=[PACK]),
        tier(B, lacking=[SEGMENT]),
        tier(B, to_compare=True),
    ],
)
def test_not_if_one_target_does_not_hold_it_or_its_index(second: TierFacts) -> None:
    assert not eligible([tier(A), second], indexed())


def test_not_if_added_again_by_a_revision_that_a_target_missed() -> None:
    assert not eligible([lagging(A, 5)], indexed(pack_added=5))
    assert not eligible([lagging(A, 5)], indexed(segment_added=5))
    assert eligible([lagging(A, 5)], indexed())


def test_not_across_a_removal_for_one_tier_be_it_a_target_or_not() -> None:
    """Where it is no target, what refers to the pack would be copied there without it."""
    live = indexed()
    live[PACK] = dataclasses.replace(live[PACK], dead=frozenset([B]))
    assert not eligible([tier(A), tier(B)], live)
    assert not eligible([tier(A)], live)


@pytest.mark.parametrize("gone", [PACK, SEGMENT])
def test_not_if_pack_or_index_is_not_live(gone: bytes) -> None:
    live = indexed()
    del live[gone]
    assert not eligible([tier(A)], live)


def test_one_good_index_of_several_is_enough_and_an_object_of_another_type_is_none() -> None:
    live = indexed()
    assert usable_packs(live, [tier(A)], {PACK: [name(99), SEGMENT]}) == {PACK}
    assert usable_packs(live, [tier(A)], {PACK: []}) == set()
    assert usable_packs(live, [tier(A)], {SEGMENT: [SEGMENT], PACK: [PACK]}) == set()


def test_what_a_files_cache_may_trust() -> None:
    assert trusted_up_to([tier(A), tier(B)], 9) == 9
    assert trusted_up_to([lagging(A, 7, 4), tier(B)], 9) == 3
    assert trusted_up_to([lagging(A, 7), lagging(B, 5)], 9) == 4
    assert trusted_up_to([tier(A), tier(B, lacking=[name(1)])], 9) == 0
    assert trusted_up_to([tier(A, to_compare=True), tier(B)], 9) == 0
    assert trusted_up_to([lagging(A, 1)], 9) == 0


# Bases


@pytest.mark.parametrize(
    ("since", "live_count", "due"),
    [
        (BASE_OFTEN - 1, 0, False),
        (BASE_OFTEN, 0, True),
        (BASE_OFTEN, SMALL_LIST // LIST_ENTRY_SIZE, False),
        (BASE_OFTEN, SMALL_LIST // LIST_ENTRY_SIZE - 1, True),
        (BASE_EVERY - 1, 10**6, False),
        (BASE_EVERY, 10**6, True),
    ],
)
def test_when_a_base_is_due(since: int, live_count: int, due: bool) -> None:
    assert base_is_due(since, live_count) is due


# What a synchronisation may write

WRITER = Writer()


def written(present: dict[bytes, int], live: Live) -> list[int]:
    records = [WRITER.record(3, added=(ref(1), ref(2))), WRITER.record(4), WRITER.record(5, added=(ref(3),))]
    return writable_now(records, present, A, live)


def test_a_revision_is_written_when_all_its_objects_are_there_with_the_right_size() -> None:
    live = live_of((1, 3), (2, 3), (3, 5))
    assert written({name(1): 100, name(2): 100, name(3): 100}, live) == [3, 4, 5]
    assert written({name(1): 100, name(3): 100}, live) == [4, 5]
    assert written({name(1): 100, name(2): 99, name(3): 100}, live) == [4, 5]
    assert written({}, live) == [4]


def test_what_is_dead_by_now_need_not_be_there() -> None:
    """The net effect at the head: removed for this tier, or for all."""
    live = live_of((1, 3), (2, 3))
    live[name(2)] = dataclasses.replace(live[name(2)], dead=frozenset([A]))
    assert written({name(1): 100}, live) == [3, 4, 5]


def test_a_new_tier_is_known_to_hold_only_what_came_after_its_base() -> None:
    live = live_of((1, 1), (2, 5), (3, 7))
    new = dataclasses.replace(lagging(A, 5), floor=5)
    assert {found.added for found in lacks(new, live)} == {1, 5}
    assert trusted_up_to([new], 7) == 0


def test_the_base_that_a_new_tier_starts_from_needs_all_that_is_below_it() -> None:
    live = live_of((1, 1), (2, 5), (3, 7))
    writer = Writer()
    start = writer.record(5, added=(ref(2),))
    sizes = {name(number): 100 for number in (1, 2)}
    assert writable_now([start], sizes, A, live, floor=5) == [5]
    del sizes[name(1)]
    assert writable_now([start], sizes, A, live, floor=5) == []
    assert writable_now([start], sizes, A, live) == [5]


def test_a_tier_with_revisions_that_are_not_imported_is_no_target() -> None:
    late = dataclasses.replace(tier(A), imported=False)
    assert choose_targets([late, lagging(B, 1)], {}) == [B]
    assert choose_targets([late], {}) == []
