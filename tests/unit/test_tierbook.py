"""Tiers in the local state that start at a base (rows A6, F6), a takeover's decision (A10), and a state folder
written before there were takeovers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.documents import OTHER_TIER, RING, TIER, ref
from tests.support.statefolder import SETUP, WRITER, Folder, decide

from tandem_agent.backups import came_to
from tandem_agent.schema import SCHEMA, TABLES
from tandem_agent.state import State, Takeover, TierStart
from tandem_protocol.history import LiveObject
from tandem_protocol.identity import Identity
from tandem_protocol.names import ObjectType
from tandem_protocol.revision import Kind

THIRD = b"3" * 16
NEW = TierStart(Identity(RING.repository_id, THIRD, RING.root_public), "third", True)

BEFORE_TROUBLES = TABLES.replace(",\n                    trouble TEXT NOT NULL DEFAULT ''", "")
BEFORE_TAKEOVERS = (
    BEFORE_TROUBLES[: BEFORE_TROUBLES.index("CREATE TABLE backups")].replace(
        ",\n                    floor INTEGER NOT NULL DEFAULT 0, imported INTEGER NOT NULL DEFAULT 1", ""
    )
    + "CREATE TABLE backups (n INTEGER PRIMARY KEY, id BLOB NOT NULL, name TEXT NOT NULL, info TEXT NOT NULL);"
)


@pytest.fixture
def folder(memory_path: Path) -> Iterator[Folder]:
    found = Folder(memory_path / "state").found()
    yield found
    found.close()


def test_a_new_tier_counts_nothing_below_its_base_as_held_until_that_is_confirmed(folder: Folder) -> None:
    state = folder.again()
    for number in (1, 2, 3):
        decide(state, number, added=(ref(number),))
    with state.together():
        state.start_empty(NEW, 3)
    decide(state, 4)
    row = state.tier(THIRD)
    assert (row.name, row.start, row.floor, row.imported) == ("third", 3, 3, True)
    assert state.missing(THIRD) == [3, 4]
    assert state.tier_revision(THIRD) == 0
    assert not state.is_on(2, THIRD)
    state.confirm([4], [THIRD])
    assert state.tier(THIRD).floor == 3
    state.confirm([3], [THIRD])
    assert state.tier(THIRD).floor == 0
    assert state.tier_revision(THIRD) == 4
    assert state.is_on(2, THIRD)
    assert folder.again().tier(THIRD).floor == 0


def test_a_tier_that_starts_anew_keeps_its_place_and_lacks_what_its_listing_lacked(folder: Folder) -> None:
    state = folder.again()
    decide(state, 1, added=(ref(1), ref(2)))
    state.confirm([1], [TIER], as_targets=True)
    state.forget_holds(TIER)
    decide(state, 2)
    identity = state.tier(TIER).identity
    state.start_tier(TierStart(identity, "a", True, frozenset({ref(2).name})), 2)
    row = state.tier(TIER)
    assert (row.start, row.to_compare, row.last_written, row.floor) == (2, False, 0, 0)
    assert state.missing(TIER) == [2]
    assert state.lacking(TIER) == {ref(2).name}
    assert [found.name for found in state.tiers()] == ["a", "b"]


def backed_up(number: int, **more: object) -> dict[str, object]:
    """What is told of backup ``number``, whose snapshot is the object of the same number."""
    return {"id": f"{number:032x}", "name": f"2501010{number}", "snapshot": ref(number).name.hex(), **more}


def came(state: State, tier: bytes) -> list[int]:
    return sorted(int.from_bytes(found, "big") for found in came_to(state, state.tier(tier)))


def test_a_backup_came_to_a_tier_whatever_is_lacking_there_now(folder: Folder) -> None:
    state = folder.again()
    for number in (1, 2, 3):
        decide(state, number, backed_up(number), added=(ref(number),))
    state.list_backup(4, {"id": f"{4:032x}", "name": "250101**", "status": "failed"})
    state.confirm([1, 3], [TIER], as_targets=True)
    state.add_lacking(TIER, [ref(1).name, ref(3).name])
    assert not any(state.is_on(number, TIER) for number in (1, 2, 3))
    assert (came(state, TIER), came(state, OTHER_TIER)) == ([1, 3], [])


def test_what_a_base_brought_came_to_a_tier_only_if_its_snapshot_is_there(folder: Folder) -> None:
    """A tier that was listed at a takeover, or that others brought something to, holds the base and may never have had
    a backup of before."""
    state = folder.again()
    decide(state, 1, backed_up(1), added=(ref(1),))
    for number in (5, 6):
        state.list_backup(number, backed_up(number, united=2))
    decide(state, 2, added=(ref(5), ref(6)))
    state.start_tier(TierStart(state.tier(TIER).identity, "a", True, frozenset({ref(6).name})), 2)
    assert came(state, TIER) == []
    state.confirm([2], [TIER])
    assert came(state, TIER) == [1, 5]


def test_a_retired_tier_is_forgotten(folder: Folder) -> None:
    state = folder.again()
    decide(state, 1, added=(ref(1),))
    state.add_lacking(TIER, [ref(1).name])
    state.drop_tier(TIER)
    assert [row.name for row in folder.again().tiers()] == ["b"]
    assert state.missing(TIER) == []
    assert state.lacking(TIER) == set()


def test_a_rolled_back_tier_has_to_be_imported_again_only_after_a_takeover(folder: Folder) -> None:
    state = folder.again()
    decide(state, 1)
    state.forget_holds(TIER)
    assert state.tier(TIER).imported
    decide(state, 2, kind=Kind.TAKEOVER, lists=(), tiers=(TIER,))
    state.forget_holds(OTHER_TIER)
    assert not state.tier(OTHER_TIER).imported


def test_a_takeover_puts_its_history_in_place_of_what_was_known(folder: Folder) -> None:
    state = folder.again()
    for number in (1, 2):
        decide(state, number, {"id": f"{number:032x}", "name": f"2501010{number}"}, added=(ref(number),))
    state.set_takeover(Takeover(SETUP, 9, b"n" * 24))
    assert folder.again().takeover() == Takeover(SETUP, 9, b"n" * 24)
    record = WRITER.record(9, kind=Kind.TAKEOVER, added=(ref(5, ObjectType.LIST),), lists=(ref(5).name,))
    live = [LiveObject(ObjectType.PACK, ref(1).name, 100, 9)]
    starts = [
        TierStart(state.tier(OTHER_TIER).identity, "b", True, frozenset({ref(1).name})),
        TierStart(state.tier(TIER).identity, "a", False),
    ]
    state.take_over(
        record, live, starts, {b"k" * 32: b"slot"}, [(2, {"id": "ab" * 16, "name": "25010102"})], []
    )
    again = folder.again()
    assert again.takeover() is None
    assert list(again.journal) == [9]
    assert set(again.live()) == {ref(1).name, ref(5).name}
    assert again.bases() == [record]
    assert [(row.name, row.start, row.imported) for row in again.tiers()] == [("b", 9, True), ("a", 9, False)]
    assert [again.missing(tier) for tier in (TIER, OTHER_TIER)] == [[9], [9]]
    assert again.lacking(OTHER_TIER) == {ref(1).name}
    assert [(number, info["name"]) for number, info in again.backups()] == [(2, "25010102")]


def test_a_state_folder_of_before_is_carried_over(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    with sqlite3.connect(path) as db:
        db.executescript(BEFORE_TAKEOVERS)
        db.execute("PRAGMA user_version = 1")
        db.execute("INSERT INTO backups VALUES (7, ?, '25010101', '{\"id\": \"aa\"}')", (b"i" * 16,))
        identity = Identity(RING.repository_id, TIER, RING.root_public).encode()
        db.execute(
            "INSERT INTO tiers VALUES (?, 'vault', 0, ?, 1, 3, 0, 'online', '', 'then')", (TIER, identity)
        )
    db.close()
    folder = Folder(tmp_path)
    state = folder.again()
    assert state.backups() == [(7, {"id": "aa"})]
    row = state.tier(TIER)
    assert (row.name, row.last_written, row.floor, row.imported) == ("vault", 3, 0, True)
    assert state.takeover() is None
    folder.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
    db.close()


def test_a_tier_that_was_blocked_before_is_remembered_as_such(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state.sqlite") as db:
        db.executescript(BEFORE_TROUBLES)
        db.execute("PRAGMA user_version = 2")
        identity = Identity(RING.repository_id, TIER, RING.root_public).encode()
        db.execute(
            "INSERT INTO tiers VALUES (?, 'vault', 0, ?, 1, 0, 0, 'blocked', 'no space left', 'then', 0, 1)",
            (TIER, identity),
        )
    db.close()
    folder = Folder(tmp_path)
    folder.again().set_tier_state(TIER, "blocked", "no space left")
    folder.again().set_tier_state(TIER, "lagging", "lacks revisions")
    assert folder.again().tier(TIER).trouble == "no space left"
    folder.close()


def structure(path: Path) -> dict[str, object]:
    """Tables with their columns, and indexes, of a state file."""
    with sqlite3.connect(path / "state.sqlite") as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {name: [row[1:] for row in db.execute(f"PRAGMA table_info({name})")] for name in names}
        indexes = db.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql NOT NULL"
        ).fetchall()
    db.close()
    return {"tables": columns, "indexes": sorted(indexes)}


def test_a_carried_over_state_has_what_a_new_one_has(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    with sqlite3.connect(old / "state.sqlite") as db:
        db.executescript(BEFORE_TAKEOVERS)
        db.execute("PRAGMA user_version = 1")
    db.close()
    for folder in (Folder(old), Folder(new)):
        folder.again()
        folder.close()
    assert structure(old) == structure(new)
