"""The local state: each transaction, and that the next process finds it as it was left (A5, A9)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.documents import OTHER_TIER, TIER, ref
from tests.support.statefolder import SETUP, SLOT, TIERS, WRITER, Folder, decide, intend

from tandem_agent.state import FILE, State
from tandem_protocol.errors import TandemError
from tandem_protocol.names import ObjectType
from tandem_protocol.revision import Kind, Removal


@pytest.fixture
def folder(memory_path: Path) -> Iterator[Folder]:
    found = Folder(memory_path / "state").found()
    yield found
    found.close()


# Who we are


def test_before_init_there_is_nothing(memory_path: Path) -> None:
    state = State.open(str(memory_path / "new" / "folder"))
    assert (state.setup(), state.head, state.intent(), state.tiers()) == (None, 0, None, [])
    assert os.stat(memory_path / "new" / "folder").st_mode & 0o777 == 0o700
    assert os.stat(memory_path / "new" / "folder" / FILE).st_mode & 0o777 == 0o600
    state.close()


def test_what_was_founded_is_there_again(folder: Folder) -> None:
    state = folder.again()
    assert state.setup() == SETUP
    assert [(row.name, row.identity) for row in state.tiers()] == TIERS
    assert state.tier(OTHER_TIER).name == "b"
    assert state.key_slots() == {SLOT: b"slot"}
    assert {(row.start, row.last_written, row.to_compare, row.state) for row in state.tiers()} == {
        (1, 0, False, "offline")
    }


def test_founding_twice_is_refused_and_changes_nothing(folder: Folder) -> None:
    with pytest.raises(TandemError):
        folder.again().found(SETUP, [], {})
    assert len(folder.again().tiers()) == 2


# Intent, decision, confirmation


def test_an_intent_uses_up_its_number_and_only_one_is_open(folder: Folder) -> None:
    intent = intend(folder.again(), 1, id="ab", name="x")
    state = folder.again()
    assert state.intent() == intent
    state.set_answered(TIER)
    state.set_answered(TIER)
    with pytest.raises(TandemError):
        intend(state, 2)
    state = folder.again()
    assert state.intent() == intent
    assert state.answered(TIER)
    assert not state.answered(OTHER_TIER)


def test_an_undecided_intent_cannot_be_forgotten(folder: Folder) -> None:
    state = folder.again()
    intend(state, 1)
    state.end_intent()
    assert state.intent() is not None


def test_a_decision_is_journal_live_and_missing_in_one(folder: Folder) -> None:
    state = folder.again()
    intend(state, 1)
    state.set_answered(TIER)
    record = WRITER.record(1, added=(ref(1), ref(2, ObjectType.KEY)))
    state.decide(record, {"id": "ab" * 16, "name": "25010101", "files": 3})
    state = folder.again()
    intent = state.intent()
    assert intent is not None
    assert intent.decided
    assert (state.head, state.record(1)) == (1, record)
    assert (state.journal[1].nonce, state.journal[1].record_hash) == (record.nonce, record.hash)
    assert state.live().keys() == {ref(1).name, ref(2).name}
    assert state.live_of(ObjectType.KEY).keys() == {ref(2).name}
    assert [state.missing(t) for t in (TIER, OTHER_TIER)] == [[1], [1]]
    assert state.backups() == [(1, {"id": "ab" * 16, "name": "25010101", "files": 3})]
    state.end_intent()
    assert folder.again().intent() is None
    assert not folder.again().answered(TIER)


def test_a_decision_that_fails_leaves_nothing_behind(folder: Folder) -> None:
    state = folder.again()
    decide(state, 1)
    intend(state, 2)
    with pytest.raises(TandemError):
        state.decide(WRITER.record(1, added=(ref(1),)))
    state = folder.again()
    intent = state.intent()
    assert intent is not None
    assert not intent.decided
    assert state.live() == {}


def test_confirming_makes_it_held_and_last_written(folder: Folder) -> None:
    state = folder.again()
    for number in (1, 2, 4):
        decide(state, number)
    assert (state.highest_held(TIER), state.tier_revision(TIER)) == (0, 0)
    state.confirm([4], [TIER], as_targets=True)
    state = folder.again()
    assert (state.highest_held(TIER), state.tier_revision(TIER)) == (4, 0)
    assert (state.tier(TIER).last_written, state.tier(OTHER_TIER).last_written) == (4, 0)
    assert state.is_on(4, TIER)
    state.confirm([1], [TIER])
    assert (state.highest_held(TIER), state.tier_revision(TIER), state.tier(TIER).last_written) == (4, 1, 1)
    assert [state.is_on(n, TIER) for n in (1, 2)] == [True, False]
    state.confirm([2], [TIER])
    assert (state.missing(TIER), state.tier_revision(TIER)) == ([], 4)
    state.confirm([], [TIER])
    assert state.tier(TIER).last_written == 2
    assert not state.is_on(1, OTHER_TIER)


def test_the_journal_as_a_mapping(folder: Folder) -> None:
    state = folder.again()
    for number in (1, 3):
        decide(state, number)
    assert list(state.journal) == [1, 3]
    assert len(state.journal) == 2
    assert 3 in state.journal
    for number in (2, 2**63, 2**64 - 1):
        assert number not in state.journal
    with pytest.raises(KeyError):
        state.record(2)


def test_kinds_counts_and_bases(folder: Folder) -> None:
    state = folder.again()
    assert (state.bases(), state.last_of_kinds([Kind.INIT])) == ([], 0)
    first = decide(state, 1, kind=Kind.INIT, lists=(), tiers=(TIER,))
    decide(state, 2, kind=Kind.BACKUP)
    for number in range(3, 13):
        decide(state, number, lists=(b"l" * 32,))
    decide(state, 13, kind=Kind.PRUNE)
    state = folder.again()
    assert state.has_kind(Kind.INIT)
    assert not state.has_kind(Kind.REPAIR)
    assert state.last_of_kinds([Kind.INIT, Kind.BACKUP]) == 2
    assert state.last_of_kinds([Kind.REPAIR]) == 0
    assert [base.number for base in state.bases()] == list(range(5, 13)), "the newest are enough"
    assert first.is_base
    assert state.count_since(12) == 1


# What is live


def test_live_follows_the_records(folder: Folder) -> None:
    state = folder.again()
    decide(state, 1, added=(ref(1), ref(2), ref(3)))
    state.add_lacking(TIER, [ref(1).name, ref(2).name])
    removed = (
        Removal(ObjectType.PACK, ref(1).name),
        Removal(ObjectType.PACK, ref(2).name, frozenset([TIER])),
    )
    decide(state, 2, removed=removed, added=(ref(3),))
    state = folder.again()
    live = state.live()
    assert {(o.name, o.added, o.dead) for o in live.values()} == {
        (ref(2).name, 1, frozenset([TIER])),
        (ref(3).name, 2, frozenset()),
    }
    assert state.live_object(ref(1).name) is None
    assert state.live_object(ref(2).name) == live[ref(2).name]
    assert state.lacking(TIER) == {ref(2).name}, "what is live nowhere is lacked by nobody"


def test_key_slots_in_use_are_the_live_ones(folder: Folder) -> None:
    state = folder.again()
    state.put_key_slot(ref(2).name, b"later")
    decide(state, 1, added=(ref(2, ObjectType.KEY),))
    assert folder.again().key_slots() == {ref(2).name: b"later"}
    state.drop_key_slot(ref(2).name)
    assert folder.again().key_slots() == {}


# Tiers


def test_lacking_is_kept_and_takes_away_what_was_confirmed(folder: Folder) -> None:
    state = folder.again()
    decide(state, 1)
    decide(state, 2)
    state.confirm([2], [TIER, OTHER_TIER], as_targets=True)
    state.add_lacking(TIER, [])
    assert state.is_on(2, TIER)
    state.add_lacking(TIER, [b"1" * 32])
    state = folder.again()
    assert (state.lacking(TIER), state.lacking(OTHER_TIER)) == ({b"1" * 32}, set())
    assert [state.is_on(2, tier) for tier in (TIER, OTHER_TIER)] == [False, True]
    state.remove_lacking(TIER, [b"1" * 32, b"2" * 32])
    assert folder.again().lacking(TIER) == set()
    state.confirm([1], [TIER])
    assert state.is_on(2, TIER), "all up to it is held again"


def test_a_rolled_back_tier_is_forgotten_in_one(folder: Folder) -> None:
    state = folder.again()
    decide(state, 1)
    decide(state, 2)
    state.confirm([1, 2], [TIER, OTHER_TIER], as_targets=True)
    state.forget_holds(TIER)
    state = folder.again()
    row = state.tier(TIER)
    assert (row.last_written, row.to_compare, state.missing(TIER)) == (0, True, [1, 2])
    assert (state.highest_held(TIER), state.tier_revision(TIER)) == (0, 0)
    assert [state.is_on(2, tier) for tier in (TIER, OTHER_TIER)] == [False, True]
    state.set_compared(TIER)
    assert not folder.again().tier(TIER).to_compare


def test_a_tiers_state_and_since_when(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    state = folder.again()
    for moment, (now, reason) in enumerate([("online", ""), ("online", "other"), ("lagging", "other")]):
        monkeypatch.setattr("tandem_agent.tierbook.now_text", lambda moment=moment: str(moment))
        state.set_tier_state(TIER, now, reason)
        state.set_tier_state(TIER, now, reason)
    row = folder.again().tier(TIER)
    assert (row.state, row.reason, row.since) == ("lagging", "other", "2")
    state.set_tier_state(TIER, "lagging", "again")
    assert state.tier(TIER).since == "2"


def test_what_blocked_a_tier_is_kept_until_it_is_online(folder: Folder) -> None:
    for now, reason, trouble in [
        ("blocked", "no space left", "no space left"),
        ("offline", "no answer", "no space left"),
        ("lagging", "lacks revisions", "no space left"),
        ("blocked", "another host key", "another host key"),
        ("lagging", "lacks revisions", "another host key"),
        ("online", "", ""),
        ("lagging", "lacks revisions", ""),
    ]:
        folder.again().set_tier_state(TIER, now, reason)
        assert folder.again().tier(TIER).trouble == trouble
