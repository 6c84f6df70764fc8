"""Columns of whole numbers as bytes that compress well, and their compression with a size that is known before.

A column of n numbers of w bytes is w rows of n bytes: first the highest byte of every number, last the lowest. What
is the same in all of them, or nearly, then lies together. Packed and taken apart by library calls for a whole column.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from .errors import Corrupt
from .seal import CODEC_ZSTD, Buffer, compress_always, decompress

_CODES = {1: "B", 4: "I", 8: "Q"}
_LEVEL = 3


def pack_column(values: Sequence[int], width: int) -> bytes:
    """``values`` in ``width`` bytes each (1, 4 or 8). Raises `struct.error` for one that does not fit."""
    data = struct.pack(f">{len(values)}{_CODES[width]}", *values)
    return data if width == 1 else b"".join(data[row::width] for row in range(width))


class Columns:
    """Takes columns off the front of ``data``, which has exactly the bytes that they need: see `open_columns`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int, width: int) -> tuple[int, ...]:
        """The next column: ``count`` numbers of ``width`` bytes."""
        mixed = bytearray(count * width)
        for row in range(width):
            mixed[row::width] = self._data[self._at : self._at + count]
            self._at += count
        return struct.unpack(f">{count}{_CODES[width]}", mixed)


def close_columns(columns: Sequence[bytes]) -> bytes:
    """``columns`` as one, compressed."""
    return compress_always(b"".join(columns), _LEVEL)


def open_columns(compressed: Buffer, size: int, what: str) -> Columns:
    """The columns of ``size`` bytes in all: the caller has counted them, and not trusted a count. `Corrupt` if they are
    not that long."""
    try:
        return Columns(decompress(CODEC_ZSTD, compressed, size))
    except Corrupt as fault:
        raise Corrupt(f"the columns of the {what} are damaged ({fault})") from fault
