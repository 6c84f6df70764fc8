"""Compares two folders in everything a Linux file system keeps: content, and every piece of metadata.

Content byte for byte; kind, permission bits, owner and group, modification time to the nanosecond, link
targets, which names are hard links of each other, extended attributes (ACLs are among them), holes, device
numbers. Not compared: inode numbers, access and change times, which no restore can give back. Usable as a
program: ``compare_trees.py FOLDER FOLDER`` ends with 1 if they differ.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = 1 << 20


class Facts(NamedTuple):
    """What must be the same for one name. ``links``: the first name (in order) of the same inode."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    target: bytes
    links: bytes
    attributes: tuple[tuple[str, bytes], ...]
    device: int


def differences(expected: bytes, found: bytes, limit: int = 20) -> list[str]:
    """How ``found`` differs from ``expected``, a line each, at most ``limit``; empty if they are the same."""
    left, right = dict(_tree(expected)), dict(_tree(found))
    lines = []
    for name in sorted(left.keys() | right.keys()):
        line = _difference(expected, found, name, left.get(name), right.get(name))
        if line:
            lines.append(f"{os.fsdecode(name)!r}: {line}")
            if len(lines) == limit:
                break
    return lines


def _difference(expected: bytes, found: bytes, name: bytes, one: Facts | None, two: Facts | None) -> str:
    if one is None or two is None:
        return "only in the restored folder" if one is None else "not restored"
    wrong = [f for f, a, b in zip(Facts._fields, one, two, strict=True) if a != b]
    if wrong:
        return "; ".join(f"{f} was {getattr(one, f)!r}, is {getattr(two, f)!r}" for f in wrong)
    if one.kind == "file":
        return _content(os.path.join(expected, name), os.path.join(found, name))
    return ""


def _content(one: bytes, two: bytes) -> str:
    with open(one, "rb") as a, open(two, "rb") as b:
        offset = 0
        while True:
            left, right = a.read(BLOCK), b.read(BLOCK)
            if left != right:
                return f"content differs in the block at {offset}"
            if not left:
                return _holes(one, two)
            offset += len(left)


def _holes(one: bytes, two: bytes) -> str:
    """A file with holes must not have grown on disk by more than a few blocks."""
    was, now = os.stat(one), os.stat(two)
    sparse = was.st_blocks * 512 < was.st_size
    if sparse and now.st_blocks > was.st_blocks + 256 and now.st_blocks * 512 >= now.st_size:
        return f"holes are gone: {was.st_blocks * 512} bytes on disk before, {now.st_blocks * 512} now"
    return ""


def _tree(root: bytes) -> Iterator[tuple[bytes, Facts]]:
    first: dict[tuple[int, int], bytes] = {}
    for name in sorted(_names(root, b"")):
        path = os.path.join(root, name) if name else root
        about = os.lstat(path)
        alone = stat.S_ISDIR(about.st_mode) or about.st_nlink == 1
        links = b"" if alone else first.setdefault((about.st_dev, about.st_ino), name)
        yield name, _facts(path, about, links)


def _names(root: bytes, folder: bytes) -> Iterator[bytes]:
    yield folder
    with os.scandir(os.path.join(root, folder) if folder else root) as entries:
        for entry in entries:
            name = os.path.join(folder, entry.name)
            if entry.is_dir(follow_symlinks=False):
                yield from _names(root, name)
            else:
                yield name


def _facts(path: bytes, about: os.stat_result, links: bytes) -> Facts:
    mode = about.st_mode
    kinds = (
        (stat.S_ISREG, "file"),
        (stat.S_ISDIR, "folder"),
        (stat.S_ISLNK, "link"),
        (stat.S_ISFIFO, "fifo"),
    )
    kind = next((word for test, word in kinds if test(mode)), f"special {stat.S_IFMT(mode):o}")
    return Facts(
        kind=kind,
        mode=stat.S_IMODE(mode),
        uid=about.st_uid,
        gid=about.st_gid,
        mtime_ns=about.st_mtime_ns,
        size=about.st_size if kind == "file" else 0,
        target=os.readlink(path) if kind == "link" else b"",
        links=links,
        attributes=_attributes(path),
        device=about.st_rdev,
    )


def _attributes(path: bytes) -> tuple[tuple[str, bytes], ...]:
    if not hasattr(os, "listxattr"):
        return ()
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)


if __name__ == "__main__":
    found = differences(os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2]))
    print("\n".join(found) or "no difference")
    sys.exit(bool(found))
