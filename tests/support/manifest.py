"""What a folder held at a moment, as a table of digests, to compare a restored copy with later.

Covers kind, permission bits, owner, mtime, content and link targets of everything below a folder. It does not
cover extended attributes, sparse holes or which names are hard links of each other: the tests of metadata do.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import TypeAlias

from blake3 import blake3

# (kind, permission bits, uid, gid, mtime in ns, size, digest or target)
Row: TypeAlias = tuple[str, int, int, int, int, int, bytes]
Manifest: TypeAlias = dict[bytes, Row]


def take(root: str) -> Manifest:
    """Reads everything below `root`; keys are paths relative to it, the root itself is b"."."""
    top = os.fsencode(root)
    return {b"." if path == top else path[len(top) + 1 :]: _row(path) for path in _walk(top)}


def differences(expected: Manifest, root: str, limit: int = 10) -> list[str]:
    """How the folder `root` differs from `expected`: lines for people, at most `limit`; empty when equal."""
    try:
        found = take(root)
    except FileNotFoundError:
        return [f"not there: {root}"]
    lines = []
    for path in sorted(expected.keys() | found.keys()):
        if expected.get(path) != found.get(path):
            lines.append(f"{path!r}: expected {_say(expected.get(path))}, found {_say(found.get(path))}")
            if len(lines) == limit:
                break
    return lines


def _walk(top: bytes) -> Iterator[bytes]:
    yield top
    with os.scandir(top) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path)
            else:
                yield entry.path


def _row(path: bytes) -> Row:
    about = os.lstat(path)
    common = (stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid, about.st_mtime_ns)
    if stat.S_ISREG(about.st_mode):
        with open(path, "rb") as file:
            digest = blake3()
            while block := file.read(1 << 22):
                digest.update(block)
        return ("file", *common, about.st_size, digest.digest())
    if stat.S_ISLNK(about.st_mode):
        return ("link", *common, 0, os.readlink(path))
    if stat.S_ISDIR(about.st_mode):
        return ("folder", *common, 0, b"")
    return (f"special {stat.S_IFMT(about.st_mode):o}", *common, 0, b"")


def _say(row: Row | None) -> str:
    if row is None:
        return "nothing"
    kind, mode, uid, gid, mtime, size, what = row
    return f"{kind} {mode:04o} {uid}:{gid} mtime {mtime} size {size} {what.hex()[:16]}"
