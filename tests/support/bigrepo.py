"""Makes a repository with a long history and very many objects in seconds, to count and measure what contact and
synchronisation cost. Metadata only.

Real: the local state and all its rows; identity, certificate and epoch; the key slot; record and claim of every
number in a small history, and else of those that anything here may read (the first, the last few, the newest bases,
what a tier holds highest); the lists of the two newest bases; the objects of the last revision.
Made up: all other objects, which are on no disk (40 bytes each that follow from a number, so that a store in memory
can give them), and all other records, which are zeros in the journal: who reads one of those fails. Bases come when
the protocol says.
"""

from __future__ import annotations

import random
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.support.documents import RING, Writer, nonce_of

from tandem_agent.state import Setup, State
from tandem_protocol import names
from tandem_protocol.history import LiveObject
from tandem_protocol.identity import Identity
from tandem_protocol.keys import agent_slot
from tandem_protocol.lists import ListEntry, encode_list, split_list
from tandem_protocol.names import ObjectType, object_name, object_path
from tandem_protocol.planning import base_is_due
from tandem_protocol.revision import MAX_OBJECTS, Kind, ObjectRef, Record, Removal

ALL_REAL = 2_000
"""A history of more revisions has made-up records where none is read; one of fifty times as many objects too."""

LAST_REAL = 16
FILLER = bytes(600)
"""In place of a record: as long as that of a small backup."""

NEWEST_BASES = 8
MADE_UP_SIZE = 40


@dataclass(frozen=True)
class BigTier:
    """One tier: it holds every revision from ``start`` to ``level``, and what those added. ``is_new``: it starts at
    ``start`` and has nothing yet."""

    name: str
    identity: Identity
    level: int
    start: int = 1
    is_new: bool = False


class BigRepo:
    """``revisions`` of ``objects`` in all, ``last`` of them in the last revision, which is a base of kind tiers if
    ``ends_with_base``. ``levels``: by tier name, up to which revision it holds everything (the last one if it is
    None)."""

    def __init__(
        self,
        folder: Path,
        revisions: int,
        objects: int,
        levels: Mapping[str, int | None],
        last: int = 10,
        seed: int = 1,
        ends_with_base: bool = False,
    ) -> None:
        self.head = revisions
        self.writer = Writer()
        self.ring = RING
        self.slot = agent_slot(RING, bytes(32), "test")
        self._make = random.Random(seed)
        self._last = {object_name(data): data for data in self._contents(last)}
        self._counts = _spread(objects - last, revisions - 2)
        self._made_up = b"".join(object_name(_content(i)) for i in range(objects - last))
        self._lists: dict[bytes, bytes] = {}
        self._refs_of_base: dict[int, list[ObjectRef]] = {}
        self.bases = self._base_numbers() + [self.head] * ends_with_base
        self.tiers = [self._tier(name, level) for name, level in levels.items()]
        self._real = self._real_numbers()
        self.records: dict[int, Record] = {}
        self.folder = folder
        self.state = State.open(str(folder))
        self._fill(self.state)

    def _contents(self, count: int) -> Iterator[bytes]:
        for _ in range(count):
            yield self._make.randbytes(200)

    def _tier(self, name: str, level: int | None) -> BigTier:
        identity = Identity(RING.repository_id, self._make.randbytes(16), RING.root_public)
        return BigTier(name, identity, self.head if level is None else level)

    def _base_numbers(self) -> list[int]:
        found, live = [1], 0
        for number in range(2, self.head):
            live += self._counts[number - 2]
            if base_is_due(number - 1 - found[-1], live):
                found.append(number)
        return found

    def _real_numbers(self) -> set[int]:
        if self.head <= ALL_REAL and len(self._made_up) <= 32 * 50 * ALL_REAL:
            return set(range(1, self.head + 1))
        held = {n for tier in self.tiers for n in (tier.level, tier.level + 1)} | {self.bases[-1] + 1}
        return {1, *range(self.head - LAST_REAL, self.head + 1), *self.bases[-NEWEST_BASES:], *held}

    # Objects

    def made_up(self, number: int) -> Iterator[ObjectRef]:
        """The made-up objects that revision ``number`` added."""
        for i in range(self._first[number], self._first[number + 1]):
            yield self._made_up_ref(i, number)

    @cached_property
    def _first(self) -> list[int]:
        """By revision number: how many made-up objects were added before it."""
        firsts = [0, 0, 0]
        for count in self._counts:
            firsts.append(firsts[-1] + count)
        return [*firsts, firsts[-1]]

    def _made_up_ref(self, i: int, number: int) -> ObjectRef:
        last = self._first[number + 1] - 1
        kind = ObjectType.SNAPSHOT if i == last else ObjectType.INDEX if i == last - 1 else ObjectType.PACK
        return ObjectRef(kind, self._made_up[32 * i : 32 * i + 32], MADE_UP_SIZE)

    def added(self, number: int) -> list[ObjectRef]:
        """Everything that revision ``number`` added."""
        if number == 1:
            return [ObjectRef(ObjectType.KEY, object_name(self.slot), len(self.slot))]
        found = [ObjectRef(ObjectType.PACK, name, len(data)) for name, data in self._last.items()]
        if number < self.head:
            found = list(self.made_up(number))
        return [*found, *self._refs_of_base.get(number, ())]

    def live(self) -> Iterator[LiveObject]:
        """All that is live at the head: of the lists, those of the two newest bases."""
        gone = {ref.name for base in self.bases[:-2] for ref in self._refs_of_base.get(base, ())}
        for number in range(1, self.head + 1):
            for ref in self.added(number):
                if ref.name not in gone:
                    yield LiveObject(ref.type, ref.name, ref.size, number)

    def contents(self, level: int) -> dict[str, bytes]:
        """By path, the objects that have bytes at all and were added up to revision ``level``."""
        found = {object_path(ObjectType.KEY, object_name(self.slot)): self.slot}
        found |= {
            object_path(ObjectType.LIST, ref.name): self._lists[ref.name]
            for number in self.bases[-2:]
            for ref in self._refs_of_base.get(number, ())
            if number <= level
        }
        if level >= self.head:
            found |= {object_path(ObjectType.PACK, name): data for name, data in self._last.items()}
        return found

    def content_of(self, name: bytes, level: int) -> bytes | None:
        """The bytes of a made-up object, if it was added up to revision ``level``."""
        order, numbers = self._by_name
        at = bisect_left(order, name, key=self._name)
        if at == len(order) or self._name(order[at]) != name or numbers[order[at]] > level:
            return None
        return _content(order[at])

    def _name(self, i: int) -> bytes:
        return self._made_up[32 * i : 32 * i + 32]

    def listed(self, kind: ObjectType, prefix: int, level: int) -> Iterator[ObjectRef]:
        """The made-up objects of a folder ``packs/<prefix>`` (or index, snapshots), added up to ``level``."""
        order, numbers = self._by_name
        low, high = (
            bisect_left(order, bytes([p]), key=self._name) if p < 256 else len(order)
            for p in (prefix, prefix + 1)
        )
        for i in order[low:high]:
            ref = self._made_up_ref(i, numbers[i])
            if ref.type is kind and numbers[i] <= level:
                yield ref

    @cached_property
    def _by_name(self) -> tuple[array[int], array[int]]:
        """Numbers of the made-up objects in order of their names; and by number, the revision that added each."""
        count = len(self._made_up) // 32
        order = sorted(range(count), key=self._name)
        numbers = array("I")
        for at, more in enumerate(self._counts):
            numbers.extend([at + 2] * more)
        return array("I", order), numbers

    # Records

    def record(self, number: int) -> Record:
        """The real record of ``number``; who asks for a made-up one has a wrong idea of what is read."""
        assert number in self.records, f"the record of revision {number} is made up: nothing should read it"
        return self.records[number]

    def _journal(self) -> Iterator[tuple[int, str, bytes, bytes, bytes]]:
        parent: tuple[bytes, ...] = ()
        for number in range(1, self.head + 1):
            kind = Kind.INIT if number == 1 else Kind.CHECKPOINT
            if number == self.head and number in self.bases[1:]:
                kind = Kind.TIERS
            if number in self._real:
                record = self._make_record(number, kind, parent)
                self.records[number] = record
                digest, data = record.hash, record.data
            else:
                digest, data = self._make.randbytes(32), FILLER
            yield number, kind.value, nonce_of(number), digest, data
            parent = (digest,)

    def _make_record(self, number: int, kind: Kind, parents: tuple[bytes, ...]) -> Record:
        more: dict[str, Any] = {}
        if number in self.bases:
            more["tiers"] = tuple(tier.identity.tier_id for tier in self.tiers)
            more["lists"] = tuple(ref.name for ref in self._refs_of_base.get(number, ()))
            before = self.bases[: self.bases.index(number)][-2:-1]
            more["removed"] = [
                Removal(ObjectType.LIST, ref.name) for n in before for ref in self._refs_of_base.get(n, ())
            ]
        added = self.added(number)
        assert len(added) + len(more.get("removed", ())) <= MAX_OBJECTS, "more revisions, or fewer objects"
        return self.writer.record(number, kind=kind, parents=parents, added=tuple(added), **more)

    def _make_lists(self) -> None:
        """The lists of the two newest bases whole; of older ones, which nobody keeps, a name."""
        for base in self.bases[1:]:
            if base not in self.bases[-2:]:
                self._refs_of_base[base] = [ObjectRef(ObjectType.LIST, self._make.randbytes(32), 1_000)]
                continue
            entries = [
                ListEntry(o.type, o.name, o.size)
                for number in range(1, base + 1)
                for o in self.added(number)
                if o.type is not ObjectType.LIST
            ]
            entries.sort(key=lambda entry: entry.name)
            pieces = [encode_list(piece) for piece in split_list(entries)]
            self._lists |= {object_name(piece): piece for piece in pieces}
            self._refs_of_base[base] = [
                ObjectRef(ObjectType.LIST, object_name(piece), len(piece)) for piece in pieces
            ]

    # The local state

    def _fill(self, state: State) -> None:
        """The rows that `State` would have written revision by revision, one fsync each."""
        self._make_lists()
        setup = Setup(RING.repository_id, RING.root_public, self.writer.installation, self.writer.certificate)
        tiers = [(tier.name, tier.identity) for tier in self.tiers]
        db = state._db
        with state.together():
            state.found(setup, tiers, {object_name(self.slot): self.slot})
            db.change_each(
                "INSERT INTO journal (n, kind, nonce, hash, record) VALUES (?, ?, ?, ?, ?)", self._journal()
            )
            indexes = db.rows(
                "SELECT name, sql FROM sqlite_master WHERE tbl_name = 'live' AND sql LIKE '%INDEX%'"
            )
            for name, _ in indexes:
                db.change(f"DROP INDEX {name}")
            rows = sorted((o.name, o.type.value, o.size, o.added, b"") for o in self.live())
            db.change_each("INSERT INTO live (name, type, size, added, dead) VALUES (?, ?, ?, ?, ?)", rows)
            for _, again in indexes:
                db.change(again)
            bases = str(self.bases[-NEWEST_BASES:]).encode()
            db.change("INSERT OR REPLACE INTO setup VALUES ('bases', ?)", (bases,))
            for tier in self.tiers:
                id = tier.identity.tier_id
                db.change(
                    "UPDATE tiers SET last_written = ?, state = 'online' WHERE id = ?", (tier.level, id)
                )
                db.change("INSERT INTO missing SELECT ?, n FROM journal WHERE n > ?", (id, tier.level))

    def add_new_tier(self, name: str) -> BigTier:
        """One more tier, that starts at the newest base and has nothing yet."""
        from tandem_agent.state import TierStart

        tier = self._tier(name, 0)
        tier = BigTier(name, tier.identity, 0, self.bases[-1], True)
        self.state.start_empty(TierStart(tier.identity, name, True), self.bases[-1])
        self.tiers.append(tier)
        return tier

    # A tier on a disk

    def write_folder(self, tier: BigTier, folder: Path) -> None:
        """What of ``tier`` has real bytes, as files: all that contact and synchronisation should ask for."""
        files = {names.IDENTITY: tier.identity.encode()}
        if not tier.is_new:
            certificate = self.writer.certificate
            files[names.epoch_path(certificate.epoch)] = certificate.data
            files |= self.contents(tier.level)
            for number, record in self.records.items():
                if number <= tier.level:
                    files[names.claim_path(number)] = self.writer.claim(number, tier.identity.tier_id).data
                    files[names.record_path(number)] = record.data
        for path, data in files.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)


def _content(i: int) -> bytes:
    """The bytes of the made-up object ``i``."""
    return i.to_bytes(8, "big") * (MADE_UP_SIZE // 8)


def _spread(objects: int, revisions: int) -> list[int]:
    """``objects`` over ``revisions``, as evenly as can be."""
    if revisions <= 0:
        assert objects <= 0, "two revisions add no made-up objects"
        return []
    return [(at + 1) * objects // revisions - at * objects // revisions for at in range(revisions)]
