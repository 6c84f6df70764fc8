"""`python -m bench.bigindex make|ask FOLDER CHUNKS SEED`: a large local index, and what it costs to ask it.

Made through the index's own `add_segment`, from packs that were never written: half of the chunks lie 64 to a frame, as
small files do, half alone in their frames, as those of large files do; 2,048 and 32 to a pack. Ids follow from the
seed, so that what is there can be asked for without keeping it. Each prints a line of JSON. `make`: seconds of the
index's own work, and the most heap meanwhile. `ask`: seconds to open, hits and misses a second as a backup asks, with
the packs that it may refer to (one thread, in random order, pages read before), and the heap: anonymous memory of the
process that was not there before the index was opened, so without what is mapped from files.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Iterator
from itertools import islice, repeat

from blake3 import blake3

from tandem_agent.engine.blobindex import BlobIndex
from tandem_agent.engine.packtable import PackSet
from tandem_protocol.envelope import DocType
from tandem_protocol.frames import Frame
from tandem_protocol.index import PackEntry

SMALL, FRAMES = 64, 32
ID = 32
ASKED = 300_000
IN_SEGMENT = 1_000
"""Packs."""


class Ids:
    """Content ids by number: a stream that can be read anywhere."""

    def __init__(self, seed: int, what: str) -> None:
        self._stream = blake3(f"{seed} {what}".encode())

    def some(self, first: int, count: int) -> bytes:
        """`count` ids from number `first`, one after the other."""
        return self._stream.digest(length=ID * count, seek=ID * first)


def packs(chunks: int, seed: int) -> Iterator[PackEntry]:
    """Packs of so many chunks in all, of large files and of small ones in turn."""
    ids, names = Ids(seed, "chunks"), Ids(seed, "packs")
    first = number = 0
    while first < chunks:
        # Equal shares of chunks: one pack of small files for every 64 of large ones.
        each = SMALL if number % (SMALL + 1) == 0 else 1
        frames = []
        for at in range(FRAMES):
            count = min(each, chunks - first)
            if count <= 0:
                break
            length = 16_000 if each == SMALL else 1_000_000
            frames.append(
                Frame(
                    at << 20,
                    1 << 20,
                    1 << 20,
                    1,
                    0,
                    names.some(first, 1),
                    ids.some(first, count),
                    [length] * count,
                )
            )
            first += count
        yield PackEntry(names.some(number, 1), FRAMES << 20, 2, DocType.DATA_PACK, 1, frames)
        number += 1


def make(folder: str, chunks: int, seed: int) -> dict[str, float]:
    """Writes the index, segment by segment as they are read from a tier."""
    before = _anonymous()
    index = BlobIndex(folder)
    entries, names = packs(chunks, seed), Ids(seed, "segments")
    number = seconds = heap = 0.0
    while segment := list(islice(entries, IN_SEGMENT)):
        began = time.perf_counter()
        index.add_segment(names.some(int(number), 1), segment)
        seconds += time.perf_counter() - began
        heap = max(heap, _anonymous() - before)
        number += 1
    began = time.perf_counter()
    index.flush()
    index.close()
    return {"make": seconds + time.perf_counter() - began, "make-heap": heap}


def ask(folder: str, chunks: int, seed: int) -> dict[str, float]:
    """What it costs, as the module says."""
    rng = random.Random(seed)
    there, gone = Ids(seed, "chunks"), Ids(seed, "not there")
    asked = [there.some(rng.randrange(chunks), 1) for _ in range(ASKED)]
    absent = [gone.some(at, 1) for at in range(ASKED)]
    before = _anonymous()
    began = time.perf_counter()
    index = BlobIndex(folder)
    opened = time.perf_counter() - began
    usable = PackSet(b"\1" * sum(1 for _ in index.pack_names()))
    _rate(index, usable, asked, True)
    result = {
        "open": opened,
        "hits": _rate(index, usable, asked, True),
        "misses": _rate(index, usable, absent, False),
        "heap": float(_anonymous() - before),
    }
    index.close()
    return result


def _rate(index: BlobIndex, usable: PackSet, ids: list[bytes], expected: bool) -> float:
    known = index.known
    began = time.perf_counter()
    found = sum(map(known, ids, repeat(usable)))
    seconds = time.perf_counter() - began
    assert found == (len(ids) if expected else 0), found
    return len(ids) / seconds


def _anonymous() -> int:
    """Bytes of memory of this process that no file backs."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Anonymous:"))


def main(verb: str, folder: str, *arguments: str) -> None:
    """As the command line says."""
    chunks, seed = map(int, arguments)
    if verb == "make":
        os.makedirs(folder, exist_ok=True)
    print(json.dumps({"make": make, "ask": ask}[verb](folder, chunks, seed)))


if __name__ == "__main__":
    main(*sys.argv[1:])
