"""Large files of a restore, written past the page cache where the file system lets one.

Through the page cache every byte costs a copy and fresh memory, and the end of the restore waits for all that is
still to be written out: 7.7 s of processor time for reading and writing 2 GiB so, against 0.5 s. So pieces that
follow one another are brought together in aligned memory, a few MiB of each thread, and whole blocks go from
there to the disk; what is left at both ends, less than a block, goes through the cache. Nothing is made durable
here, and nothing verified.
"""

from __future__ import annotations

import errno
import os

from tandem_agent.engine.linux import reserve, start_writeback
from tandem_protocol.store import Buffer

LARGE_FROM = 16 * 1024 * 1024
"""Smaller files are not worth two descriptors that stay open, and are written out well enough by the cache."""

BLOCK = 4096
"""Offsets, lengths and addresses of direct writes are multiples of this."""


class PartFile:
    """One file, held open. Any thread may write until it is closed. ``direct`` is a second descriptor of it whose
    writes go past the cache, if there is one."""

    def __init__(self, fd: int, direct: int | None = None) -> None:
        self._fds = [fd] if direct is None else [fd, direct]
        self._fd, self._direct = fd, direct

    def reserve(self, size: int) -> None:
        """Have room for all of it at once: it lies in few places then, and no room is told before the work is done.
        Only past the cache, which makes room in its own way."""
        if self._direct is not None:
            reserve(self._fd, size)

    def write(self, data: memoryview, at: int) -> None:
        """Through the cache, and on to the disk soon."""
        write_all(self._fd, data, at)
        start_writeback(self._fd)

    def write_run(self, data: memoryview, at: int) -> None:
        """The same past the cache, but for the ends. ``data`` lies in memory as in the file: at the begin of a page
        where ``at`` is that of a block."""
        head = -at % BLOCK
        end = head + (len(data) - head) // BLOCK * BLOCK
        if self._direct is None or end <= head:
            self.write(data, at)
            return
        done = head + self._past_cache(self._direct, data[head:end], at + head)
        if done < end:
            self.write(data[done:end], at + done)
        if head:
            write_all(self._fd, data[:head], at)
        if end < len(data):
            write_all(self._fd, data[end:], at + end)

    def _past_cache(self, direct: int, data: memoryview, at: int) -> int:
        """How many bytes were written; none where the file system does not do it after all."""
        try:
            return os.pwrite(direct, data, at)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._direct = None
            return 0

    def close(self) -> None:
        """Only when no thread writes any more: the numbers may be other files' at once."""
        while self._fds:
            os.close(self._fds.pop())


def write_all(fd: int, data: Buffer, at: int) -> None:
    """All of ``data``, also where the system takes it in parts."""
    written = os.pwrite(fd, data, at)
    if written == len(data):
        return
    view = memoryview(data)
    while written < len(view):
        written += os.pwrite(fd, view[written:], at + written)
