"""Exceptions to exit codes and one line (cli.md; C12: what failed, where, what to do)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tandem_agent.cli import errors
from tandem_agent.cli.common import Settings, StopRequestedError, run_async
from tandem_protocol.errors import (
    Busy,
    Corrupt,
    Exists,
    Full,
    Missing,
    NoTierReachable,
    Refused,
    SecondInstallation,
    TandemError,
    Unavailable,
    Unsupported,
    Usage,
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=str(tmp_path / "state"))


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (Unavailable, 1),
        (Missing, 1),
        (Exists, 1),
        (Refused, 1),
        (Full, 1),
        (Unsupported, 1),
        (Usage, 2),
        (SecondInstallation, 4),
        (NoTierReachable, 5),
        (Corrupt, 6),
        (Busy, 7),
    ],
)
def test_each_kind_has_its_code_and_one_line(
    kind: type[TandemError], code: int, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert errors.report(kind("what\nwas", "do this"), settings) == code
    out, err = capsys.readouterr()
    assert err == "tandem: what\\nwas: do this\n"
    assert out == ""


def test_with_json_the_error_is_the_document(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    settings.json = True
    assert errors.report(Busy("it is busy", "wait"), settings) == 7
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": "it is busy", "remedy": "wait", "exit_code": 7}
    assert err == "tandem: it is busy: wait\n"


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), click.Abort(), StopRequestedError(), asyncio.CancelledError()]
)
def test_interrupted(error: BaseException, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert errors.report(error, settings) == 130
    assert capsys.readouterr().err.startswith("tandem: interrupted: ")


def test_of_several_errors_the_gravest_is_told(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    group = ExceptionGroup(
        "tiers", [Unavailable("a"), ExceptionGroup("x", [SecondInstallation("b", "c")]), Usage("d")]
    )
    assert errors.report(group, settings) == 4
    assert capsys.readouterr().err == "tandem: b: c\n"


def test_a_local_disk_error_is_one_line_without_a_log(
    settings: Settings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert errors.report(OSError(28, "No space left on device", "/var/x"), settings) == 1
    assert capsys.readouterr().err.startswith("tandem: /var/x: No space left on device: ")
    assert errors.report(sqlite3.OperationalError("database or disk is full"), settings) == 1
    assert "local state" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_a_bug_goes_to_a_private_log(
    settings: Settings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    try:
        raise KeyError("the value")
    except KeyError as error:
        assert errors.report(error, settings) == 1
    (log,) = (tmp_path / "state").iterdir()
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "KeyError" in err and str(log) in err and "Traceback" not in err
    assert "Traceback" in log.read_text() and "test_cli_errors" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_bug_without_a_state_folder_still_has_a_log(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert errors.report(KeyError(), Settings(state_dir=str(tmp_path / "file" / "x"))) == 1
    assert str(tmp_path / "error-") in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_and_waits_for_the_clean_up(number: signal.Signals) -> None:
    cleaned = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    with pytest.raises(StopRequestedError):
        run_async(work())
    assert cleaned == [True]


def test_a_second_signal_ends_at_once() -> None:
    program = """
import asyncio, os, signal
from tandem_agent.cli.common import run_async
async def work():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()
run_async(work())
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert done.returncode == 130


def test_ignored_signals_stay_ignored() -> None:
    """nohup: SIGHUP is ignored from the start, and the end of the terminal does not end the backup."""
    program = """
import asyncio, os, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from tandem_agent.cli.common import run_async
async def work():
    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.sleep(0.01)
    return 5
raise SystemExit(run_async(work()))
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert done.returncode == 5
