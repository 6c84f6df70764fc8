"""Processes that look at the folders of the sources while the backup is still getting ready, and then ahead of it.

Where nothing changed, looking is all the work there is: about 10 µs a name where the kernel has to fetch the
inode, 5 µs where it has it, none of which one interpreter can do on two processors at once. So it is done in
processes of their own, each of which writes what it finds into a pipe: when that is full they wait, so neither
memory nor the lead is without bounds. The scanner takes what fits: the folder that it opened itself must be the
one that was looked at, and not long ago. Everything else it looks at as always. A forerunner that ends, hangs or
is killed takes nothing away but time.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from tandem_agent.engine.forerun import Forerun, Line, decoded, whose
from tandem_agent.engine.options import ScanOptions
from tandem_agent.engine.sourcetree import outermost, source_tree

FORERUNNERS = 3
"""More than small machines have processors: some of them wait for the disk."""

FRESH_S = 10.0
"""What was seen longer ago is looked at again: what changed meanwhile belongs into the backup."""

_PIPE = 1 << 20  # the most that any user may ask for; some 100 bytes a folder
_AT_ONCE = 4096
_LONGEST_WAIT_S = 0.002
_PATIENCE_S = 0.2


class Forerunners:
    """What forerunners saw, for the scanner's thread alone; by default there are none."""

    def __init__(self, pipes: Sequence[BinaryIO] = ()) -> None:
        self._pipes = list(pipes)
        self._next: list[Line | None] = [None for _ in pipes]

    def seen(self, path: bytes, device: int, inode: int) -> Line | None:
        """What is in the folder, which is open and has these numbers, if that was seen a short time ago. Folders are
        asked for in the order of a walk in depth, names in order of their bytes."""
        if not self._pipes:
            return None
        number = whose(path, len(self._pipes))
        place = _place(path)
        while (line := self._next[number] or self._read(number)) is not None:
            self._next[number] = line
            there = _place(line.path)
            if there > place:
                return None
            self._next[number] = None
            if there == place:
                fresh = time.monotonic() - line.seconds < FRESH_S
                return line if fresh and line.folder == (device, inode) else None
        return None

    def _read(self, number: int) -> Line | None:
        pipe = self._pipes[number]
        if pipe.closed:
            return None
        length = int.from_bytes(pipe.read(4), "little")
        data = pipe.read(length)
        if length and len(data) == length:
            return decoded(data)
        pipe.close()
        return None


def _place(path: bytes) -> bytes:
    """Sorts like the walk: a folder, what is in it, and then what comes after it."""
    return path.replace(b"/", b"\0")


@contextlib.contextmanager
def forerunners(
    sources: Sequence[bytes], options: ScanOptions, among: int = FORERUNNERS
) -> Iterator[Forerunners]:
    """Start them; they are gone when the body has ended. To be called before threads are started: where there are
    some, there are no forerunners. Raises `Usage` for sources or patterns that are none."""
    roots = list(outermost(source_tree(sources)))
    if threading.active_count() > 1 or options.exclude_caches:
        yield Forerunners()
        return
    pids: list[int] = []
    pipes: list[BinaryIO] = []
    try:
        for number in range(among):
            reading, writing = os.pipe()
            with contextlib.suppress(OSError):
                fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE)
            pid = os.fork()
            if not pid:
                _forerun(
                    roots, options, number, among, writing, [reading, *(pipe.fileno() for pipe in pipes)]
                )
            os.close(writing)
            pids.append(pid)
            pipes.append(os.fdopen(reading, "rb", 1 << 16))
        yield Forerunners(pipes)
    finally:
        for pid, pipe in zip(pids, pipes, strict=True):
            if _ended(pid):
                pipe.close()


def _forerun(
    roots: Sequence[tuple[bytes, bool]],
    options: ScanOptions,
    number: int,
    among: int,
    pipe: int,
    others: Sequence[int],
) -> None:
    """The new process; never returns."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this ends it
        gc.disable()  # nothing here refers to itself
        for fd in others:
            os.close(fd)
        _silence()
        teller = _Teller(pipe)
        Forerun(options, number, among, teller.tell).walk(roots)
        teller.flush()
    finally:
        os._exit(0)


def _silence() -> None:
    """Nobody waits for the end of an output that this process never writes to."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(nowhere, fd)


class _Teller:
    """Writes lines to a pipe, some at a time, none late."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._waiting: list[bytes] = []
        self._size = 0
        self._since = time.monotonic()

    def tell(self, line: bytes) -> None:
        self._waiting.append(line)
        self._size += len(line)
        if self._size >= _AT_ONCE or time.monotonic() - self._since > _LONGEST_WAIT_S:
            self.flush()

    def flush(self) -> None:
        data = memoryview(b"".join(self._waiting))
        while data:
            data = data[os.write(self._pipe, data) :]
        self._waiting, self._size, self._since = [], 0, time.monotonic()


def _ended(pid: int) -> bool:
    """End it. One that hangs in the kernel is left behind: False."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + _PATIENCE_S
        while not os.waitpid(pid, os.WNOHANG)[0]:
            if time.monotonic() > end:
                return False
            time.sleep(0.001)
    return True
