"""The table of frames that pack trailers and index segments share: columns of fixed width.

A frame is a run of blobs compressed and sealed together. Columns are decoded in a few library calls for
hundreds of thousands of blobs, and cannot unfold to more than they weigh. What is sealed how: pack, index.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .envelope import HEADER_SIZE
from .errors import Corrupt
from .fields import Fields
from .seal import ID_SIZE, MAX_FRAME, OVERHEAD

_RECORD = struct.Struct(">IIIB3xII32s")
RECORD_SIZE = _RECORD.size
LENGTH_SIZE = 4
MAX_PACK = 64 << 20


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a pack. ``offset`` and ``sealed_length`` say where it is in the pack, nonce and tag
    included. Blob i has id ``ids[32*i : 32*i+32]`` and lies in the raw frame from ``sum(lengths[:i])``."""

    offset: int
    sealed_length: int
    raw_length: int
    codec: int
    dictionary: int
    frame_id: bytes
    ids: bytes
    lengths: list[int]


def encode_frames(frames: Sequence[Frame]) -> dict[str, bytes]:
    """The three columns: ``frames`` (56 bytes each), ``ids`` (32 bytes a blob), ``lengths`` (u32 a blob)."""
    table = b"".join(
        _RECORD.pack(
            f.offset, f.sealed_length, f.raw_length, f.codec, f.dictionary, len(f.lengths), f.frame_id
        )
        for f in frames
    )
    lengths = [length for f in frames for length in f.lengths]
    return {
        "frames": table,
        "ids": b"".join(f.ids for f in frames),
        "lengths": struct.pack(f">{len(lengths)}I", *lengths),
    }


def decode_frames(fields: Fields, end: int, max_blobs: int, what: str) -> list[Frame]:
    """The frames in ``fields``, all of them within the first ``end`` bytes of their pack, in order.

    Raises `Corrupt` unless every length agrees with every other.
    """
    table = fields.bytes("frames", max=max_blobs * RECORD_SIZE)
    ids = fields.bytes("ids", max=max_blobs * ID_SIZE)
    packed = fields.bytes("lengths", max=max_blobs * LENGTH_SIZE)
    count = len(packed) // LENGTH_SIZE
    if len(packed) != count * LENGTH_SIZE or len(ids) != count * ID_SIZE or len(table) % RECORD_SIZE:
        raise Corrupt(f"the columns of the {what} differ in length")
    lengths = struct.unpack(f">{count}I", packed)
    if count and min(lengths) == 0:
        raise Corrupt(f"the {what} holds a blob of no bytes")
    return list(_frames(_RECORD.iter_unpack(table), ids, lengths, end, what))


def _frames(
    records: Iterable[tuple[Any, ...]], ids: bytes, lengths: tuple[int, ...], end: int, what: str
) -> Iterable[Frame]:
    first, free = 0, HEADER_SIZE
    for offset, sealed_length, raw_length, codec, dictionary, blobs, frame_id in records:
        last = first + blobs
        own = list(lengths[first:last])
        if not 0 < blobs == len(own) or sum(own) != raw_length or raw_length > MAX_FRAME:
            raise Corrupt(f"a frame of the {what} has other lengths than its blobs")
        if offset < free or sealed_length <= OVERHEAD or offset + sealed_length > end:
            raise Corrupt(f"a frame of the {what} lies outside of its pack or in another frame")
        yield Frame(
            offset,
            sealed_length,
            raw_length,
            codec,
            dictionary,
            frame_id,
            ids[first * ID_SIZE : last * ID_SIZE],
            own,
        )
        first, free = last, offset + sealed_length
    if first != len(lengths):
        raise Corrupt(f"the {what} has blobs that are in no frame")
