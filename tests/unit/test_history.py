"""What is live after a row of revisions: removals for one tier or all, adding again, bases and their lists (A4, A8)."""

from __future__ import annotations

import random

from tests.support.documents import OTHER_TIER, TIER, Writer, ref

from tandem_protocol.history import (
    Live,
    LiveObject,
    apply,
    list_entries,
    live_from_lists,
    newest_base,
    replay,
)
from tandem_protocol.lists import decode_list, encode_list
from tandem_protocol.names import ObjectType
from tandem_protocol.revision import Kind, Removal

WRITER = Writer()
ONE, TWO = ref(1), ref(2, ObjectType.INDEX)
FOR_ALL = Removal(ONE.type, ONE.name)


def for_tier(*tiers: bytes) -> Removal:
    return Removal(ONE.type, ONE.name, frozenset(tiers))


def test_added_is_live_everywhere_with_the_revision_that_added_it() -> None:
    live = replay([WRITER.record(3, added=(ONE, TWO))])
    assert live == {
        ONE.name: LiveObject(ObjectType.PACK, ONE.name, 100, 3),
        TWO.name: LiveObject(ObjectType.INDEX, TWO.name, 100, 3),
    }
    assert live[ONE.name].live_on(TIER)


def test_removed_for_all_is_gone_and_for_one_tier_is_dead_there() -> None:
    first = WRITER.record(1, added=(ONE, TWO))
    assert replay([first, WRITER.record(2, removed=(FOR_ALL,))]).keys() == {TWO.name}
    live = replay([first, WRITER.record(2, removed=(for_tier(TIER),))])
    assert not live[ONE.name].live_on(TIER)
    assert live[ONE.name].live_on(OTHER_TIER)
    assert live[ONE.name].added == 1


def test_removals_for_one_tier_after_another_add_up() -> None:
    rows = [WRITER.record(1, added=(ONE,))]
    rows += [WRITER.record(2 + i, removed=(for_tier(tier),)) for i, tier in enumerate((TIER, OTHER_TIER))]
    assert replay(rows)[ONE.name].dead == {TIER, OTHER_TIER}


def test_adding_again_makes_it_live_on_all() -> None:
    rows = [
        WRITER.record(1, added=(ONE,)),
        WRITER.record(2, removed=(for_tier(TIER),)),
        WRITER.record(3, added=(ONE,)),
    ]
    assert replay(rows)[ONE.name] == LiveObject(ObjectType.PACK, ONE.name, 100, 3)
    rows[1] = WRITER.record(2, removed=(FOR_ALL,))
    assert replay(rows)[ONE.name].added == 3


def test_removed_and_added_by_one_record_is_added() -> None:
    live = replay([WRITER.record(1, added=(ONE,)), WRITER.record(2, removed=(FOR_ALL,), added=(ONE,))])
    assert live[ONE.name].added == 2


def test_removing_what_is_not_live_is_nothing() -> None:
    assert replay([WRITER.record(1, removed=(FOR_ALL, for_tier(TIER)))]) == {}


def test_replay_leaves_what_it_was_given_alone_and_apply_does_not() -> None:
    live: Live = {}
    record = WRITER.record(1, added=(ONE,))
    assert replay([record], live)
    assert live == {}
    apply(live, record)
    assert live.keys() == {ONE.name}


def test_replay_in_two_parts_is_replay_in_one() -> None:
    make = random.Random(5)
    rows = []
    for number in range(1, 200):
        refs = [ref(make.randrange(20)) for _ in range(3)]
        tiers = make.choice([None, frozenset([TIER]), frozenset([TIER, OTHER_TIER])])
        rows.append(
            WRITER.record(number, added=refs[:1], removed=[Removal(r.type, r.name, tiers) for r in refs[1:]])
        )
    for cut in (0, 1, 50, 198):
        assert replay(rows[cut:], replay(rows[:cut])) == replay(rows)


# Bases


def test_the_newest_base_has_the_highest_epoch_then_the_highest_number() -> None:
    old, new = Writer(epoch=1), Writer(epoch=2)
    init = old.record(1, kind=Kind.INIT, lists=())
    late, takeover = old.record(9, lists=()), new.record(5, kind=Kind.TAKEOVER, lists=())
    assert newest_base([]) is None
    assert newest_base([old.record(2)]) is None
    assert newest_base([old.record(3), init]) is init
    assert newest_base([init, late]) is late
    assert newest_base([init, takeover, late]) is takeover


def test_a_base_says_the_same_as_the_row_before_it() -> None:
    rows = [
        WRITER.record(1, added=(ONE, TWO)),
        WRITER.record(2, added=(ref(3), ref(4, ObjectType.LIST)), removed=(for_tier(TIER),)),
    ]
    live = replay(rows)
    entries = list_entries(live, [TIER, OTHER_TIER])
    read = live_from_lists(decode_list(encode_list(entries)), 7)
    assert read.keys() == {ONE.name, TWO.name, ref(3).name}
    assert {o.added for o in read.values()} == {7}
    assert all(read[name].dead == live[name].dead for name in read)


def test_what_is_dead_on_every_tier_is_in_no_list_and_tiers_retired_are_not_named() -> None:
    retired = b"x" * 16
    live = {
        ONE.name: LiveObject(ONE.type, ONE.name, 1, 1, frozenset([TIER, OTHER_TIER, retired])),
        TWO.name: LiveObject(TWO.type, TWO.name, 1, 1, frozenset([retired, TIER])),
    }
    (entry,) = list_entries(live, [TIER, OTHER_TIER])
    assert (entry.name, entry.dead) == (TWO.name, [TIER])
