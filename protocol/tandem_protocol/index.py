"""Index segments: which pack, frame and place holds the blob of a content id. Sealed objects on tiers.

    header (12) | nonce, ciphertext, tag of: msgpack map {content_id_key, packs, names, and a table of all frames}

That is form 2, the header's version; form 1 has a map per pack. The fast local index that lookups use is the engine's;
this is only the form that travels. It can always be made again from the packs' trailers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .columns import pack_column
from .envelope import HEADER_SIZE, SUITE_SEALED, DocType, decode_map, encode, pack_header, read_header
from .errors import Corrupt
from .fields import Fields
from .frames import MAX_PACK, Frame, Table, decode_frames, encode_frames, encode_table
from .keys import KeyRing
from .pack import MAX_BLOBS, PACK_TYPES, SealedPack
from .seal import Buffer, open_part, seal_part

MAX_SEGMENT_BLOBS = 200_000
MAX_SEGMENT_PACKS = 16_384
MAX_SEGMENT = 64 << 20
NAME_SIZE = 32
FORM = 2
"""Of the segments that are written: the version in the header."""

_PACK_COLUMNS = 4 + 8 + 1 + 4 + 4
"""Bytes of a pack in form 2 before compression: size, revision, kind, key number, frames."""
_TYPE = DocType.INDEX_SEGMENT


@dataclass(frozen=True, slots=True)
class PackEntry:
    """One pack: its name (32 bytes), size in bytes, the revision that added it, and its frames."""

    name: bytes
    size: int
    revision: int
    kind: DocType
    key_number: int
    frames: list[Frame]

    @property
    def blobs(self) -> int:
        return _blobs(self.frames)


def entry_of(pack: SealedPack, revision: int) -> PackEntry:
    """The entry of a pack just made."""
    return PackEntry(pack.name, len(pack.data), revision, pack.kind, pack.key_number, pack.frames)


def split_entries(entries: Iterable[PackEntry]) -> list[list[PackEntry]]:
    """``entries`` in order, in groups that fit a segment each."""
    groups: list[list[PackEntry]] = []
    room = 0
    for entry in entries:
        blobs = entry.blobs
        if blobs > room or not groups or len(groups[-1]) == MAX_SEGMENT_PACKS:
            groups.append([])
            room = MAX_SEGMENT_BLOBS
        groups[-1].append(entry)
        room -= blobs
    return groups


def encode_segment(ring: KeyRing, entries: Sequence[PackEntry], form: int = FORM) -> bytes:
    """The object's bytes, within `MAX_SEGMENT_BLOBS` and `MAX_SEGMENT_PACKS`: see `split_entries`. ``form`` 1 is for
    repositories that older programs write to."""
    if sum(entry.blobs for entry in entries) > MAX_SEGMENT_BLOBS or len(entries) > MAX_SEGMENT_PACKS:
        raise ValueError("too much for one index segment")
    packs = _columns(entries) if form == FORM else {"packs": [_map(entry) for entry in entries]}
    payload = encode({"content_id_key": ring.content_id_key[0], **packs})
    number = ring.current_key(_TYPE)
    sealed = seal_part(ring.cipher(_TYPE, number), ring.repository_id, _TYPE, number, payload)
    return pack_header(_TYPE, form, SUITE_SEALED, number) + sealed


def decode_segment(ring: KeyRing, data: Buffer) -> list[PackEntry]:
    """The packs of a segment of either form. Raises `Corrupt`, `Unsupported`."""
    header = read_header(data, (_TYPE,), SUITE_SEALED, FORM)
    if len(data) > MAX_SEGMENT:
        raise Corrupt(f"an index segment of {len(data)} bytes")
    cipher = ring.cipher(_TYPE, header.key_number)
    sealed = memoryview(data)[HEADER_SIZE:]
    payload = open_part(cipher, ring.repository_id, _TYPE, header.key_number, sealed)
    fields = Fields(decode_map(payload, MAX_SEGMENT, what="index segment"), "index segment")
    if fields.int("content_id_key", 1, 2**32 - 1) != ring.content_id_key[0]:
        raise Corrupt("an index segment is of another content-id key than this key ring")
    if header.version == FORM:
        return _from_columns(fields)
    entries = [_entry(Fields(item, "index segment")) for item in fields.list("packs", MAX_SEGMENT_PACKS)]
    if sum(entry.blobs for entry in entries) > MAX_SEGMENT_BLOBS:
        raise Corrupt("an index segment with too many blobs")
    return entries


# Form 2


def _columns(entries: Sequence[PackEntry]) -> dict[str, Any]:
    front = [
        pack_column([entry.size for entry in entries], 4),
        pack_column([entry.revision for entry in entries], 8),
        pack_column([entry.kind for entry in entries], 1),
        pack_column([entry.key_number for entry in entries], 4),
        pack_column([len(entry.frames) for entry in entries], 4),
    ]
    names = b"".join([entry.name for entry in entries])
    return {"packs": len(entries), "names": names, **encode_table([e.frames for e in entries], front)}


def _from_columns(fields: Fields) -> list[PackEntry]:
    count = fields.int("packs", 0, MAX_SEGMENT_PACKS)
    names = fields.bytes("names", count * NAME_SIZE)
    table = Table(fields, MAX_SEGMENT_BLOBS, "index segment", count, _PACK_COLUMNS)
    take = table.columns.take
    sizes, revisions, kinds, key_numbers = take(count, 4), take(count, 8), take(count, 1), take(count, 4)
    frames = table.split(take(count, 4), sizes)
    if not {*kinds} <= {*PACK_TYPES} or min(revisions, default=1) < 1 or min(key_numbers, default=1) < 1:
        raise Corrupt("an index segment names a pack of an unknown kind, revision or key")
    if max(sizes, default=0) > MAX_PACK or max(map(_blobs, frames), default=0) > MAX_BLOBS:
        raise Corrupt("an index segment names a pack that is larger than possible")
    types = map(DocType, kinds)
    each_name = (names[at : at + NAME_SIZE] for at in range(0, len(names), NAME_SIZE))
    return list(map(PackEntry, each_name, sizes, revisions, types, key_numbers, frames))


def _blobs(frames: Iterable[Frame]) -> int:
    return sum(len(frame.lengths) for frame in frames)


# Form 1


def _map(entry: PackEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "size": entry.size,
        "revision": entry.revision,
        "kind": int(entry.kind),
        "key_number": entry.key_number,
        **encode_frames(entry.frames),
    }


def _entry(fields: Fields) -> PackEntry:
    kind = fields.int("kind")
    if kind not in PACK_TYPES:
        raise fields.bad("kind")
    size = fields.int("size", 1, MAX_PACK)
    return PackEntry(
        name=fields.bytes("name", 32),
        size=size,
        revision=fields.int("revision", 1),
        kind=DocType(kind),
        key_number=fields.int("key_number", 1, 2**32 - 1),
        frames=decode_frames(fields, size, MAX_BLOBS, "index segment"),
    )
