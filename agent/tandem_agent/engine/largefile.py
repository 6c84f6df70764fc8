"""Reads a large file once, from its beginning to its end: past the page cache what is not in it, and a stretch ahead
of whoever works on what was read.

Through the page cache a backup pays for a copy and for fresh memory, and puts out what other programs had there.
What is in it already is taken from there. What the bytes mean, and whether the file has changed, is not asked here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue

from tandem_agent.engine.linux import cached_pages

ALIGNMENT = 4096
"""Offsets, lengths and addresses of direct reads are multiples of this."""

SMALLEST = 1 << 20
"""Fewer bytes are always read through the page cache."""

Piece = tuple[int, int]
"""(offset, length) in a file."""


class LargeFile:
    """An open file, for one thread at a time. Its descriptor stays the caller's, who does not use it meanwhile."""

    def __init__(self, fd: int, device: int) -> None:
        """``device``: its st_dev. Network and virtual file systems, which have no device of their own, are left to
        the page cache: there it is what keeps several requests under way."""
        self._fd = fd
        self._may = os.major(device) != 0
        self._direct = False

    def read(self, target: memoryview, pieces: Sequence[Piece]) -> int:
        """Read ``pieces`` into ``target``, which begins with a page, one after the other; gives the bytes that were
        there: less where the file ends."""
        total = 0
        for offset, length in pieces:
            read = self._piece(target, total, offset, length)
            total += read
            if read < length:
                break
        return total

    def _piece(self, target: memoryview, at: int, offset: int, length: int) -> int:
        done = 0
        if (
            self._may
            and length >= SMALLEST
            and not (at | offset) % ALIGNMENT
            and not self._cached(offset, length)
        ):
            whole = -(-length // ALIGNMENT) * ALIGNMENT  # a file that ends in its last block gives less
            done = min(length, self._past_cache(target[at : at + whole], offset))
        if done < length:
            self._switch(False)
        while done < length:
            read = os.preadv(self._fd, (target[at + done : at + length],), offset + done)
            if not read:
                break
            done += read
        return done

    def _cached(self, offset: int, length: int) -> bool:
        """Whether most of it is in the page cache, or that cannot be told."""
        try:
            return 2 * ALIGNMENT * cached_pages(self._fd, offset, length) > length
        except OSError:
            return True

    def _past_cache(self, target: memoryview, offset: int) -> int:
        """Bytes that were read; 0 where it cannot be done so."""
        try:
            self._switch(True)
            return os.preadv(self._fd, (target,), offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._may = False
            return 0

    def _switch(self, direct: bool) -> None:
        if direct != self._direct:
            flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
            fcntl.fcntl(self._fd, fcntl.F_SETFL, flags | os.O_DIRECT if direct else flags & ~os.O_DIRECT)
            self._direct = direct


class Helper:
    """A thread that makes calls for another one, in order. It is not waited for at the end of the process: one that
    hangs in the kernel is left behind."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Future[int], Callable[[], int]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, call: Callable[[], int]) -> Future[int]:
        """Have ``call`` made; what it gives or raises is the future's."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="tandem-reading", daemon=True)
            self._thread.start()
        future: Future[int] = Future()
        self._calls.put((future, call))
        return future

    def close(self) -> None:
        """No more calls come."""
        self._calls.put(None)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
