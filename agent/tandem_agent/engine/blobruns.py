"""Files of fixed-size records found by content id: the part of the blob index that is on disk.

A run is a header, a table, and records in order. The table says for each group of records, those whose ids begin with
the same bits, where it ends and its checksum; there are so many groups that each has about a dozen records. A run is
mapped, never loaded: memory stays flat and a lookup reads one group. Runs are written by `blobmerge`.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterator
from itertools import chain
from zlib import crc32

from blake3 import blake3

from tandem_protocol.errors import Corrupt

KEY = 16
RECORD = struct.Struct("<16sIHII")
"""First 16 bytes of the id, pack number, frame number in the pack, offset in the frame, length."""
SIZE = RECORD.size
HEADER = struct.Struct("<8sQII32s")
"""Magic, number of records, bits of an id that choose its group, nothing, checksum of the table."""
MAGIC = b"tdmrun2\0"

first_bits = struct.Struct(">I").unpack_from
"""The first 32 bits of an id, as the one number of a tuple: groups are chosen by the upper ones."""
_TAIL = struct.Struct("<IHII")
_ONE = struct.Struct(f"{SIZE}s")
_MANY = struct.Struct(f"{SIZE}s" * 64)

Place = tuple[int, int, int, int]
"""Where a blob is: pack number, frame number, offset in the raw frame, length in bytes."""


def first_record(bits: int) -> int:
    """Where in the file the records begin, after a table of 32-bit numbers: 0, then checksum and end of each group."""
    return HEADER.size + 4 * (2 * (1 << bits) + 1)


def split_records(data: bytes) -> list[bytes]:
    """One piece of bytes for each record; quickly, since there may be millions."""
    even = len(data) // _MANY.size * _MANY.size
    view = memoryview(data)
    return [
        *chain.from_iterable(_MANY.iter_unpack(view[:even])),
        *chain.from_iterable(_ONE.iter_unpack(view[even:])),
    ]


def places_of(records: bytes) -> list[Place]:
    """The places that some records tell."""
    return [_TAIL.unpack_from(records, at) for at in range(KEY, len(records), SIZE)]


class Run:
    """One file of records, mapped for reading. Any number of threads may ask it. ``damaged`` is called for each group
    that is passed over as such."""

    def __init__(self, path: str, damaged: Callable[[], None]) -> None:
        """Raises `Corrupt` if the file's size or the checksum of its table is wrong."""
        self.path = path
        self.count: int
        self.bits: int
        self._damaged = damaged
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Corrupt("a file of the blob index is gone", "it is rebuilt from the tiers") from error
        try:
            if os.fstat(fd).st_size < first_record(0):
                raise _damage()
            self._map = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        magic, self.count, self.bits, _, checksum = HEADER.unpack_from(self._map)
        if magic != MAGIC or self.bits > 32 or len(self._map) != first_record(self.bits) + self.count * SIZE:
            raise _damage()
        self._first = first_record(self.bits)
        self._shift = 32 - self.bits
        table = memoryview(self._map)[HEADER.size : self._first]
        if blake3(table).digest() != checksum:
            raise _damage()
        self._table = table.cast("I")

    def find(self, key: bytes, beginning: int) -> bytes:
        """The records of a 16-byte ``key``, one after the other, mostly one or none. ``beginning``: see `first_bits`;
        it is the caller's since he asks several runs."""
        table, at = self._table, beginning >> self._shift << 1
        first = self._first
        group = self._map[first + table[at] * SIZE : first + table[at + 2] * SIZE]
        start = group.find(key)
        while start % SIZE and start >= 0:  # not where a record begins: its bytes are in two others by chance
            start = group.find(key, start + 1)
        if start < 0:
            return b""
        if crc32(group) != table[at + 1]:
            self._damaged()
            return b""
        end = start + SIZE
        while group.startswith(key, end):
            end += SIZE
        return group[start:end]

    def check(self, beginning: int) -> None:
        """Look whether the group is good in which ids with this ``beginning`` are."""
        low = beginning >> self._shift << 1
        start, end = (self._first + self._table[at] * SIZE for at in (low, low + 2))
        self._good(self._map[start:end], low, low + 2)

    def parts(self, bits: int) -> Iterator[bytes]:
        """All good records in 2 ** ``bits`` parts (at most as many as there are groups), by the first bits of their
        ids. Read from the file: mapped, all of it would count as this process's memory."""
        table, groups = self._table, 1 << self.bits - bits + 1
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self._first)
            for low in range(0, len(table) - 1, groups):
                data = file.read((table[low + groups] - table[low]) * SIZE)
                yield self._good(data, low, low + groups)

    def _good(self, data: bytes, low: int, high: int) -> bytes:
        """``data`` are the groups between two places of the table; without those that are damaged."""
        table, good, start = self._table, [], 0
        for at in range(low, high, 2):
            end = (table[at + 2] - table[low]) * SIZE
            group = data[start:end]
            if crc32(group) == table[at + 1]:
                good.append(group)
            else:
                self._damaged()
            start = end
        return b"".join(good)


def _damage() -> Corrupt:
    return Corrupt("a file of the blob index is damaged", "it is rebuilt from the tiers")
