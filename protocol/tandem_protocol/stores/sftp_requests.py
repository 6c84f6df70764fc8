"""Requests of SFTP version 3 and their answers, over any link that carries bytes.

paramiko's client is not used: it drops the statuses of pipelined writes, so a write that failed in the middle stays
unseen. Here every request has a number that is waited for, every wait a deadline, every length a cap, and long reads
and writes keep a window of requests under way without copying the data. Several threads may use one session at once,
each with requests of its own: whoever waits receives for all of them. It knows no paths of tiers and no retries; after
`Unavailable` or `Corrupt` the link is of no more use.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from ..errors import Corrupt, TandemError, Unavailable
from ..store import Buffer
from . import sftp_codes as codes
from .sftp_errors import StatusError
from .sftp_messages import HEAD, Long, Reply, Request, packed

MAX_PACKET = 1024 * 1024
"""Longest answer that is accepted, in bytes; servers send at most 256 KiB and some header."""

SAFE_SIZE = 32 * 1024
BEST_SIZE = 255 * 1024
"""Bytes of data in a request: what every server takes, and what OpenSSH takes when it says so."""

_WINDOW = 64
_WINDOW_BYTES = 16 * 1024 * 1024
_WRITE = struct.Struct(">IBII")
_VERSION = 3


_IN_ORDER = b"expand-path@openssh.com"
"""What only OpenSSH's server offers, since 8.7."""


class Link(Protocol):
    """Carries bytes to a server and back. Both calls raise TimeoutError after ``seconds``. One thread may send while
    another receives, never two at one."""

    def send(self, buffers: Sequence[Buffer], seconds: float) -> None: ...

    def receive_into(self, view: memoryview, seconds: float) -> int:
        """At least one byte, or 0 when the other side has ended."""

    def reason(self, what: str) -> Exception:
        """Why the link ended, as the error to raise; ``what`` if nothing better is known."""


class Requests:
    """One SFTP session over ``link``. ``in_order``: the server carries out one request after another, as the protocol
    demands for those about one file. (asyncssh's, for one, begins the next before a write has ended.)"""

    def __init__(self, link: Link, deadline_s: float) -> None:
        self._link = link
        self._deadline_s = deadline_s
        self._number = 0
        self._waiting: dict[int, memoryview | None] = {}
        self._replies: dict[int, Reply | int] = {}
        self._dropped: set[int] = set()
        self._sending = threading.Lock()
        self._changed = threading.Condition(threading.Lock())
        """Guards the tables above and the two below; told when an answer has come or nobody receives any more."""
        self._receiving = False
        self._fault: TandemError | None = None
        self.max_read = self.max_write = SAFE_SIZE
        self.extensions = self._hello()
        self.in_order = _IN_ORDER in self.extensions

    def _hello(self) -> dict[bytes, bytes]:
        self._transmit((struct.pack(">IBI", 5, codes.INIT, _VERSION),))
        length, kind, version = self._head()
        if kind != codes.VERSION or version != _VERSION:
            raise Corrupt(
                "the server does not speak SFTP version 3",
                "a login script that prints text would do this: it must be silent for SFTP",
            )
        reply = Reply(kind, self._body(length - 5))
        found = {}
        while reply.left():
            name = reply.string()
            found[name] = reply.string()
        return found

    def ask_limits(self) -> int | None:
        """Ask for the server's limits, if it tells them; what this gives is for `take_limits`."""
        if b"limits@openssh.com" not in self.extensions:
            return None
        return self.ask(codes.EXTENDED, b"limits@openssh.com")

    def take_limits(self, number: int | None) -> None:
        """Wait for the limits and keep to them."""
        if number is None:
            return
        reply = self.answer(number)
        reply.int64()
        most_read, most_write = reply.int64(), reply.int64()
        # 0 means that the server sets no limit of its own.
        self.max_read = max(min(most_read or BEST_SIZE, BEST_SIZE), 1024)
        self.max_write = max(min(most_write or BEST_SIZE, BEST_SIZE), 1024)

    def ask(self, kind: int, *fields: int | bytes, into: memoryview | None = None) -> int:
        """Send a request; its number, to be given to `answer` or `drop`."""
        number = self._next(into)
        self._transmit((packed(number, kind, fields),))
        return number

    def ask_all(self, *requests: Request) -> list[int]:
        """Send several requests as one piece; their numbers."""
        numbers = [self._next(None) for _ in requests]
        pieces = (
            packed(number, kind, fields) for number, (kind, *fields) in zip(numbers, requests, strict=True)
        )
        self._transmit((b"".join(pieces),))
        return numbers

    def answer(self, number: int) -> Reply:
        """Wait for the answer to a request; `StatusError` if it is a status that is not OK."""
        reply = self._wait(number)
        assert isinstance(reply, Reply), "only reads answer with a count"
        return reply

    def call(self, kind: int, *fields: int | bytes) -> Reply:
        """A request and its answer."""
        return self.answer(self.ask(kind, *fields))

    def drop(self, number: int) -> None:
        """The answer to this request does not matter."""
        with self._changed:
            if self._replies.pop(number, None) is None and number in self._waiting:
                self._waiting[number] = None
                self._dropped.add(number)

    def write(
        self,
        handle: bytes,
        data: memoryview,
        offset: int,
        sent: Callable[[int], None],
        then: Sequence[Request] = (),
    ) -> list[Reply]:
        """Write all of ``data`` at ``offset``, and ``then`` some more, in that order. Every status is seen before this
        returns; the first that is not OK is raised, after all others have come in. Gives the answers to ``then``.
        ``sent`` is told what the server confirmed."""
        size, window = self.max_write, self._window(self.max_write)
        waiting: deque[tuple[int, int]] = deque()
        more: list[int] = []
        failure: StatusError | None = None
        for start in range(0, len(data), size):
            if len(waiting) >= window:
                failure = self._written(*waiting.popleft(), sent)
            if failure is not None:
                break
            part = data[start : start + size]
            number = self._next(None)
            head = _WRITE.pack(len(handle) + len(part) + 21, codes.WRITE, number, len(handle))
            place = struct.pack(">QI", offset + start, len(part))
            self._transmit((head + handle + place, part))
            waiting.append((number, len(part)))
        if then and self.in_order and failure is None:
            more = self.ask_all(*then)
        while waiting:
            # The first failure is kept, but each answer is taken: a bare "or" would leave them all waiting.
            outcome = self._written(*waiting.popleft(), sent)
            failure = failure or outcome
        if then and not more and failure is None:
            more = self.ask_all(*then)
        return self.answer_all(more, failure)

    def answer_all(self, numbers: Sequence[int], failure: StatusError | None = None) -> list[Reply]:
        """Wait for all these answers, then raise the first that is a status that is not OK, or ``failure``."""
        replies = []
        for number in numbers:
            try:
                replies.append(self.answer(number))
            except StatusError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return replies

    def _written(self, number: int, count: int, sent: Callable[[int], None]) -> StatusError | None:
        try:
            self.answer(number)
        except StatusError as error:
            return error
        sent(count)
        return None

    def read_into(self, handle: bytes, offset: int, view: memoryview) -> int:
        """Fill ``view`` from ``offset``; the number of bytes there were before the end of the file."""
        size, window = self.max_read, self._window(self.max_read)
        waiting: deque[tuple[int, int, int]] = deque()
        start, end = 0, len(view)
        try:
            while waiting or start < end:
                while start < end and len(waiting) < window:
                    stop = min(start + size, end)
                    waiting.append(self._ask_read(handle, offset, view, start, stop))
                    start = stop
                number, begin, stop = waiting.popleft()
                try:
                    got = self.answer_read(number)
                except StatusError as error:
                    if error.code != codes.EOF:
                        raise
                    start, end = begin, min(end, begin)
                    continue
                if begin + got < stop:
                    waiting.appendleft(self._ask_read(handle, offset, view, begin + got, stop))
        finally:
            for number, _, _ in waiting:
                self.drop(number)
        return end

    def _ask_read(
        self, handle: bytes, offset: int, view: memoryview, start: int, stop: int
    ) -> tuple[int, int, int]:
        return self.ask_read(handle, offset + start, view[start:stop]), start, stop

    def ask_read(self, handle: bytes, offset: int, view: memoryview) -> int:
        """Ask for bytes that will be put into ``view``; at most `max_read`."""
        return self.ask(codes.READ, handle, Long(offset), len(view), into=view)

    def ask_look_and_read(self, handle: bytes, offset: int, view: memoryview) -> tuple[int, int]:
        """Ask, as one piece, for the attributes of a file and for bytes as `ask_read` does; 0 if ``view`` is empty."""
        looked = self._next(None)
        asked = packed(looked, codes.FSTAT, (handle,))
        reading = 0
        if view:
            reading = self._next(view)
            asked += packed(reading, codes.READ, (handle, Long(offset), len(view)))
        self._transmit((asked,))
        return looked, reading

    def answer_read(self, number: int) -> int:
        """How many bytes came for `ask_read`: at least one. The end of the file is a `StatusError`."""
        got = self._wait(number)
        if not isinstance(got, int) or got == 0:
            raise Corrupt("the server answered a read with something else")
        return got

    def _window(self, size: int) -> int:
        return max(_WINDOW, min(4 * _WINDOW, _WINDOW_BYTES // size))

    def _next(self, into: memoryview | None) -> int:
        """A number for a request that is about to be sent, whose data go ``into`` a buffer."""
        with self._changed:
            self._number = self._number % 0xFFFFFFFF + 1
            self._waiting[self._number] = into
            return self._number

    def _wait(self, number: int) -> Reply | int:
        with self._changed:
            while number not in self._replies:
                if self._fault is not None:
                    raise type(self._fault)(self._fault.what, self._fault.remedy)
                if self._receiving:
                    self._changed.wait()  # whoever receives has a deadline
                else:
                    self._receive_one()
            reply = self._replies.pop(number)
        if isinstance(reply, Reply) and reply.kind == codes.STATUS:
            code = reply.int32()
            if code != codes.OK:
                raise StatusError(code, reply.string().decode(errors="replace") if reply.left() else "")
        return reply

    def _receive_one(self) -> None:
        """Receive one answer for whoever waits for it. Called, and left, with the tables locked; not in between."""
        self._receiving = True
        self._changed.release()
        try:
            self._receive()
        except TandemError as fault:
            self._fault = fault
            raise
        finally:
            self._changed.acquire()
            self._receiving = False
            self._changed.notify_all()

    def _receive(self) -> None:
        length, kind, number = self._head()
        with self._changed:
            if number not in self._waiting:
                raise Corrupt("the server answers a request that was not sent")
            into = self._waiting[number]
        reply: Reply | int
        if kind == codes.DATA and into is not None:
            count = int.from_bytes(self._body(4)) if length >= 9 else -1
            if count != length - 9 or count > len(into):
                raise Corrupt("the server sent more data than was asked")
            self._fill(into[:count])
            reply = count
        else:
            reply = Reply(kind, self._body(length - 5))
        with self._changed:
            del self._waiting[number]
            if number in self._dropped:
                self._dropped.discard(number)
            else:
                self._replies[number] = reply

    def _head(self) -> tuple[int, int, int]:
        length, kind, number = HEAD.unpack(self._body(HEAD.size))
        if not 5 <= length <= MAX_PACKET:
            raise Corrupt(
                f"the server sent a packet of {length} bytes",
                "a login script that prints text would do this: it must be silent for SFTP",
            )
        return length, kind, number

    def _body(self, count: int) -> bytearray:
        data = bytearray(count)
        self._fill(memoryview(data))
        return data

    def _fill(self, view: memoryview) -> None:
        # One deadline for the whole of it: a server that sends a byte a minute stalls too.
        end = time.monotonic() + self._deadline_s
        try:
            while view:
                count = self._link.receive_into(view, max(end - time.monotonic(), 0.001))
                if count == 0:
                    raise self._link.reason("the server ended the connection")
                view = view[count:]
        except TimeoutError as error:
            raise Unavailable(f"the server did not answer within {self._deadline_s:g} s") from error
        except OSError as error:
            raise self._link.reason(f"the connection broke: {error.strerror or error}") from error

    def _transmit(self, buffers: Sequence[Buffer]) -> None:
        try:
            with self._sending:
                self._link.send(buffers, self._deadline_s)
        except TimeoutError as error:
            raise Unavailable(f"the server took no data for {self._deadline_s:g} s") from error
        except OSError as error:
            raise self._link.reason(f"the connection broke: {error.strerror or error}") from error
