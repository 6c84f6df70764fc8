"""A store on an SFTP server.

The protocol is blocking code (sftp_folder.py over sftp_requests.py over a link) on threads of the connection,
so that a busy event loop does not slow it and it does not slow the loop. A verb that is cancelled cuts the
link, which ends the threads' work at once; so does every fault that leaves the session in doubt.
A connection carries many verbs at once, of which one moves much: round trips are what small ones cost, and two
large ones would only share what the line carries. A far server is given several connections, since each carries no
more than a window per round trip. They are one session, and closed together when one of them fails.
What speaks the protocol is loaded on a thread, while ``ssh`` connects.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import Corrupt, TandemError, Unavailable
from ..store import Buffer, Entry, Store
from .faults import check_name, unasked
from .parts import KnownParts
from .sftp_transport import SftpTarget, SshPipe, uses_system_ssh

if TYPE_CHECKING:
    from .sftp_folder import SftpFolder
    from .sftp_paramiko import ParamikoLink

FAR_S = 0.02
"""Round trips above this many seconds are worth `FAR_CONNECTIONS`, measured; below, one fills the line."""

FAR_CONNECTIONS = 3

VERBS = 16
"""Most verbs under way at once in one session."""

LARGE = 12 * 1024 * 1024
"""A transfer of more bytes than this has a connection to itself, but for small ones. No record is so long."""

_GIVE_UP_S = 5.0
_T = TypeVar("_T")


class _Connection:
    """One link, its threads, and the folder beyond it."""

    def __init__(self, target: SftpTarget, parts: KnownParts) -> None:
        self.target = target
        self.parts = parts
        self.link = _make_link(target)
        self.threads = ThreadPoolExecutor(VERBS, thread_name_prefix="tandem-sftp")
        self.folder: SftpFolder | None = None
        self.round_trip_s = 0.0
        self.verbs = 0
        self.has_large = False
        self.cause: TandemError | None = None
        """What ended the session, where it was a fault of a verb."""
        self._running: set[Future[Any]] = set()
        self._closed: Future[None] | None = None

    def connect(self, make_root: bool) -> None:
        self.link.start()
        from .sftp_folder import SftpFolder
        from .sftp_requests import Requests

        requests = Requests(self.link, self.target.deadline_s)
        self.link.connected()
        folder = SftpFolder(requests, self.target.path, self.target.place, self.parts)
        self.round_trip_s = folder.enter(make_root)
        if FAR_S < self.round_trip_s < 3 * FAR_S:  # or was the server busy?
            self.round_trip_s = min(self.round_trip_s, folder.enter(False))
        self.folder = folder

    def end(self) -> Future[None]:
        """Cut the link and let a thread release everything; does not wait."""
        if self._closed is None:
            self.link.abort()
            self._closed = self.threads.submit(self._release, list(self._running))
            self.threads.shutdown(wait=False)
        return self._closed

    def _release(self, running: Sequence[Future[Any]]) -> None:
        """Once nobody uses the link any more: a number of a file that is closed soon means another one."""
        wait(running)
        self.link.close()

    def run(self, call: Callable[..., _T], *args: object) -> asyncio.Future[_T]:
        """``call`` on a thread."""
        work = self.threads.submit(call, *args)
        self._running.add(work)
        work.add_done_callback(self._running.discard)
        return asyncio.wrap_future(work)


def _make_link(target: SftpTarget) -> SshPipe | ParamikoLink:
    if uses_system_ssh(target):
        return SshPipe(target)
    from .sftp_paramiko import ParamikoLink

    return ParamikoLink(target)


class SftpStore(Store):
    """Names are files below ``target.path``. ``uploads`` is known once it is open; the further connections of
    a far server are then still on their way, and the first serves alone until they are there."""

    parallel = VERBS

    def __init__(self, target: SftpTarget, make_root: bool = False, parts: KnownParts | None = None) -> None:
        self.target = target
        self._parts = parts or KnownParts()
        self._make_root = make_root
        self._connections: list[_Connection] = []
        self._more: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def open(self) -> None:
        await self.close()
        first = _Connection(self.target, self._parts)
        self._connections = [first]
        try:
            await self._on_thread(first, first.connect, self._make_root)
        except BaseException:
            await self.close()
            raise
        assert first.folder is not None
        self.power_safe = first.folder.power_safe
        self.uploads = FAR_CONNECTIONS if first.round_trip_s > FAR_S else 1
        if self.uploads > 1:
            more = [_Connection(self.target, self._parts) for _ in range(self.uploads - 1)]
            self._connections += more
            self._more = asyncio.create_task(self._connect_more(more), name="further SFTP connections")

    async def _connect_more(self, more: list[_Connection]) -> None:
        """Connect those as well. A server that allows fewer has its way."""
        await asyncio.gather(*(self._connect_one(one) for one in more))

    async def _connect_one(self, one: _Connection) -> None:
        try:
            await one.run(one.connect, False)
        except TandemError:
            if one in self._connections:
                self._connections.remove(one)
            await _ended([one])
        self._changed.set()

    async def close(self) -> None:
        connections, self._connections = self._connections, []
        self._changed.set()
        more, self._more = self._more, None
        if more is not None:
            more.cancel()
        await _ended(connections)

    async def create(self, name: str, data: Buffer) -> None:
        check_name(name)
        view = memoryview(data).cast("B")
        await self._run(lambda folder: folder.create(name, view))

    async def put(self, name: str, data: Buffer, sent: Callable[[int], None] | None = None) -> None:
        check_name(name)
        view = memoryview(data).cast("B")
        loop = asyncio.get_running_loop()

        def tell(count: int) -> None:
            if sent is not None:
                loop.call_soon_threadsafe(sent, count)

        await self._run(lambda folder: folder.put(name, view, tell), len(view))

    async def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        check_name(name)
        most = LARGE + 1 if length is None else length
        return await self._run(lambda folder: folder.read(name, offset, length), most)

    async def size(self, name: str) -> int:
        check_name(name)
        return await self._run(lambda folder: folder.size(name))

    async def list(self, folder: str) -> AsyncIterator[Entry]:
        if folder:
            check_name(folder)
        for entry in await self._run(lambda opened: opened.entries(folder)):
            yield entry

    async def move(self, source: str, target: str) -> None:
        check_name(source)
        check_name(target)
        await self._run(lambda folder: folder.move(source, target))

    async def delete(self, name: str) -> None:
        check_name(name)
        await self._run(lambda folder: folder.delete(name))

    async def _run(self, verb: Callable[[SftpFolder], _T], size: int = 0) -> _T:
        """``verb``, which moves about ``size`` bytes, on the connection that has least to do."""
        large = size > LARGE
        connection, folder = await self._free(large)
        connection.verbs += 1
        connection.has_large |= large
        try:
            return await self._on_thread(connection, verb, folder)
        finally:
            connection.verbs -= 1
            connection.has_large &= not large
            self._changed.set()

    async def _free(self, large: bool) -> tuple[_Connection, SftpFolder]:
        while self._connections:
            free = [
                (one.has_large, one.verbs, at)
                for at, one in enumerate(self._connections)
                if one.folder is not None and one.verbs < VERBS and not (large and one.has_large)
            ]
            if free:
                one = self._connections[min(free)[2]]
                assert one.folder is not None
                return one, one.folder
            self._changed.clear()
            await self._changed.wait()
        raise Unavailable(f"{self.target.place} is not open")

    async def _on_thread(self, connection: _Connection, call: Callable[..., _T], *args: object) -> _T:
        """``call`` on a thread of the connection. A fault or a cancellation ends the session; the other verbs that this
        cuts say why."""
        work = connection.run(call, *args)
        try:
            return await asyncio.shield(work)
        except (asyncio.CancelledError, Unavailable, Corrupt) as fault:
            work.add_done_callback(unasked)
            if connection in self._connections:
                for one in self._connections:
                    one.cause = fault if isinstance(fault, TandemError) else None
                await self.close()
            elif isinstance(fault, Unavailable) and connection.cause is not None:
                raise Unavailable(connection.cause.what, connection.cause.remedy) from fault
            raise


async def _ended(connections: list[_Connection]) -> None:
    """End them all; never raises. Once begun it is carried out, even if whoever waits is cancelled (again)."""
    closing = [asyncio.wrap_future(one.end()) for one in connections]
    if closing:
        await asyncio.wait(closing, timeout=_GIVE_UP_S)
