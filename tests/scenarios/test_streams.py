"""Standard streams that are closed, full or read by nobody: the work is done, and the exit code says so."""

from __future__ import annotations

import json
import shlex
import subprocess

import pytest
from tests.support.desk import TANDEM, Desk


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def buffering(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some environments have what is printed written at once."""
    monkeypatch.setenv("PYTHONUNBUFFERED", request.param)


def shell(alone: Desk, words: str) -> subprocess.CompletedProcess[str]:
    """A command line of the shell's, with the streams that it says; `tandem` is the real command."""
    line = words.replace("tandem", shlex.quote(str(TANDEM)), 1)
    done = subprocess.run(
        ["bash", "-c", line],
        env=alone.environment(),
        cwd=alone.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr and alone.logs() == ""
    return done


def count(alone: Desk) -> int:
    return len(json.loads(alone.must("backups", "--json")))


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(alone: Desk, closed: str) -> None:
    """As some schedulers start their jobs."""
    assert shell(alone, f"tandem backup {closed}").returncode == 0
    assert shell(alone, f"tandem backup --quiet {closed}").returncode == 0
    assert count(alone) == 3
    assert shell(alone, f"tandem restore latest --to back {closed}").returncode == 0
    assert (alone.folder / "back").is_dir()
    assert shell(alone, f"tandem backup --require 9 {closed}").returncode == 2
    for words in ("ls latest", "ls latest --json", "backups", "tiers", "sync", "--help", "--version"):
        assert shell(alone, f"tandem {words} {closed}").returncode == 0


def test_no_file_of_ours_gets_the_number_of_a_closed_stream(alone: Desk) -> None:
    """Else a message to stderr would be written into a database."""
    shell(alone, "tandem restore nothing --to other 2>&-")
    shell(alone, "tandem backup --require 9 2>&-")
    alone.must("backups")


@pytest.mark.usefixtures("buffering")
@pytest.mark.parametrize(
    "words", ["backup", "backup --json", "restore latest --to back", "ls latest", "--version"]
)
def test_a_full_stdout(alone: Desk, words: str) -> None:
    done = shell(alone, f"tandem {words} >/dev/full")
    assert done.returncode == 1
    assert (
        done.stderr
        == "tandem: what it printed could not be written (No space left on device); the rest is done\n"
    )
    assert count(alone) == (2 if words.startswith("backup") else 1)


@pytest.mark.usefixtures("buffering")
def test_a_full_stdout_and_a_fault(alone: Desk) -> None:
    done = shell(alone, "tandem restore nothing --to other --json >/dev/full")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "no backup nothing" in done.stderr


@pytest.mark.usefixtures("buffering")
@pytest.mark.parametrize("words", ["backup", "ls latest", "--version"])
def test_nobody_reads_it(alone: Desk, words: str) -> None:
    done = shell(alone, f"set -o pipefail; tandem {words} | true")
    assert done.returncode == 0 and done.stderr == ""
    assert count(alone) == (2 if words == "backup" else 1)
