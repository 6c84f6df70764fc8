"""Reads parts of packs from whichever tier has them good, and keeps account of where from and what was bad.

A part is asked of the tiers in configured order, those that are known to hold the pack first; what is
missing, short or damaged on one is asked of the next, part by part, and a blob may also be in another pack.
A tier that fails is not asked again in this operation (the store under it has made its attempts). Nothing
is repaired here: `damage` says what a repair should look at.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tandem_protocol.envelope import DocType
from tandem_protocol.errors import (
    Absent,
    Corrupt,
    Missing,
    NoTierReachable,
    TandemError,
    Unavailable,
    Unreadable,
)
from tandem_protocol.frames import Frame
from tandem_protocol.index import MAX_SEGMENT
from tandem_protocol.keys import KeyRing
from tandem_protocol.names import ObjectType, object_name, object_path
from tandem_protocol.pack import open_frame
from tandem_protocol.seal import content_id
from tandem_protocol.snapshot import MAX_SNAPSHOT
from tandem_protocol.store import Store

READ_AHEAD = 2 * 1024 * 1024
_CHUNKS = 16
_PARALLEL = 8
_RAW_CACHE = 48 * 1024 * 1024
_MAX_DAMAGE = 10_000
_LONGEST = {ObjectType.SNAPSHOT: MAX_SNAPSHOT, ObjectType.INDEX: MAX_SEGMENT}

Place = tuple[int, int, int, int]
"""(pack number, frame number, offset in the raw frame, length): where a blob is, as the index says."""


class PackInfo(Protocol):
    @property
    def name(self) -> bytes: ...
    @property
    def kind(self) -> DocType: ...
    @property
    def key_number(self) -> int: ...
    @property
    def size(self) -> int: ...


class Index(Protocol):
    """What reading needs of the blob index."""

    def lookup(self, content_id: bytes, /) -> Iterable[Place]: ...
    def pack(self, number: int, /) -> PackInfo: ...
    def frame(self, pack_number: int, frame_number: int, /) -> Frame: ...


class Has(Protocol):
    def __call__(self, name: bytes, /) -> bool: ...


@dataclass(frozen=True, slots=True)
class NamedStore:
    """A tier as reading sees it: its name, its store, whether it is known to hold an object, and for a
    store that is not open yet a way to open it, safe to call again, whose errors are the tier's."""

    name: str
    store: Store
    has: Has
    connect: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class Damage:
    """An object found bad on a tier. ``what`` is "missing", "short" or "damaged"."""

    tier: str
    type: ObjectType
    name: bytes
    what: str


def nowhere(tiers: Sequence[str]) -> str:
    """What is to be said of something that none of ``tiers`` has good, where these are all that were asked."""
    return f"not good on {tiers[0]}" if len(tiers) == 1 else "good on no tier"


class _Tier:
    """One tier in use: how many reads at once it takes, whether it still answers, bytes it gave."""

    def __init__(self, named: NamedStore) -> None:
        self.name, self.has = named.name, named.has
        self.fault: TandemError | None = None
        self.bytes = 0
        self._store, self._connect = named.store, named.connect
        self._turns: asyncio.Semaphore | None = None
        self._lock = asyncio.Lock()

    async def read(self, name: str, offset: int, length: int | None) -> bytes:
        """Raises what the store does; connects first if need be."""
        if self._turns is None:
            async with self._lock:
                if self._connect is not None and self._turns is None:
                    await self._connect()
                self._turns = self._turns or asyncio.Semaphore(max(1, min(self._store.parallel, _PARALLEL)))
        async with self._turns:
            if self.fault is not None:
                raise self.fault
            return await self._store.read(name, offset, length)


class Fetcher:
    """Reads for one operation. Belongs to one event loop; every coroutine may run many times at once. What is found
    bad is added to ``found`` too, when it is found. ``remedy``: what to do about what is good nowhere here."""

    def __init__(
        self,
        ring: KeyRing,
        tiers: Sequence[NamedStore],
        index: Index | None = None,
        found: list[Damage] | None = None,
        remedy: str = "",
    ) -> None:
        self.ring = ring
        self._remedy = remedy
        self._found = [] if found is None else found
        self._index = index
        self._tiers = [_Tier(tier) for tier in tiers]
        self._damage: dict[Damage, None] = {}
        self._ahead: OrderedDict[tuple[int, int], tuple[bytes, str]] = OrderedDict()
        self._raw: OrderedDict[tuple[int, int], tuple[bytes, str]] = OrderedDict()
        self._raw_bytes = 0

    @property
    def index(self) -> Index:
        if self._index is None:
            raise ValueError("this fetcher was made without an index")
        return self._index

    @property
    def read_from(self) -> dict[str, int]:
        """Bytes that each tier gave, by name; every tier is there."""
        return {tier.name: tier.bytes for tier in self._tiers}

    @property
    def damage(self) -> list[Damage]:
        """What was found bad, each once, for a repair."""
        return list(self._damage)

    @property
    def notices(self) -> list[str]:
        """One line for each tier that failed on the way; a disk that is simply not there is no failure."""
        failed = [t for t in self._tiers if t.fault is not None and not isinstance(t.fault, Absent)]
        return [f"tier {t.name} failed: {t.fault.what}" for t in failed if t.fault is not None]

    @property
    def nowhere(self) -> str:
        """Where something is good that no tier gave: of others than those that were asked nothing is known."""
        return nowhere([tier.name for tier in self._tiers])

    def note(self, tier: str, kind: ObjectType, name: bytes, what: str) -> None:
        """Remember damage; a pack with thousands of bad places is remembered once."""
        damage = Damage(tier, kind, name, what)
        if damage not in self._damage and len(self._damage) < _MAX_DAMAGE:
            self._damage[damage] = None
            self._found.append(damage)

    def _order(self, name: bytes, avoid: Iterable[str]) -> list[_Tier]:
        """Tiers to ask for an object: known holders in configured order, then the others, since what is
        known may be out of date."""
        usable = [t for t in self._tiers if t.fault is None and t.name not in avoid]
        return sorted(usable, key=lambda t: not t.has(name))

    async def read(
        self, kind: ObjectType, name: bytes, offset: int, length: int, avoid: Iterable[str] = ()
    ) -> tuple[bytes, str]:
        """Exactly ``length`` bytes of an object from ``offset`` and the name of the tier that gave them,
        not yet verified. `Missing` if no tier has them (those in ``avoid`` are not asked), `Unavailable` if
        one that failed might, `NoTierReachable` if all have failed."""
        for tier in self._order(name, avoid):
            data = await self._ask(tier, kind, name, offset, length)
            if data is None:
                continue
            if len(data) == length:
                return data, tier.name
            self.note(tier.name, kind, name, "short")
        raise self._nobody(kind, name, avoid)

    async def _ask(
        self, tier: _Tier, kind: ObjectType, name: bytes, offset: int, length: int | None
    ) -> bytes | None:
        try:
            data = await tier.read(object_path(kind, name), offset, length)
        except Missing:
            self.note(tier.name, kind, name, "missing")
            return None
        except Unreadable:
            self.note(tier.name, kind, name, "damaged")
            return None
        except TandemError as error:
            tier.fault = error
            return None
        tier.bytes += len(data)
        return data

    def _nobody(self, kind: ObjectType, name: bytes, avoid: Iterable[str]) -> TandemError:
        failed = [t for t in self._tiers if t.fault is not None]
        if failed and len(failed) == len(self._tiers):
            reasons = "; ".join(f"{t.name}: {t.fault.what}" for t in failed if t.fault is not None)
            return NoTierReachable(f"every tier failed ({reasons})", "bring one back and run it again")
        if [t for t in failed if t.name not in avoid]:
            return Unavailable(f"{kind} {name.hex()[:16]} cannot be had while {failed[0].name} is away")
        return Missing(f"{kind} {name.hex()[:16]} is {self.nowhere}", self._remedy)

    async def whole(self, kind: ObjectType, name: bytes) -> bytes:
        """A small object, whole, verified by its name, from the first tier that has it good. What is longer there
        than any of its kind is damage, and not read to its end."""
        for tier in self._order(name, ()):
            data = await self._ask(tier, kind, name, 0, _LONGEST[kind] + 1)
            if data is None:
                continue
            if object_name(data) == name:
                return data
            self.note(tier.name, kind, name, "damaged")
        raise self._nobody(kind, name, ())

    def places(self, block: bytes) -> list[Place]:
        """Every place of a blob, those on the first tiers first."""
        found = list(self.index.lookup(block))
        if len(found) > 1:
            found.sort(key=lambda place: self._rank(self.index.pack(place[0]).name))
        return found

    def place(self, block: bytes) -> Place | None:
        """The first of `places`, quickly: asked for each of millions of files, nearly all in one place."""
        found = iter(self.index.lookup(block))
        first = next(found, None)
        return first if next(found, None) is None else self.places(block)[0]

    def _rank(self, name: bytes) -> int:
        for rank, tier in enumerate(self._tiers):
            if tier.fault is None and tier.has(name):
                return rank
        return len(self._tiers)

    async def blob(self, block: bytes, without: Place | None = None) -> bytes:
        """The verified bytes of a blob, from any place on any tier; a place that was tried on all of them may
        be left out. Raises like `read`."""
        trouble: TandemError = Missing(f"block {block.hex()[:16]} is in no index")
        for place in self.places(block):
            if place == without:
                continue
            try:
                return await self._blob_at(place, block, set())
            except (Missing, Corrupt, Unavailable) as error:
                trouble = trouble if isinstance(trouble, Unavailable) else error
        raise trouble

    async def _blob_at(self, place: Place, block: bytes, avoid: set[str]) -> bytes:
        """One place on every tier that is not in ``avoid``, which grows by those that are no good."""
        pack = self.index.pack(place[0])
        while True:
            raw, tier = await self._frame(place[0], place[1], avoid)
            data = raw[place[2] : place[2] + place[3]]
            if content_id(self.ring.content_id_key[1], data) == block:
                return data
            self.note(tier, ObjectType.PACK, pack.name, "damaged")
            self._forget(place[0], place[1])
            avoid.add(tier)

    def _forget(self, pack: int, frame: int) -> None:
        found = self._raw.pop((pack, frame), None)
        if found is not None:
            self._raw_bytes -= len(found[0])

    async def _frame(self, number: int, frame_number: int, avoid: set[str]) -> tuple[bytes, str]:
        """The raw bytes of a frame and the tier they are from, a few kept for the next question."""
        key = (number, frame_number)
        kept = self._raw.get(key)
        if kept is not None and kept[1] not in avoid:
            self._raw.move_to_end(key)
            return kept
        pack, frame = self.index.pack(number), self.index.frame(number, frame_number)
        while True:
            sealed, tier = await self._sealed(number, pack, frame, avoid)
            try:
                raw = open_frame(self.ring, pack.kind, pack.key_number, frame, sealed)
            except Corrupt:
                self.note(tier, ObjectType.PACK, pack.name, "damaged")
                avoid.add(tier)
                continue
            self._keep(key, raw, tier)
            return raw, tier

    def _keep(self, key: tuple[int, int], raw: bytes, tier: str) -> None:
        self._forget(*key)
        self._raw[key] = (raw, tier)
        self._raw_bytes += len(raw)
        while self._raw_bytes > _RAW_CACHE:
            self._raw_bytes -= len(self._raw.popitem(last=False)[1][0])

    async def _sealed(
        self, number: int, pack: PackInfo, frame: Frame, avoid: set[str]
    ) -> tuple[bytes | memoryview, str]:
        """A frame as it is in the pack. Of tree packs, whose frames are asked for one by one in about their
        order, some more is read along."""
        for (owner, start), (data, tier) in self._ahead.items():
            at = frame.offset - start
            if owner == number and at >= 0 and at + frame.sealed_length <= len(data) and tier not in avoid:
                return memoryview(data)[at : at + frame.sealed_length], tier
        length = frame.sealed_length
        if pack.kind is DocType.TREE_PACK and not avoid:
            length = max(length, min(READ_AHEAD, pack.size - frame.offset))
        try:
            data, tier = await self.read(ObjectType.PACK, pack.name, frame.offset, length, avoid)
        except Missing:
            if length == frame.sealed_length:
                raise
            # The end of the pack is lost everywhere; this frame may not be.
            return await self.read(ObjectType.PACK, pack.name, frame.offset, frame.sealed_length, avoid)
        if length > frame.sealed_length:
            self._ahead[(number, frame.offset)] = (data, tier)
            while len(self._ahead) > _CHUNKS:
                self._ahead.popitem(last=False)
        return memoryview(data)[: frame.sealed_length], tier
