"""Reads the content of large files: cuts it into chunks, in the order of the file, and sends these on in batches.

The chunks are named, compressed and sealed by whoever takes the batches (`packer`). Opening the file, and
comparing how it was before and after, is `filereader`'s.
"""

from __future__ import annotations

import contextlib
import os

from tandem_agent.engine.attributes import data_extents
from tandem_agent.engine.channel import Channel
from tandem_agent.engine.cut import MAX_CHUNK, Cutter
from tandem_agent.engine.events import Pending
from tandem_agent.engine.packer import Batch, ChunkBatch, Pool
from tandem_agent.progress import Progress
from tandem_protocol.keys import KeyRing

CHUNK_BUFFER = 2 * MAX_CHUNK
MAX_EXTENTS = 4096


class ChunkReader:
    """For the scanner's thread alone. Batches go to ``jobs``; their buffers come back to the pool."""

    def __init__(self, ring: KeyRing, jobs: Channel[Batch], pool: Pool, progress: Progress) -> None:
        self._jobs = jobs
        self._pool = pool
        self._progress = progress
        self._cutter = Cutter(ring.gear_seed())
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
            read = self._chunked(fd, extents, pending)
        finally:
            pending.close()  # also of a file that cannot be read to its end: it is waited for
        if extents == whole:
            return pending if read else b"", read, None
        if read == sum(length for _, length in extents):
            self._progress.bytes_read += size - read
            return pending, size, extents
        return pending, size, _truncated(extents, read)

    def _chunked(self, fd: int, extents: list[tuple[int, int]], pending: Pending) -> int:
        """Read the extents one after the other, cut what they hold; gives the bytes that were there."""
        total = 0
        batch, first = self._chunk_batch(), self._filled
        for offset, length in extents:
            while length:
                if self._filled == CHUNK_BUFFER:
                    batch, first = self._cut(batch, first, pending, last=False)
                end = min(CHUNK_BUFFER, self._filled + length)
                read = os.preadv(fd, (batch.buffer[self._filled : end],), offset)
                if not read:
                    break
                self._filled += read
                self._progress.bytes_read += read
                offset, length, total = offset + read, length - read, total + read
            if length:
                break
        self._cut(batch, first, pending, last=True)
        return total

    def _chunk_batch(self) -> ChunkBatch:
        if self._chunks is None:
            self._chunks = ChunkBatch(self._pool.take())
            self._filled = 0
        return self._chunks

    def _cut(self, batch: ChunkBatch, first: int, pending: Pending, last: bool) -> tuple[ChunkBatch, int]:
        """Cut the bytes from ``first`` on. Unless ``last``, go on with the rest in another buffer."""
        for length in self._cutter.lengths(batch.buffer[first : self._filled], last):
            batch.parts.append((pending, pending.add(), first, length))
            first += length
        if last:
            return batch, first
        rest = batch.buffer[first : self._filled]
        self._chunks = following = ChunkBatch(self._pool.take())
        self._filled = len(rest)
        following.buffer[: len(rest)] = rest
        self._send(batch)
        return following, 0

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


def _truncated(extents: list[tuple[int, int]], read: int) -> list[tuple[int, int]]:
    """The extents as far as their first ``read`` bytes."""
    kept = []
    for offset, length in extents:
        if read <= 0:
            break
        kept.append((offset, min(length, read)))
        read -= length
    return kept
