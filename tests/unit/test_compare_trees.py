"""The comparison that `make demo` ends with must not be blind (issue 3, Must show 1 and 6)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from scripts.compare_trees import differences


def make(root: Path) -> Path:
    (root / "folder").mkdir(parents=True)
    (root / "file").write_bytes(b"x" * 3_000_000)
    (root / "folder" / "small").write_text("small")
    os.link(root / "folder" / "small", root / "twin")
    (root / "link").symlink_to("file")
    with (root / "holes").open("wb") as file:
        file.truncate(8 << 20)
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, ns=(10**18, 10**18 + 5), follow_symlinks=False)
    os.utime(root, ns=(10**18, 10**18 + 5))
    return root


def change_byte(root: Path) -> None:
    data = bytearray((root / "file").read_bytes())
    data[2_999_999] ^= 1
    (root / "file").write_bytes(data)
    os.utime(root / "file", ns=(10**18, 10**18 + 5))


def fill_holes(root: Path) -> None:
    (root / "holes").write_bytes(bytes(8 << 20))
    os.utime(root / "holes", ns=(10**18, 10**18 + 5))


def unlink_twin(root: Path) -> None:
    (root / "twin").unlink()
    shutil.copy2(root / "folder" / "small", root / "twin")


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": change_byte,
    "holes": fill_holes,
    "links": unlink_twin,
    "mode": lambda root: (root / "file").chmod(0o600),
    "mtime": lambda root: os.utime(root / "folder", ns=(10**18, 10**18 + 6)),
    "target": lambda root: ((root / "link").unlink(), (root / "link").symlink_to("folder")),
    "not restored": lambda root: (root / "file").unlink(),
    "only in": lambda root: (root / "more").write_text(""),
    "kind": lambda root: ((root / "file").unlink(), (root / "file").mkdir()),
    "attributes": lambda root: os.setxattr(root / "file", "user.x", b"y"),
}


def test_the_same(tmp_path: Path) -> None:
    assert differences(bytes(make(tmp_path / "a")), bytes(make(tmp_path / "b"))) == []


@pytest.mark.parametrize("what", CHANGES)
def test_each_difference_is_seen(what: str, tmp_path: Path) -> None:
    one, other = make(tmp_path / "a"), make(tmp_path / "b")
    CHANGES[what](other)
    found = differences(bytes(one), bytes(other))
    assert any(what in line for line in found), found
