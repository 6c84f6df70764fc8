"""The local state: each transaction, what survives a kill, and faults of its file and disk (A5, A9; bad input)."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.documents import OTHER_TIER, RING, TIER, Writer, nonce_of, ref

from tandem_agent.state import FILE, SCHEMA, Intent, Setup, State
from tandem_protocol.errors import Corrupt, Full, Refused, TandemError, Unsupported
from tandem_protocol.identity import Identity
from tandem_protocol.names import ObjectType
from tandem_protocol.revision import Kind, Record, Removal

WRITER = Writer()
SETUP = Setup(RING.repository_id, RING.root_public, WRITER.installation, WRITER.certificate)
TIERS = [
    (name, Identity(RING.repository_id, i, RING.root_public)) for name, i in (("a", TIER), ("b", OTHER_TIER))
]
SLOT = b"s" * 32


class Folder:
    """A state folder; `again` is the state as a new process finds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: list[State] = []

    def again(self) -> State:
        state = State.open(str(self.path))
        self._open.append(state)
        return state

    def close(self) -> None:
        for state in self._open:
            state.close()
        self._open.clear()


@pytest.fixture
def folder(memory_path: Path) -> Iterator[Folder]:
    found = Folder(memory_path / "state")
    found.again().found(SETUP, TIERS, {SLOT: b"slot"})
    yield found
    found.close()


def intend(state: State, number: int, **backup: Any) -> Intent:
    intent = Intent(number, nonce_of(number), (b"p" * 32,), False, backup)
    state.set_intent(intent)
    return intent


def decide(state: State, number: int, backup: dict[str, Any] | None = None, **more: Any) -> Record:
    """A whole revision: intent, decision, end."""
    intend(state, number)
    record = WRITER.record(number, **more)
    state.decide(record, backup)
    state.end_intent()
    return record


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
        monkeypatch.setattr("tandem_agent.state.now_text", lambda moment=moment: str(moment))
        state.set_tier_state(TIER, now, reason)
        state.set_tier_state(TIER, now, reason)
    row = folder.again().tier(TIER)
    assert (row.state, row.reason, row.since) == ("lagging", "other", "2")
    state.set_tier_state(TIER, "lagging", "again")
    assert state.tier(TIER).since == "2"


# Kills and power

CHILD = """
import sys
sys.path[:0] = [sys.argv[2]]
from tests.unit.test_state import State, decide, ref, TIER
state = State.open(sys.argv[1])
number = state.head
while True:
    number += 1
    decide(state, number, added=(ref(number),))
    state.confirm([number], [TIER], as_targets=True)
    print(number, flush=True)
"""


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_what_was_told_is_there_and_nothing_is_half(folder: Folder, seed: int) -> None:
    folder.close()
    root = Path(__file__).parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder.path), str(root)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    stop = random.Random(seed).randrange(5, 60)
    told = 0
    for line in child.stdout:
        told = int(line)
        if told == stop:
            child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    state = folder.again()
    assert state.head in (told, told + 1)
    assert state.tier(TIER).last_written in (told, told + 1)
    assert list(state.journal) == list(range(1, state.head + 1))
    assert {int.from_bytes(name, "big") for name in state.live()} == set(state.journal)
    intent = state.intent()
    assert intent is None or intent.number in (told + 1, told + 2)
    assert state.missing(TIER) in ([], [state.head])


# The file and its disk


@pytest.mark.parametrize("junk", [b"not a database at all" * 100, b"SQLite format 3\0" + bytes(4000)])
def test_a_damaged_file_is_told_clearly(folder: Folder, junk: bytes) -> None:
    folder.close()
    for path in folder.path.iterdir():
        path.unlink()
    (folder.path / FILE).write_bytes(junk)
    with pytest.raises(Corrupt, match="damaged") as caught:
        folder.again().setup()
    assert "--from" in str(caught.value)


@pytest.mark.parametrize("seed", range(25))
def test_damage_anywhere_in_the_file_is_one_of_our_errors_or_harmless(folder: Folder, seed: int) -> None:
    """A page overwritten: whatever is read then is told as damage, and never as a bug."""
    state = folder.again()
    for number in range(1, 40):
        decide(state, number, added=tuple(ref(number * 100 + i) for i in range(5)))
    folder.close()
    data = bytearray((folder.path / FILE).read_bytes())
    at = random.Random(seed).randrange(1, len(data) // 512) * 512
    data[at : at + 512] = random.Random(seed).randbytes(512)
    (folder.path / FILE).write_bytes(data)
    try:
        state = folder.again()
        state.setup()
        state.live()
        state.backups()
        for row in state.tiers():
            state.missing(row.id)
            state.highest_held(row.id)
        for number in state.journal:
            state.record(number)
        decide(state, 40)
    except (TandemError, KeyError):
        pass


def test_an_emptied_file_is_no_repository_and_init_will_not_touch_the_tiers(folder: Folder) -> None:
    folder.close()
    for path in folder.path.iterdir():
        path.unlink()
    (folder.path / FILE).write_bytes(b"")
    assert folder.again().setup() is None


def test_a_newer_schema_needs_a_newer_program(folder: Folder) -> None:
    folder.close()
    with sqlite3.connect(folder.path / FILE) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    db.close()
    with pytest.raises(Unsupported, match="upgrade"):
        folder.again()


@contextmanager
def mounted(point: Path, options: str) -> Iterator[None]:
    point.mkdir()
    tried = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", point], capture_output=True)
    if tried.returncode != 0:
        pytest.skip(f"not on this platform: mounting a tmpfs ({tried.stderr.decode().strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", point], check=True)


def test_a_full_disk_is_told_and_nothing_is_half(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=512k"):
        state = State.open(str(tmp_path / "small" / "state"))
        state.found(SETUP, TIERS, {})
        number = 0
        with pytest.raises(Full, match="no space"):
            for number in range(1, 2000):
                decide(state, number, added=tuple(ref(number * 100 + i) for i in range(50)))
        intent = state.intent()
        assert state.head in (number - 1, number)
        assert intent is None or intent.number == number
        assert len(state.live()) == 50 * state.head
        state.close()


def test_a_read_only_disk_is_told(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=4m"):
        folder = tmp_path / "disk" / "state"
        State.open(str(folder)).close()
        subprocess.run(["mount", "-o", "remount,ro", tmp_path / "disk"], check=True)
        with pytest.raises(Refused, match="permissions"):
            State.open(str(folder))
        with pytest.raises(Refused):
            State.open(str(tmp_path / "disk" / "other"))


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(Refused):
        State.open(str(tmp_path / "state"))
