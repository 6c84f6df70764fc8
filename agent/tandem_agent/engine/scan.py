"""Walks the sources in depth-first order, names sorted by their bytes, and says what it finds as events.

Every name is looked at (lstat) in every backup, here or a moment ago by `forerunners`; entries are made (`stretch`),
and file content is read, only where the files cache has nothing that may be reused. Folders are opened relative to the
folder they are in and never through a symlink, so nothing that is swapped while it runs leads out of a source.
What cannot be read becomes a warning and the walk goes on. Pages and packs are made elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tandem_agent.engine.beliefs import Beliefs
from tandem_agent.engine.channel import Stopped
from tandem_agent.engine.entries import EntryMaker
from tandem_agent.engine.events import Draft, Enter, Event, Leave, Pending, Removed, Segment
from tandem_agent.engine.filereader import FileReader
from tandem_agent.engine.filescache import FilesCache, Row
from tandem_agent.engine.folders import (
    FOLDER_FLAGS,
    join,
    names_in,
    open_folder,
    stretches,
)
from tandem_agent.engine.forerun import Identity, Line
from tandem_agent.engine.forerunners import Forerunners, is_fresh
from tandem_agent.engine.options import LeftOut, ScanOptions
from tandem_agent.engine.seen import STAT_FIELDS, Seen, Stat, Totals, compared, stats_digest, totals
from tandem_agent.engine.stretch import StretchEntries
from tandem_agent.engine.troubles import Warnings
from tandem_agent.progress import Progress
from tandem_protocol.pack import SMALL_FILE

OPEN_FOLDERS = 64
RACY_NS = 2_000_000_000


@dataclass(slots=True)
class Counted:
    """What a scan counted. ``bytes`` is the size of all files, ``bytes_read`` of those that were read."""

    files: int = 0
    folders: int = 0
    others: int = 0
    bytes: int = 0
    files_read: int = 0
    bytes_read: int = 0


@dataclass(slots=True)
class _Level:
    """A folder that is being walked. ``fd`` is -1 while it is closed to save descriptors. ``seen`` is what forerunners
    saw, at ``seen_at``, of the names up to ``seen_to`` that are still to come; ``more``: they have more lines of it."""

    path: bytes
    fd: int
    device: int
    inode: int
    stretches: Iterator[tuple[list[bytes], Row | None]]
    children: list[tuple[int, bytes, Stat | Identity]] = field(default_factory=list)
    segment: Segment | None = None
    seen: dict[bytes, Seen] = field(default_factory=dict)
    seen_to: bytes = b""
    seen_at: float = 0.0
    more: bool = False

    def take(self, line: Line) -> None:
        """Take in the next line of a forerunner."""
        self.seen.update(line.seen)
        self.seen_to, self.seen_at, self.more = line.last, line.seconds, line.more


class Scanner:
    """One scan of one or more sources. Runs in one thread, which is the only one that calls ``emit``."""

    def __init__(
        self,
        options: ScanOptions,
        cache: FilesCache,
        trusted: Callable[[int], bool],
        has: Callable[[bytes], bool],
        reader: FileReader,
        emit: Callable[[Event], None],
        progress: Progress,
        warnings: Warnings,
        counted: Counted,
        stopping: Callable[[], bool],
        forerunners: Forerunners,
    ) -> None:
        """Raises `Usage` for an exclude pattern that is none."""
        self._options = options
        self._forerunners = forerunners
        self._cache = cache
        self._beliefs = Beliefs(cache, trusted, has)
        self._reader = reader
        self.entries = EntryMaker(reader.attributes, warnings)
        self._emit = emit
        self._progress = progress
        self._warnings = warnings
        self._counted = counted
        self._stopping = stopping
        self._left_out = LeftOut(options)
        # From before forerunners began: what changed after they had looked may have the same time.
        racy = min(time.time_ns(), forerunners.begun) - RACY_NS
        self._stretches = StretchEntries(
            cache, self._beliefs, reader, self.entries, progress, warnings, forerunners.since, racy
        )
        self._source = b""
        self._source_device = 0

    # One source

    def walk(self, path: bytes, st: os.stat_result, follow: bool) -> Draft | None:
        """Walk the folder ``path``, whose stat is ``st``; gives its entry (its content comes by `Leave`), or None
        if it could not be entered: nothing was emitted then. ``follow``: it may be a symlink to a folder."""
        self._source = path.rstrip(b"/")
        self._source_device = st.st_dev
        if self._left_out.own(st.st_dev, st.st_ino):
            self._warnings.add(path, "is a folder of Tandem's own (its state or a vault), not backed up")
            return None
        try:
            fd = open_folder(path, None, follow)
        except OSError as error:
            self._warnings.add_error(path, error)
            return None
        had = bool(self._cache.rows(path))
        entry = self.entries.folder(os.path.basename(self._source), st, fd, path)
        before = self._counted.files + self._counted.folders + self._counted.others
        stack = [self._enter(path, fd, st.st_dev, st.st_ino)]
        while stack:
            self._step(stack)
        if had and before == self._counted.files + self._counted.folders + self._counted.others:
            self._warnings.add(path, "is empty, and was not at the last backup; is it mounted?")
        return entry

    def _step(self, stack: list[_Level]) -> None:
        """The next thing of the deepest folder: a subfolder, the segment around it, a stretch, or its end."""
        level = stack[-1]
        if level.children:
            self._descend(stack, *level.children.pop())
        elif level.segment is not None:
            self._emit(level.segment)
            level.segment = None
        else:
            following = next(level.stretches, None)
            if following is None:
                self._leave(stack)
            elif self._stopping():
                raise Stopped
            else:
                self._stretch(level, *following)

    def _descend(self, stack: list[_Level], index: int, name: bytes, st: Stat | Identity) -> None:
        level = stack[-1]
        path = join(level.path, name)
        entries = level.segment.entries if level.segment is not None else []
        gone = False
        try:
            fd = open_folder(name, level.fd)
        except OSError as error:
            fd, gone = -1, isinstance(error, FileNotFoundError | NotADirectoryError)
            if isinstance(st, os.stat_result) or not isinstance(error, FileNotFoundError):
                self._warnings.add_error(path, error)
        else:
            now = os.fstat(fd)
            if (now.st_dev, now.st_ino) != (st.st_dev, st.st_ino):
                if entries and isinstance(st, Seen):
                    st = now
                else:  # its entry is in the last backup's page, and speaks of the other one
                    self._warnings.add(path, "was replaced by another folder while it was being backed up")
                    os.close(fd)
                    fd, gone = -1, True
        if entries and not isinstance(st, Identity):
            entries[index] = self.entries.folder(name, st, fd, path)
        self._counted.folders += 1
        self._progress.dirs += 1
        if fd < 0 or (self._options.one_file_system and st.st_dev != self._source_device):
            self._emit(Enter(path, st.st_dev, reusable=False))
            self._emit(Leave(gone))
            if fd >= 0:
                os.close(fd)
            return
        stack.append(self._enter(path, fd, st.st_dev, st.st_ino))
        if len(stack) > OPEN_FOLDERS:
            old = stack[-1 - OPEN_FOLDERS]
            if old.fd >= 0:
                os.close(old.fd)
                old.fd = -1

    def _leave(self, stack: list[_Level]) -> None:
        level = stack.pop()
        self._emit(Leave(gone=False))
        if stack and stack[-1].fd < 0:
            self._reopen(stack[-1], level.fd)
        if level.fd >= 0:
            os.close(level.fd)

    def _reopen(self, level: _Level, below: int) -> None:
        """Open a folder that was closed to save descriptors, by way of the one in it."""
        for name, folder in ((b"..", below), (level.path, None)):
            with contextlib.suppress(OSError):
                fd = os.open(name, FOLDER_FLAGS, dir_fd=folder)
                st = os.fstat(fd)
                if (st.st_dev, st.st_ino) == (level.device, level.inode):
                    level.fd = fd
                    return
                os.close(fd)
        self._warnings.add(level.path, "was moved while it was being backed up; the rest of it is left out")
        level.children.clear()
        level.stretches = iter(())

    def _enter(self, path: bytes, fd: int, device: int, inode: int) -> _Level:
        rows = self._cache.rows(path)
        self._emit(Enter(path, device, True, rows))
        self._progress.current_path = path
        line = self._forerunners.seen(path, device, inode)
        if (
            len(rows) == 1
            and line is not None
            and line.digest == rows[0].digest
            and self._beliefs.page(rows[0])
        ):
            return self._unchanged(path, fd, line, rows[0])
        try:
            names = names_in(fd)
        except OSError as error:
            self._warnings.add_error(path, error)
            names = []
        level = _Level(path, fd, device, inode, stretches(names, rows))
        if line is not None:
            level.take(line)
        return level

    def _unchanged(self, path: bytes, fd: int, line: Line, row: Row) -> _Level:
        """A folder in which a forerunner saw what the last backup saw."""
        self._add(line.totals, line.totals.bytes)
        level = _Level(path, fd, *line.folder, iter(()))
        level.children = [(-1, name, which) for name, which in reversed(line.folders)]
        level.segment = Segment([], [], row, len(line.folders), [])
        return level

    # One stretch of names

    def _stretch(self, level: _Level, names: list[bytes], row: Row | None) -> None:
        kept, stats = self._look(level, names)
        numbers = compared(stats)
        folders: list[tuple[int, bytes, Stat | Identity]] = [
            (i, name, st)
            for i, (name, st) in enumerate(zip(kept, stats, strict=True))
            if st.st_mode & 0o170000 == 0o040000
        ]
        same = row is not None and row.digest == stats_digest(level.device, kept, numbers)
        believed = row if row is not None and same and self._beliefs.page(row) else None
        self._count(numbers, len(folders), believed is not None)
        if believed is not None:
            folders.reverse()
            level.children = folders
            level.segment = Segment([], [], believed, len(folders), [])
            return
        entries, gone = self._stretches.make(level.path, level.fd, kept, stats, numbers, row)
        for folder in gone:
            self._emit(Removed(folder))
        folders.reverse()
        level.children = folders
        level.segment = Segment(entries, numbers, None, len(folders), self._reader.flush_chunks())

    def _look(self, level: _Level, names: list[bytes]) -> tuple[list[bytes], list[Stat]]:
        """lstat every name that no forerunner saw; gives names that are to be recorded, and their stats."""
        if level.seen and not is_fresh(level.seen_at):  # other pages came first, and all that is below them
            level.seen.clear()
        while names and level.more and level.seen_to < names[-1]:
            line = self._forerunners.seen(level.path, level.device, level.inode)
            if line is None:
                break
            level.take(line)
        kept: list[bytes] = []
        stats: list[Stat] = []
        seen, look, folder = level.seen, os.stat, level.fd
        careful = self._left_out.any
        st: Stat | None
        for name in names:
            st = seen.pop(name, None)
            if st is None:
                try:
                    st = look(name, dir_fd=folder, follow_symlinks=False)
                except OSError as error:
                    self._warnings.add_error(join(level.path, name), error)
                    continue
                if careful and self._left_out.name(join(level.path, name)[len(self._source) + 1 :], st):
                    continue
            kept.append(name)
            stats.append(st)
        return kept, stats

    def _count(self, numbers: list[int], folders: int, believed: bool) -> None:
        found = totals(numbers, folders)
        small = found.bytes
        if not believed and small >= SMALL_FILE:  # large ones count as they are read
            modes, sizes = numbers[4::STAT_FIELDS], numbers[1::STAT_FIELDS]
            small = sum([s for s, m in zip(sizes, modes, strict=True) if s < SMALL_FILE and stat.S_ISREG(m)])
        self._add(found, small)

    def _add(self, found: Totals, small: int) -> None:
        counted, progress = self._counted, self._progress
        counted.files += found.files
        counted.others += found.others
        counted.bytes += found.bytes
        progress.files += found.files
        progress.bytes_read += small

    def pending(self) -> list[Pending]:
        """Contents begun since the last `Segment`, which the next one is to wait for."""
        return self._reader.flush_chunks()

    def single(self, folder: int, name: bytes, st: os.stat_result, path: bytes) -> Draft | None:
        """The entry of a source that is not a folder, in the open ``folder``."""
        if stat.S_ISREG(st.st_mode):
            self._count([0, st.st_size, 0, 0, st.st_mode], 0, believed=False)
            return self._reader.entry(folder, name, st, path)
        self._count([0, 0, 0, 0, st.st_mode], 0, believed=False)
        return self.entries.special(folder, name, st, path)
