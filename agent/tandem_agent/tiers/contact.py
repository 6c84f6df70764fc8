"""Reading what a look needs from one tier: identity, epochs, and claims and records by number.

Reads only, and judges nothing. Damage becomes a `Fault` value, so that the verdict sees all of it at once.
The cost does not grow with the history: names are probed, and only a wide gap is listed, a leaf folder of
256 numbers at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from tandem_protocol import names
from tandem_protocol.errors import Corrupt, Missing, Unsupported
from tandem_protocol.identity import MAX_SIZE, Identity, decode_identity
from tandem_protocol.replicate import in_parallel
from tandem_protocol.revision import (
    MAX_CERTIFICATE,
    MAX_CLAIM,
    MAX_RECORD,
    Certificate,
    Forged,
    parse_claim,
    parse_epoch_file,
    parse_record,
)
from tandem_protocol.store import Store
from tandem_protocol.verdict import Believed, Fault, Seen, SeenNumber

_T = TypeVar("_T")
PROBE_UP_TO = 64
"""A gap of more numbers than this is listed instead of probed."""

MAX_CLIMB = 4096
"""Most numbers above everything known that one look reads; what is higher is found by the next look."""


async def read_tier(store: Store, believed: Believed, root_public: bytes, revision: int) -> Seen:
    """Look at a tier whose revision is ``revision`` (the highest number up to which it holds all)."""
    identity = await _read_identity(store)
    if identity is None or (
        isinstance(identity, Identity) and identity.repository_id != believed.repository_id
    ):
        return Seen(identity)
    epochs = await _read_epochs(store, believed, root_public)
    pending = believed.pending.number if believed.pending is not None else 0
    top = max(believed.head, pending)
    low = max(revision + 1, believed.start, 1)
    wanted = {believed.highest_held, believed.last_written} - {0}
    wanted |= await _present(store, low, top)
    numbers = await _read_numbers(store, wanted, believed, root_public)
    climb = top
    while climb < min(top + MAX_CLIMB, names.MAX_NUMBER):
        climb += 1
        found = await _read_number(store, climb, believed, root_public)
        if found.claim is None and found.record is None:
            break
        numbers[climb] = found
    return Seen(identity, epochs, numbers)


async def _read_identity(store: Store) -> Identity | Fault | None:
    try:
        return _decoded(decode_identity, await store.read(names.IDENTITY, 0, MAX_SIZE + 1))
    except Missing:
        # One that was moved aside and not yet written again when the agent or its link died is still damage.
        async for entry in store.list(names.DAMAGED):
            if entry.name.startswith(f"{names.IDENTITY}."):
                return Fault.DAMAGED
        return None


async def _read_epochs(
    store: Store, believed: Believed, root_public: bytes
) -> dict[int, Certificate | Fault]:
    listed = [names.parse_epoch(entry.name) async for entry in store.list(names.EPOCHS)]
    found: dict[int, Certificate | Fault] = {}

    async def read(epoch: int) -> None:
        value = await _optional(
            store,
            names.epoch_path(epoch),
            MAX_CERTIFICATE,
            lambda data: parse_epoch_file(data, believed.repository_id, root_public, epoch),
        )
        if value is not None:
            found[epoch] = value

    epochs = sorted(epoch for epoch in listed if epoch is not None)
    await in_parallel(store.parallel, [partial(read, epoch) for epoch in epochs])
    return found


async def _present(store: Store, low: int, top: int) -> set[int]:
    """The numbers from ``low`` to ``top`` that may have a claim or record: all of a narrow gap, the listed
    ones of a wide one."""
    if top - low < PROBE_UP_TO:
        return set(range(low, top + 1))
    found: set[int] = set()
    first = low & ~0xFF
    for start in range(max(first, 1), top + 1, 256):
        folder = names.number_folder(start)
        async for entry in store.list(folder):
            parsed = names.parse_numbered(f"{folder}/{entry.name}")
            if parsed is not None and low <= parsed[0] <= top:
                found.add(parsed[0])
    return found


async def _read_numbers(
    store: Store, wanted: Iterable[int], believed: Believed, root_public: bytes
) -> dict[int, SeenNumber]:
    found: dict[int, SeenNumber] = {}

    async def read(number: int) -> None:
        found[number] = await _read_number(store, number, believed, root_public)

    await in_parallel(store.parallel, [partial(read, number) for number in sorted(wanted)])
    return found


async def _read_number(store: Store, number: int, believed: Believed, root_public: bytes) -> SeenNumber:
    repository = believed.repository_id
    claim = await _optional(
        store,
        names.claim_path(number),
        MAX_CLAIM,
        lambda data: parse_claim(data, repository, root_public, believed.tier_id, number),
    )
    record = await _optional(
        store,
        names.record_path(number),
        MAX_RECORD,
        lambda data: parse_record(data, repository, root_public, number),
    )
    return SeenNumber(claim, record)


async def _optional(store: Store, path: str, limit: int, parse: Callable[[bytes], _T]) -> _T | Fault | None:
    try:
        return _decoded(parse, await store.read(path, 0, limit + 1))
    except Missing:
        return None


def _decoded(parse: Callable[[bytes], _T], data: bytes) -> _T | Fault:
    try:
        return parse(data)
    except Forged:
        return Fault.FORGED
    except Unsupported:
        return Fault.UNSUPPORTED
    except Corrupt:
        return Fault.DAMAGED
