"""What is seen of a name, and what is compared of it to tell whether it changed since the last backup.

Pure, and quick to import: the processes that look ahead need little else of the engine.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from blake3 import blake3

STAT_FIELDS = 5
"""Per entry: inode, size, mtime_ns, ctime_ns, mode. Everything else that a tree holds moves ctime."""


class Seen(NamedTuple):
    """What a forerunner saw of a file or folder a short time ago, in the words of a stat result."""

    st_mode: int
    st_ino: int
    st_dev: int
    st_nlink: int
    st_uid: int
    st_gid: int
    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int


Stat = os.stat_result | Seen
"""Of a name that was looked at just now, or by a forerunner."""


class Totals(NamedTuple):
    """Of some names: how many are regular files, how many neither file nor folder, and the bytes in all files."""

    files: int
    others: int
    bytes: int


def compared(stats: Iterable[Stat]) -> list[int]:
    """What is compared of each, one after the other."""
    numbers: list[int] = []
    for st in stats:
        numbers += (st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns, st.st_mode)
    return numbers


def totals(stats: Sequence[int], folders: int) -> Totals:
    """Of names with these ``stats`` (`STAT_FIELDS` each), of which so many are ``folders``."""
    modes = stats[4::STAT_FIELDS]
    sizes = stats[1::STAT_FIELDS]
    regular = [size for size, mode in zip(sizes, modes, strict=True) if mode & 0o170000 == 0o100000]
    return Totals(len(regular), len(modes) - len(regular) - folders, sum(regular))


def pack_stats(stats: Sequence[int]) -> bytes:
    """Eight bytes a number, whatever its sign."""
    try:
        return array("q", stats).tobytes()
    except OverflowError:  # inode numbers of some network file systems use all 64 bits
        return array("Q", [number & (2**64 - 1) for number in stats]).tobytes()


def stats_digest(device: int, names: Sequence[bytes], stats: Sequence[int]) -> bytes:
    """Names every entry of a page and its stat fields; names hold no zero byte."""
    hasher = blake3(b"\0".join(names))
    hasher.update(b"\0%d\0" % device)
    hasher.update(pack_stats(stats))
    return hasher.digest()
