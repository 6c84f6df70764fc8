"""Made-up packs of made-up blobs for the blob index: all of it follows from numbers, nothing is sealed."""

from __future__ import annotations

import random

from tandem_protocol.envelope import DocType
from tandem_protocol.frames import Frame
from tandem_protocol.index import PackEntry

PER_FRAME = 50


def blob_id(number: int) -> bytes:
    return random.Random(number).randbytes(32)


def pack_of(number: int, blobs: int, first: int = 0) -> PackEntry:
    """A pack whose blobs are ``first`` and on, 50 to a frame, blob b of b % 1000 + 1 bytes."""
    frames = []
    for at in range(first, first + blobs, PER_FRAME):
        own = range(at, min(at + PER_FRAME, first + blobs))
        lengths = [blob % 1000 + 1 for blob in own]
        ids = b"".join(map(blob_id, own))
        frames.append(Frame(12 + at, 77, sum(lengths), 1, 0, blob_id(-1 - at), ids, lengths))
    return PackEntry(blob_id(1 << 40 | number), 1 << 20, number + 1, DocType.DATA_PACK, 1, frames)
