"""The comparison of trees finds each kind of difference (issue 3, Must show 6): else an empty list proves little."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.comparetree import compare
from tests.support.requirements import require_root
from tests.support.uglytree import ACCESS, make

NS = 1_600_000_000 * 10**9


def plant(root: Path) -> None:
    """A small tree with one of everything; the same each time."""
    (root / "d/empty").mkdir(parents=True)
    (root / "f").write_bytes(b"content")
    (root / "a").write_bytes(b"linked")
    os.link(root / "a", root / "b")
    (root / "c").write_bytes(b"linked")
    os.symlink("f", root / "s")
    os.mkfifo(root / "p")
    with open(root / "sparse", "xb") as file:
        file.truncate(4 << 20)
    os.setxattr(root / "f", "user.x", b"1")
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, ns=(NS, NS), follow_symlinks=False)
    os.utime(root, ns=(NS, NS))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    one, two = tmp_path / "one", tmp_path / "two"
    for root in (one, two):
        root.mkdir()
        plant(root)
    return one, two


def test_equal_trees(pair: tuple[Path, Path]) -> None:
    assert compare(str(pair[0]), str(pair[1])) == []


def relink(root: Path) -> None:
    os.unlink(root / "b")
    os.link(root / "c", root / "b")


def retarget(root: Path) -> None:
    os.unlink(root / "s")
    os.symlink("g", root / "s")
    os.utime(root / "s", ns=(NS, NS), follow_symlinks=False)


def make_file_of_fifo(root: Path) -> None:
    os.unlink(root / "p")
    (root / "p").touch()


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "content": (lambda r: (r / "f").write_bytes(b"CONTENT"), "'f': content differs"),
    "size": (lambda r: (r / "f").write_bytes(b"contents"), "'f': size 7 became 8"),
    "mode": (lambda r: os.chmod(r / "f", 0o640), "'f': mode 0644 became 0640"),
    "setuid": (lambda r: os.chmod(r / "f", 0o4644), "'f': mode 0644 became 4644"),
    "mtime by a nanosecond": (lambda r: os.utime(r / "f", ns=(NS, NS + 1)), "'f': mtime"),
    "mtime of a folder": (lambda r: os.utime(r / "d", ns=(NS, NS + 1)), "'d': mtime"),
    "mtime of a symlink": (lambda r: os.utime(r / "s", ns=(1, 1), follow_symlinks=False), "'s': mtime"),
    "missing": (lambda r: os.unlink(r / "f"), "'f': only in"),
    "extra": (lambda r: (r / "new").touch(), "'new': only in"),
    "empty folder": (lambda r: os.rmdir(r / "d/empty"), "'d/empty': only in"),
    "kind": (make_file_of_fifo, "'p': kind FIFO became file"),
    "symlink target": (retarget, "'s': target b'f' became b'g'"),
    "hard link group": (relink, "hard links 'a', 'b': only in"),
    "attribute value": (lambda r: os.setxattr(r / "f", "user.x", b"2"), "'f': attribute user.x"),
    "attribute gone": (lambda r: os.removexattr(r / "f", "user.x"), "'f': attribute user.x"),
    "attribute on a folder": (lambda r: os.setxattr(r / "d", "user.y", b""), "'d': attribute user.y"),
    "access list": (
        lambda r: os.setxattr(r / "f", "system.posix_acl_access", ACCESS),
        "'f': attribute system.posix_acl_access",
    ),
    "hole filled": (
        lambda r: (r / "sparse").write_bytes(bytes(4 << 20)),
        "'sparse': data (the rest is holes) 0 bytes became 4194304",
    ),
    "folder's own mode": (lambda r: os.chmod(r, 0o700), "'.': mode"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_difference_is_found(pair: tuple[Path, Path], change: str) -> None:
    act, line = CHANGES[change]
    act(pair[1])
    found = compare(str(pair[0]), str(pair[1]))
    assert any(line in one for one in found), found


def test_owner_and_device(pair: tuple[Path, Path]) -> None:
    require_root()
    os.chown(pair[1] / "s", 1, 0, follow_symlinks=False)
    os.mknod(pair[0] / "dev", 0o020600, os.makedev(1, 3))
    os.mknod(pair[1] / "dev", 0o020600, os.makedev(1, 5))
    found = compare(str(pair[0]), str(pair[1]))
    assert "'s': owner 0:0 became 1:0" in found
    assert "'dev': device 1:3 became 1:5" in found
    assert "'s': owner 0:0 became 1:0" not in compare(str(pair[0]), str(pair[1]), owners=False)


def test_ugly_trees_are_the_same_for_a_seed(tmp_path: Path) -> None:
    """And differ for another: so a comparison of them means something."""
    one, two, other = (os.fsencode(tmp_path / name) for name in ("one", "two", "other"))
    made = make(one, 5, files=20)
    make(two, 5, files=20)
    make(other, 6, files=20)
    try:
        assert compare(one, two) == []
        assert len(compare(one, other)) > 100
        assert made.entries > 700
        assert made.skipped == [] or os.geteuid() != 0
    finally:
        for path in (one, two, other):
            shutil.rmtree(path, ignore_errors=True)
