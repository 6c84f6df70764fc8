"""A store that fails as a script says, over any real store. A scripted fault that never came fails the test.

Verbs are counted over all sessions of one script, from 1, so "the third put fails while the fourth succeeds"
is one line. ``lost`` faults happen after the verb has been done: the reply is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tandem_protocol.errors import TandemError, Unavailable
from tandem_protocol.store import Buffer, Entry, Store


@dataclass
class Fault:
    """The ``at``-th call of ``verb`` raises ``error``; after ``after_bytes`` have been moved (put only), or
    with ``lost`` after it was done."""

    verb: str
    at: int
    error: TandemError = field(default_factory=lambda: Unavailable("a scripted fault"))
    lost: bool = False
    after_bytes: int = 0


class Script:
    """The faults to come, and what was called."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = list(faults)
        self.calls: Counter[str] = Counter()

    def next(self, verb: str) -> Fault | None:
        """Count a call of ``verb``; the fault that belongs to it, which is then used."""
        self.calls[verb] += 1
        for fault in self.faults:
            if (fault.verb, fault.at) == (verb, self.calls[verb]):
                self.faults.remove(fault)
                return fault
        return None


@contextmanager
def scripted(*faults: Fault) -> Iterator[Script]:
    """A script that must be played to its end."""
    script = Script(*faults)
    yield script
    assert not script.faults, f"scripted faults that never came: {script.faults}"


class FaultyStore(Store):
    """``inner`` with the faults of ``script``. After a fault that is `Unavailable` its session is useless."""

    def __init__(self, inner: Store, script: Script) -> None:
        self.inner = inner
        self.script = script
        self.parallel = inner.parallel
        self.power_safe = inner.power_safe
        self._broken = False

    async def _play(self, verb: str, act: Callable[[], object]) -> object:
        if self._broken and verb != "open":
            raise Unavailable("this session broke before")
        fault = self.script.next(verb)
        if fault is not None and not fault.lost:
            self._fail(fault)
        answer = await act()  # type: ignore[misc]  # every verb given here is awaitable
        if fault is not None:
            self._fail(fault)
        return answer

    def _fail(self, fault: Fault) -> None:
        self._broken = isinstance(fault.error, Unavailable)
        raise fault.error

    async def open(self) -> None:
        await self._play("open", self.inner.open)
        self._broken = False

    async def close(self) -> None:
        await self.inner.close()

    async def create(self, name: str, data: Buffer) -> None:
        await self._play("create", lambda: self.inner.create(name, data))

    async def put(self, name: str, data: Buffer, sent: Callable[[int], None] | None = None) -> None:
        fault = next((f for f in self.script.faults if f.verb == "put" and f.after_bytes), None)
        if fault is not None and self.script.calls["put"] + 1 == fault.at and sent is not None:
            sent(fault.after_bytes)
        await self._play("put", lambda: self.inner.put(name, data, sent))

    async def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        data = await self._play("read", lambda: self.inner.read(name, offset, length))
        assert isinstance(data, bytes)
        return data

    async def size(self, name: str) -> int:
        size = await self._play("size", lambda: self.inner.size(name))
        assert isinstance(size, int)
        return size

    async def list(self, folder: str) -> AsyncIterator[Entry]:
        async for entry in self.inner.list(folder):
            await self._play("list", _nothing)
            yield entry

    async def move(self, source: str, target: str) -> None:
        await self._play("move", lambda: self.inner.move(source, target))

    async def delete(self, name: str) -> None:
        await self._play("delete", lambda: self.inner.delete(name))


async def _nothing() -> None:
    """A listing's faults are counted by entry."""
