"""Exclude patterns mean what gitignore(5) says; compared with git itself where it is installed (issue 3)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.support.enginerun import EngineRepo

from tandem_agent.engine.excludes import Excluder
from tandem_agent.engine.options import ScanOptions
from tandem_protocol.errors import Usage


@pytest.mark.parametrize(
    ("patterns", "path", "excluded"),
    [
        (["*.tmp"], "a/b.tmp", True),
        (["*.tmp"], "a/b.tmpx", False),
        (["node_modules/"], "x/node_modules/", True),
        (["node_modules/"], "x/node_modules", False),
        (["/build"], "build", True),
        (["/build"], "x/build", False),
        (["a/**/z"], "a/b/c/z", True),
        (["*", "!/keep/", "!/keep/*.txt"], "keep/", False),
        (["*", "!/keep/", "!/keep/*.txt"], "keep/a.txt", False),
        (["*", "!/keep/", "!/keep/*.txt"], "keep/a.bin", True),
        (["*", "!/keep/"], "other/", True),
        (["*.log", "!important.log"], "x/important.log", False),
        (["!important.log", "*.log"], "x/important.log", True),
        (["# a comment", "", "  "], "# a comment", False),
        ([r"\#name"], "#name", True),
        (["foo/*"], "foo/a", True),
        (["foo/*"], "x/foo/a", False),
        (["caf*"], "café", True),
        (["*.tmp", "!a.tmp"], "x/y/a.tmp", False),
        (["*.tmp", "!a.tmp"], "x/y/b.tmp", True),
        (["build/", "x"], "a/build/", True),
        (["build/", "x"], "a/x", True),
    ],
)
def test_patterns(patterns: list[str], path: str, excluded: bool) -> None:
    folder = path.endswith("/")
    assert Excluder(patterns).excluded(os.fsencode(path.rstrip("/")), folder) is excluded


def test_names_of_any_bytes_can_be_matched() -> None:
    rules = Excluder(["*.tmp"])
    assert rules.excluded(b"\xff\n\xfe.tmp", False)
    assert not rules.excluded(b"\xff.tmp\xff", False)


def test_no_pattern_costs_nothing() -> None:
    assert not Excluder([]).active and not Excluder(["# only a comment"]).active


def test_a_bad_pattern_is_named() -> None:
    with pytest.raises(Usage, match=r"'a///!/\.\.' is not|'!' is not|is not an exclude pattern"):
        Excluder(["!"])


TREE = [
    "a.tmp", "keep.tmp", "build/x", "src/build/y", "src/a.tmp", "src/main.c", "node_modules/m/index.js",
    "deep/er/node_modules/k", "logs/one.log", "logs/important.log", "docs/api/index.html", "docs/readme",
]  # fmt: skip
PATTERNS = [
    "*.tmp",
    "!keep.tmp",
    "/build/",
    "node_modules/",
    "logs/*",
    "!logs/important.log",
    "docs/**/index.*",
]


@pytest.fixture
def src(tmp_path: Path) -> Path:
    for name in TREE:
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "src"


async def test_a_scan_leaves_out_what_git_ignores(tmp_path: Path, src: Path) -> None:
    (tmp_path / "own").mkdir()
    repo = EngineRepo(tmp_path / "own")
    result = await repo.run(src, options=ScanOptions(excludes=tuple(PATTERNS)))
    files = {path.decode() for path, seen in repo.tree(result, src).items() if seen.kind == 0}
    expected = {"keep.tmp", "src/build/y", "src/main.c", "logs/important.log", "docs/readme"}
    assert files == expected
    if shutil.which("git"):
        (src / ".gitignore").write_text("\n".join(PATTERNS))
        subprocess.run(["git", "init", "-q"], cwd=src, check=True)  # noqa: ASYNC221 - a test may wait
        listed = subprocess.run(  # noqa: ASYNC221 - a test may wait
            ["git", "ls-files", "-o", "--exclude-standard"],
            cwd=src,
            check=True,
            capture_output=True,
            text=True,
        )
        assert set(listed.stdout.split()) - {".gitignore"} == expected


async def test_changed_patterns_apply_to_what_is_cached(tmp_path: Path, src: Path) -> None:
    (tmp_path / "own").mkdir()
    repo = EngineRepo(tmp_path / "own")
    await repo.run(src)
    result = await repo.run(src, options=ScanOptions(excludes=("src/",)))
    assert not any(path.startswith(b"src") for path in repo.tree(result, src))
    result = await repo.run(src)
    assert b"src/main.c" in repo.tree(result, src)
