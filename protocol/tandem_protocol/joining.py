"""Bringing together what several tiers hold of one repository, whoever wrote it: for a takeover and a join. Pure.

Records form a graph: each names its parents by hash. Its heads are the states in which somebody left the
repository; what is live in one of them stays live, so that nothing that was acknowledged is lost. A removal
holds only if all branches share it. Where records cannot be read, what is there is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .certificates import Certificate
from .history import Live, LiveObject, live_from_lists, replay
from .lists import ListEntry
from .names import ObjectType
from .revision import UNITING, Claim, Kind, Record
from .verdict import Fault

BELIEVABLE = 1 << 20
"""An unreadable claim or record so far above all readable ones was not written by an installation: numbers grow by
one. It must not use up the numbers that are left."""

Lists = Mapping[bytes, Sequence[ListEntry]]


@dataclass(frozen=True, slots=True)
class Side:
    """One tier read whole. ``claims`` and ``records`` by number, ``epochs`` by epoch; ``present``: type and size
    in bytes of each object that its listing showed, by name."""

    tier_id: bytes
    epochs: Mapping[int, Certificate | Fault] = field(default_factory=dict)
    claims: Mapping[int, Claim | Fault] = field(default_factory=dict)
    records: Mapping[int, Record | Fault] = field(default_factory=dict)
    present: Mapping[bytes, tuple[ObjectType, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Union:
    """What becomes of some sides: the hashes of their ``heads``, what is ``live``, the ids of the ``tiers`` of the
    repository, the names of objects ``kept`` in doubt: there, and named by no record that can be read; and the hashes
    of records ``unread`` that the heads descend from: if one turns up, it has not been heard."""

    heads: tuple[bytes, ...]
    live: Live
    tiers: frozenset[bytes]
    kept: frozenset[bytes]
    unread: frozenset[bytes]


def highest_number(sides: Iterable[Side]) -> int:
    """The highest number that was ever claimed there, as far as it can be told; 0 for none."""
    readable: set[int] = {0}
    damaged: set[int] = set()
    for side in sides:
        for documents in (side.claims, side.records):
            for number, document in documents.items():
                (damaged if isinstance(document, Fault) else readable).add(number)
    return max(readable | {number for number in damaged if number <= max(readable) + BELIEVABLE})


def highest_epoch(sides: Iterable[Side]) -> int:
    """The highest epoch that was taken there, readable or not; 0 for none."""
    found = {0}
    for side in sides:
        found |= set(side.epochs)
        for documents in (side.claims, side.records):
            found |= {d.certificate.epoch for d in documents.values() if not isinstance(d, Fault)}
    return max(found)


def open_numbers(side: Side, below: int) -> list[int]:
    """Numbers that somebody claimed there and nobody ended, in order: whoever is still at it could complete them
    after the import. Each has to be closed."""
    return sorted(
        number
        for number in side.claims.keys() | side.records.keys()
        if number < below and not isinstance(side.records.get(number), Record)
    )


def records_of(sides: Iterable[Side]) -> dict[bytes, Record]:
    """All readable records, by hash."""
    found = (record for side in sides for record in side.records.values() if isinstance(record, Record))
    return {record.hash: record for record in found}


def heads(records: Mapping[bytes, Record], known: Collection[bytes] = ()) -> list[Record]:
    """The records that no other one descends from, or whose descendants were united without them, lowest number first.
    ``known`` are hashes of records that are in our own history: it descends from them."""
    passed = {parent for record in records.values() for parent in record.parents} - _unheard(records)
    found = [
        r for r in records.values() if r.hash not in passed and r.hash not in known and not _is_closing(r)
    ]
    return sorted(found, key=lambda record: (record.number, record.hash))


def _unheard(records: Mapping[bytes, Record]) -> set[bytes]:
    """What some union could not read, and none has named as one of its own parents since."""
    unread = {found for record in records.values() for found in record.unread}
    heard = {parent for record in records.values() if record.kind in UNITING for parent in record.parents}
    return unread - heard


def _is_closing(record: Record) -> bool:
    """Written to close a number whose claim could not be read: it belongs to no line."""
    return record.kind is Kind.ABORTED and not record.parents


def _telling(records: Mapping[bytes, Record], known: Collection[bytes]) -> list[Record]:
    """The heads that say something of what is live. A number that was closed adds nothing: its head is the state
    before it, and where another head, or our own history, descends from that state, all removals since would be void.
    """
    found = heads(records, known)
    closed = {head.hash for head in found if head.kind is Kind.ABORTED}
    passed = {parent for r in records.values() if r.hash not in closed for parent in r.parents}
    return [h for h in found if h.hash not in closed or not all(p in passed or p in known for p in h.parents)]


def whole(records: Mapping[bytes, Record], lists: Lists, known: Collection[bytes] = ()) -> set[bytes]:
    """The hashes of those of ``records`` of which all that they descend from was read too, down to the start, a base
    whose lists are known, or our own history. Of others it must not be said that our history has what is below."""
    found: set[bytes] = set(known)
    for record in sorted(records.values(), key=lambda record: record.number):
        if _is_start(record, lists) or all(parent in found for parent in record.parents):
            found.add(record.hash)
    return found


def lists_wanted(
    records: Mapping[bytes, Record], lists: Lists, bad: Collection[bytes], known: Collection[bytes] = ()
) -> set[bytes]:
    """The names of list objects that have to be read next, so that each head can be told what is live there.
    ``bad``: those that no tier has good. Ask again with what was read until nothing is wanted."""
    wanted: set[bytes] = set()
    for head in _telling(records, known):
        for record in _line(head, records, lists):
            names = set(record.lists or ())
            if names and not names & set(bad):
                wanted |= names - lists.keys()
                break
    return wanted


def _line(head: Record, records: Mapping[bytes, Record], lists: Lists) -> list[Record]:
    """``head`` and what it descends from, newest first, down to the first base whose lists are known, the start of
    the repository, a break, or a fork."""
    line = [head]
    while not _is_start(line[-1], lists):
        above = line[-1].parents
        found = [records[parent] for parent in above if parent in records]
        if len(above) != 1 or not found:
            break
        line.append(found[0])
    return line


def _is_start(record: Record, lists: Lists) -> bool:
    return record.lists is not None and all(name in lists for name in record.lists)


def unite(
    sides: Sequence[Side], lists: Lists, known: Collection[bytes] = (), ours: Collection[bytes] = ()
) -> Union:
    """The union of ``sides``. With ``known`` (a join), of what they have beside our own history, whose records
    name the objects ``ours``. All live objects count as added by revision 0: the caller's base is what adds them."""
    records = records_of(sides)
    told = [_live_at(head, records, lists) for head in _telling(records, known)]
    live: Live = {}
    for branch in told:
        _unite_into(live, branch.live)
    kept: set[bytes] = set()
    in_doubt = any(branch.broken for branch in told) or _unreadable(sides)
    unnamed = _unnamed(sides, records, lists)
    torn = any(found.type is ObjectType.SNAPSHOT and name not in ours for name, found in unnamed.items())
    if in_doubt or torn:
        kept = unnamed.keys() - live.keys() - set(ours)
        live |= {name: unnamed[name] for name in kept}
    lines = [record for branch in told for record in branch.line]
    tiers = [set(record.tiers) for record in lines if record.tiers is not None]
    return Union(
        tuple(head.hash for head in heads(records, known)),
        {name: replace(found, added=0) for name, found in live.items() if found.type is not ObjectType.LIST},
        frozenset().union(*tiers),
        frozenset(kept),
        frozenset().union(*(branch.unread for branch in told)) - records.keys() - set(known),
    )


@dataclass(frozen=True, slots=True)
class _Branch:
    live: Live
    broken: bool
    unread: set[bytes]
    line: list[Record]


def _live_at(head: Record, records: Mapping[bytes, Record], lists: Lists) -> _Branch:
    """What is live at ``head``; ``broken`` if a record that it descends from cannot be read."""
    line = _line(head, records, lists)
    last = line[-1]
    start: Live = {}
    broken = False
    unread = {found for record in line for found in record.unread}
    told = list(line)
    if _is_start(last, lists):
        start = live_from_lists((e for name in last.lists or () for e in lists[name]), last.number)
    else:
        for parent in last.parents:
            if parent not in records:
                broken = True
                unread.add(parent)
            else:
                above = _live_at(records[parent], records, lists)
                broken |= above.broken
                unread |= above.unread
                told += above.line
                _unite_into(start, above.live)
    newest_tiers = next(([record] for record in told if record.tiers is not None), [])
    return _Branch(replay(reversed(line), start), broken, unread, newest_tiers)


def _unite_into(live: Live, other: Live) -> None:
    """An object is live if it is on either branch, and dead for a tier only where both say so."""
    for name, found in other.items():
        ours = live.get(name)
        live[name] = found if ours is None else replace(ours, dead=ours.dead & found.dead)


def _unreadable(sides: Iterable[Side]) -> bool:
    return any(isinstance(record, Fault) for side in sides for record in side.records.values())


def _unnamed(sides: Iterable[Side], records: Mapping[bytes, Record], lists: Lists) -> Live:
    """Objects that are there and that no record and no list that can be read has ever named."""
    named = {ref.name for record in records.values() for ref in record.added}
    named |= {removal.name for record in records.values() for removal in record.removed}
    named |= {entry.name for entries in lists.values() for entry in entries}
    found: Live = {}
    for side in sides:
        for name, (kind, size) in side.present.items():
            if name not in named and kind is not ObjectType.LIST:
                found[name] = LiveObject(kind, name, size, 0)
    return found


def lacking(side: Side, live: Live) -> frozenset[bytes]:
    """The names of live objects that ``side`` should hold, and its listing did not show with the right size."""
    return frozenset(
        name
        for name, found in live.items()
        if found.live_on(side.tier_id) and side.present.get(name) != (found.type, found.size)
    )
