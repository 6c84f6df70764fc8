"""Standard streams that are closed, full or read by nobody: the work is done, and the exit code says so."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from tests.support.desk import TANDEM, Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path, {"vault": str(tmp_path / "vault")})
    desk.init()
    desk.must("backup")
    return desk


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def buffering(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some environments have what is printed written at once."""
    monkeypatch.setenv("PYTHONUNBUFFERED", request.param)


def shell(desk: Desk, words: str) -> subprocess.CompletedProcess[str]:
    """A command line of the shell's, with the streams that it says; `tandem` is the real command."""
    line = words.replace("tandem", shlex.quote(str(TANDEM)), 1)
    done = subprocess.run(
        ["bash", "-c", line],
        env=desk.environment(),
        cwd=desk.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr and desk.logs() == ""
    return done


def count(desk: Desk) -> int:
    return len(json.loads(desk.must("backups", "--json")))


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(desk: Desk, closed: str) -> None:
    """As some schedulers start their jobs."""
    assert shell(desk, f"tandem backup {closed}").returncode == 0
    assert shell(desk, f"tandem backup --quiet {closed}").returncode == 0
    assert count(desk) == 3
    assert shell(desk, f"tandem restore latest --to back {closed}").returncode == 0
    assert (desk.folder / "back").is_dir()
    assert shell(desk, f"tandem backup --require 9 {closed}").returncode == 2
    for words in ("ls latest", "ls latest --json", "backups", "tiers", "sync", "--help", "--version"):
        assert shell(desk, f"tandem {words} {closed}").returncode == 0


def test_no_file_of_ours_gets_the_number_of_a_closed_stream(desk: Desk) -> None:
    """Else a message to stderr would be written into a database."""
    shell(desk, "tandem restore nothing --to other 2>&-")
    shell(desk, "tandem backup --require 9 2>&-")
    desk.must("backups")


@pytest.mark.usefixtures("buffering")
@pytest.mark.parametrize(
    "words", ["backup", "backup --json", "restore latest --to back", "ls latest", "--version"]
)
def test_a_full_stdout(desk: Desk, words: str) -> None:
    done = shell(desk, f"tandem {words} >/dev/full")
    assert done.returncode == 1
    assert (
        done.stderr
        == "tandem: what it printed could not be written (No space left on device); the rest is done\n"
    )
    assert count(desk) == (2 if words.startswith("backup") else 1)


@pytest.mark.usefixtures("buffering")
def test_a_full_stdout_and_a_fault(desk: Desk) -> None:
    done = shell(desk, "tandem restore nothing --to other --json >/dev/full")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "no backup nothing" in done.stderr


@pytest.mark.usefixtures("buffering")
@pytest.mark.parametrize("words", ["backup", "ls latest", "--version"])
def test_nobody_reads_it(desk: Desk, words: str) -> None:
    done = shell(desk, f"set -o pipefail; tandem {words} | true")
    assert done.returncode == 0 and done.stderr == ""
    assert count(desk) == (2 if words == "backup" else 1)
