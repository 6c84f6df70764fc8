"""A wrapper that repeats what a transient fault broke, each time in a new session that it reports.

It knows no protocol of tiers: whoever uses it says in ``on_session`` what must be read again before the
verb is repeated. Permanent faults pass through at once. What it does not do: hide that a repeated
exclusive creation found the name taken. The caller reads it and sees whose it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from ..errors import Absent, Missing, Refused, Unavailable
from ..store import Buffer, Entry, Store

PROGRESS = 1024 * 1024
"""An attempt that moved this many bytes starts the count of attempts again."""

READ_SLICE = 4 * 1024 * 1024
"""After a fault a long read goes on in pieces of this many bytes, so that it gets on over a bad link."""

_T = TypeVar("_T")
OnSession = Callable[[Store], Awaitable[None]]


@dataclass(frozen=True)
class RetryPolicy:
    """How often, how patiently. Seconds: the wait doubles up to ``max_s``, plus at most ``jitter_s`` (and never more
    jitter than ``max_s``: who configures short waits means it)."""

    attempts: int = 10
    first_s: float = 0.5
    max_s: float = 60.0
    jitter_s: float = 1.0


class RetryingStore(Store):
    """``make`` gives an unopened store, or the same one again; each session opens one. `open` is tried
    ``attempts`` times like every verb. ``on_session`` is awaited with the new inner store after every
    re-open (not the first open) and before the verb is repeated: `Unavailable` there is one more failed
    attempt, any other error ends the verb and is raised to its caller.
    """

    def __init__(
        self,
        make: Callable[[], Store],
        policy: RetryPolicy | None = None,
        on_session: OnSession | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.on_session = on_session
        self._make = make
        self.policy = policy or RetryPolicy()
        """May be replaced between verbs: somebody who waits for the first contact wants to know soon."""
        self._sleep = sleep
        self._inner: Store | None = None
        self._sessions = 0
        self.last_fault = ""
        """What the latest failed attempt said, for people who wait."""
        self.troubled_since: float | None = None
        """Time of the loop's clock since when verbs have failed and nothing got forward; None when all is well."""
        self._doubtful: Store | None = None
        """The session in which a verb was cancelled last: it may have ended by that."""
        self._wanted = False
        self._first = True
        self._opening = asyncio.Lock()

    def at_most(self, attempts: int) -> RetryPolicy:
        """No more than so many attempts from now on; gives the policy as it was."""
        before = self.policy
        self.policy = replace(before, attempts=min(attempts, before.attempts))
        return before

    @property
    def sessions(self) -> int:
        """How many sessions have been opened: it grows with every reconnect."""
        return self._sessions

    async def open(self) -> None:
        await self.close()
        self._wanted = self._first = True
        await self._repeat(_nothing)

    async def close(self) -> None:
        self._wanted = False
        await self._drop(self._inner)

    async def create(self, name: str, data: Buffer) -> None:
        await self._repeat(lambda store, _: store.create(name, data))

    async def put(self, name: str, data: Buffer, sent: Callable[[int], None] | None = None) -> None:
        def attempt(store: Store, moved: Callable[[int], None]) -> Awaitable[None]:
            def both(count: int) -> None:
                moved(count)
                if sent is not None:
                    sent(count)

            return store.put(name, data, both)

        await self._repeat(attempt, self.policy.attempts * memoryview(data).nbytes)

    async def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        parts: list[bytes] = []
        done = 0
        tried = False

        async def attempt(store: Store, moved: Callable[[int], None]) -> None:
            nonlocal done, tried
            first, tried = not tried, True
            while True:
                left = None if length is None else length - done
                asked = left if first else min(READ_SLICE, READ_SLICE if left is None else left)
                part = await store.read(name, offset + done, asked)
                parts.append(part)
                done += len(part)
                moved(len(part))
                if asked is None or len(part) < asked or done == length:
                    return

        await self._repeat(attempt)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def size(self, name: str) -> int:
        return await self._repeat(lambda store, _: store.size(name))

    async def list(self, folder: str) -> AsyncIterator[Entry]:
        for entry in await self._repeat(lambda store, _: _gather(store, folder)):
            yield entry

    async def move(self, source: str, target: str) -> None:
        tried = False

        async def attempt(store: Store, _: Callable[[int], None]) -> None:
            nonlocal tried
            again, tried = tried, True
            try:
                await store.move(source, target)
            except Missing:
                # The first attempt may have moved it and lost the reply.
                if not again:
                    raise
                await store.size(target)

        await self._repeat(attempt)

    async def delete(self, name: str) -> None:
        await self._repeat(lambda store, _: store.delete(name))

    async def _repeat(
        self, attempt: Callable[[Store, Callable[[int], None]], Awaitable[_T]], most: int | None = None
    ) -> _T:
        """The answer of ``attempt``, given an open session and a counter of bytes moved. After ``most`` bytes
        moving is no progress any more: a disk that fails at the end of each upload would keep it up for ever.
        """
        policy = self.policy
        moved = total = 0

        def count(more: int) -> None:
            nonlocal moved, total
            moved += more
            total += more

        async for turn in AsyncRetrying(
            stop=stop_after_attempt(policy.attempts),
            wait=wait_exponential(policy.first_s, policy.max_s)
            + wait_random(0, min(policy.jitter_s, policy.max_s)),
            retry=retry_if_exception(_may_pass),
            sleep=self._sleep,
            reraise=True,
        ):
            with turn:
                moved = 0
                store: Store | None = None
                try:
                    store = await self._session()
                    try:
                        answer = await attempt(store, count)
                    except asyncio.CancelledError:
                        self._doubtful = store
                        raise
                    except Unavailable:
                        if self._doubtful is not store:
                            raise
                        # A verb that was cancelled ended the session: that is no fault of the link.
                        await self._drop(store)
                        store = await self._session()
                        answer = await attempt(store, count)
                    self.troubled_since = None
                    return answer
                except Unavailable as fault:
                    self.last_fault = str(fault)
                    if self.troubled_since is None or moved >= PROGRESS:
                        self.troubled_since = asyncio.get_running_loop().time()
                    if moved >= PROGRESS and (most is None or total < most):
                        turn.retry_state.attempt_number = 1
                    await self._drop(store)
                    raise
        raise AssertionError("tenacity gives an answer or raises")

    async def _session(self) -> Store:
        """The open session, else a new one, reported. Verbs that run side by side share one reconnect."""
        async with self._opening:
            if self._inner is not None:
                return self._inner
            if not self._wanted:
                raise Refused("the store is not open")
            store = self._make()
            try:
                await store.open()
                self._sessions += 1
                if not self._first and self.on_session is not None:
                    await self.on_session(store)
                self._first = False
            except BaseException:
                await store.close()
                raise
            self.power_safe, self.parallel, self.uploads = store.power_safe, store.parallel, store.uploads
            self._inner = store
            return store

    async def _drop(self, store: Store | None) -> None:
        """Close ``store`` and forget it if it is still the session: another verb may have replaced it."""
        if store is None:
            return
        if self._inner is store:
            self._inner = None
        await store.close()


def _may_pass(fault: BaseException) -> bool:
    return isinstance(fault, Unavailable) and not isinstance(fault, Absent)


async def _nothing(_store: Store, _moved: Callable[[int], None]) -> None:
    """`open` repeats nothing but the session itself."""


async def _gather(store: Store, folder: str) -> list[Entry]:
    return [entry async for entry in store.list(folder)]
