"""Reads the content of large files: cuts it into chunks, in the order of the file, and sends these on in batches.

The chunks are named, compressed and sealed by whoever takes the batches (`packer`). Opening the file, and
comparing how it was before and after, is `filereader`'s.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial

from tandem_agent.engine.attributes import data_extents
from tandem_agent.engine.channel import Channel
from tandem_agent.engine.cut import MAX_CHUNK, Cutter
from tandem_agent.engine.events import Pending
from tandem_agent.engine.largefile import ALIGNMENT, Helper, LargeFile, Piece
from tandem_agent.engine.packer import Batch, ChunkBatch, Pool
from tandem_agent.progress import Progress
from tandem_protocol.keys import KeyRing

WINDOW = 8 << 20
"""Bytes of a large file that are read at a time."""

HEAD = MAX_CHUNK
"""Bytes in front of a window for what was left of the one before."""

CHUNK_BUFFER = HEAD + WINDOW
MAX_EXTENTS = 4096


@dataclass(frozen=True, slots=True)
class _Reading:
    """``length`` bytes of a file on their way into ``buffer``; ``done`` says how many were there."""

    buffer: memoryview
    length: int
    done: Future[int]


class ChunkReader:
    """For the scanner's thread alone. Batches go to ``jobs``; their buffers come back to the pool."""

    def __init__(self, ring: KeyRing, jobs: Channel[Batch], pool: Pool, progress: Progress) -> None:
        self._jobs = jobs
        self._pool = pool
        self._progress = progress
        self._cutter = Cutter(ring.gear_seed())
        self._helper = Helper()
        self._chunks: ChunkBatch | None = None
        self._filled = 0
        self._pending: list[Pending] = []

    def content(
        self, fd: int, st: os.stat_result
    ) -> tuple[bytes | Pending, int, list[tuple[int, int]] | None]:
        """(content, size, extents if sparse) of an open file, up to the size that ``st`` says."""
        size = st.st_size
        whole = [(0, size)]
        extents = whole
        if st.st_blocks * 512 < size:
            with contextlib.suppress(OSError):  # a file system that cannot tell is read as a whole
                extents = data_extents(fd, size, MAX_EXTENTS)
        pending = Pending()
        self._pending.append(pending)
        try:
            read = self._chunked(fd, st.st_dev, extents, pending)
        finally:
            pending.close()  # also of a file that cannot be read to its end: it is waited for
        if extents == whole:
            return pending if read else b"", read, None
        if read == sum(length for _, length in extents):
            self._progress.bytes_read += size - read
            return pending, size, extents
        return pending, size, _truncated(extents, read)

    def _chunked(self, fd: int, device: int, extents: list[Piece], pending: Pending) -> int:
        """Read the extents one after the other, cut what they hold; gives the bytes that were there."""
        file, length = LargeFile(fd, device), sum(length for _, length in extents)
        if length > WINDOW:
            return self._in_windows(file, extents, pending)
        batch = self._room(length)
        first = self._filled
        read = file.read(batch.buffer[first:], extents)
        self._progress.bytes_read += read
        self._cut(batch, first, first + read, pending, last=True)
        return read

    def _room(self, length: int) -> ChunkBatch:
        """A batch with room for ``length`` bytes after what is in it."""
        if self._chunks is not None and self._filled + length > CHUNK_BUFFER:
            self._send(self._chunks)
            self._chunks = None
        if self._chunks is None:
            self._chunks = ChunkBatch(self._pool.take())
            self._filled = 0
        return self._chunks

    def _in_windows(self, file: LargeFile, extents: list[Piece], pending: Pending) -> int:
        """`_chunked` in several buffers, each read while the one before it is cut. What is left of one after its last
        cut is put in front of what is read into the next."""
        if self._chunks is not None:
            self._send(self._chunks)
            self._chunks = None
        windows = _windows(extents)
        total = left = 0
        ahead: _Reading | None = self._begin(file, next(windows))
        try:
            while ahead is not None:
                now, read = ahead, self._end(ahead)
                ahead = None
                if read == now.length and (window := next(windows, None)):
                    ahead = self._begin(file, window)
                total += read
                self._progress.bytes_read += read
                batch, end = ChunkBatch(now.buffer), HEAD + read
                first = self._cut(batch, HEAD - left, end, pending, last=ahead is None)
                if ahead is None:
                    self._chunks = batch
                else:
                    left = end - first
                    ahead.buffer[HEAD - left : HEAD] = now.buffer[first:end]
                    self._send(batch)
        finally:
            if ahead is not None:
                wait([ahead.done])  # its file is closed next
        return total

    def _begin(self, file: LargeFile, window: list[Piece]) -> _Reading:
        buffer = self._pool.take()
        done = self._helper.start(partial(file.read, buffer[HEAD:], window))
        return _Reading(buffer, sum(length for _, length in window), done)

    def _end(self, reading: _Reading) -> int:
        try:
            return reading.done.result()
        except OSError:
            self._pool.give(reading.buffer)
            raise

    def _cut(self, batch: ChunkBatch, first: int, end: int, pending: Pending, last: bool) -> int:
        """Cut the bytes from ``first`` to ``end``; gives where what is left begins, which is nothing if ``last``."""
        for length in self._cutter.lengths(batch.buffer[first:end], last):
            batch.parts.append((pending, pending.add(), first, length))
            first += length
        self._filled = -(-end // ALIGNMENT) * ALIGNMENT
        return first

    def _send(self, batch: ChunkBatch) -> None:
        if batch.parts:
            self._jobs.put(batch)
        else:
            self._pool.give(batch.buffer)

    def flush(self) -> list[Pending]:
        """Send the chunks that wait, since whoever waits for their ids would wait for ever. Gives the contents
        begun since the last call."""
        if self._chunks is not None:
            batch, self._chunks = self._chunks, None
            self._send(batch)
        pending, self._pending = self._pending, []
        return pending

    def close(self) -> None:
        """Nothing more is read."""
        self._helper.close()


def _windows(extents: list[Piece]) -> Iterator[list[Piece]]:
    """The extents in stretches of `WINDOW` bytes."""
    window: list[Piece] = []
    room = WINDOW
    for offset, length in extents:
        while length:
            taken = min(room, length)
            window.append((offset, taken))
            offset, length, room = offset + taken, length - taken, room - taken
            if not room:
                yield window
                window, room = [], WINDOW
    if window:
        yield window


def _truncated(extents: list[tuple[int, int]], read: int) -> list[tuple[int, int]]:
    """The extents as far as their first ``read`` bytes."""
    kept = []
    for offset, length in extents:
        if read <= 0:
            break
        kept.append((offset, min(length, read)))
        read -= length
    return kept
