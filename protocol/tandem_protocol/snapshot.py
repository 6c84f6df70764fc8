"""Snapshot manifests: what one backup is. A small sealed object that names the root of a tree.

    header (12) | nonce, ciphertext, tag of: a msgpack map

Name, retention and result of a backup are in its record (revision.py), not here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .envelope import HEADER_SIZE, SUITE_SEALED, DocType, decode_map, encode, pack_header, read_header
from .errors import Corrupt
from .fields import Fields
from .keys import KeyRing
from .seal import ID_SIZE, Buffer, open_part, seal_part

MAX_SNAPSHOT = 4 << 20
MAX_ROOT_IDS = 1024
MAX_SOURCES = 1024
_MAX_PATH = 64 << 10
_TYPE = DocType.SNAPSHOT


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``root``: ids of the pages of the root directory, concatenated (the tree mirrors absolute paths).
    Times are UTC in ns since 1970; ``utc_offset_s`` and ``zone`` (IANA, or "") are the source's.
    ``point_in_time`` is true only when a file-system snapshot or a quiesce made it so."""

    backup_id: bytes
    root: bytes
    host: str
    host_id: str
    sources: list[bytes]
    started_ns: int
    ended_ns: int
    utc_offset_s: int = 0
    zone: str = ""
    point_in_time: bool = False
    stats: dict[str, int] = field(default_factory=dict)
    program: str = ""


def encode_snapshot(ring: KeyRing, snapshot: Snapshot) -> bytes:
    """The object's bytes."""
    payload = encode(
        {
            "backup_id": snapshot.backup_id,
            "root": snapshot.root,
            "host": snapshot.host,
            "host_id": snapshot.host_id,
            "sources": snapshot.sources,
            "started_ns": snapshot.started_ns,
            "ended_ns": snapshot.ended_ns,
            "utc_offset_s": snapshot.utc_offset_s,
            "zone": snapshot.zone,
            "point_in_time": snapshot.point_in_time,
            "stats": snapshot.stats,
            "program": snapshot.program,
        }
    )
    number = ring.current_key(_TYPE)
    sealed = seal_part(ring.cipher(_TYPE, number), ring.repository_id, _TYPE, number, payload)
    return pack_header(_TYPE, suite=SUITE_SEALED, key_number=number) + sealed


def decode_snapshot(ring: KeyRing, data: Buffer) -> Snapshot:
    """Raises `Corrupt`, `Unsupported`."""
    header = read_header(data, (_TYPE,), SUITE_SEALED)
    if len(data) > MAX_SNAPSHOT:
        raise Corrupt(f"a snapshot of {len(data)} bytes")
    cipher = ring.cipher(_TYPE, header.key_number)
    sealed = memoryview(data)[HEADER_SIZE:]
    payload = open_part(cipher, ring.repository_id, _TYPE, header.key_number, sealed)
    fields = Fields(decode_map(payload, MAX_SNAPSHOT, what="snapshot"), "snapshot")
    root = fields.bytes("root", max=MAX_ROOT_IDS * ID_SIZE)
    stats = fields.dict("stats")
    if len(root) % ID_SIZE or any(type(count) is not int for count in stats.values()):
        raise Corrupt("a snapshot with a wrong root or wrong statistics")
    sources = fields.bytes_list("sources", max=MAX_SOURCES)
    if any(len(source) > _MAX_PATH for source in sources):
        raise fields.bad("sources")
    return Snapshot(
        backup_id=fields.bytes("backup_id", 16),
        root=root,
        host=fields.str("host"),
        host_id=fields.str("host_id"),
        sources=sources,
        started_ns=fields.int("started_ns", -(2**63), 2**63 - 1),
        ended_ns=fields.int("ended_ns", -(2**63), 2**63 - 1),
        utc_offset_s=fields.int("utc_offset_s", -86_400, 86_400),
        zone=fields.str("zone", 255),
        point_in_time=fields.bool("point_in_time"),
        stats=stats,
        program=fields.str("program"),
    )
