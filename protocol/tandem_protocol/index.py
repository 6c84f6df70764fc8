"""Index segments: which pack, frame and place holds the blob of a content id. Sealed objects on tiers.

    header (12) | nonce, ciphertext, tag of: msgpack map {content_id_key, packs: [map per pack]}

The fast local index that lookups use is the engine's; this is only the form that travels. It can always
be made again from the packs' trailers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .envelope import HEADER_SIZE, SUITE_SEALED, DocType, decode_map, encode, pack_header, read_header
from .errors import Corrupt
from .fields import Fields
from .frames import MAX_PACK, Frame, decode_frames, encode_frames
from .keys import KeyRing
from .pack import MAX_BLOBS, PACK_TYPES, SealedPack
from .seal import Buffer, open_part, seal_part

MAX_SEGMENT_BLOBS = 200_000
MAX_SEGMENT_PACKS = 16_384
MAX_SEGMENT = 64 << 20
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
        return sum(len(frame.lengths) for frame in self.frames)


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


def encode_segment(ring: KeyRing, entries: Sequence[PackEntry]) -> bytes:
    """The object's bytes, within `MAX_SEGMENT_BLOBS` and `MAX_SEGMENT_PACKS`: see `split_entries`."""
    if sum(entry.blobs for entry in entries) > MAX_SEGMENT_BLOBS or len(entries) > MAX_SEGMENT_PACKS:
        raise ValueError("too much for one index segment")
    packs = [
        {
            "name": entry.name,
            "size": entry.size,
            "revision": entry.revision,
            "kind": int(entry.kind),
            "key_number": entry.key_number,
            **encode_frames(entry.frames),
        }
        for entry in entries
    ]
    payload = encode({"content_id_key": ring.content_id_key[0], "packs": packs})
    number = ring.current_key(_TYPE)
    sealed = seal_part(ring.cipher(_TYPE, number), ring.repository_id, _TYPE, number, payload)
    return pack_header(_TYPE, suite=SUITE_SEALED, key_number=number) + sealed


def decode_segment(ring: KeyRing, data: Buffer) -> list[PackEntry]:
    """The packs of a segment. Raises `Corrupt`, `Unsupported`."""
    header = read_header(data, (_TYPE,), SUITE_SEALED)
    if len(data) > MAX_SEGMENT:
        raise Corrupt(f"an index segment of {len(data)} bytes")
    cipher = ring.cipher(_TYPE, header.key_number)
    sealed = memoryview(data)[HEADER_SIZE:]
    payload = open_part(cipher, ring.repository_id, _TYPE, header.key_number, sealed)
    fields = Fields(decode_map(payload, MAX_SEGMENT, what="index segment"), "index segment")
    if fields.int("content_id_key", 1, 2**32 - 1) != ring.content_id_key[0]:
        raise Corrupt("an index segment is of another content-id key than this key ring")
    entries = [_entry(Fields(item, "index segment")) for item in fields.list("packs", MAX_SEGMENT_PACKS)]
    if sum(entry.blobs for entry in entries) > MAX_SEGMENT_BLOBS:
        raise Corrupt("an index segment with too many blobs")
    return entries


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
