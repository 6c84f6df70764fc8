"""Under CI=true a skip is a failure (issue: such a skip is a failure), but for what no machine of that kind can."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).parents[2]
SKIPS = """
import pytest

@pytest.mark.skipif(True, reason="a program is not installed")
def test_marked(): pass

def test_called():
    pytest.skip("a program is not installed")

@pytest.fixture
def thing():
    pytest.skip("a program is not installed")

def test_fixture(thing): pass

@pytest.mark.xfail(strict=True, reason="known")
def test_expected_failure():
    assert False

def test_platform():
    pytest.skip("not on this platform: power cuts need ext4")
"""
WHOLE_FILE = "import pytest\npytest.skip('a program is not installed', allow_module_level=True)\n"


@pytest.mark.parametrize(
    ("ci", "text", "code", "closing"),
    [
        ("true", SKIPS, 1, "1 skipped, 1 xfailed"),
        ("", SKIPS, 0, "4 skipped, 1 xfailed"),
        ("true", WHOLE_FILE, 2, "1 error"),
        ("", WHOLE_FILE, 5, "1 skipped"),
    ],
)
def test_skips(tmp_path: Path, ci: str, text: str, code: int, closing: str) -> None:
    (tmp_path / "test_them.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", os.devnull, "--rootdir", "."]
    environment = {**os.environ, "CI": ci, "PYTEST_ADDOPTS": "-p no:cacheprovider"}
    done = subprocess.run(
        [*command, str(tmp_path)], cwd=HOME, env=environment, capture_output=True, text=True, timeout=100
    )
    assert closing in done.stdout.splitlines()[-1], done.stdout
    assert done.returncode == code
    if ci:
        assert "skipped, which CI does not allow: a program is not installed" in done.stdout
