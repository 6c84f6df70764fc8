"""What is under way to one target of a write: its queue, and the tasks that put what is in it.

A target that failed drains its queue, so that nobody waits for it and every buffer is given back. It decides
nothing: who leaves, and what it means, is `writing`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from tandem_agent.progress import TierProgress
from tandem_agent.tiers.tier import Tier
from tandem_protocol.errors import SecondInstallation, TandemError
from tandem_protocol.store import Buffer

SENDERS = 3
"""Most packs put at once, where the way is long: 512 MiB to OpenSSH 40 ms away took 24.8 s with one, 15.0 with two,
12.2 with three. Each takes memory of a pack."""

SMALL_TOO = 8
"""Most objects put at once there: between large ones the store lets small ones pass, which only cost round trips."""


@dataclass(slots=True)
class Parcel:
    """An object on its way to ``left`` targets. ``weight``: the bytes of memory that it keeps; ``freed`` is done
    when nobody looks at its data any more."""

    path: str
    data: Buffer
    weight: int
    left: int
    freed: asyncio.Future[None]

    def settle(self) -> None:
        """One target has it, or will never take it."""
        self.left -= 1
        if not self.left and not self.freed.done():
            self.freed.set_result(None)


class Target:
    """A tier in a write. ``fault``: why it ``failed``, where it was the tier's; ``behind``: bytes of memory that what
    waits for it, or is on its way, keeps. ``stopped`` is told what must end the whole operation."""

    def __init__(self, tier: Tier, counters: TierProgress, stopped: Callable[[Exception], None]) -> None:
        self.tier = tier
        self.failed = False
        self.fault: TandemError | None = None
        self.behind = 0
        self._counters = counters
        self._stopped = stopped
        self._queue: asyncio.Queue[Parcel | None] = asyncio.Queue()
        self._senders: list[asyncio.Task[None]] = []
        self._puts: set[asyncio.Task[None]] = set()
        self._moved = asyncio.Event()

    @property
    def width(self) -> int:
        """How many large objects are put at once."""
        return max(1, min(self.tier.store.uploads, SENDERS))

    def start(self) -> None:
        senders = min(self.tier.store.parallel, SMALL_TOO) if self.width > 1 else 1
        for _ in range(senders):
            self._senders.append(asyncio.create_task(self._send(), name=f"upload to {self.tier.name}"))

    def hand(self, parcel: Parcel) -> None:
        """Queue ``parcel``; whoever hands it has waited `within` a limit."""
        self.behind += parcel.weight
        self._counters.queued_bytes += memoryview(parcel.data).nbytes
        self._queue.put_nowait(parcel)

    async def within(self, limit: int) -> None:
        """Wait until at most ``limit`` bytes are behind."""
        while self.behind > limit:
            self._moved.clear()
            await self._moved.wait()

    async def finish(self) -> None:
        """Wait until all is there, or it failed; nothing is handed afterwards."""
        for _ in self._senders:
            self._queue.put_nowait(None)
        await asyncio.gather(*self._senders)

    async def drain(self) -> None:
        """End what goes on for a target that has failed; everything that waits for it is given back."""
        for put in self._puts:
            put.cancel()
        await self.finish()

    async def cancel(self) -> None:
        """End everything where it is."""
        for task in self._senders:
            task.cancel()
        await asyncio.gather(*self._senders, return_exceptions=True)

    def leave(self, fault: TandemError) -> None:
        """It is no target any more."""
        self.failed = True
        self.fault = fault

    def interrupt(self, waiting: asyncio.Future[None]) -> None:
        """Stop what a target that left is doing: what it puts (the senders go on, to drain the queue), else
        ``waiting``, which does something else for it."""
        for put in self._puts:
            put.cancel()
        if not self._puts and all(task.done() for task in self._senders):
            waiting.cancel()

    async def _send(self) -> None:
        while (parcel := await self._queue.get()) is not None:
            try:
                if not self.failed:
                    await self._put(parcel)
            except asyncio.CancelledError:
                here = asyncio.current_task()
                if not self.failed or (here is not None and here.cancelling()):
                    raise  # the operation is aborted, not just this one object
            except SecondInstallation as found:
                self._end_all(found)
            except TandemError as fault:
                if not self.failed:
                    self.leave(fault)
                    self.tier.fail(fault)
            except Exception as bug:
                self._end_all(bug)
            finally:
                self.behind -= parcel.weight
                parcel.settle()
                self._moved.set()

    def _end_all(self, cause: Exception) -> None:
        self.failed = True
        self._stopped(cause)

    async def _put(self, parcel: Parcel) -> None:
        counters = self._counters
        told = 0

        def sent(count: int) -> None:
            nonlocal told
            told += count
            counters.sent_bytes += count

        put = asyncio.create_task(self.tier.store.put(parcel.path, parcel.data, sent))
        self._puts.add(put)
        try:
            await put
        finally:
            self._puts.discard(put)
            # What was there already, or went twice: nothing of it waits any more.
            counters.queued_bytes += told - memoryview(parcel.data).nbytes
