"""`make demo` as it is (issue 3, Must show 1): ends with 0, twice, and leaves what it was given alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support import manifest
from tests.support.desk import Desk

PROJECT = Path(__file__).resolve().parents[2]


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT / "scripts" / "demo.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_twice(tmp_path: Path) -> None:
    Desk.fill(tmp_path / "source")
    before = manifest.take(str(tmp_path / "source"))
    for _ in range(2):
        done = demo(str(tmp_path / "source"), "--below", str(tmp_path / "demo"))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Every comparison held" in done.stdout
        assert done.stdout.count("same content and metadata") == 4  # two steps, in the log and in the table
    assert manifest.take(str(tmp_path / "source")) == before


def test_a_folder_of_somebody_else_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("")
    done = demo(str(PROJECT / "docs"), "--below", str(tmp_path))
    assert done.returncode == 2
    assert "would be emptied" in done.stderr
    assert (tmp_path / "precious").exists()
