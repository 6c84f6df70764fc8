"""Looks at the folders of the sources ahead of the scanner, in its order: what a forerunner process does.

For each folder a line goes out with a digest of what is in it, as the files cache compares it, and with
its subfolders. Where something is new since the last backup, the line also says what was seen of each name, and the
new files are fetched into memory: they will be read. Nothing is decided here, nothing is read and nothing is
reported: of a name that cannot be looked at nothing is said, and the scanner looks itself. Folders are divided among
several forerunners by their paths; each lists all of them, which is cheap, and looks at the names in its own.
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
from tandem_agent.engine.seen import Seen, Totals, compared, stats_digest, totals

FETCHED = 1 << 20
"""Files below this are fetched: those that are read through the page cache (`largefile.SMALLEST`). The larger of them
are what pays most: a millisecond of waiting for each."""

FETCHED_AT_ONCE = 8 << 20
NAMES_AT_ONCE = 1024
"""After so many bytes fetched, or names looked at, a line goes out; a folder with more has several."""

BYTES_FOR_ONE = 16
"""Of files that are fetched, for each byte of padding in a line: so a full pipe holds up a lead in bytes, too."""

_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


_TOLD = (0o100000, 0o040000)
"""Files and folders: what else there is may be another thing a moment later, and is rare."""


class Identity(NamedTuple):
    """Which folder it is, in the words of a stat result."""

    st_dev: int
    st_ino: int


class Line(NamedTuple):
    """What is in a folder, as it was at ``seconds`` of `now`, or a part of it: ``more`` lines follow in order of names.

    ``digest`` is `stats_digest` of the names in it that are to be recorded, ``folders`` are those of them that are
    folders, in order; like ``totals`` they are of the whole folder, and empty where that takes several lines, where a
    name could not be looked at, and in a first backup. ``seen`` is what was seen
    of each file and folder in the line, or empty where nothing is new.
    """

    path: bytes
    seconds: float
    folder: tuple[int, int]
    more: bool
    digest: bytes
    totals: Totals
    folders: list[tuple[bytes, Identity]]
    seen: dict[bytes, Seen]
    last: bytes


def now() -> float:
    """Seconds on a clock that nobody sets, and that goes on while the machine sleeps: on a share, others work then."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def whose(path: bytes, among: int) -> int:
    """Which of so many forerunners looks at the folder."""
    return crc32(path) % among


def encoded(line: Line, fetched: int = 0) -> bytes:
    """As bytes, padded for so many bytes that were fetched."""
    data: bytes = msgpack.packb((line, bytes(fetched // BYTES_FOR_ONE)))
    return len(data).to_bytes(4, "little") + data


def decoded(data: bytes) -> Line:
    (path, seconds, folder, more, digest, counts, folders, seen, last), _ = msgpack.unpackb(
        data, use_list=False
    )
    return Line(
        path,
        seconds,
        folder,
        more,
        digest,
        Totals(*counts),
        [(name, Identity(*which)) for name, which in folders],
        {name: Seen._make(numbers) for name, numbers in seen.items()},
        last,
    )


class Forerun:
    """One forerunner's walk; ``number`` of so many. What it has to say goes to ``tell`` as soon as it is known,
    and nothing (b"") now and then."""

    def __init__(
        self,
        options: ScanOptions,
        number: int,
        among: int,
        tell: Callable[[bytes], None],
        since: int,
    ) -> None:
        """What has a ctime of ``since`` (ns) or later is new: with 0 everything, and there is nothing to compare."""
        self._options = options
        self._since = since
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
                self._tell(b"")
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
            return self._look(path, fd, st)
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

    def _look(self, path: bytes, fd: int, st: os.stat_result) -> list[bytes]:
        names = names_in(fd)
        found, end = self._line(path, fd, st, names, 0)
        while end < len(names):
            more, end = self._line(path, fd, st, names, end)
            found += more
        return found

    def _line(
        self, path: bytes, fd: int, st: os.stat_result, names: list[bytes], first: int
    ) -> tuple[list[bytes], int]:
        """Tell of ``names`` from the ``first`` on; gives those of folders, and where the next line begins."""
        seconds = now()
        look, careful, since = os.stat, self._left_out.any, self._since
        kept: list[bytes] = []
        stats: list[os.stat_result] = []
        folders: list[tuple[bytes, Identity]] = []
        new = st.st_ctime_ns >= since  # a name came, or went
        missed = False
        fetched, end = 0, first
        for name in names[first : first + NAMES_AT_ONCE]:
            end += 1
            try:
                of = look(name, dir_fd=fd, follow_symlinks=False)
            except OSError:
                missed = True
                continue
            if careful and self._left_out.name(self._relative(path, name), of):
                continue
            kept.append(name)
            stats.append(of)
            kind = of.st_mode & 0o170000
            if kind == 0o040000:
                folders.append((name, Identity(of.st_dev, of.st_ino)))
            if of.st_ctime_ns >= since:
                new = True
                if kind == 0o100000 and 0 < of.st_size < FETCHED:
                    fetched += _fetch(name, fd, of.st_size)
                    if fetched >= FETCHED_AT_ONCE:
                        break
        more = end < len(names)
        whole = not first and not more
        digest, counts, told = b"", Totals(0, 0, 0), list[tuple[bytes, Identity]]()
        if whole and not missed and since:
            numbers = compared(stats)
            digest, counts = stats_digest(st.st_dev, kept, numbers), totals(numbers, len(folders))
            told = folders
        seen = _seen(kept, stats) if new or not whole else {}
        last = names[end - 1] if names else b""
        line = Line(path, seconds, (st.st_dev, st.st_ino), more, digest, counts, told, seen, last)
        try:
            self._tell(encoded(line, fetched))
        except OverflowError:  # a time beyond 64 bits of ns: the scanner looks itself
            self._tell(encoded(line._replace(seen={}), fetched))
        return [name for name, _ in folders], end

    def _relative(self, path: bytes, name: bytes) -> bytes:
        return join(path, name)[len(self._source.rstrip(b"/")) + 1 :]


def _seen(names: Iterable[bytes], stats: Iterable[os.stat_result]) -> dict[bytes, Seen]:
    return {
        name: Seen(
            of.st_mode,
            of.st_ino,
            of.st_dev,
            of.st_nlink,
            of.st_uid,
            of.st_gid,
            of.st_size,
            of.st_mtime_ns,
            of.st_ctime_ns,
        )
        for name, of in zip(names, stats, strict=True)
        if of.st_mode & 0o170000 in _TOLD
    }


def _lstat(name: bytes, folder: int) -> os.stat_result:
    return os.stat(name, dir_fd=folder, follow_symlinks=False)


def _fetch(name: bytes, folder: int, size: int) -> int:
    try:
        fd = os.open(name, _FILE_FLAGS, dir_fd=folder)
        try:
            os.posix_fadvise(fd, 0, size, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(fd)
    except OSError:  # whoever reads it says so
        return 0
    return size
