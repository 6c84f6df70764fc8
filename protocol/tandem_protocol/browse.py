"""The history of a repository as one store alone tells it: for reading without an installation.

Everything is verified from the root key in the identity down; the caller compares that key with what its key
slot says under seal, before it believes a word. What is damaged is passed over with a notice. Reads only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Container
from dataclasses import dataclass, field

from . import names
from .errors import Corrupt, Missing, TandemError, Unavailable, Unsupported
from .history import Live, live_from_lists, newest_base, replay
from .identity import MAX_SIZE, Identity, decode_identity
from .lists import MAX_LIST, ListEntry, decode_list
from .names import ObjectType, object_name, object_path, parse_object_name
from .revision import MAX_RECORD, Record, parse_record
from .store import Store

WIDTH = 8
"""Records asked for at once."""

MAX_SLOT = 1024 * 1024
MAX_STRANGE = 64
"""Most key slots that are read though no revision names them."""


@dataclass(frozen=True)
class StoredHistory:
    """``records`` in the order of their numbers; ``live`` after them; ``slots`` by object name; ``notices`` say
    what was damaged and passed over."""

    identity: Identity
    records: list[Record]
    live: Live
    slots: dict[bytes, bytes]
    notices: list[str] = field(default_factory=list)


async def history_from_store(store: Store) -> StoredHistory:
    """Read everything that says what this store holds. `Missing` if there is no repository."""
    identity = await read_identity(store)
    notices: list[str] = []
    records = await _records(store, identity, notices)
    base, live = await _newest_base(store, records, notices)
    start = 0 if base is None else base.number
    after = [r for r in records if r.number > start and _follows(r, base)]
    live = replay(after, live)
    has_gaps = bool(notices) or _lacks_a_parent(after, base)
    slots = await read_slots(store, notices, live)
    if not has_gaps:  # a removed slot lies there for a while yet; where the history has gaps, any may help
        slots = {name: data for name, data in slots.items() if name in live} or slots
    return StoredHistory(identity, records, live, slots, notices)


async def _newest_base(store: Store, records: list[Record], notices: list[str]) -> tuple[Record | None, Live]:
    """The newest base whose lists are all good, and what is live after it; none without one, for then the records
    from the lowest on say it all."""
    left = records
    while (base := newest_base(left)) is not None:
        try:
            entries = await _lists(store, base)
            return base, replay([base], live_from_lists(entries, base.number))
        except (Corrupt, Missing) as fault:
            notices.append(f"the lists of revision {base.number} are passed over: {fault}")
            left = [record for record in left if record is not base]
    return None, {}


def _lacks_a_parent(records: list[Record], base: Record | None) -> bool:
    """Whether a revision is not here (the tier lags): it may have added a key slot that is here already."""
    known = {record.hash for record in records} | ({base.hash} if base is not None else set())
    return any(parent not in known for record in records for parent in record.parents)


def _follows(record: Record, base: Record | None) -> bool:
    """A record of an epoch below the base's was written beside it, by an installation taken over since."""
    return base is None or record.certificate.epoch >= base.certificate.epoch


async def read_identity(store: Store) -> Identity:
    """Whose repository and which tier this place is. `Missing` if it is none, `Corrupt` if that is damaged."""
    try:
        return decode_identity(await store.read(names.IDENTITY, 0, MAX_SIZE + 1))
    except Missing:
        raise Missing(
            "there is no repository", "check the address; a tier's folder has a file called tandem"
        ) from None


async def listed_numbers(store: Store) -> AsyncGenerator[tuple[int, str], None]:
    """Every number that has a claim or a record, with which of them (`names.parse_numbered`), in any order."""
    async for high in store.list(names.REVISIONS):
        async for middle in store.list(f"{names.REVISIONS}/{high.name}"):
            folder = f"{names.REVISIONS}/{high.name}/{middle.name}"
            async for leaf in store.list(folder):
                parsed = names.parse_numbered(f"{folder}/{leaf.name}")
                if parsed is not None:
                    yield parsed


async def _records(store: Store, identity: Identity, notices: list[str]) -> list[Record]:
    gate = asyncio.Semaphore(WIDTH)

    async def read(number: int) -> Record | None:
        async with gate:
            try:
                data = await store.read(names.record_path(number), 0, MAX_RECORD + 1)
                return parse_record(data, identity.repository_id, identity.root_public, number)
            except Unsupported:
                raise
            except (Corrupt, Missing) as fault:
                notices.append(f"revision {number} is passed over: {fault}")
                return None

    # A listing may repeat itself.
    numbers = sorted({number async for number, what in listed_numbers(store) if what == "record"})
    found = await asyncio.gather(*(read(number) for number in numbers))
    return [record for record in found if record is not None]


async def _lists(store: Store, base: Record) -> list[ListEntry]:
    entries: list[ListEntry] = []
    for name in base.lists or ():
        entries += await read_list(store, name)
    return entries


async def read_list(store: Store, name: bytes) -> list[ListEntry]:
    """The entries of one list object. `Missing` if it is not there, `Corrupt` if it is not what its name says."""
    data = await store.read(object_path(ObjectType.LIST, name), 0, MAX_LIST + 1)
    if object_name(data) != name:
        raise Corrupt("a list's bytes are not what its name says")
    return await asyncio.to_thread(decode_list, data)


async def read_slots(store: Store, notices: list[str], known: Container[bytes] = ()) -> dict[bytes, bytes]:
    """The key slots whose bytes are what their names say, so that damage is not taken for a wrong passphrase. Those
    ``known`` to be of the repository come first, and only so many others: trying one may take seconds, and whoever
    keeps the tier can make any number of them."""
    slots: dict[bytes, bytes] = {}
    listed = [entry async for entry in store.list("keys") if entry.size <= MAX_SLOT]
    listed.sort(key=lambda entry: parse_object_name(entry.name) not in known)
    strange = 0
    for entry in listed:
        name = parse_object_name(entry.name)
        if name is None:
            continue
        strange += name not in known
        if strange > MAX_STRANGE:
            break
        try:
            data = await store.read(object_path(ObjectType.KEY, name), 0, MAX_SLOT + 1)
        except Unavailable:
            raise
        except TandemError as fault:
            notices.append(f"key slot {entry.name[:12]} is passed over: {fault}")
            continue
        if object_name(data) == name:
            slots[name] = data
        else:
            notices.append(f"key slot {entry.name[:12]} is damaged and passed over")
    return slots
