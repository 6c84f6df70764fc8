"""Reads what a tree entry holds besides content: extended attributes (ACLs are among them), special files.

Costs one system call where there are no attributes, none on a file system that has no attributes at all.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from tandem_agent.engine.seen import Stat
from tandem_agent.engine.troubles import Warnings
from tandem_protocol.tree import BLOCK, CHAR, DIR, FIFO, FILE, SOCKET, SYMLINK

KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIR,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFIFO: FIFO,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCK,
    stat.S_IFSOCK: SOCKET,
}

_NONE_HERE = {errno.ENOTSUP, errno.ENOSYS}
_NOT_FOR_US = {errno.ENODATA, errno.ENOENT, errno.EPERM, errno.EACCES}
"""Gone meanwhile, or kept from this user by rule (trusted.* and the like)."""


class AttributeReader:
    """Extended attributes by open file or by path. For one thread."""

    def __init__(self, warnings: Warnings) -> None:
        self._warnings = warnings
        self._without: set[int] = set()

    def read(self, target: int | bytes, device: int, path: bytes) -> dict[bytes, bytes] | None:
        """Attributes of an open file, or of a path whose last part is not followed; None without any.

        ``device`` is its st_dev. One that cannot be read is a warning, for ``path``: the file itself is still
        worth having.
        """
        if device in self._without:
            return None
        follow = not isinstance(target, bytes)
        try:
            names = os.listxattr(target, follow_symlinks=follow)
        except OSError as error:
            if error.errno in _NONE_HERE:
                self._without.add(device)
            elif error.errno not in _NOT_FOR_US:
                self._warn(path, error)
            return None
        if not names:
            return None
        found: dict[bytes, bytes] = {}
        for name in sorted(names):
            try:
                found[os.fsencode(name)] = os.getxattr(target, name, follow_symlinks=follow)
            except OSError as error:
                if error.errno not in _NOT_FOR_US:
                    self._warn(path, error)
        return found or None

    def _warn(self, path: bytes, error: OSError) -> None:
        self._warnings.add(path, f"its extended attributes could not be read: {error.strerror}")


def extras_of(st: Stat, kind: int, attributes: dict[bytes, bytes] | None) -> dict[str, Any] | None:
    """The extras of an entry, apart from what its content needs; None without any."""
    extras: dict[str, Any] = {}
    if attributes:
        extras["x"] = attributes
    if st.st_nlink > 1 and kind != DIR:
        extras["l"] = (st.st_dev, st.st_ino)
    if kind in (CHAR, BLOCK):
        assert isinstance(st, os.stat_result)  # forerunners tell of files and folders only
        extras["r"] = (os.major(st.st_rdev), os.minor(st.st_rdev))
    return extras or None


def data_extents(fd: int, size: int, most: int) -> list[tuple[int, int]]:
    """(offset, length) of the parts of a sparse file that hold data, at most ``most`` of them: where there
    are more, the smallest holes are taken as data. In proportion to the data, whatever the size."""
    found: list[tuple[int, int]] = []
    join, end = 0, 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                break
            raise
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start >= size or end <= start:
            break
        found.append((start, end - start))
        if len(found) > most:
            join = max(4096, join * 2)
            found = _joined(found, join)
    return found


def _joined(extents: list[tuple[int, int]], hole: int) -> list[tuple[int, int]]:
    """The extents with every hole of at most ``hole`` bytes taken as data."""
    joined = [extents[0]]
    for offset, length in extents[1:]:
        first, before = joined[-1]
        if offset - (first + before) <= hole:
            joined[-1] = (first, offset + length - first)
        else:
            joined.append((offset, length))
    return joined
