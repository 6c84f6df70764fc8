"""Processes that look at the folders of the sources while the backup is still getting ready, and then ahead of it.

Where nothing changed, looking is all the work there is: about 10 µs a name where the kernel has to fetch the
inode, 5 µs where it has it, none of which one interpreter can do on two processors at once. So it is done in
processes of their own, each of which writes what it finds into a pipe: when that is full they wait, so neither
memory nor the lead is without bounds. The scanner takes what fits: the folder that it opened itself must be the
one that was looked at, and not long ago. Everything else it looks at as always. A forerunner that ends, hangs or
is killed takes nothing away but time, and not much: one that is silent for too long is not listened to any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import select
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial

from tandem_agent.engine.forerun import Forerun, Line, decoded, now, whose
from tandem_agent.engine.helpers import kill, may_fork, start
from tandem_agent.engine.options import ScanOptions
from tandem_agent.engine.sourcetree import outermost, source_tree

FORERUNNERS = 3
"""More than small machines have processors: some of them wait for the disk."""

FRESH_S = 10.0
"""What was seen longer ago is looked at again: what changed meanwhile belongs into the backup."""

NICER = 5
"""By how much they give way to the scanner, which else, one of four for two processors, is late and then goes on alone:
1.85 processors busy in a first backup instead of 1.75. With 10, others at work on the machine held all of it up."""

PATIENCE_S = 20.0
"""How long the scanner waits for one word of a forerunner."""

_PIPE = 1 << 20
"""The most that any user may ask for: 10,000 folders in which nothing is new, or 16 MB that wait to be read."""

_AT_ONCE = 4096
_LONGEST_WAIT_S = 0.002
_LAST_WAIT_S = 0.2


def is_fresh(seconds: float) -> bool:
    """Whether what was seen at that time of `now` may be believed."""
    return now() - seconds < FRESH_S


class Forerunners:
    """What forerunners saw, for the scanner's thread alone; by default there are none."""

    def __init__(self, pipes: Sequence[int] = (), since: int = 0, begun: int | None = None) -> None:
        """``since`` (ns): files with such a ctime, or a later one, they have fetched; ``begun``: when they began."""
        self.since = since
        self.begun = time.time_ns() if begun is None else begun
        self._pipes = [_Pipe(pipe) for pipe in pipes]

    def seen(self, path: bytes, device: int, inode: int) -> Line | None:
        """What is in the folder, which is open and has these numbers, if that was seen a short time ago: its first
        line, then the next one. Folders are asked for in the order of a walk in depth, names in that of their bytes."""
        if not self._pipes:
            return None
        pipe = self._pipes[whose(path, len(self._pipes))]
        place = _place(path)
        while (line := pipe.first()) is not None:
            there = _place(line.path)
            if there > place:
                return None
            pipe.drop()
            if there == place:
                return line if is_fresh(line.seconds) and line.folder == (device, inode) else None
        return None


class _Pipe:
    """The lines that come out of a pipe, one by one."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._ready = select.poll()
        self._ready.register(pipe, select.POLLIN)
        self._data = b""
        self._at = 0
        self._line: Line | None = None
        self._ended = False

    def first(self) -> Line | None:
        """The next line, which stays so until it is dropped; None if no more will come, or none came for too long."""
        if self._line is None and (head := self._take(4)) is not None:
            data = self._take(int.from_bytes(head, "little"))
            self._line = None if data is None else decoded(data)
        return self._line

    def drop(self) -> None:
        self._line = None

    def _take(self, length: int) -> bytes | None:
        while len(self._data) - self._at < length:
            more = b""
            if not self._ended and self._ready.poll(PATIENCE_S * 1000):
                more = os.read(self._pipe, _PIPE)
            if not more:  # what is there is the beginning of a line
                self._data, self._at, self._ended = b"", 0, True
                return None
            self._data, self._at = self._data[self._at :] + more, 0
        self._at += length
        return self._data[self._at - length : self._at]


def _place(path: bytes) -> bytes:
    """Sorts like the walk: a folder, what is in it, and then what comes after it."""
    return path.replace(b"/", b"\0")


@contextlib.contextmanager
def forerunners(
    sources: Sequence[bytes], options: ScanOptions, since: int, among: int = FORERUNNERS
) -> Iterator[Forerunners]:
    """Start them; they are gone when the body has ended. To be called before threads are started: where there are
    some, there are no forerunners. ``since`` (ns): what changed then or later is new. Raises `Usage` for sources that
    are none."""
    roots = list(outermost(source_tree(sources)))
    begun = time.time_ns()
    if not may_fork():
        yield Forerunners()
        return
    pids: list[int] = []
    pipes: list[int] = []
    try:
        for number in range(among):
            reading, writing = os.pipe()
            pipes.append(reading)
            with contextlib.suppress(OSError):
                fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE)
            pid = start(partial(_forerun, roots, options, number, among, since, writing, list(pipes)))
            os.close(writing)
            if pid is None:
                break
            pids.append(pid)
        # All or none: which of them looks at a folder follows from how many there are.
        yield Forerunners(pipes, since, begun) if len(pids) == among else Forerunners()
    finally:
        for pid in pids:
            kill(pid, _LAST_WAIT_S)
        for pipe in pipes:
            os.close(pipe)


def _forerun(
    roots: Sequence[tuple[bytes, bool]],
    options: ScanOptions,
    number: int,
    among: int,
    since: int,
    pipe: int,
    others: Sequence[int],
) -> None:
    """What the new process does."""
    os.nice(NICER)
    gc.disable()  # nothing here refers to itself
    for fd in others:
        os.close(fd)
    teller = _Teller(pipe)
    Forerun(options, number, among, teller.tell, since).walk(roots)
    teller.flush()


class _Teller:
    """Writes lines to a pipe, some at a time. Called often enough, if with empty ones, it holds none back for long."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._waiting: list[bytes] = []
        self._size = 0
        self._since = time.monotonic()

    def tell(self, line: bytes) -> None:
        if line:
            self._waiting.append(line)
            self._size += len(line)
        if self._size >= _AT_ONCE or time.monotonic() - self._since > _LONGEST_WAIT_S:
            self.flush()

    def flush(self) -> None:
        data = memoryview(b"".join(self._waiting))
        try:
            while data:
                data = data[os.write(self._pipe, data) :]
        except OSError:  # nobody reads it any more
            sys.exit(0)
        self._waiting, self._size, self._since = [], 0, time.monotonic()
