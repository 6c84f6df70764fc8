"""Files of fixed-size records found by content id: the part of the blob index that is on disk.

A run is a header, a table of 65,536 record numbers (where the records whose ids begin with those two
bytes end), and records grouped by those two bytes. It is mapped, never loaded: memory stays flat and a
lookup reads one small group. Runs are written once and merged group by group, which only copies bytes.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from operator import sub
from zlib import crc32

from blake3 import blake3

from tandem_protocol.errors import Corrupt

KEY = 16
RECORD = struct.Struct("<16sIHIIH")
"""First 16 bytes of the id, pack number, frame number in the pack, offset in the frame, length, checksum."""

_TAIL = struct.Struct("<IHIIH")
_BARE = struct.Struct("<16sIHII")
_HEADER = struct.Struct("<8sQ32s")
_MAGIC = b"tdmrun1\0"
_GROUPS = 1 << 16
_TABLE = 4 * (_GROUPS + 1)
_FIRST = _HEADER.size + _TABLE
_SIZE = RECORD.size

Place = tuple[int, int, int, int]
"""Where a blob is: pack number, frame number, offset in the raw frame, length in bytes."""


def encode_record(key: bytes, place: Place) -> bytes:
    """One record; its 16-bit checksum tells a damaged one."""
    bare = _BARE.pack(key, *place)
    return bare + (crc32(bare) & 0xFFFF).to_bytes(2, "little")


class Run:
    """One file of records, mapped for reading. Any number of threads may ask it."""

    def __init__(self, path: str) -> None:
        """Raises `Corrupt` if the file's size or the checksum of its table is wrong."""
        self.path = path
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Corrupt("a file of the blob index is gone", "it is rebuilt from the tiers") from error
        try:
            self._map = mmap.mmap(fd, 0, prot=mmap.PROT_READ) if os.fstat(fd).st_size >= _FIRST else None
        finally:
            os.close(fd)
        head = (b"", 0, b"") if self._map is None else _HEADER.unpack_from(self._map)
        if (
            self._map is None
            or head[0] != _MAGIC
            or len(self._map) != _FIRST + head[1] * _SIZE
            or blake3(self._map[_HEADER.size : _FIRST]).digest() != head[2]
        ):
            raise Corrupt("a file of the blob index is damaged", "it is rebuilt from the tiers")
        self.count: int = head[1]
        self.size = len(self._map)
        self._bytes = self._map
        self._table = memoryview(self._map)[_HEADER.size : _FIRST].cast("I")

    def counts(self) -> Iterator[int]:
        """The number of records of each group."""
        table = self._table
        return map(sub, table[1:], table[:-1])

    def groups(self) -> Iterator[bytes]:
        """The records of each group, read from the file: mapped, all of it would count as this process's
        memory."""
        with open(self.path, "rb", buffering=1 << 20) as file:
            file.seek(_FIRST)
            for count in self.counts():
                yield file.read(count * _SIZE)

    def find(self, key: bytes, damaged: Callable[[], None]) -> Sequence[Place]:
        """Places of the 16-byte ``key``. ``damaged`` is called for a record that is passed over as such."""
        table, group = self._table, key[0] << 8 | key[1]
        records = self._bytes[_FIRST + table[group] * _SIZE : _FIRST + table[group + 1] * _SIZE]
        at = records.find(key)
        if at < 0:
            return ()
        places: list[Place] = []
        while at >= 0:
            if at % _SIZE == 0:
                *place, check = _TAIL.unpack_from(records, at + KEY)
                if crc32(records[at : at + _BARE.size]) & 0xFFFF == check:
                    places.append(tuple(place))
                else:
                    damaged()
            at = records.find(key, at + 1)
        return places


def write_run(path: str, parts: Iterable[bytes], counts: Sequence[int]) -> None:
    """Write a run durably. ``parts`` are its records in order of group, in any pieces; ``counts`` has the
    number of records of each of the 65,536 groups."""
    ends = [0, *accumulate(counts)]
    table = struct.pack(f"<{_GROUPS + 1}I", *ends)
    with open(path, "wb") as file:
        file.write(_HEADER.pack(_MAGIC, ends[-1], blake3(table).digest()) + table)
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def write_records(path: str, records: list[bytes]) -> None:
    """Write a run of records in any order."""
    records.sort()
    counts = [0] * _GROUPS
    for record in records:
        counts[record[0] << 8 | record[1]] += 1
    write_run(path, records, counts)


def write_merged(path: str, runs: Sequence[Run]) -> None:
    """Write a run of all records of several runs."""
    if sum(run.count for run in runs) <= _GROUPS:
        records = [
            group[at : at + _SIZE]
            for run in runs
            for group in run.groups()
            for at in range(0, len(group), _SIZE)
        ]
        write_records(path, records)
        return
    counts = [sum(numbers) for numbers in zip(*(run.counts() for run in runs), strict=True)]
    parts = (part for parts in zip(*(run.groups() for run in runs), strict=True) for part in parts)
    write_run(path, parts, counts)
