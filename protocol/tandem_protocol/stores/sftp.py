"""A store on an SFTP server.

The protocol is blocking code (sftp_folder.py over sftp_requests.py over a link) on one thread per session,
so that a busy event loop does not slow it and it does not slow the loop. A verb that is cancelled cuts the
link, which ends the thread's work at once; so does every fault that leaves the session in doubt.
paramiko takes a quarter of a second to load, so it is loaded on that thread, while ``ssh`` connects.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from ..errors import Corrupt, Unavailable
from ..store import Buffer, Entry, Store
from .faults import check_name
from .sftp_transport import SftpTarget, SshPipe, uses_system_ssh

if TYPE_CHECKING:
    from .sftp_folder import SftpFolder
    from .sftp_paramiko import ParamikoLink

_GIVE_UP_S = 5.0
_T = TypeVar("_T")


class _Session:
    """One connection, its thread, and the folder beyond it."""

    def __init__(self, target: SftpTarget, make_root: bool) -> None:
        self.target = target
        self.make_root = make_root
        self.link = _make_link(target)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="tandem-sftp")
        self.folder: SftpFolder | None = None

    def connect(self) -> None:
        self.link.start()
        from .sftp_folder import SftpFolder
        from .sftp_requests import Requests

        requests = Requests(self.link, self.target.deadline_s)
        self.link.connected()
        folder = SftpFolder(requests, self.target.path, self.target.place)
        folder.enter(self.make_root)
        self.folder = folder


def _make_link(target: SftpTarget) -> SshPipe | ParamikoLink:
    if uses_system_ssh(target):
        return SshPipe(target)
    from .sftp_paramiko import ParamikoLink

    return ParamikoLink(target)


class SftpStore(Store):
    """Names are files below ``target.path``."""

    def __init__(self, target: SftpTarget, make_root: bool = False) -> None:
        self.target = target
        self._make_root = make_root
        self._session: _Session | None = None

    async def open(self) -> None:
        await self.close()
        session = self._session = _Session(self.target, self._make_root)
        try:
            await self._run(session.connect)
        except BaseException:
            await self.close()
            raise
        assert session.folder is not None
        self.power_safe = session.folder.power_safe

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await _end(session)

    async def create(self, name: str, data: Buffer) -> None:
        folder = self._folder(name)
        await self._run(folder.create, name, memoryview(data).cast("B"))

    async def put(self, name: str, data: Buffer, sent: Callable[[int], None] | None = None) -> None:
        folder = self._folder(name)
        loop = asyncio.get_running_loop()

        def tell(count: int) -> None:
            if sent is not None:
                loop.call_soon_threadsafe(sent, count)

        await self._run(folder.put, name, memoryview(data).cast("B"), tell)

    async def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return await self._run(self._folder(name).read, name, offset, length)

    async def size(self, name: str) -> int:
        return await self._run(self._folder(name).size, name)

    async def list(self, folder: str) -> AsyncIterator[Entry]:
        opened = self._folder(folder) if folder else self._opened()
        for entry in await self._run(opened.entries, folder):
            yield entry

    async def move(self, source: str, target: str) -> None:
        check_name(target)
        await self._run(self._folder(source).move, source, target)

    async def delete(self, name: str) -> None:
        await self._run(self._folder(name).delete, name)

    def _folder(self, name: str) -> SftpFolder:
        """The session's folder, once ``name`` is known to be one that a store takes."""
        check_name(name)
        return self._opened()

    def _opened(self) -> SftpFolder:
        if self._session is None or self._session.folder is None:
            raise Unavailable(f"{self.target.place} is not open")
        return self._session.folder

    async def _run(self, call: Callable[..., _T], *args: object) -> _T:
        """``call`` on the session's thread. A fault or a cancellation ends the session."""
        session = self._session
        if session is None:
            raise Unavailable(f"{self.target.place} is not open")
        work = asyncio.get_running_loop().run_in_executor(session.thread, call, *args)
        try:
            return await asyncio.shield(work)
        except (asyncio.CancelledError, Unavailable, Corrupt):
            if self._session is session:
                await self.close()
            raise


async def _end(session: _Session) -> None:
    """Cut the link and release thread and process; never raises. Once begun it is carried out, even if
    whoever waits for it is cancelled (again)."""
    session.link.abort()
    closed = session.thread.submit(session.link.close)
    session.thread.shutdown(wait=False)
    await asyncio.wait([asyncio.wrap_future(closed)], timeout=_GIVE_UP_S)
