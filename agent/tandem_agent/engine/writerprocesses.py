"""Processes that write the small files of a restore.

A small file is half a dozen system calls, and with several threads each of them is a fight for the interpreter
lock: threads that could write 100,000 files in 4 s took 11 s. So ranges of small files go, sealed as they were read,
to processes of their own, which decode, verify and write them with the same `FileWriter`, and say what came of it. They
are forked before there are threads: where there are some already, threads do this work too. A process that ends
before its time ends the restore; whoever runs it again loses nothing.
"""

from __future__ import annotations

import contextlib
import mmap
import queue
import socket
import struct
from collections.abc import Iterator, Sequence
from functools import partial

from tandem_agent.engine.filejob import Outcome
from tandem_agent.engine.helpers import has_ended, kill, may_fork, start
from tandem_agent.engine.metadata import MetadataWriter, Troubles
from tandem_agent.engine.orders import (
    Work,
    decode_keys,
    decode_outcome,
    decode_work,
    encode_error,
    encode_keys,
    encode_outcome,
    encode_work,
)
from tandem_agent.engine.target import Target
from tandem_agent.engine.writer import FileWriter, Switch
from tandem_protocol.errors import TandemError
from tandem_protocol.keys import KeyRing
from tandem_protocol.store import Buffer

_LENGTHS = struct.Struct("<QQ")
_PATIENCE_S = 0.2


class WriterProcesses:
    """The restore's side. ``stop``, which all share, ends the work of all of them soon."""

    def __init__(self, links: Sequence[socket.socket], stop: Switch) -> None:
        self.stop = stop
        self._links = list(links)
        self._free: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()

    def __bool__(self) -> bool:
        return bool(self._links)

    def begin(self, target: Target, ring: KeyRing) -> None:
        """Tell them where they write and the keys of what they open. Before any work, once. Those that have ended by
        then are not missed."""
        for link in list(self._links):
            try:
                socket.send_fds(link, [bytes([target.overwrite])], [target.root])
                _send(link, encode_keys(ring), target.shown.encode("utf-8", "surrogateescape"))
                self._free.put(link)
            except OSError:
                self._links.remove(link)

    def write(self, work: Work, data: Buffer, troubles: Troubles) -> Outcome:
        """As `FileWriter.write_range`, by a process that has nothing else to do; waits for both."""
        link = self._free.get()
        try:
            _send(link, encode_work(work), data)
            answer, _ = _Receiver(link).next()
        except (OSError, EOFError):
            raise TandemError(
                "a process that wrote files has ended", "run the same command again: what is complete is kept"
            ) from None
        finally:
            self._free.put(link)
        return decode_outcome(answer, work[0], troubles)


@contextlib.contextmanager
def writer_processes(among: int = 2) -> Iterator[WriterProcesses]:
    """Start them; they are gone when the body has ended. To be called before threads are started, and before there
    is an event loop: where there are threads, there are no processes."""
    stop = mmap.mmap(-1, mmap.PAGESIZE)
    links: list[socket.socket] = []
    pids: list[int] = []
    try:
        while may_fork() and len(pids) < among:
            ours, theirs = socket.socketpair()
            pid = start(partial(_live, theirs, [*links, ours], stop))
            theirs.close()
            if pid is None:
                ours.close()
                break
            links.append(ours)
            pids.append(pid)
        yield WriterProcesses(links, stop)
    finally:
        for link in links:
            link.close()
        for pid in pids:
            # It ends by itself as nobody is at its other end.
            if not has_ended(pid, _PATIENCE_S):
                kill(pid, _PATIENCE_S)


def _live(link: socket.socket, others: list[socket.socket], stop: mmap.mmap) -> None:
    """What the new process does. It holds the target's lock too, so it has to end when a restore that is killed lets
    go of its end of the link; other links would keep that open."""
    for other in others:
        other.close()
    _serve(link, stop)


def _serve(link: socket.socket, stop: mmap.mmap) -> None:
    """Work until nobody is at the other end."""
    overwrite, fds, _, _ = socket.recv_fds(link, 1, 1)
    if not fds:
        return
    receiver = _Receiver(link)
    keys, shown = receiver.next()
    troubles = Troubles()
    target = Target(bytes(shown).decode("utf-8", "surrogateescape"), overwrite != b"\0", root=fds[0])
    writer = FileWriter(target, MetadataWriter(troubles), troubles, decode_keys(keys), stop)
    while True:
        order, data = receiver.next()
        try:
            work = decode_work(order)
            answer = encode_outcome(work[0], writer.write_range(work[0], data, *work[1:]), troubles)
        except Exception as error:
            answer = encode_error(error)
        _send(link, answer, b"")


def _send(link: socket.socket, one: Buffer, two: Buffer) -> None:
    link.sendall(_LENGTHS.pack(len(one), len(two)))
    link.sendall(one)
    link.sendall(two)


class _Receiver:
    """Takes what was sent with `_send`."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._memory = bytearray()

    def next(self) -> tuple[bytes, memoryview]:
        """Both parts; the second only until the next call: its memory is used again. Raises EOFError at the end."""
        one, two = _LENGTHS.unpack(self._fill(memoryview(bytearray(_LENGTHS.size))))
        first = bytes(self._fill(memoryview(bytearray(one))))
        if two > len(self._memory):
            self._memory = bytearray(two)
        return first, self._fill(memoryview(self._memory)[:two])

    def _fill(self, view: memoryview) -> memoryview:
        done = 0
        while done < len(view):
            count = self._link.recv_into(view[done:])
            if not count:
                raise EOFError("nobody is at the other end")
            done += count
        return view
