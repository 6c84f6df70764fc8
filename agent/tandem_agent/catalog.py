"""The catalogue of backups that every base carries under seal: who starts at a base knows their names too.

A tier that starts at a base has none of the records below it, and those alone carry what a backup is called. What
a snapshot can tell of itself, when its record cannot be read, is here as well.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from tandem_protocol.envelope import decode_map, encode
from tandem_protocol.errors import Corrupt
from tandem_protocol.fields import Fields
from tandem_protocol.keys import KeyRing
from tandem_protocol.revision import Kind, Record, open_details
from tandem_protocol.seal import compress, decompress
from tandem_protocol.snapshot import Snapshot

CHUNK = 4_096
"""Backups in one compressed piece."""

MAX_PIECE = 8 << 20
MAX_BYTES = 4 << 20
"""Most bytes that a catalogue takes in a record, compressed; the oldest backups are left out above it, and tell of
themselves by their snapshots."""

Listed = tuple[int, Mapping[str, Any]]
"""A backup: the revision that wrote it, and what its record has under seal of it."""

LOST = "a part of it was good on no tier any more, and was given up"
RECOVERED = "its record could not be read; it was found again by its snapshot"


def encode_catalog(backups: Sequence[Listed]) -> list[list[Any]]:
    """For the sealed details of a base; ``backups`` oldest first. Warnings are left out: each has its own record; and
    what united them with our history: that is our own state's."""
    pieces: list[list[Any]] = []
    size = 0
    for end in range(len(backups), 0, -CHUNK):
        rows = [[n, _short(about)] for n, about in backups[max(0, end - CHUNK) : end]]
        raw = encode({"backups": rows})
        codec, payload = compress(raw, 9)
        size += len(payload)
        if size > MAX_BYTES or len(raw) > MAX_PIECE:
            break
        pieces.insert(0, [codec, len(raw), bytes(payload)])
    return pieces


def _short(about: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in about.items() if key not in ("warnings", "united")}


def decode_catalog(details: Mapping[str, Any]) -> list[Listed]:
    """The backups in the sealed details of a base, oldest first. `Corrupt` if it is none."""
    found: list[Listed] = []
    for piece in details.get("catalog", ()):
        match piece:
            case [int(codec), int(size), bytes(payload)] if 0 < size <= MAX_PIECE:
                fields = Fields(decode_map(decompress(codec, payload, size), MAX_PIECE, what="catalogue"))
                found += [_row(row) for row in fields.list("backups", CHUNK)]
            case _:
                raise Corrupt("a catalogue of backups that is none")
    return found


def _row(row: object) -> Listed:
    match row:
        case [int(number), dict(about)] if isinstance(about.get("id"), str) and "name" in about:
            return number, about
        case _:
            raise Corrupt("a catalogue of backups with an entry that is none")


def told_backups(ring: KeyRing, records: Iterable[Record], live: Container[bytes]) -> list[Listed]:
    """What records and catalogues tell: failed backups, and those whose snapshots are live. A record of its own goes
    before a catalogue, which leaves something out; but a backup whose snapshot was found again is none that failed."""
    found: dict[str, Listed] = {}
    records = list(records)
    damaged = {id for record in records for id in _damaged_in(ring, record)}
    for record in sorted(records, key=lambda r: r.number):
        for number, about in _told_by(ring, record):
            known = found.get(about["id"])
            if known is None or _tells_more(record, about, known[1]):
                found[about["id"]] = (number, about)
    kept = [listed for listed in found.values() if _is_there(listed[1], live)]
    kept = [(number, damaged_by(about) if about["id"] in damaged else about) for number, about in kept]
    return sorted(kept, key=lambda listed: (listed[0], str(listed[1]["name"])))


def _tells_more(record: Record, about: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether ``about`` in ``record`` replaces what is known of the same backup."""
    if bool(about.get("snapshot")) != bool(known.get("snapshot")):
        return bool(about.get("snapshot"))
    return record.kind in (Kind.BACKUP, Kind.ABORTED)


def damaged_by(about: Mapping[str, Any]) -> dict[str, Any]:
    """What is listed of a backup of which a part was lost on every tier: a repair has said so."""
    warnings = [*about.get("warnings", ()), LOST]
    return {**about, "status": "partial", "damaged": True, "warnings": warnings}


def _damaged_in(ring: KeyRing, record: Record) -> list[str]:
    if record.kind is not Kind.REPAIR:
        return []
    try:
        return [str(id) for id in open_details(ring, record).get("damaged", ())]
    except Corrupt:
        return []


def _told_by(ring: KeyRing, record: Record) -> list[Listed]:
    if not record.is_base and record.kind not in (Kind.BACKUP, Kind.ABORTED):
        return []
    try:
        details = open_details(ring, record)
        told = decode_catalog(details) if record.is_base else []
    except Corrupt:
        return []
    about = details.get("backup")
    if isinstance(about, dict) and about and record.kind in (Kind.BACKUP, Kind.ABORTED):
        told.append((record.number, about))
    return told


def _is_there(about: Mapping[str, Any], live: Container[bytes]) -> bool:
    snapshot = about.get("snapshot")
    return not snapshot or bytes.fromhex(snapshot) in live


def recovered(name: bytes, snapshot: Snapshot, taken: Iterable[str]) -> dict[str, Any]:
    """What is listed of a backup whose record cannot be read, from its snapshot (object ``name``). It gets the first
    name of its day that is not ``taken``."""
    zone = timezone(timedelta(seconds=snapshot.utc_offset_s))
    started = _time(snapshot.started_ns, zone)
    day = f"{started:%y%m%d}"
    numbers = {int(other[6:]) for other in taken if other.startswith(day) and other[6:].isdigit()}
    free = next(n for n in range(1, len(numbers) + 2) if n not in numbers)
    return {
        "id": snapshot.backup_id.hex(),
        "name": f"{day}{free:02d}",
        "trigger": "",
        "started": started.isoformat(timespec="seconds"),
        "ended": _time(snapshot.ended_ns, zone).isoformat(timespec="seconds"),
        "by": "",
        "host": snapshot.host,
        "status": "partial",
        "error": "",
        "area": "recent",
        "files": snapshot.stats.get("files", 0),
        "bytes": snapshot.stats.get("bytes", 0),
        "snapshot": name.hex(),
        "warnings": [RECOVERED],
    }


def _time(ns: int, zone: timezone) -> datetime:
    try:
        return datetime.fromtimestamp(ns // 10**9, zone)
    except (ValueError, OverflowError, OSError):  # a clock that was far off
        return datetime(1970, 1, 1, tzinfo=UTC)
