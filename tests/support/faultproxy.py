"""A TCP proxy in front of a real server that breaks connections as a plan says: refused, cut, reset, silent,
half closed, slow, late, in small pieces.

It runs in a thread of its own, so that whole commands can be driven through it. Every connection is numbered,
and the plan gives the fault of each, or None. It listens on another address of loopback than servers do, so
that the passive data ports of an FTP server can be served under their own numbers: a client connects to the
host that it knows, at the port that the server named, in the clear or inside TLS. It knows nothing of any
protocol, and decides nothing at random. (A link that is only far away, at any rate, is slowlink.py's.)
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Self

HOST = "127.0.0.2"
CHUNK = 64 * 1024
_PATIENCE_S = 60.0
_PORTS = range(12_000, 32_000)
"""Where ports are taken from: below those that the kernel gives to clients."""

Direction = Literal["up", "down", "both"]


class Kind(StrEnum):
    """What happens to a connection once `Fault.after` bytes have passed in its direction."""

    REFUSE = "refuse"  # reset as soon as it is made; the server hears nothing
    CUT = "cut"  # ended in both directions
    RESET = "reset"  # the same, by RST
    STALL = "stall"  # nothing moves in either direction for `seconds`, then it is reset
    PAUSE = "pause"  # nothing moves in either direction for `seconds`, then it goes on
    HALF = "half"  # ended in this direction alone: what still comes is swallowed, the other one lives
    SLOW = "slow"  # `rate` bytes a second in this direction from there on
    DELAY = "delay"  # each piece in this direction `seconds` later
    DRIP = "drip"  # in pieces of `rate` bytes


@dataclass(frozen=True)
class Fault:
    """``direction`` up is from the client to the server; with both, all bytes count together."""

    kind: Kind
    direction: Direction = "up"
    after: int = 0
    seconds: float = 0.0
    rate: int = 0

    def __str__(self) -> str:
        how = f", {self.seconds:.2f} s" if self.seconds else f", {self.rate} bytes" if self.rate else ""
        return f"{self.kind} {self.direction} after {self.after}{how}"


Plan = Callable[[int, bool], Fault | None]
"""(number of the connection since the plan began, from 0; whether it is one for data) -> its fault. The numbers of
data connections are their own."""


def no_fault(_number: int, _is_data: bool) -> None:
    """The plan of a good link."""


def always(fault: Fault, first: int | None = None) -> Plan:
    """``fault`` on every connection, or on the ``first`` ones alone."""
    return lambda number, _: fault if first is None or number < first else None


class FaultProxy:
    """One proxy. Use `running_proxy`, and `point_at` a server. For one other thread at a time.

    ``connections`` (to the main port) and ``data_connections`` count what was accepted, also what was then
    refused; ``bytes_up`` and ``bytes_down`` what was carried; ``struck`` the faults that really happened.
    """

    host = HOST

    def __init__(self, data_ports: int = 0) -> None:
        self.data_ports = range(data_ports)
        self.port = 0
        self.connections = self.data_connections = 0
        self.bytes_up = self.bytes_down = 0
        self.struck: Counter[Kind] = Counter()
        self._target = ("", 0)
        self._plan: Plan = no_fault
        self._numbers: Counter[bool] = Counter()
        self._listening: dict[int, asyncio.Task[None]] = {}
        self._links: set[asyncio.Task[None]] = set()
        self._news = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    # For the test's thread

    def start(self) -> Self:
        self._thread.start()
        self._do(self._open)
        return self

    def stop(self) -> None:
        """Ends every connection and the thread."""
        self._do(self._deafen)
        self._do(self._drop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE_S)
        self._loop.close()

    def point_at(self, host: str, port: int) -> None:
        """Connections go to this server from now on."""
        self._target = (host, port)

    def follow(self, plan: Plan) -> None:
        """The plan for connections to come, numbered from 0 again."""
        self._do(self._follow, plan)

    def heal(self) -> None:
        """A good link from now on; what was broken stays so: every connection that stands is reset."""
        self._do(self._follow, no_fault)
        self._do(self._drop)
        self._do(self._listen)

    def go_down(self) -> None:
        """Nobody listens any more: the kernel refuses connections. Those that stand are reset."""
        self._do(self._deafen)
        self._do(self._drop)

    def wait_for(self, what: Callable[[], bool], seconds: float = _PATIENCE_S) -> None:
        """Waits until ``what`` is true of the counters."""
        with self._news:
            assert self._news.wait_for(what, seconds), "the proxy did not see what was waited for"

    def _do(self, call: Callable[..., object], *arguments: object) -> None:
        async def run() -> None:
            done = call(*arguments)
            if asyncio.iscoroutine(done):
                await done

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(_PATIENCE_S)

    # In the proxy's own thread

    def _open(self) -> None:
        wanted = 1 + len(self.data_ports)
        ports = _free_ports(wanted)
        self.port, self.data_ports = ports[0], ports[1:]
        self._listen()

    def _listen(self) -> None:
        for port in (self.port, *self.data_ports):
            if port not in self._listening:
                server = socket.create_server((HOST, port), backlog=64)
                server.setblocking(False)
                self._listening[port] = self._loop.create_task(self._accept(server, port))

    async def _accept(self, server: socket.socket, port: int) -> None:
        with server:
            while True:
                client, _ = await self._loop.sock_accept(server)
                task = self._loop.create_task(self._serve(client, port))
                self._links.add(task)
                task.add_done_callback(self._links.discard)

    async def _deafen(self) -> None:
        await _cancelled(self._listening.values())
        self._listening.clear()

    async def _drop(self) -> None:
        await _cancelled(set(self._links))

    def _follow(self, plan: Plan) -> None:
        self._plan = plan
        self._numbers.clear()

    async def _serve(self, client: socket.socket, port: int) -> None:
        is_data = port != self.port
        fault = self._plan(self._numbers[is_data], is_data)
        self._numbers[is_data] += 1
        with self._news:
            self.connections += not is_data
            self.data_connections += is_data
            self._news.notify_all()
        reset = True
        server = socket.socket()
        try:
            if fault is not None and fault.kind is Kind.REFUSE:
                self.note_strike(fault)
                return
            for side in (client, server):
                side.setblocking(False)
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            host, main = self._target
            await self._loop.sock_connect(server, (host, port if is_data else main))
            await _Link(self, client, server, fault).carry()
            reset = False
        except _Cut as cut:
            reset = cut.reset
        except OSError:
            pass  # one side is gone: the other hears of it by RST
        finally:
            for side in (client, server):
                _end(side, reset)

    def note_strike(self, fault: Fault) -> None:
        """A fault has happened."""
        with self._news:
            self.struck[fault.kind] += 1
            self._news.notify_all()

    def note_bytes(self, direction: Direction, count: int) -> None:
        """Bytes were carried."""
        with self._news:
            self.bytes_up += count * (direction == "up")
            self.bytes_down += count * (direction == "down")
            self._news.notify_all()


class _Cut(Exception):
    """The connection ends now. ``reset``: by RST."""

    def __init__(self, reset: bool) -> None:
        super().__init__()
        self.reset = reset


class _Link:
    """One connection through the proxy."""

    def __init__(
        self, proxy: FaultProxy, client: socket.socket, server: socket.socket, fault: Fault | None
    ) -> None:
        self._proxy, self._client, self._server, self._fault = proxy, client, server, fault
        self._loop = asyncio.get_running_loop()
        self._left = 0 if fault is None else fault.after
        self._struck = False
        self._moving = asyncio.Event()
        self._moving.set()

    async def carry(self) -> None:
        """Both directions, until both have ended; `_Cut` or OSError when the connection ends otherwise."""
        ways = [
            asyncio.ensure_future(self._way(self._client, self._server, "up")),
            asyncio.ensure_future(self._way(self._server, self._client, "down")),
        ]
        try:
            await asyncio.gather(*ways)
        finally:
            await _cancelled(ways)

    async def _way(self, source: socket.socket, sink: socket.socket, direction: Direction) -> None:
        fault = self._fault
        if fault is not None and fault.direction not in (direction, "both"):
            fault = None
        while True:
            if fault is not None and self._left <= 0 and not self._struck:
                self._struck = True
                self._proxy.note_strike(fault)
                await self._strike(fault, source, sink)
            waits = fault is not None and not self._struck
            data = await self._loop.sock_recv(source, min(CHUNK, max(1, self._left)) if waits else CHUNK)
            await self._moving.wait()
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            await self._send(sink, data, fault if self._struck else None)
            self._proxy.note_bytes(direction, len(data))
            self._left -= len(data) * (fault is not None)

    async def _strike(self, fault: Fault, source: socket.socket, sink: socket.socket) -> None:
        if fault.kind in (Kind.CUT, Kind.RESET):
            raise _Cut(fault.kind is Kind.RESET)
        if fault.kind in (Kind.STALL, Kind.PAUSE):
            self._moving.clear()
            await asyncio.sleep(fault.seconds)
            if fault.kind is Kind.STALL:
                raise _Cut(True)
            self._moving.set()
        if fault.kind is Kind.HALF:
            sink.shutdown(socket.SHUT_WR)
            while await self._loop.sock_recv(source, CHUNK):
                pass

    async def _send(self, sink: socket.socket, data: bytes, fault: Fault | None) -> None:
        """``data`` at the pace of a fault that has struck."""
        if fault is None or not (fault.rate or fault.seconds):
            await self._loop.sock_sendall(sink, data)
            return
        if fault.kind is Kind.DELAY:
            await asyncio.sleep(fault.seconds)
        piece = max(1, fault.rate // 20) if fault.kind is Kind.SLOW else fault.rate or len(data)
        for start in range(0, len(data), piece):
            await self._loop.sock_sendall(sink, data[start : start + piece])
            await asyncio.sleep(0.05 if fault.kind is Kind.SLOW else 0)


@contextmanager
def running_proxy(data_ports: int = 0) -> Iterator[FaultProxy]:
    """A started proxy, stopped at the end whatever happened."""
    proxy = FaultProxy(data_ports).start()
    try:
        yield proxy
    finally:
        proxy.stop()


async def _cancelled(tasks: Collection[asyncio.Future[None]]) -> None:
    """Ends tasks, and waits for that: a socket is closed only when nobody waits on it."""
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _end(side: socket.socket, reset: bool) -> None:
    if reset:
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    side.close()


def _free_ports(count: int) -> range:
    """Ports side by side that nobody listens on, on any address."""
    for _ in range(200):
        first = random.randrange(_PORTS.start, _PORTS.stop - count)
        ports = range(first, first + count)
        if all(_is_free(port) for port in ports):
            return ports
    raise AssertionError("no free ports for a proxy")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True
