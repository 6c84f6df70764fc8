"""Writes the runs of the blob index (`blobruns`): from records in memory, or from other runs, part by part."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from struct import Struct
from zlib import crc32

from blake3 import blake3

from tandem_agent.engine.blobruns import HEADER, MAGIC, SIZE, Run, first_record, split_records

_IN_GROUP = 8
_IN_PART = 1 << 14
_MOST_PART_BITS = 12
_beginnings = Struct(f">I{SIZE - 4}x").iter_unpack


def write_records(path: str, records: list[bytes]) -> None:
    """Write a run of records in any order, which are sorted in their list."""
    records.sort()
    _write(path, [records], len(records))


def write_merged(path: str, runs: Sequence[Run]) -> None:
    """Write a run of all records of several runs."""
    total = sum(run.count for run in runs)
    bits = min(_MOST_PART_BITS, (total // _IN_PART).bit_length())
    _write(path, _merged([_parts(run, bits) for run in runs]), total)


def _merged(runs: Iterable[Iterator[bytes]]) -> Iterator[list[bytes]]:
    for parts in zip(*runs, strict=True):
        records = split_records(b"".join(parts))
        records.sort()  # quick: each of the parts is in order
        yield records


def _parts(run: Run, bits: int) -> Iterator[bytes]:
    """The records of ``run`` in 2 ** ``bits`` parts. A run that has fewer groups than that is small."""
    if run.bits >= bits:
        yield from run.parts(bits)
        return
    records = split_records(b"".join(run.parts(0)))
    start = 0
    for part in range(1, 1 << bits):
        end = bisect_left(records, (part << 32 - bits).to_bytes(4, "big"), start)
        yield b"".join(records[start:end])
        start = end
    yield b"".join(records[start:])


def _write(path: str, parts: Iterable[list[bytes]], most: int) -> None:
    """Write a run durably, of at most ``most`` records in order."""
    bits = max(0, (most // _IN_GROUP).bit_length() - 1)
    shift = 32 - bits
    table = array("I", bytes(4 * (2 * (1 << bits) + 1)))
    count = 0
    with open(path, "wb") as file:
        file.seek(first_record(bits))
        for records in parts:
            data = b"".join(records)
            file.write(data)
            start = 0
            for group, size in Counter([bits32 >> shift for (bits32,) in _beginnings(data)]).items():
                end = start + size * SIZE
                count += size
                table[2 * group + 1] = crc32(data[start:end])
                table[2 * group + 2] = count
                start = end
        # An empty group ends where the one before it does.
        table[::2] = array("I", accumulate(table[::2], max))
        told = table.tobytes()
        file.seek(0)
        file.write(HEADER.pack(MAGIC, count, bits, 0, blake3(told).digest()) + told)
        file.flush()
        os.fsync(file.fileno())
