"""The table of frames that pack trailers and index segments share, in its two forms.

A frame is a run of blobs compressed and sealed together. Form 2, which is written, leaves out what follows from
something else and compresses the rest but for ids; form 1 is records of fixed width. Both are decoded in a few library
calls for hundreds of thousands of blobs, and their sizes are told before anything is unfolded. What is sealed how:
pack, index.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice, repeat
from operator import add, mul, sub
from typing import Any

from .columns import Columns, close_columns, open_columns, pack_column
from .envelope import HEADER_SIZE
from .errors import Corrupt
from .fields import Fields
from .seal import ID_SIZE, MAX_FRAME, OVERHEAD

_RECORD = struct.Struct(">IIIB3xII32s")
RECORD_SIZE = _RECORD.size
LENGTH_SIZE = 4
MAX_PACK = 64 << 20
FRAME_COLUMNS = 4 + 4 + 1 + 4 + 4 + 1
"""Bytes of a frame in form 2 before compression: gap, saved, codec, dictionary, blobs, own."""
_U32 = 1 << 32


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


def table_room(frames: int, blobs: int) -> int:
    """Bytes that a table of form 2 takes at most."""
    columns = frames * FRAME_COLUMNS + blobs * LENGTH_SIZE
    return columns + (columns >> 8) + 128 + (frames + blobs) * ID_SIZE


def encode_table(packs: Sequence[Sequence[Frame]], front: Sequence[bytes] = ()) -> dict[str, Any]:
    """Form 2 of the frames of one or several ``packs``; the columns ``front`` come before its own. Raises ValueError
    for frames that lie in one another."""
    frames = [frame for pack in packs for frame in pack]
    lengths = [length for f in frames for length in f.lengths]
    own = [f.frame_id != f.ids[:ID_SIZE] for f in frames]
    gaps = [gap for pack in packs for gap in _gaps(pack)]
    if min(gaps, default=0) < 0:
        raise ValueError("frames lie in one another")
    columns = [
        *front,
        pack_column(gaps, 4),
        pack_column([(f.raw_length + OVERHEAD - f.sealed_length) % _U32 for f in frames], 4),
        pack_column([f.codec for f in frames], 1),
        pack_column([f.dictionary for f in frames], 4),
        pack_column([len(f.lengths) for f in frames], 4),
        pack_column(own, 1),
        pack_column(lengths, 4),
    ]
    return {
        "frames": len(frames),
        "blobs": len(lengths),
        "columns": close_columns(columns),
        "ids": b"".join([f.ids for f in frames]),
        "frame_ids": b"".join([f.frame_id for f, has in zip(frames, own, strict=True) if has]),
    }


def _gaps(frames: Sequence[Frame]) -> Iterator[int]:
    free = HEADER_SIZE
    for frame in frames:
        yield frame.offset - free
        free = frame.offset + frame.sealed_length


class Table:
    """A table of form 2 in ``fields``, of at most ``max_blobs`` in ``packs`` packs, with ``front`` bytes a pack of
    other columns before its own: take those from ``columns``, then `split`. Raises `Corrupt`."""

    def __init__(self, fields: Fields, max_blobs: int, what: str, packs: int = 1, front: int = 0) -> None:
        self._blobs = fields.int("blobs", 0, max_blobs)
        self.frames = fields.int("frames", 0, self._blobs)
        self._ids = fields.bytes("ids", self._blobs * ID_SIZE)
        self._own_ids = fields.bytes("frame_ids", max=self.frames * ID_SIZE)
        self._what = what
        size = packs * front + self.frames * FRAME_COLUMNS + self._blobs * LENGTH_SIZE
        self.columns: Columns = open_columns(
            fields.bytes("columns", max=size + (size >> 8) + 128), size, what
        )

    def split(self, counts: Sequence[int], ends: Sequence[int]) -> list[list[Frame]]:
        """The frames of each pack: ``counts`` of them, `frames` in all, within its first ``ends`` bytes."""
        count, take = self.frames, self.columns.take
        gaps, saved = take(count, 4), take(count, 4)
        codecs, dictionaries, blobs, own = take(count, 1), take(count, 4), take(count, 4), take(count, 1)
        lengths = take(self._blobs, 4)
        if min(lengths, default=1) == 0:
            raise Corrupt(f"the {self._what} holds a blob of no bytes")
        if sum(counts) != count or min(blobs, default=1) == 0 or sum(blobs) != self._blobs:
            raise Corrupt(f"the {self._what} has blobs or frames that are in nothing, or the other way round")
        lasts = tuple(accumulate(blobs))
        firsts = (0, *lasts[:-1]) if count else ()
        before = tuple(accumulate(lengths, initial=0))
        raw = tuple(map(sub, map(before.__getitem__, lasts), map(before.__getitem__, firsts)))
        sealed = tuple((length + OVERHEAD - less) % _U32 for length, less in zip(raw, saved, strict=True))
        if max(raw, default=0) > MAX_FRAME or min(sealed, default=MAX_FRAME) <= OVERHEAD:
            raise Corrupt(f"a frame of the {self._what} has an impossible length")
        made = map(
            Frame,
            self._offsets(tuple(accumulate(map(add, gaps, sealed))), sealed, counts, ends),
            sealed,
            raw,
            codecs,
            dictionaries,
            self._frame_ids(firsts, own),
            map(self._ids.__getitem__, map(slice, _times(firsts, ID_SIZE), _times(lasts, ID_SIZE))),
            map(list, map(lengths.__getitem__, map(slice, firsts, lasts))),
        )
        return [list(islice(made, number)) for number in counts]

    def _offsets(
        self, after: Sequence[int], sealed: Sequence[int], counts: Iterable[int], ends: Iterable[int]
    ) -> Iterable[int]:
        """Where frames begin in their packs; ``after``: bytes up to each one's end, all packs laid on end."""
        shifts: list[Iterable[int]] = []
        first, begin = 0, 0
        for count, end in zip(counts, ends, strict=True):
            shift = HEADER_SIZE - begin
            shifts.append(repeat(shift, count))
            first += count
            if count:
                begin = after[first - 1]
                if begin + shift > end:
                    raise Corrupt(f"a frame of the {self._what} lies outside of its pack")
        return map(add, map(sub, after, sealed), chain.from_iterable(shifts))

    def _frame_ids(self, firsts: Iterable[int], own: Sequence[int]) -> Iterable[bytes]:
        """A frame's own id where it has one, else that of its first blob."""
        if max(own, default=0) > 1 or sum(own) * ID_SIZE != len(self._own_ids):
            raise Corrupt(f"the ids of the frames of the {self._what} are not as many as they should be")
        listed = iter(_ids(self._own_ids))
        ids = self._ids
        return [
            next(listed) if has else ids[first * ID_SIZE : (first + 1) * ID_SIZE]
            for first, has in zip(firsts, own, strict=True)
        ]


def _times(values: Iterable[int], factor: int) -> Iterable[int]:
    return map(mul, values, repeat(factor))


def _ids(joined: bytes) -> list[bytes]:
    return [joined[at : at + ID_SIZE] for at in range(0, len(joined), ID_SIZE)]


# Form 1


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
