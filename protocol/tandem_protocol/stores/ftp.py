"""A store on an FTP server, with TLS unless it is built without.

The protocol is blocking code (ftp_folder.py over ftp_data.py over ftp_link.py) on one thread per session. A verb
that is cancelled cuts the connections, which ends the thread's work at once; so does every fault that leaves
the session in doubt. FTP has no fsync, so such a tier is never power-safe.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..errors import Corrupt, Unavailable
from ..store import Buffer, Entry, Store
from .faults import check_name, unasked
from .ftp_folder import FtpFolder
from .ftp_link import FtpLink
from .ftp_target import FtpTarget
from .parts import KnownParts

_GIVE_UP_S = 5.0
_T = TypeVar("_T")


class _Session:
    """One login, its thread, and the folder beyond it."""

    def __init__(self, target: FtpTarget, make_root: bool, parts: KnownParts) -> None:
        self.link = FtpLink(target)
        self.parts = parts
        self.make_root = make_root
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="tandem-ftp")
        self.folder: FtpFolder | None = None

    def connect(self) -> None:
        self.link.start()
        folder = FtpFolder(self.link, self.parts)
        folder.enter(self.make_root)
        self.folder = folder


class FtpStore(Store):
    """Names are files, or folders with one file, below ``target.path``."""

    power_safe = False

    def __init__(self, target: FtpTarget, make_root: bool = False, parts: KnownParts | None = None) -> None:
        self.target = target
        self._parts = parts or KnownParts()
        self._make_root = make_root
        self._session: _Session | None = None

    async def open(self) -> None:
        await self.close()
        session = self._session = _Session(self.target, self._make_root, self._parts)
        try:
            await self._run(session.connect)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await _end(session)

    async def create(self, name: str, data: Buffer) -> None:
        await self._run(self._folder(name).create, name, memoryview(data).cast("B"))

    async def put(self, name: str, data: Buffer, sent: Callable[[int], None] | None = None) -> None:
        folder = self._folder(name)
        loop = asyncio.get_running_loop()

        def tell(count: int) -> None:
            if sent is not None:
                loop.call_soon_threadsafe(sent, count)

        await self._run(folder.put, name, memoryview(data).cast("B"), tell)

    async def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        data = await self._run(self._folder(name).read, name, offset, length)
        if self._session is not None and self._session.link.is_over:
            await self.close()  # whoever asks next is told, and has to look again at what is there
        return data

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

    def _folder(self, name: str) -> FtpFolder:
        """The session's folder, once ``name`` is known to be one that a store takes."""
        check_name(name)
        return self._opened()

    def _opened(self) -> FtpFolder:
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
            work.add_done_callback(unasked)
            if self._session is session:
                await self.close()
            raise


async def _end(session: _Session) -> None:
    """Cut the connections and release them and the thread; never raises. Once begun it is carried out, even
    if whoever waits for it is cancelled (again)."""
    session.link.cut()
    closed = session.thread.submit(session.link.close)
    session.thread.shutdown(wait=False)
    await asyncio.wait([asyncio.wrap_future(closed)], timeout=_GIVE_UP_S)
