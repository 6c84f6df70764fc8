"""Packs: many blobs in one object. Header, sealed frames, a sealed trailer that lists them, its length.

    header (12) | frames … | trailer: header again (12), nonce, ciphertext, tag | u32be trailer length

The version in the header says in which form the trailer lists them; frames are the same in both.

A builder fills one preallocated buffer and belongs to one thread at a time; everything else is pure.
Which blobs go together, when a pack is full enough, and sending it are for the engine.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import zstandard

from .envelope import (
    HEADER_SIZE,
    SUITE_SEALED,
    DocType,
    decode_map,
    encode,
    pack_header,
    read_header,
)
from .errors import Corrupt, Unsupported
from .fields import Fields
from .frames import (
    LENGTH_SIZE,
    MAX_PACK,
    RECORD_SIZE,
    Frame,
    Table,
    decode_frames,
    encode_table,
    table_room,
)
from .keys import KeyRing
from .names import object_name
from .seal import (
    CODEC_RAW,
    ID_SIZE,
    MAX_FRAME,
    OVERHEAD,
    Buffer,
    compress,
    content_id,
    decompress,
    frame_aad,
    open_part,
    seal_part,
)

__all__ = ["Frame", "PackBuilder", "PreparedFrame", "SealedPack", "Trailer"]

TARGET_FRAME = 1 << 20
SMALL_FILE = 128 << 10
DEFAULT_CAPACITY = 32 << 20
MAX_BLOBS = 1 << 16
PACK_TYPES = (DocType.DATA_PACK, DocType.TREE_PACK)

FORM = 2
"""Of the trailers that are written: the version in the header."""

_LENGTH = struct.Struct(">I")
_TRAILER_PART = b"trailer"
_TRAILER_FIXED = HEADER_SIZE + OVERHEAD + _LENGTH.size + 128  # 128: the map's keys and lengths
MAX_TRAILER = _TRAILER_FIXED + MAX_BLOBS * (RECORD_SIZE + ID_SIZE + LENGTH_SIZE)
_LEVEL = struct.Struct(">iBBB")


@dataclass(frozen=True, slots=True)
class PreparedFrame:
    """A frame that is hashed and compressed, not yet sealed."""

    codec: int
    payload: Buffer
    raw_length: int
    frame_id: bytes
    ids: bytes
    lengths: list[int]
    level: int

    @property
    def sealed_length(self) -> int:
        return len(self.payload) + OVERHEAD


@dataclass(frozen=True, slots=True)
class SealedPack:
    """A finished pack. ``data`` is a view of ``buffer``, which may be used again once ``data`` was sent."""

    name: bytes
    data: memoryview
    frames: list[Frame]
    kind: DocType
    key_number: int
    buffer: bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Trailer:
    """What a pack says of itself: enough to make its index entry again."""

    kind: DocType
    key_number: int
    frames: list[Frame]


def prepare_frame(
    ring: KeyRing,
    raw: Buffer | Sequence[Buffer],
    ids: bytes,
    lengths: list[int],
    frame_id: bytes | None = None,
    level: int = 1,
) -> PreparedFrame:
    """Join (if ``raw`` is a list), name and compress a frame. Any thread may do this at any time.

    A frame of one blob has that blob's id, one of several the content id of the whole.
    """
    data = raw if isinstance(raw, Buffer) else b"".join(raw)
    if not lengths or sum(lengths) != len(data) or len(ids) != len(lengths) * ID_SIZE:
        raise ValueError("ids and lengths do not fit the frame")
    if len(data) > MAX_FRAME or len(lengths) > MAX_BLOBS:
        raise ValueError(f"a frame of {len(data)} bytes and {len(lengths)} blobs is too large")
    if frame_id is None:
        frame_id = ids if len(lengths) == 1 else content_id(ring.content_id_key[1], data)
    codec, payload = compress(data, level)
    return PreparedFrame(codec, payload, len(data), frame_id, ids, lengths, level)


class PackBuilder:
    """Fills one pack of at most ``capacity`` bytes, in ``buffer`` if one of that size is given."""

    def __init__(
        self,
        ring: KeyRing,
        repository_id: bytes,
        kind: DocType,
        capacity: int = DEFAULT_CAPACITY,
        buffer: bytearray | memoryview | None = None,
        level: int = 1,
    ) -> None:
        if kind not in PACK_TYPES or not _TRAILER_FIXED < capacity <= MAX_PACK:
            raise ValueError(f"no pack of type {kind} and {capacity} bytes")
        self._ring = ring
        self._repository_id = repository_id
        self._kind = kind
        self._capacity = capacity
        self._level = level
        self._buffer = bytearray(capacity) if buffer is None else buffer
        self._view = memoryview(self._buffer)[:capacity]
        if len(self._view) < capacity:
            raise ValueError("the buffer is smaller than the pack may get")
        self._key_number = ring.current_key(kind)
        self._cipher = ring.cipher(kind, self._key_number)
        self._header = pack_header(kind, FORM, SUITE_SEALED, self._key_number)
        self._view[:HEADER_SIZE] = self._header
        self._used = HEADER_SIZE
        self._blobs = 0
        self.frames: list[Frame] = []

    @property
    def size(self) -> int:
        """Bytes of header and frames so far."""
        return self._used

    def room(self, raw_length: int, blobs: int = 1) -> bool:
        """Whether a frame of ``raw_length`` bytes fits for certain, with its lines of the trailer."""
        total = self._blobs + blobs
        trailer = table_room(len(self.frames) + 1, total)
        needed = self._used + raw_length + OVERHEAD + trailer + _TRAILER_FIXED
        return total <= MAX_BLOBS and needed <= self._capacity

    def add_frame(
        self,
        raw: Buffer | Sequence[Buffer],
        ids: bytes,
        lengths: list[int],
        frame_id: bytes | None = None,
    ) -> Frame:
        """Compress and seal one frame. ``ids`` are the blobs' content ids, concatenated."""
        return self.add_prepared(prepare_frame(self._ring, raw, ids, lengths, frame_id, self._level))

    def add_prepared(self, frame: PreparedFrame) -> Frame:
        """Seal a prepared frame into its place. Raises ValueError where there is no `room`."""
        if not self.room(len(frame.payload), len(frame.lengths)):
            raise ValueError("the pack is full")
        aad = frame_aad(self._repository_id, self._kind, frame.frame_id, frame.codec, 0, frame.raw_length)
        nonce = self._cipher.fresh_nonce(aad, _LEVEL.pack(frame.level, *zstandard.ZSTD_VERSION))
        offset = self._used
        written = self._cipher.seal_into(self._view, offset, frame.payload, nonce, aad)
        self._used += written
        self._blobs += len(frame.lengths)
        added = Frame(
            offset, written, frame.raw_length, frame.codec, 0, frame.frame_id, frame.ids, frame.lengths
        )
        self.frames.append(added)
        return added

    def finish(self) -> SealedPack:
        """Write the trailer and name the pack. The builder is of no more use after it."""
        if not self.frames:
            raise ValueError("a pack without frames")
        listing = encode({"content_id_key": self._ring.content_id_key[0], **encode_table([self.frames])})
        sealed = seal_part(
            self._cipher, self._repository_id, self._kind, self._key_number, listing, _TRAILER_PART
        )
        length = HEADER_SIZE + len(sealed)
        end = self._used + length + _LENGTH.size
        self._view[self._used : end] = self._header + sealed + _LENGTH.pack(length)
        data = self._view[:end]
        return SealedPack(object_name(data), data, self.frames, self._kind, self._key_number, self._buffer)


def trailer_span(tail: Buffer, pack_size: int) -> int:
    """How many bytes at the end of a pack `read_trailer` needs, told by its last 4 (or more) bytes."""
    if len(tail) < _LENGTH.size or pack_size > MAX_PACK:
        raise Corrupt(f"a pack of {pack_size} bytes")
    length = int(_LENGTH.unpack_from(tail, len(tail) - _LENGTH.size)[0])
    if not HEADER_SIZE + OVERHEAD < length <= min(MAX_TRAILER, pack_size - HEADER_SIZE - _LENGTH.size):
        raise Corrupt(f"a pack's trailer cannot have {length} bytes")
    return length + _LENGTH.size


def read_trailer(ring: KeyRing, tail: Buffer, pack_size: int) -> Trailer:
    """The trailer in the last bytes of a pack, at least `trailer_span` of them."""
    span = trailer_span(tail, pack_size)
    if len(tail) < span:
        raise Corrupt("a pack's trailer is cut short")
    trailer = memoryview(tail)[len(tail) - span : len(tail) - _LENGTH.size]
    header = read_header(trailer, PACK_TYPES, SUITE_SEALED, FORM)
    cipher = ring.cipher(header.type, header.key_number)
    listing = open_part(
        cipher, ring.repository_id, header.type, header.key_number, trailer[HEADER_SIZE:], _TRAILER_PART
    )
    fields = Fields(decode_map(listing, MAX_TRAILER, what="pack trailer"), "pack trailer")
    if fields.int("content_id_key", 1, 2**32 - 1) != ring.content_id_key[0]:
        raise Corrupt("a pack is of another content-id key than this key ring")
    if header.version == 1:
        frames = decode_frames(fields, pack_size - span, MAX_BLOBS, "pack trailer")
    else:
        table = Table(fields, MAX_BLOBS, "pack trailer")
        [frames] = table.split([table.frames], [pack_size - span])
    return Trailer(header.type, header.key_number, frames)


def open_frame(ring: KeyRing, kind: DocType, key_number: int, frame: Frame, sealed: Buffer) -> bytes:
    """The raw bytes of ``frame``, from the ``sealed_length`` bytes at its offset. Any thread.

    Raises `Corrupt` if they are not what was sealed. Blobs are still to be checked by content id: they
    may be in the index under a wrong id.
    """
    aad = _checked_aad(ring, kind, frame, sealed)
    payload = ring.cipher(kind, key_number).open(sealed, aad)
    if frame.codec == CODEC_RAW and len(payload) == frame.raw_length:
        return payload
    return decompress(frame.codec, payload, frame.raw_length)


def open_frame_into(
    place: memoryview, ring: KeyRing, kind: DocType, key_number: int, frame: Frame, sealed: Buffer
) -> None:
    """The same into ``place``, of ``raw_length`` bytes; what is not compressed without a copy in between."""
    if frame.codec == CODEC_RAW and len(sealed) == frame.raw_length + OVERHEAD:
        aad = _checked_aad(ring, kind, frame, sealed)
        ring.cipher(kind, key_number).open_into(place, sealed, aad)
    else:
        place[:] = open_frame(ring, kind, key_number, frame, sealed)


def _checked_aad(ring: KeyRing, kind: DocType, frame: Frame, sealed: Buffer) -> bytes:
    if len(sealed) != frame.sealed_length or frame.raw_length > MAX_FRAME:
        raise Corrupt("a frame has another length than the index says")
    if frame.dictionary:
        raise Unsupported(f"a frame is compressed with dictionary {frame.dictionary}", "upgrade tandem")
    return frame_aad(
        ring.repository_id, kind, frame.frame_id, frame.codec, frame.dictionary, frame.raw_length
    )
