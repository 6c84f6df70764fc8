"""A store in a dictionary, for simulations and tests. The contract is kept in full; nothing is durable.

Several stores may share one dictionary: they are then sessions to one place. Faults are not made here:
a wrapper in the tests scripts them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from ..errors import Exists, Missing, Unavailable
from ..names import valid
from ..store import Buffer, Entry, Store
from .faults import check_name
from .folder import CONTENT


class MemoryStore(Store):
    """``shared`` maps names to bytes. It runs no thread and never waits, so a simulation may use it."""

    parallel = 1024

    def __init__(self, shared: dict[str, bytes] | None = None) -> None:
        self.shared: dict[str, bytes] = {} if shared is None else shared
        self._is_open = False

    async def open(self) -> None:
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False

    async def create(self, name: str, data: Buffer) -> None:
        self._check(name)
        if self._stands(name):
            raise Exists(f"cannot create {name}: it is there")
        self.shared[name] = bytes(data)

    async def put(self, name: str, data: Buffer, sent: Callable[[int], None] | None = None) -> None:
        self._check(name)
        found = self._find(name)
        if found is None:
            self.shared[name] = bytes(data)
            if sent is not None:
                sent(len(self.shared[name]))
        elif len(found) != memoryview(data).nbytes:
            raise Exists(f"{name} is there with another size")

    async def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        data = self._get(name)
        return data[offset:] if length is None else data[offset : offset + length]

    async def size(self, name: str) -> int:
        return len(self._get(name))

    async def list(self, folder: str) -> AsyncIterator[Entry]:
        prefix = f"{folder}/" if folder else ""
        if folder:
            self._check(folder)
        self._check_open()
        seen = set()
        for name in sorted(self.shared):
            part = name[len(prefix) :].partition("/")[0]
            if not name.startswith(prefix) or part in seen or not valid(part):
                continue
            seen.add(part)
            data = self._find(prefix + part)
            yield Entry(part, 0, True) if data is None else Entry(part, len(data), False)

    async def move(self, source: str, target: str) -> None:
        self._check(source)
        self._check(target)
        if not self._stands(source):
            raise Missing(f"cannot move {source}: it is not there")
        if self._stands(target):
            raise Exists(f"cannot move {source}: {target} is there")
        for form in ("", f"/{CONTENT}"):
            if source + form in self.shared:
                self.shared[target + form] = self.shared.pop(source + form)

    async def delete(self, name: str) -> None:
        self._check(name)
        self.shared.pop(name, None)
        self.shared.pop(f"{name}/{CONTENT}", None)

    def _check(self, name: str) -> None:
        check_name(name)
        self._check_open()

    def _check_open(self) -> None:
        if not self._is_open:
            raise Unavailable("the memory store is not open")

    def _find(self, name: str) -> bytes | None:
        data = self.shared.get(name)
        return self.shared.get(f"{name}/{CONTENT}") if data is None else data

    def _get(self, name: str) -> bytes:
        self._check(name)
        data = self._find(name)
        if data is None:
            raise Missing(f"{name} is not there")
        return data

    def _stands(self, name: str) -> bool:
        return name in self.shared or f"{name}/{CONTENT}" in self.shared
