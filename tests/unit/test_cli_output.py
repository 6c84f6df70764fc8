"""Text and JSON of the commands, and the live progress (issue 3: files, bytes, rate, ETA, tiers)."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from dataclasses import dataclass

import pytest

from tandem_agent.cli import output
from tandem_agent.cli import progress as progress_module
from tandem_agent.cli.progress import View, followed
from tandem_agent.progress import Progress


def test_things_are_counted_in_words() -> None:
    assert [output.counted(n, "file") for n in (0, 1, 2000)] == ["0 files", "1 file", "2,000 files"]
    assert [output.counted(n, "entry", "entries") for n in (1, 2)] == ["1 entry", "2 entries"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1234, "1.2 kB"),
        (9_949, "9.9 kB"),
        (9_960, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (34_000_000, "34 MB"),
        (2**40, "1.1 TB"),
        (10**21, "1000 EB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert output.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"),
        (0.42, "0.42 s"),
        (1.04, "1.0 s"),
        (12.4, "12 s"),
        (59.6, "1:00"),
        (187, "3:07"),
        (3723, "1:02:03"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text


@dataclass
class Thing:
    id: bytes
    names: tuple[str, ...]
    by_tier: dict[bytes, int]
    seen: set[str]


def test_json_of_dataclasses(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit_json([Thing(b"\x01\xff", ("a", "b\udcff"), {b"\x02": 3}, {"y", "x"})])
    assert json.loads(capsys.readouterr().out) == [
        {"id": "01ff", "names": ["a", "b\udcff"], "by_tier": {"02": 3}, "seen": ["x", "y"]}
    ]


def test_a_table_has_straight_columns(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit_table(["NAME", "SIZE", "WHY"], [["vault", "12", ""], ["r", "1,234", "gone"]], right=[1])
    assert capsys.readouterr().out == "NAME    SIZE  WHY\nvault     12\nr      1,234  gone\n"


def test_nothing_that_moves_a_cursor_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert output.shown(b"a\x1b[2Jb\nc\xff") == "a\\x1b[2Jb\\nc\\udcff"
    output.warn_all(["bad \x1b[31m"] * 30)
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert err.count("\n") == 21 and "and 10 more" in err


def test_progress_lines() -> None:
    now = 0.0
    progress = Progress(phase="backing up", bytes_total_estimate=4_000_000)
    view = View(progress, lambda: now)
    view.rate()
    now = 2.0
    progress.files, progress.bytes_read, progress.current_path = 1234, 1_000_000, b"/srv/a\x1bb"
    progress.tier("vault").queued_bytes = progress.tier("vault").sent_bytes = 500_000
    progress.tier("vault").state = "online"
    progress.tier("remote").queued_bytes = 2_000
    assert view.lines() == [
        "backing up · 1,234 files · 1.0 MB of 4.0 MB · 500 kB/s · 2.0 s · ETA 6.0 s",
        "  ██████░░░░░░░░░░░░░░░░░░  25%",
        "  vault   online, 500 kB sent",
        "  remote  0 B sent, 2.0 kB waiting",
        "  /srv/a\\x1bb",
    ]


def test_the_rate_is_of_the_last_seconds() -> None:
    now = 0.0
    progress = Progress()
    view = View(progress, lambda: now)
    for step in range(200):
        now = step / 5
        progress.bytes_read += 1_000 if step < 100 else 5_000
        rate = view.rate()
    assert rate == pytest.approx(25_000)


def test_an_estimate_that_was_too_low_is_no_negative_time() -> None:
    progress = Progress(bytes_total_estimate=100)
    now = 0.0
    view = View(progress, lambda: now)
    view.lines()
    now, progress.bytes_read = 1.0, 500
    first, bar = view.lines()
    assert "ETA" not in first and "500 B of 500 B" in first
    assert bar.endswith("100%")


@dataclass
class Seen:
    """A tier as the view looks at it."""

    name: str
    state: str
    reason: str = ""
    last_fault: str = ""


def test_the_states_of_the_tiers_are_shown() -> None:
    progress = Progress()
    progress.tier("vault").sent_bytes = 1000
    tiers = [
        Seen("vault", "online", last_fault="an old one"),
        Seen("remote", "offline", "not contacted yet", "connection refused"),
        Seen("disk", "blocked", "holds another repository"),
    ]
    assert View(progress, lambda: 0.0, tiers).lines()[1:] == [
        "  vault   online, 1.0 kB sent",
        "  remote  offline, connection refused",
        "  disk    blocked, holds another repository",
    ]


def test_what_a_restore_reads_from_each_tier_is_shown() -> None:
    progress = Progress(read_from=lambda: {"vault": 2_000_000, "remote": 0})
    assert View(progress, lambda: 0.0).lines()[1:] == ["  vault   2.0 MB read", "  remote  0 B read"]


async def test_without_a_terminal_waiting_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    told = asyncio.Event()
    monkeypatch.setattr(output, "notice", lambda text: (said.append(text), told.set()))
    monkeypatch.setattr(progress_module, "SILENT_SECONDS", 0.001)
    progress = Progress(phase="contacting tiers")
    tiers = [Seen("vault", "online"), Seen("remote", "offline", "not contacted yet", "connection refused")]
    async with followed(progress, tiers, quiet=True):
        await told.wait()
        await asyncio.sleep(0.01)
    assert said == ["waiting for a tier (remote: connection refused)"]
    async with followed(Progress(phase="backing up"), tiers, quiet=True):
        await asyncio.sleep(0.01)
    assert len(said) == 1


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_no_terminal_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = io.StringIO()
    monkeypatch.setattr(sys, "stderr", plain)
    async with followed(Progress(phase="working"), quiet=False):
        pass
    assert plain.getvalue() == ""


async def test_on_a_terminal_it_is_drawn_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    async with followed(Progress(phase="working"), quiet=True):
        pass
    assert screen.getvalue() == ""
    async with followed(Progress(phase="working"), quiet=False):
        pass
    assert "working" in screen.getvalue()
