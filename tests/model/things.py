"""Documents and objects of the model: small ints for the state, the real dataclasses for the real rules.

A certificate, claim or record is interned once and then named by its code (0: none, 1: damaged, else an index
here), so that a tier is a row of ints. An object is a bit. `live_after` hands the real records to the real
`history` and keeps the answer. Nothing here is a rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from tandem_protocol.certificates import Certificate
from tandem_protocol.history import Live, apply, live_from_lists
from tandem_protocol.lists import ListEntry
from tandem_protocol.names import ObjectType
from tandem_protocol.revision import Claim, Kind, ObjectRef, Record, Removal

NONE, DAMAGED = 0, 1
NUMBERS = 12
"""Revision numbers are below this."""

WRITERS = 4
"""Most installations in one run, clones included."""

DATA = 1
"""The bit of the one pack of data that every backup refers to."""

REPOSITORY = b"R" * 16


def snapshot_bit(writer: int, number: int) -> int:
    """The snapshot object of the backup that ``writer`` makes as revision ``number``."""
    return 1 << (1 + writer * NUMBERS + number)


def index_bit(writer: int, number: int) -> int:
    """The index segment that names the data as stored by ``writer`` in revision ``number``."""
    return 1 << (1 + (WRITERS + writer) * NUMBERS + number)


SNAPSHOTS = ((1 << (WRITERS * NUMBERS)) - 1) << 1
INDEXES = ((1 << (WRITERS * NUMBERS)) - 1) << (1 + WRITERS * NUMBERS)


def bits(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def name_of(bit: int) -> bytes:
    return bit.to_bytes(32, "big")


def tier_id(tier: int, generation: int = 1) -> bytes:
    """A tier that was replaced is another one: its generation is part of its id."""
    return bytes((tier + 1, generation)) * 8


class RecordDoc(NamedTuple):
    """A record of the model. ``removed``: masks, first for all tiers, then one per tier; ``lives``: what a base
    lists, as (bit, mask of tiers where it is dead), None for no base; ``revived``: what a join makes live again, told
    by its lists and not by ``added``; ``unread``: records below that could not be read for it."""

    number: int
    cert: int
    nonce: int
    kind: Kind
    parents: tuple[int, ...] = ()
    added: int = 0
    removed: tuple[int, ...] = ()
    lives: tuple[tuple[int, int], ...] | None = None
    revived: tuple[tuple[int, int], ...] = ()
    unread: tuple[int, ...] = ()


_codes: dict[object, int] = {}
_certificates: dict[int, Certificate] = {}
_claims: dict[int, Claim] = {}
_records: dict[int, Record] = {}
docs: dict[int, RecordDoc] = {}
"""The content of every record by its code."""


def _intern(thing: object) -> tuple[int, bool]:
    found = _codes.get(thing)
    if found is not None:
        return found, False
    code = len(_codes) + 2
    _codes[thing] = code
    return code, True


def nonce(writer: int, number: int, draw: int = 0) -> int:
    """The nonce that ``writer`` draws for ``number``; another one for each ``draw``."""
    return (writer * NUMBERS + number) * 256 + draw + 1


def certificate(installation: int, epoch: int) -> int:
    """The code of a certificate; a clone has that of its original."""
    code, new = _intern(("certificate", installation, epoch))
    if new:
        data = b"certificate %d %d" % (installation, epoch)
        _certificates[code] = Certificate(REPOSITORY, bytes((installation,)) * 16, b"", epoch, data)
    return code


def claim(cert: int, nonce_: int, number: int, writer: int, era: int = 0) -> int:
    """The code of a claim as ``writer`` makes it in an ``era``: its bytes are never the same, be the nonce the same."""
    code, new = _intern(("claim", cert, nonce_, number, writer, era))
    if new:
        _claims[code] = Claim(
            REPOSITORY, b"", number, _certificates[cert], nonce_.to_bytes(24, "big"), (), b"", b""
        )
    return code


def record(doc: RecordDoc) -> int:
    code, new = _intern(("record", doc))
    if new:
        docs[code] = doc
        _records[code] = _real(doc, code)
    return code


def object_type(bit: int) -> ObjectType:
    if bit == 0:
        return ObjectType.PACK
    return ObjectType.SNAPSHOT if bit <= WRITERS * NUMBERS else ObjectType.INDEX


def size_of(bit: int) -> int:
    return 100 if bit == 0 else 10


def _real(doc: RecordDoc, code: int) -> Record:
    added = tuple(ObjectRef(object_type(b), name_of(b), size_of(b)) for b in bits(doc.added))
    removed = []
    for place, mask in enumerate(doc.removed):
        tiers = None if place == 0 else frozenset({tier_id(place - 1)})
        removed += [Removal(object_type(b), name_of(b), tiers) for b in bits(mask)]
    return Record(
        repository_id=REPOSITORY,
        number=doc.number,
        certificate=_certificates[doc.cert],
        nonce=doc.nonce.to_bytes(24, "big"),
        kind=doc.kind,
        parents=tuple(_records[p].hash for p in doc.parents),
        added=added,
        removed=tuple(removed),
        lists=None if doc.lives is None else (_list_name(code),) if doc.lives else (),
        tiers=None,
        unread=tuple(_records[p].hash for p in doc.unread),
        read_requires=(),
        write_requires=(),
        sealed=b"",
        data=b"record %d" % code,
    )


def real_certificate(code: int) -> Certificate:
    return _certificates[code]


def real_claim(code: int) -> Claim:
    return _claims[code]


def real_record(code: int) -> Record:
    return _records[code]


class LiveView(NamedTuple):
    """What is live after a journal: for the real rules, and as masks. ``on``: live per tier."""

    real: Live
    on: tuple[int, ...]
    anywhere: int


_views: dict[tuple[tuple[int, ...], int], LiveView] = {}


def live_after(journal: tuple[int, ...], tiers: int) -> LiveView:
    """What is live after the records of ``journal`` (codes by number), by the real `history`."""
    view = _views.get((journal, tiers))
    if view is None:
        view = _views[journal, tiers] = view_of(_replayed([c for c in journal if c > DAMAGED]), tiers)
    return view


def view_of(live: Live, tiers: int) -> LiveView:
    on = [0] * tiers
    for name, found in live.items():
        bit = 1 << int.from_bytes(name, "big")
        for t in range(tiers):
            if found.live_on(tier_id(t)):
                on[t] |= bit
    anywhere = 0
    for mask in on:
        anywhere |= mask
    return LiveView(live, tuple(on), anywhere)


def _replayed(codes: list[int]) -> Live:
    """From the lists of the lowest record on, if it is a base with lists: only that one starts a journal."""
    live: Live = {}
    for place, code in enumerate(codes):
        doc = docs[code]
        if place == 0 and doc.lives is not None:
            live = base_lives(doc)
        else:
            apply(live, _records[code])
            live |= live_from_lists(_entries(doc.revived), doc.number)
    return live


def alive_for(live: Live, tiers: frozenset[bytes]) -> Live:
    """As if nothing had been removed for single tiers but for ``tiers``."""
    return {
        name: found if found.dead & tiers else replace(found, dead=frozenset())
        for name, found in live.items()
    }


def ever_added(journal: tuple[int, ...]) -> Live:
    """All that was ever added, as if nothing had been removed since."""
    live: Live = {}
    for code in journal:
        if code > DAMAGED:
            apply(live, replace(_records[code], removed=()))
    return live


def base_lives(doc: RecordDoc) -> Live:
    return live_from_lists(_entries(doc.lives or ()), doc.number)


def _entries(lives: tuple[tuple[int, int], ...]) -> list[ListEntry]:
    return [
        ListEntry(object_type(bit), name_of(bit), size_of(bit), [tier_id(t) for t in bits(dead)])
        for bit, dead in lives
    ]


def _list_name(code: int) -> bytes:
    return b"list" + code.to_bytes(28, "big")


def lists_of(code: int) -> dict[bytes, list[ListEntry]]:
    """The lists of a base by name, {} for any other record."""
    lives = docs[code].lives
    return {_list_name(code): _entries(lives)} if lives else {}
