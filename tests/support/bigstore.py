"""A store that shows a tier of a `BigRepo` and counts what it is asked for: verbs, and steps of the link.

A step is what a link with a long delay makes one wait for: all verbs that go out together take one. What the tier
has is answered from the repository's plan, not kept; what is written is kept beside it. Claims are signed when they
are read.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from tests.support.bigrepo import BigRepo, BigTier

from tandem_protocol import names
from tandem_protocol.errors import Exists, Missing
from tandem_protocol.names import ObjectType, object_path, parse_object_name
from tandem_protocol.store import Buffer, Entry
from tandem_protocol.stores.memory import MemoryStore

_KINDS = {"packs": ObjectType.PACK, "index": ObjectType.INDEX, "snapshots": ObjectType.SNAPSHOT}
_IDLE_TURNS = 32


class BigStore(MemoryStore):
    """``verbs``: how often each was used. ``steps``: how many times something had to be waited for."""

    def __init__(self, repo: BigRepo, tier: BigTier, parallel: int = 1024) -> None:
        super().__init__({names.IDENTITY: tier.identity.encode()})
        if not tier.is_new:
            certificate = repo.writer.certificate
            self.shared[names.epoch_path(certificate.epoch)] = certificate.data
            self.shared |= repo.contents(tier.level)
        self.parallel = parallel
        self.repo, self.tier = repo, tier
        self.verbs: Counter[str] = Counter()
        self.asked: list[str] = []
        self.steps = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._link: asyncio.Task[None] | None = None

    def reset(self) -> None:
        """Count from nothing."""
        self.verbs.clear()
        self.asked.clear()
        self.steps = 0

    # The link

    async def _ask(self, verb: str, name: str) -> None:
        self.verbs[verb] += 1
        self.asked.append(f"{verb} {name}")
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        if self._link is None or self._link.done():
            self._link = asyncio.create_task(self._carry(), name="link")
        await waiting

    async def _carry(self) -> None:
        """Answer all that is waiting at once, when nothing more comes."""
        while self._waiting:
            before = -1
            while before != len(self._waiting):
                before = len(self._waiting)
                for _ in range(_IDLE_TURNS):
                    await asyncio.sleep(0)
            self.steps += 1
            answered, self._waiting = self._waiting, []
            for waiting in answered:
                if not waiting.done():
                    waiting.set_result(None)

    async def create(self, name: str, data: Buffer) -> None:
        await self._ask("create", name)
        if self._planned(name):
            raise Exists(f"cannot create {name}: it is there")
        await super().create(name, data)

    async def put(self, name: str, data: Buffer, sent: Callable[[int], None] | None = None) -> None:
        await self._ask("put", name)
        await super().put(name, data, sent)

    async def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        await self._ask("read", name)
        data = self._content(name)
        return data[offset:] if length is None else data[offset : offset + length]

    async def size(self, name: str) -> int:
        await self._ask("size", name)
        return len(self._content(name))

    def _content(self, name: str) -> bytes:
        self._check(name)
        found = self._find(name)
        numbered = names.parse_numbered(name)
        if found is None and numbered is not None and self._planned(name):
            number, part = numbered
            if part == "record":
                return self.repo.record(number).data
            return self.repo.writer.claim(number, self.tier.identity.tier_id).data
        if found is None and (last := parse_object_name(name.rpartition("/")[2])) is not None:
            found = self.repo.content_of(last, self.tier.level)
        if found is None:
            raise Missing(f"{name} is not there")
        return found

    async def list(self, folder: str) -> AsyncIterator[Entry]:
        await self._ask("list", folder)
        entries = {entry.name: entry async for entry in super().list(folder)}
        for entry in self._planned_in(folder):
            entries.setdefault(entry.name, entry)
        for entry in entries.values():
            yield entry

    async def move(self, source: str, target: str) -> None:
        await self._ask("move", source)
        await super().move(source, target)

    async def delete(self, name: str) -> None:
        await self._ask("delete", name)
        await super().delete(name)

    # What the plan says is there

    def _planned(self, name: str) -> bool:
        parsed = names.parse_numbered(name)
        return parsed is not None and self.tier.start <= parsed[0] <= self.tier.level

    def _planned_in(self, folder: str) -> Iterator[Entry]:
        first, *rest = folder.split("/")
        if first == names.REVISIONS:
            yield from self._numbered(rest)
        elif first in _KINDS and len(rest) == 1:
            for ref in self.repo.listed(_KINDS[first], int(rest[0], 16), self.tier.level):
                yield Entry(object_path(ref.type, ref.name).rpartition("/")[2], ref.size, False)

    def _numbered(self, rest: Sequence[str]) -> Iterator[Entry]:
        """The folders of 65,536 and 256 numbers, and what is in a leaf."""
        low, high = self.tier.start, self.tier.level
        if not rest:
            for branch in range(low >> 16, (high >> 16) + 1 if high else 0):
                yield Entry(f"{branch:012x}", 0, True)
            return
        at = int("".join(rest), 16)
        if len(rest) == 1:
            for leaf in range(max(low >> 8, at << 8), min(high >> 8, (at << 8) + 255) + 1):
                yield Entry(f"{leaf & 0xFF:02x}", 0, True)
            return
        for number in range(max(low, at << 8), min(high, (at << 8) + 255) + 1):
            yield Entry(f"{number & 0xFF:02x}.claim", 700, False)
            yield Entry(f"{number & 0xFF:02x}.record", 700, False)
