"""Looks at the folders of the sources ahead of the scanner, in its order: what a forerunner process does.

For each folder a line goes out with a digest of what is in it, as the files cache compares it, and with
its subfolders; in a first backup, which has nothing to compare, files are fetched into memory instead. Nothing
is decided here, nothing is read and nothing is reported: of what cannot be looked at no line goes out, and the
scanner looks itself. Folders are divided among several forerunners by their paths;
each lists all of them, which is cheap, and looks at the names in its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple
from zlib import crc32

import msgpack

from tandem_agent.engine.folders import join, names_in, open_folder
from tandem_agent.engine.options import LeftOut, ScanOptions
from tandem_agent.engine.seen import Totals, stats_digest, totals

FETCHED = 1 << 20
"""Files below this are fetched: those that are read through the page cache (`largefile.SMALLEST`). The larger of them
are what pays most: a millisecond of waiting for each."""

BYTES_FOR_ONE = 8 << 10
"""Of files that are fetched, for each byte in a line: so a full pipe holds up a lead in bytes, too."""

_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

MOST_NAMES = 4096
"""Folders of more have several pages, so a digest of everything in them says nothing."""


class Identity(NamedTuple):
    """Which folder it is, in the words of a stat result."""

    st_dev: int
    st_ino: int


class Line(NamedTuple):
    """A folder, as it was at ``seconds`` of `now`. ``digest`` is `stats_digest` of the names
    in it that are to be recorded, ``folders`` are those of them that are folders, in order."""

    path: bytes
    seconds: float
    folder: tuple[int, int]
    digest: bytes
    totals: Totals
    folders: list[tuple[bytes, Identity]]


def now() -> float:
    """Seconds on a clock that nobody sets, and that goes on while the machine sleeps: on a share, others work then."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def whose(path: bytes, among: int) -> int:
    """Which of so many forerunners looks at the folder."""
    return crc32(path) % among


def encoded(line: Line) -> bytes:
    data: bytes = msgpack.packb(line)
    return len(data).to_bytes(4, "little") + data


def decoded(data: bytes) -> Line:
    path, seconds, folder, digest, counts, folders = msgpack.unpackb(data, use_list=False)
    return Line(
        path, seconds, folder, digest, Totals(*counts), [(n, Identity(*which)) for n, which in folders]
    )


class Forerun:
    """One forerunner's walk; ``number`` of so many. What it has to say goes to ``tell`` as soon as it is known."""

    def __init__(
        self,
        options: ScanOptions,
        number: int,
        among: int,
        tell: Callable[[bytes], None],
        fetch: bool = False,
    ) -> None:
        """``fetch``: nothing is to be compared; have the kernel fetch the files instead."""
        self._options = options
        self._fetch = fetch
        self._left_out = LeftOut(options)
        self._number = number
        self._among = among
        self._tell = tell
        self._source = b""

    def walk(self, sources: Iterable[tuple[bytes, bool]]) -> None:
        """Walk the sources (path, whether it may be a symlink to a folder)."""
        for source, follow in sources:
            self._source = source
            device: int | None = None
            waiting = [source]
            while waiting:
                path = waiting.pop()
                try:
                    fd = open_folder(path, None, follow and path == source)
                except OSError:
                    continue
                try:
                    st = os.fstat(fd)
                    device = st.st_dev if device is None else device
                    if self._left_out.own(st.st_dev, st.st_ino):
                        continue
                    if st.st_dev != device and self._options.one_file_system:
                        continue
                    waiting += [join(path, name) for name in reversed(self._folders(path, fd, st))]
                except OSError:
                    continue
                finally:
                    os.close(fd)

    def _folders(self, path: bytes, fd: int, st: os.stat_result) -> list[bytes]:
        """Tell of the folder if it is this forerunner's; gives the names of the folders in it."""
        if whose(path, self._among) == self._number:
            names = names_in(fd)
            if len(names) <= MOST_NAMES:
                return self._look(path, fd, st, names)
        if st.st_nlink == 2:  # no folder in it, where file systems count so; elsewhere only time is lost
            return []
        with os.scandir(fd) as entries:
            found = [os.fsencode(e.name) for e in entries if e.is_dir(follow_symlinks=False)]
        if self._left_out.any:
            found = [
                name
                for name in found
                if not self._left_out.name(self._relative(path, name), _lstat(name, fd))
            ]
        return sorted(found)

    def _look(self, path: bytes, fd: int, st: os.stat_result, names: list[bytes]) -> list[bytes]:
        seconds = now()
        look, careful = os.stat, self._left_out.any
        numbers: list[int] = []
        kept: list[bytes] = []
        folders: list[tuple[bytes, Identity]] = []
        missed = False
        fetched = 0
        for name in names:
            try:
                of = look(name, dir_fd=fd, follow_symlinks=False)
            except OSError:
                missed = True
                continue
            if careful and self._left_out.name(self._relative(path, name), of):
                continue
            mode = of.st_mode
            if mode & 0o170000 == 0o040000:
                folders.append((name, Identity(of.st_dev, of.st_ino)))
            elif self._fetch and mode & 0o170000 == 0o100000 and 0 < of.st_size < FETCHED:
                fetched += _fetch(name, fd, of.st_size)
            kept.append(name)
            numbers += (of.st_ino, of.st_size, of.st_mtime_ns, of.st_ctime_ns, mode)
        if not missed:
            digest = (
                bytes(fetched // BYTES_FOR_ONE) if self._fetch else stats_digest(st.st_dev, kept, numbers)
            )
            counts = totals(numbers, len(folders))
            self._tell(encoded(Line(path, seconds, (st.st_dev, st.st_ino), digest, counts, folders)))
        return [name for name, _ in folders]

    def _relative(self, path: bytes, name: bytes) -> bytes:
        return join(path, name)[len(self._source.rstrip(b"/")) + 1 :]


def _lstat(name: bytes, folder: int) -> os.stat_result:
    return os.stat(name, dir_fd=folder, follow_symlinks=False)


def _fetch(name: bytes, folder: int, size: int) -> int:
    try:
        fd = os.open(name, _FILE_FLAGS, dir_fd=folder)
    except OSError:  # whoever reads it says so
        return 0
    try:
        os.posix_fadvise(fd, 0, size, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(fd)
    return size
