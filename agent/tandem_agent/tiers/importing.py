"""Reading one tier whole, whoever wrote it, and closing what was left open there: for takeover and join.

Costs in proportion to what the tier holds: every claim and record is read, and all objects are listed. What they
mean together is decided in ``tandem_protocol.joining``.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from tandem_agent.state import Takeover
from tandem_agent.tiers.contact import read_document
from tandem_protocol import names
from tandem_protocol.browse import listed_numbers, read_list
from tandem_protocol.certificates import MAX_CERTIFICATE, Certificate, parse_epoch_file
from tandem_protocol.errors import Corrupt, Exists, Missing, Refused, Unsupported
from tandem_protocol.history import LiveObject
from tandem_protocol.joining import BELIEVABLE, Lists, Side, lists_wanted, open_numbers, records_of
from tandem_protocol.lists import ListEntry
from tandem_protocol.names import ObjectType, object_folders
from tandem_protocol.replicate import in_parallel, move_aside, objects_in, read_verified
from tandem_protocol.revision import (
    MAX_CLAIM,
    MAX_RECORD,
    Claim,
    Record,
    Requires,
    parse_claim,
    parse_record,
    required_by,
)
from tandem_protocol.store import Store
from tandem_protocol.verdict import Fault

MakeAborted = Callable[[int, bytes | None, tuple[bytes, ...]], Record]
"""Number, nonce and parents of the readable claim (None, (): there is none) to a signed aborted record, which is
about to be written."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading a tier needs to know: its store, and whose documents are good there."""

    store: Store
    name: str
    tier_id: bytes
    repository_id: bytes
    root_public: bytes


async def read_side(reading: Reading) -> Side:
    """Everything that this tier says. `Refused` where it holds what this program must not pass over, a forged
    document; `Unsupported` for one of a newer format."""
    epochs = await read_epochs(reading)
    claims, records = await read_numbers(reading)
    return Side(reading.tier_id, epochs, claims, records, await _listing(reading.store))


def _check_usable(tier: str, number: int, document: object) -> None:
    if document is Fault.FORGED:
        raise Refused(
            f"tier {tier}: revision {number} is signed by a key that this repository never enrolled",
            "somebody has forged it there: do not use this tier until you know who",
        )
    if document is Fault.UNSUPPORTED:
        raise _newer(tier, f"revision {number}")


def _newer(tier: str, what: str) -> Unsupported:
    return Unsupported(f"tier {tier}: {what} of the repository needs a newer program", "upgrade tandem")


async def required_there(reading: Reading) -> Requires:
    """What all that this tier says requires; `Unsupported` where it needs a newer program to be read at all. For before
    anything is written: what else is wrong here is told when the tier is read for good."""
    claims, records = await _documents(reading)
    found: list[tuple[str, Mapping[int, object]]] = [
        ("epoch", await read_epochs(reading)),
        ("revision", claims),
        ("revision", records),
    ]
    for what, documents in found:
        for number, document in sorted(documents.items()):
            if document is Fault.UNSUPPORTED:
                raise _newer(reading.name, f"{what} {number}")
    return required_by(record for record in records.values() if isinstance(record, Record))


async def read_epochs(reading: Reading) -> dict[int, Certificate | Fault]:
    """The certificates under ``epochs/``, by epoch."""
    listed = [names.parse_epoch(entry.name) async for entry in reading.store.list(names.EPOCHS)]
    found: dict[int, Certificate | Fault] = {}
    for epoch in sorted(epoch for epoch in listed if epoch is not None):
        parse = partial(
            parse_epoch_file,
            repository_id=reading.repository_id,
            root_public=reading.root_public,
            epoch=epoch,
        )
        value = await read_document(reading.store, names.epoch_path(epoch), MAX_CERTIFICATE, parse)
        if value is not None:
            found[epoch] = value
    return found


async def highest_epoch_there(reading: Reading) -> int:
    """The highest epoch taken here. An unreadable one far above all readable ones is passed over, as with numbers."""
    found = await read_epochs(reading)
    readable = max((epoch for epoch, what in found.items() if isinstance(what, Certificate)), default=0)
    return max((epoch for epoch in found if epoch <= readable + BELIEVABLE), default=0)


async def clear_epochs(reading: Reading, ours: int) -> None:
    """Move aside what stands above our epoch and is no certificate: nobody could have written it who may."""
    for epoch, what in (await read_epochs(reading)).items():
        if epoch > ours and isinstance(what, Fault):
            _check_usable(reading.name, epoch, what)
            await move_aside(reading.store, names.epoch_path(epoch))


async def read_numbers(reading: Reading) -> tuple[dict[int, Claim | Fault], dict[int, Record | Fault]]:
    """All claims and records. Raises as `read_side`."""
    claims, records = await _documents(reading)
    for documents in (claims, records):
        for number, document in sorted(documents.items()):
            _check_usable(reading.name, number, document)
    return claims, records


async def _documents(reading: Reading) -> tuple[dict[int, Claim | Fault], dict[int, Record | Fault]]:
    claims: dict[int, Claim | Fault] = {}
    records: dict[int, Record | Fault] = {}

    async def read(number: int, what: str) -> None:
        if what == "claim":
            claim = await read_claim(reading, number)
            if claim is not None:
                claims[number] = claim
        else:
            record = await read_record(reading, number)
            if record is not None:
                records[number] = record

    listed = sorted([found async for found in listed_numbers(reading.store)])
    await in_parallel(reading.store.parallel, [partial(read, *found) for found in listed])
    return claims, records


async def read_claim(reading: Reading, number: int) -> Claim | Fault | None:
    """The claim of ``number``, or None."""
    parse = partial(
        parse_claim,
        repository_id=reading.repository_id,
        root_public=reading.root_public,
        tier_id=reading.tier_id,
        number=number,
    )
    return await read_document(reading.store, names.claim_path(number), MAX_CLAIM, parse)


async def read_record(reading: Reading, number: int) -> Record | Fault | None:
    """The record of ``number``, or None."""
    parse = partial(
        parse_record,
        repository_id=reading.repository_id,
        root_public=reading.root_public,
        number=number,
    )
    return await read_document(reading.store, names.record_path(number), MAX_RECORD, parse)


async def _listing(store: Store) -> dict[bytes, tuple[ObjectType, int]]:
    found: dict[bytes, tuple[ObjectType, int]] = {}

    async def read(kind: ObjectType, folder: str) -> None:
        async for name, size in objects_in(store, folder):
            found[name] = (kind, size)

    folders = [(kind, folder) for kind in ObjectType for folder in object_folders(kind)]
    await in_parallel(store.parallel, [partial(read, *folder) for folder in folders])
    return found


async def close_open(
    reading: Reading, side: Side, below: int, make: MakeAborted, known: Container[int] = ()
) -> Side:
    """End every open number below ``below`` on this tier by an aborted record, so that whoever claimed it can
    complete it no more; but none that our own journal has (``known``). Whoever was faster: its record is part of
    the side that is given back."""
    records = dict(side.records)
    for number in open_numbers(side, below):
        if number in known:
            continue
        claim = side.claims.get(number)
        ours = (
            make(number, claim.nonce, claim.parents) if isinstance(claim, Claim) else make(number, None, ())
        )
        records[number] = await _close(reading, ours)
    return replace(side, records=records)


async def _close(reading: Reading, aborted: Record) -> Record | Fault:
    path = names.record_path(aborted.number)
    for _ in range(2):
        try:
            await reading.store.create(path, aborted.data)
            return aborted
        except Exists:
            found = await read_record(reading, aborted.number)
            if isinstance(found, Record):
                return found
            _check_usable(reading.name, aborted.number, found)
            await move_aside(reading.store, path)
    raise Refused(
        f"tier {reading.name}: revision {aborted.number} cannot be closed, something goes on writing there",
        "end the other installation and run it again",
    )


async def highest_listed(reading: Reading) -> int:
    """The highest number that was ever claimed here, from names and a few reads. An unreadable one far above all
    readable ones is passed over: see `joining.BELIEVABLE`."""
    numbers = sorted({number async for number, _ in listed_numbers(reading.store)}, reverse=True)
    for number in numbers[:256]:
        found = (await read_claim(reading, number), await read_record(reading, number))
        if any(isinstance(document, (Claim, Record)) for document in found):
            return max(n for n in numbers if n <= number + BELIEVABLE)
    return max((n for n in numbers if n <= BELIEVABLE), default=0)


async def read_lists(sides: Sequence[Side], stores: Mapping[bytes, Store], known: set[bytes]) -> Lists:
    """The lists of the bases that matter, from whichever tier has them good. ``stores`` by tier id."""
    records = records_of(sides)
    lists: dict[bytes, list[ListEntry]] = {}
    bad: set[bytes] = set()
    while wanted := lists_wanted(records, lists, bad, known):
        for name in sorted(wanted):
            entries = await _first_good_list(name, [stores[side.tier_id] for side in sides])
            if entries is None:
                bad.add(name)
            else:
                lists[name] = entries
    return lists


async def _first_good_list(name: bytes, stores: Sequence[Store]) -> list[ListEntry] | None:
    for store in stores:
        try:
            return await read_list(store, name)
        except (Missing, Corrupt):
            continue
    return None


async def read_keys(objects: Iterable[LiveObject], stores: Sequence[Store]) -> dict[bytes, bytes]:
    """The key slots among ``objects`` by name, each from the first of ``stores`` that has it good: they are kept here
    as well, and what opens the repository is listed."""
    slots: dict[bytes, bytes] = {}
    for found in objects:
        for store in stores if found.type is ObjectType.KEY else ():
            try:
                slots[found.name] = await read_verified(store, found)
                break
            except (Missing, Corrupt):
                continue
    return slots


async def fence(reading: Reading, certificate: Certificate, claim: Claim) -> str:
    """Publish the epoch, then the claim of the takeover: from then on whoever wrote before is told at its next
    look. "" if both stand there and are ours, else why somebody else was faster."""
    path = names.epoch_path(certificate.epoch)
    if await _created(reading.store, path, certificate.data) != certificate.data:
        return f"epoch {certificate.epoch} was taken by somebody else"
    found = await _created(reading.store, names.claim_path(claim.number), claim.data)
    if found != claim.data:
        theirs = await read_claim(reading, claim.number)
        if not isinstance(theirs, Claim) or theirs.nonce != claim.nonce:
            return f"revision {claim.number} was claimed by somebody else"
    return ""


async def is_free(reading: Reading, takeover: Takeover) -> bool:
    """Whether nobody else has taken the epoch or the number of a takeover that was begun here."""
    certificate = takeover.setup.certificate
    taken = (await read_epochs(reading)).get(certificate.epoch)
    if taken is not None and not (isinstance(taken, Certificate) and taken.data == certificate.data):
        return False
    claim = await read_claim(reading, takeover.number)
    ours = claim is None or (isinstance(claim, Claim) and claim.nonce == takeover.nonce)
    return ours and await read_record(reading, takeover.number) is None


async def _created(store: Store, path: str, data: bytes) -> bytes:
    """Create ``path``; what stands there afterwards."""
    try:
        await store.create(path, data)
    except Exists:
        return await store.read(path, 0, MAX_RECORD + 1)
    return data
