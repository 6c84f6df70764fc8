"""The local state under faults: kills at any moment, a damaged file, a full or read-only disk (A5; bad input)."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.documents import TIER, ref
from tests.support.statefolder import SETUP, TIERS, Folder, decide

from tandem_agent.state import FILE, SCHEMA, State
from tandem_protocol.errors import Corrupt, Full, Refused, TandemError, Unsupported


@pytest.fixture
def folder(memory_path: Path) -> Iterator[Folder]:
    found = Folder(memory_path / "state").found()
    yield found
    found.close()


# Kills and power

CHILD = """
import sys
sys.path[:0] = [sys.argv[2]]
from tandem_agent.state import State
from tests.support.documents import TIER, ref
from tests.support.statefolder import decide
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
        with pytest.raises(Full, match="no space") as caught:
            for number in range(1, 2000):
                decide(state, number, added=tuple(ref(number * 100 + i) for i in range(50)))
        # In the middle of a revision the tiers may have much of it already.
        assert "run it again" in caught.value.remedy and "tier" not in caught.value.remedy
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
