"""History as one store alone tells it: verified from the root, damage passed over with a notice (trust.md 11-20)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.support.documents import RING, TIER, Writer, ref
from tests.support.formats import make_ring

from tandem_protocol import envelope, names
from tandem_protocol.browse import MAX_SLOT, MAX_STRANGE, StoredHistory, history_from_store
from tandem_protocol.envelope import DocType
from tandem_protocol.errors import Corrupt, Missing, Unavailable, Unsupported
from tandem_protocol.history import list_entries, replay
from tandem_protocol.identity import Identity
from tandem_protocol.keys import agent_slot
from tandem_protocol.lists import encode_list
from tandem_protocol.names import ObjectType, object_name, object_path
from tandem_protocol.revision import Kind, ObjectRef, Record, Removal
from tandem_protocol.store import Entry
from tandem_protocol.stores.memory import MemoryStore

WRITER = Writer()


class Tier:
    """What a tier holds, built record by record."""

    def __init__(self) -> None:
        self.shared = {names.IDENTITY: Identity(RING.repository_id, TIER, RING.root_public).encode()}
        self.records: list[Record] = []

    def add(self, record: Record) -> Record:
        self.shared[names.record_path(record.number)] = record.data
        self.records.append(record)
        return record

    def revision(self, number: int, *numbers: int, writer: Writer = WRITER, **more: Any) -> Record:
        return self.add(writer.record(number, added=tuple(ref(n) for n in numbers), **more))

    def base(self, number: int, writer: Writer = WRITER) -> str:
        """A base with its list; the path of that list."""
        data = encode_list(list_entries(replay(self.records), [TIER]))
        name = object_name(data)
        self.shared[object_path(ObjectType.LIST, name)] = data
        added = (ObjectRef(ObjectType.LIST, name, len(data)),)
        self.add(writer.record(number, added=added, lists=(name,), tiers=(TIER,)))
        return object_path(ObjectType.LIST, name)

    def slot(self) -> str:
        data = agent_slot(RING, bytes(32), "agent")
        path = object_path(ObjectType.KEY, object_name(data))
        self.shared[path] = data
        return path

    def flip(self, path: str) -> None:
        data = bytearray(self.shared[path])
        data[len(data) // 2] ^= 1
        self.shared[path] = bytes(data)

    def read(self) -> StoredHistory:
        async def run() -> StoredHistory:
            store = MemoryStore(self.shared)
            await store.open()
            return await history_from_store(store)

        return asyncio.run(run())


@pytest.fixture
def tier() -> Tier:
    found = Tier()
    found.revision(1, 100, kind=Kind.INIT, lists=(), tiers=(TIER,))
    found.revision(2, 1, 2)
    found.revision(4, 3, removed=(Removal(ObjectType.PACK, ref(1).name),))
    return found


def live_numbers(history: StoredHistory) -> set[int]:
    return {int.from_bytes(o.name, "big") for o in history.live.values() if o.type is not ObjectType.LIST}


def test_everything_from_the_first_revision_on(tier: Tier) -> None:
    slot = tier.slot()
    history = tier.read()
    assert [record.number for record in history.records] == [1, 2, 4]
    assert live_numbers(history) == {100, 2, 3}
    assert history.identity.tier_id == TIER
    assert [object_path(ObjectType.KEY, name) for name in history.slots] == [slot]
    assert history.notices == []


def test_numbers_far_apart_and_names_that_are_none(tier: Tier) -> None:
    tier.revision(70_000, 4)
    tier.revision(2**40, 5)
    for junk in ("revisions/x", "revisions/000000000000/00/zz.record", "revisions/000000000000/00/00.record"):
        tier.shared[junk] = b"x"
    history = tier.read()
    assert [record.number for record in history.records][-2:] == [70_000, 2**40]
    assert live_numbers(history) == {100, 2, 3, 4, 5}


def test_without_a_repository(tier: Tier) -> None:
    del tier.shared[names.IDENTITY]
    with pytest.raises(Missing, match="no repository"):
        tier.read()


def test_a_damaged_identity_is_told(tier: Tier) -> None:
    tier.flip(names.IDENTITY)
    with pytest.raises(Corrupt, match="identity"):
        tier.read()


@pytest.mark.parametrize(
    "data",
    [
        lambda tier: b"",
        lambda tier: tier.shared[names.record_path(2)][:-1],
        lambda tier: tier.shared[names.record_path(4)],
        lambda tier: Writer(root=make_ring(2)).record(2).data,
        lambda tier: Writer(ring=make_ring(2)).record(2).data,
    ],
    ids=["empty", "torn", "another number", "forged", "another repository"],
)
def test_a_bad_record_is_passed_over_with_a_notice(tier: Tier, data: Callable[[Tier], bytes]) -> None:
    tier.shared[names.record_path(2)] = data(tier)
    history = tier.read()
    assert [record.number for record in history.records] == [1, 4]
    assert live_numbers(history) == {100, 3}
    assert len(history.notices) == 1
    assert "revision 2" in history.notices[0]


def test_a_record_of_a_newer_program_ends_it(tier: Tier) -> None:
    body = envelope.unverified_body(WRITER.record(5).data, DocType.RECORD) | {"read_requires": ["later"]}
    tier.shared[names.record_path(5)] = envelope.sign(DocType.RECORD, body, WRITER.installation.key)
    with pytest.raises(Unsupported, match="upgrade"):
        tier.read()


@pytest.mark.parametrize("cut", ["tandem", "revisions", "keys"])
def test_a_lost_link_is_raised_and_not_passed_over(tier: Tier, cut: str) -> None:
    class Cut(MemoryStore):
        async def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
            if name.startswith(cut):
                raise Unavailable("cut")
            return await super().read(name, offset, length)

    async def run() -> None:
        store = Cut(tier.shared)
        await store.open()
        await history_from_store(store)

    tier.slot()
    with pytest.raises(Unavailable):
        asyncio.run(run())


# Bases


def test_the_newest_base_stands_for_what_is_below_it(tier: Tier) -> None:
    tier.base(6)
    tier.revision(7, 4)
    del tier.shared[names.record_path(2)]
    history = tier.read()
    assert live_numbers(history) == {100, 2, 3, 4}
    assert {o.added for o in history.live.values()} == {6, 7}


@pytest.mark.parametrize("how", ["damaged", "gone", "another"])
def test_a_base_whose_list_is_bad_is_passed_over_for_an_older_one(tier: Tier, how: str) -> None:
    """And for the records themselves in the end: nothing that can be known is given up."""
    first = tier.base(6)
    tier.revision(7, 4)
    second = tier.base(8)
    tier.revision(9, 5)

    def spoil(path: str) -> None:
        if how == "damaged":
            tier.flip(path)
        elif how == "gone":
            del tier.shared[path]
        else:
            tier.shared[path] = encode_list([])

    spoil(second)
    history = tier.read()
    assert live_numbers(history) == {100, 2, 3, 4, 5}
    assert ["revision 8" in notice for notice in history.notices] == [True]
    spoil(first)
    history = tier.read()
    assert live_numbers(history) == {100, 2, 3, 4, 5}
    assert len(history.notices) == 2


def test_without_any_base_the_lowest_record_is_the_start(tier: Tier) -> None:
    del tier.shared[names.record_path(1)]
    assert live_numbers(tier.read()) == {2, 3}


def test_what_an_installation_wrote_beside_a_takeover_does_not_count(tier: Tier) -> None:
    new = Writer(epoch=2)
    tier.base(6, new)
    tier.revision(7, 8, writer=WRITER)
    tier.revision(9, 9, writer=new)
    history = tier.read()
    assert live_numbers(history) == {100, 2, 3, 9}
    assert len(history.records) == 6


# Key slots


def test_damaged_and_oversized_slots_are_passed_over(tier: Tier) -> None:
    good, bad = tier.slot(), tier.slot()
    tier.flip(bad)
    tier.shared[object_path(ObjectType.KEY, b"h" * 32)] = bytes(MAX_SLOT + 1)
    tier.shared["keys/readme"] = b"x"
    history = tier.read()
    assert [object_path(ObjectType.KEY, name) for name in history.slots] == [good]
    assert ["damaged" in notice for notice in history.notices] == [True]


@pytest.mark.parametrize("has_gaps", [False, True])
def test_of_strange_key_slots_only_so_many_are_read(tier: Tier, has_gaps: bool) -> None:
    """Named as they should be: those that the history names come first, and are all that there is to try."""
    named = tier.slot()
    name = object_name(tier.shared[named])
    tier.add(WRITER.record(5, added=(ObjectRef(ObjectType.KEY, name, len(tier.shared[named])),)))
    for number in range(1000):
        junk = number.to_bytes(8, "big")
        tier.shared[object_path(ObjectType.KEY, object_name(junk))] = junk
    if has_gaps:
        tier.flip(names.record_path(2))
    slots = tier.read().slots
    assert next(iter(slots)) == name
    assert len(slots) == (1 + MAX_STRANGE if has_gaps else 1)


def test_a_listing_that_repeats_itself(tier: Tier) -> None:
    class Repeats(MemoryStore):
        async def list(self, folder: str) -> AsyncIterator[Entry]:
            async for entry in super().list(folder):
                yield entry
                yield entry

    async def run() -> StoredHistory:
        store = Repeats(tier.shared)
        await store.open()
        return await history_from_store(store)

    assert [record.number for record in asyncio.run(run()).records] == [1, 2, 4]
