"""Reads changed files into batches: the part of the pipeline that costs Python time for every file.

Small files are read straight into the batch that becomes their frame, named there, and taken out again if
the blob is known. What larger ones hold is `chunkreader`'s to read. A file is opened without following
links and without waiting, and what was opened and how it was after reading is compared with what the scanner
saw.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from typing import Protocol

from blake3 import blake3

from tandem_agent.engine.attributes import AttributeReader, extras_of
from tandem_agent.engine.channel import Channel
from tandem_agent.engine.chunkreader import ChunkReader
from tandem_agent.engine.events import Draft, Pending
from tandem_agent.engine.packer import Batch, Pool, RunIds, SmallBatch
from tandem_agent.engine.seen import Seen, Stat
from tandem_agent.engine.troubles import Warnings
from tandem_agent.progress import Progress
from tandem_protocol.keys import KeyRing
from tandem_protocol.pack import SMALL_FILE, TARGET_FRAME
from tandem_protocol.tree import FILE

SMALL_BUFFER = TARGET_FRAME + (4 << 10)
MAX_BLOBS_IN_FRAME = 4096
MAX_LINKS = 200_000
_TRIES = 3
AHEAD = 32
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_SECOND = 1_000_000_000


class Outdated(Exception):
    """A forerunner saw a file that is another one now, or none: whoever asked is to look again. Never leaves the
    scan."""


class Counts(Protocol):
    """What the reader counts: files and bytes really read."""

    files_read: int
    bytes_read: int


class FileReader:
    """For the scanner's thread alone. Batches go to ``jobs``; their buffers come back to the pools."""

    def __init__(
        self,
        ring: KeyRing,
        ids: RunIds,
        jobs: Channel[Batch],
        small: Pool,
        large: Pool,
        warnings: Warnings,
        counts: Counts,
        progress: Progress,
    ) -> None:
        self._key = ring.content_id_key[1]
        self._ids = ids
        self._jobs = jobs
        self._small_pool = small
        self._large = ChunkReader(ring, jobs, large, progress)
        self._warnings = warnings
        self._counts = counts
        self._progress = progress
        self._uid = os.geteuid()
        self.attributes = AttributeReader(warnings)
        self._links: dict[tuple[int, int], Draft] = {}
        self._batch: SmallBatch | None = None
        self._opened: dict[bytes, int] = {}

    def ahead(self, folder: int, files: Sequence[tuple[bytes, Stat]]) -> None:
        """Open files of ``folder`` that are about to be read, and ask the kernel to fetch them all at once.

        Read one after the other, each file not in memory costs a disk's whole latency: 100,000 of them took
        14 s, and 8 s so; what is in memory costs one quick call more. Closes what an earlier call opened and
        nobody read; `AHEAD` at a time are a good number.
        """
        self._close_opened()
        opened = self._opened
        for name, st in files:
            # Why one cannot be opened is said when it is read.
            with contextlib.suppress(OSError):
                fd = opened[name] = self._open(folder, name, st)
                os.posix_fadvise(fd, 0, SMALL_FILE, os.POSIX_FADV_WILLNEED)

    def entry(self, folder: int, name: bytes, st: Stat, path: bytes) -> Draft | None:
        """The entry of the regular file ``name`` in the open ``folder``; None, with a warning, if it cannot
        be read. ``st`` is its lstat, ``path`` for the warning. Raises `Outdated`, only where ``st`` was `Seen`."""
        if st.st_nlink > 1:
            linked = self._links.get((st.st_dev, st.st_ino))
            if linked is not None and linked[7] == st.st_size:
                if st.st_size >= SMALL_FILE:
                    self._progress.bytes_read += st.st_size
                return (*linked[:1], name, *linked[2:])
        try:
            if st.st_size < SMALL_FILE:
                entry = self._small(folder, name, st, path)
            else:
                entry = self._slow(folder, name, st, path)
        except OSError as error:
            if isinstance(st, Seen):
                raise Outdated from error
            self._warnings.add_error(path, error)
            return None
        if entry is not None:
            self._counts.files_read += 1
            self._counts.bytes_read += entry[7]
            if st.st_nlink > 1 and len(self._links) < MAX_LINKS:
                self._links[st.st_dev, st.st_ino] = entry
        return entry

    def _open(self, folder: int, name: bytes, st: Stat) -> int:
        """Open a file, or give what `ahead` opened. It is the caller's to close and to compare with ``st``."""
        if (opened := self._opened.pop(name, None)) is not None:
            return opened
        if self._uid in (0, st.st_uid):
            try:
                return os.open(name, _FLAGS | os.O_NOATIME, dir_fd=folder)
            except PermissionError:
                pass
        return os.open(name, _FLAGS, dir_fd=folder)

    def _small(self, folder: int, name: bytes, st: Stat, path: bytes) -> Draft | None:
        """Five system calls: open, read, fstat, listxattr, close."""
        size = st.st_size
        batch = self._room(size)
        fd = self._open(folder, name, st)
        try:
            # One byte more than expected: a file that has grown shows itself without another call.
            read = os.readv(fd, (batch.buffer[batch.used : batch.used + size + 1],))
            after = os.fstat(fd)
            attributes = self.attributes.read(fd, st.st_dev, path)
        finally:
            os.close(fd)
        if (
            read != size
            or after.st_ctime_ns != st.st_ctime_ns
            or after.st_mtime_ns != st.st_mtime_ns
            or after.st_ino != st.st_ino
            or after.st_dev != st.st_dev
        ):
            return self._slow(folder, name, st, path)
        return self._named(name, st, self._take(batch, size), attributes)

    def _room(self, size: int) -> SmallBatch:
        """A batch with room for ``size`` bytes and one more."""
        batch = self._batch
        if batch is not None and (
            batch.used + size > TARGET_FRAME or len(batch.lengths) >= MAX_BLOBS_IN_FRAME
        ):
            self._jobs.put(batch)
            batch = None
        if batch is None:
            batch = self._batch = SmallBatch(self._small_pool.take())
        return batch

    def _take(self, batch: SmallBatch, size: int) -> bytes:
        """Name the ``size`` bytes at the batch's end and keep them if the blob is new; gives the content."""
        if size == 0:
            return b""
        used = batch.used
        content_id = blake3(batch.buffer[used : used + size], key=self._key).digest()
        if self._ids.claim(content_id):
            batch.used = used + size
            batch.ids.append(content_id)
            batch.lengths.append(size)
        return content_id

    def _named(
        self,
        name: bytes,
        st: Stat,
        content: bytes | Pending,
        attributes: dict[bytes, bytes] | None,
        size: int | None = None,
        extents: list[tuple[int, int]] | None = None,
    ) -> Draft:
        seconds, rest = divmod(st.st_mtime_ns, _SECOND)
        extras = extras_of(st, FILE, attributes) if attributes or st.st_nlink > 1 else None
        if extents is not None:
            extras = {**(extras or {}), "s": extents}
        length = st.st_size if size is None else size
        return (FILE, name, st.st_mode & 0o7777, st.st_uid, st.st_gid, seconds, rest, length, content, extras)

    def _slow(self, folder: int, name: bytes, st: Stat, path: bytes) -> Draft | None:
        """Large files, and small ones that were not as expected: read until size and times are the same
        before and after, at most `_TRIES` times if small, once if large."""
        fd = self._open(folder, name, st)
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode) or (before.st_dev, before.st_ino) != (st.st_dev, st.st_ino):
                if isinstance(st, Seen):
                    raise Outdated
                self._warnings.add(path, "was replaced by another file while it was being backed up")
                return None
            attributes = self.attributes.read(fd, st.st_dev, path)
            tries = 0
            while True:
                content, size, extents = self._content(fd, before)
                after = os.fstat(fd)
                tries += 1
                stable = size == before.st_size and _same(before, after)
                if stable or tries == _TRIES or isinstance(content, Pending):
                    break
                before = after
            if not stable:
                self._warnings.add(path, "changed while it was being backed up")
            return self._named(name, after, content, attributes, size, extents)
        finally:
            os.close(fd)

    def _content(
        self, fd: int, st: os.stat_result
    ) -> tuple[bytes | Pending, int, list[tuple[int, int]] | None]:
        """(content, size, extents if sparse) of an open file, up to the size that ``st`` says."""
        size = st.st_size
        if size < SMALL_FILE:
            batch = self._room(size)
            read = os.preadv(fd, (batch.buffer[batch.used : batch.used + size],), 0) if size else 0
            return self._take(batch, read), read, None
        return self._large.content(fd, st)

    def flush_chunks(self) -> list[Pending]:
        """Send the chunks that wait; gives the contents begun since the last call."""
        return self._large.flush()

    def close(self) -> None:
        """No more files are read."""
        self._close_opened()
        self._large.close()

    def _close_opened(self) -> None:
        """Close what was opened ahead and not read."""
        while self._opened:
            os.close(self._opened.popitem()[1])

    def flush(self) -> None:
        """Send everything that waits."""
        self.flush_chunks()
        if self._batch is not None and self._batch.lengths:
            self._jobs.put(self._batch)
        self._batch = None


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_size, one.st_mtime_ns, one.st_ctime_ns) == (
        other.st_size,
        other.st_mtime_ns,
        other.st_ctime_ns,
    )
