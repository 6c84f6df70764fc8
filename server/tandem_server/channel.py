"""Between an SSH channel (asyncio) and an SFTP session (blocking): hands batches of requests to a thread
and the replies to the channel, with back-pressure on both sides.

It accepts the subsystem ``sftp`` and nothing else: no shell, no command, no terminal. At most one thread
works for a session at a time, so requests are answered in order and a handle is never closed while in use.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from itertools import islice

import asyncssh

from .limits import BATCH_REQUESTS, MAX_PACKET
from .sftp import SftpSession
from .wire import BadPacketError, Splitter

_QUEUE_BYTES = 4 * MAX_PACKET


class SftpChannel(asyncssh.SSHServerSession[bytes]):
    """One session. ``ended`` is called once, when its handles are closed."""

    def __init__(
        self, session: SftpSession, executor: Executor, ended: Callable[[SftpChannel], None]
    ) -> None:
        self._session = session
        self._executor = executor
        self._ended = ended
        self._splitter = Splitter()
        self._packets: deque[bytes] = deque()
        self._queued = 0
        self._paused = False
        self._eof = False
        self._lost = False
        self._wake = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._chan: asyncssh.SSHServerChannel[bytes]
        self._worker: asyncio.Task[None] | None = None

    # What asyncssh calls

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._chan = chan

    def pty_requested(self, *_: object) -> bool:
        return False

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "sftp"

    def session_started(self) -> None:
        self._worker = asyncio.get_running_loop().create_task(self._work())

    def data_received(self, data: bytes, _datatype: int | None) -> None:
        try:
            packets = self._splitter.feed(data)
        except BadPacketError:
            self._chan.abort()
            return
        self._packets += packets
        self._queued += sum(map(len, packets))
        if self._queued > _QUEUE_BYTES and not self._paused:
            self._paused = True
            self._chan.pause_reading()
        self._wake.set()

    def eof_received(self) -> bool:
        self._eof = True
        self._wake.set()
        return True  # the replies under way still go out

    def connection_lost(self, _exc: Exception | None) -> None:
        self._lost = True
        self._wake.set()
        self._writable.set()
        if self._worker is None:
            self._ended(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # The worker

    async def finished(self) -> None:
        """Returns when the handles of a session that began are closed."""
        if self._worker is not None:
            await asyncio.wait([self._worker])

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while await self._next_batch():
                batch = list(islice(self._packets, BATCH_REQUESTS))
                replies, answered = await loop.run_in_executor(self._executor, self._session.answer, batch)
                self._done(answered)
                if not self._lost:
                    self._chan.write(replies)
                await self._writable.wait()
        except BadPacketError:
            self._chan.abort()
        finally:
            await loop.run_in_executor(self._executor, self._session.close)
            self._chan.close()
            self._ended(self)

    async def _next_batch(self) -> bool:
        """Waits for requests; False when there will be none, or nobody to hear the replies."""
        while not self._lost:
            if self._packets:
                return True
            if self._eof:
                self._chan.exit(0)
                return False
            self._wake.clear()
            await self._wake.wait()
        return False

    def _done(self, count: int) -> None:
        for _ in range(count):
            self._queued -= len(self._packets.popleft())
        if self._paused and self._queued <= _QUEUE_BYTES // 2 and not self._lost:
            self._paused = False
            self._chan.resume_reading()
