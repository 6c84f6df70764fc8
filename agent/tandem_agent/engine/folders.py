"""Opening and listing folders for the scanner: never through a symlink, names as bytes, in order.

Which names are wanted and what becomes of them is decided in `scan`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tandem_agent.engine.filescache import Row


NAMES_AT_ONCE = 4096
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


def join(folder: bytes, name: bytes) -> bytes:
    """The path of ``name`` in ``folder``, which may be the root."""
    return b"/" + name if folder == b"/" else folder + b"/" + name


def open_folder(name: bytes, folder: int | None, follow: bool = False) -> int:
    """Open a folder for listing, without changing its access time where that is allowed."""
    flags = FOLDER_FLAGS & ~os.O_NOFOLLOW if follow else FOLDER_FLAGS
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=folder)
    except PermissionError:
        return os.open(name, flags, dir_fd=folder)


def names_in(folder: int) -> list[bytes]:
    """The names in an open folder, sorted by their bytes. Each is replaced in place, so that a folder of a
    million takes the memory of one list."""
    names: list[Any] = os.listdir(folder)
    for i, name in enumerate(names):
        names[i] = name.encode(_ENCODING, _ERRORS)
    names.sort()
    return names


def identities(paths: Sequence[bytes]) -> set[tuple[int, int]]:
    """(device, inode) of those that are there."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError):
            st = os.stat(path)
            found.add((st.st_dev, st.st_ino))
    return found


def stretches(names: list[bytes], rows: list[Row]) -> Iterator[tuple[list[bytes], Row | None]]:
    """The names as the last backup's pages divided them; where there is none, so many at once."""
    first = 0
    for i, row in enumerate(rows):
        last = bisect_left(names, rows[i + 1].first) if i + 1 < len(rows) else len(names)
        end = min(last, first + 8 * NAMES_AT_ONCE)
        yield names[first:end], row
        yield from ((part, None) for part in _parts(names, end, last))
        first = last
    yield from ((part, None) for part in _parts(names, first, len(names)))


def _parts(names: list[bytes], first: int, last: int) -> Iterator[list[bytes]]:
    for at in range(first, last, NAMES_AT_ONCE):
        yield names[at : min(at + NAMES_AT_ONCE, last)]
