"""Tables of form 2: small, decoded in few calls, and never believed (B1; trust.md 12 and 13)."""

from __future__ import annotations

import dataclasses
import random
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from tests.support.formats import make_pack, make_ring

from tandem_protocol import index, pack
from tandem_protocol.envelope import DocType, decode_map, encode
from tandem_protocol.errors import Corrupt
from tandem_protocol.frames import FRAME_COLUMNS, Frame, encode_table, table_room
from tandem_protocol.index import PackEntry
from tandem_protocol.seal import MAX_FRAME, OVERHEAD, compress_always, open_part, seal_part

RING = make_ring()
SEGMENT, KIND = DocType.INDEX_SEGMENT, DocType.DATA_PACK
Change = Callable[[dict[str, Any]], object]


def resealed(change: Change) -> bytes:
    """A segment of two packs of two frames each, made by someone who has the keys, and lies. The columns are in the
    map uncompressed while it is changed."""
    entries = [index.entry_of(make_pack(RING, seed=seed), 5) for seed in (1, 2)]
    data = index.encode_segment(RING, entries)
    place = (RING.cipher(SEGMENT, 1), RING.repository_id, SEGMENT, 1)
    body = decode_map(open_part(*place, data[12:]), 1 << 20)
    body["columns"] = zstandard.decompress(body["columns"])
    change(body)
    if isinstance(body.get("columns"), bytes) and not body.pop("as it is", False):
        body["columns"] = compress_always(body["columns"], 1)
    return data[:12] + seal_part(*place, encode(body))


FRONT = 2 * 21
AT = {"size": (0, 4, 2), "revision": (8, 8, 2), "kind": (24, 1, 2), "key": (26, 4, 2), "frames": (34, 4, 2)}
AT |= {"gap": (42, 4, 4), "saved": (58, 4, 4), "codec": (74, 1, 4), "blobs": (94, 4, 4), "own": (110, 1, 4)}
AT |= {"length": (114, 4, 8)}
"""Where each column begins, the bytes of a number, and how many there are."""


def put(column: str, row: int, value: int) -> Change:
    def change(body: dict[str, Any]) -> None:
        begin, width, count = AT[column]
        columns = bytearray(body["columns"])
        for digit, byte in enumerate(value.to_bytes(width, "big")):
            columns[begin + digit * count + row] = byte
        body["columns"] = bytes(columns)

    return change


def cut(field: str, by: int = 1) -> Change:
    return lambda body: body.update({field: body[field][:-by]})


def given_as(**fields: object) -> Change:
    return lambda body: body.update(fields)


LYING = [
    put("size", 0, 100),
    put("size", 1, (64 << 20) + 1),
    put("revision", 0, 0),
    put("kind", 0, 9),
    put("key", 0, 0),
    put("frames", 0, 1),
    put("frames", 0, 3),
    put("frames", 0, 2**32 - 1),
    put("gap", 0, 2**32 - 1),
    put("gap", 3, 1 << 20),
    put("saved", 1, 300),
    put("saved", 1, 2**32 - 1 - (64 << 20)),
    put("blobs", 0, 0),
    put("blobs", 0, 4),
    put("blobs", 0, 2**32 - 1),
    put("own", 0, 0),
    put("own", 0, 2),
    put("own", 1, 1),
    put("length", 0, 0),
    put("length", 0, 9 << 20),
    put("length", 0, 2**32 - 1),
    cut("ids"),
    cut("names"),
    cut("frame_ids"),
    cut("frame_ids", 32),
    cut("columns"),
    lambda body: body.update(columns=body["columns"] + b"x"),
    lambda body: body.update({"as it is": True}),
    lambda body: body.pop("columns"),
    lambda body: body.update(content_id_key=2),
    given_as(packs=1),
    given_as(packs=2**63),
    given_as(packs=-1),
    given_as(frames=5),
    given_as(frames=2**63),
    given_as(blobs=9),
    given_as(blobs=7),
    given_as(blobs=2**40),
    given_as(blobs=0, frames=0, ids=b""),
    given_as(frames=True),
]


@pytest.mark.parametrize("change", LYING)
def test_lying_tables(change: Change) -> None:
    assert len(index.decode_segment(RING, resealed(lambda body: None))) == 2
    with pytest.raises(Corrupt):
        index.decode_segment(RING, resealed(change))


def test_columns_are_where_this_test_says() -> None:
    body: dict[str, Any] = {}
    resealed(lambda found: body.update(found))
    assert len(body["columns"]) == FRONT + 4 * FRAME_COLUMNS + 8 * 4 == 114 + 32
    assert (body["packs"], body["frames"], body["blobs"]) == (2, 4, 8)


def test_fields_of_a_newer_program_are_ignored() -> None:
    assert len(index.decode_segment(RING, resealed(given_as(parity=1)))) == 2


def test_a_small_table_that_says_it_is_large_takes_no_memory() -> None:
    """What the counts say is compared with the ids first, and with what the compressed columns say of themselves."""
    bomb = compress_always(bytes(8 << 20), 1)
    lies = (
        given_as(blobs=200_000, frames=200_000),
        given_as(columns=bomb, **{"as it is": True}),
        given_as(columns=bomb, packs=16_384, names=bytes(32 * 16_384), **{"as it is": True}),
    )
    for change in lies:
        data = resealed(change)
        tracemalloc.start()
        with pytest.raises(Corrupt):
            index.decode_segment(RING, data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * len(data) + (1 << 20)


def chunks(source: random.Random, count: int) -> PackEntry:
    """A pack of what large incompressible files make: a frame for each chunk."""
    frames, end = [], 12
    for _ in range(count):
        length, content = source.randrange(256 << 10, 4 << 20), source.randbytes(32)
        frames.append(Frame(end, length + OVERHEAD, length, 0, 0, content, content, [length]))
        end += length + OVERHEAD
    return PackEntry(source.randbytes(32), end + 2000, 9, KIND, 1, frames)


def test_a_chunk_of_a_large_file_costs_its_id_and_little_more() -> None:
    """Of the 92 bytes that it took in form 1, 60 followed from others or were zeros."""
    source = random.Random(5)
    entries = [chunks(source, 14) for _ in range(2000)]
    data = index.encode_segment(RING, entries)
    assert index.decode_segment(RING, data) == entries
    assert len(data) / (14 * 2000) < 32 + 6  # names of packs included
    assert len(index.encode_segment(RING, entries, 1)) / (14 * 2000) > 90


def test_room_is_for_the_largest_table() -> None:
    source = random.Random(6)
    for frames, blobs in ((1, 1), (1, 60_000), (300, 3), (2000, 1)):
        made, end = [], 12
        for _ in range(frames):
            lengths = [source.randrange(1, MAX_FRAME // blobs + 1) for _ in range(blobs)]
            gap, sealed = source.randrange(1 << 16), source.randrange(41, 1 << 14)
            numbers = (end + gap, sealed, sum(lengths), source.randrange(256), source.randrange(1 << 32))
            made.append(Frame(*numbers, source.randbytes(32), source.randbytes(32 * blobs), lengths))
            end += gap + sealed
        assert len(encode(encode_table([made]))) < table_room(frames, frames * blobs) + 128


def test_frames_that_lie_in_one_another_are_a_bug_of_the_writer() -> None:
    entry = index.entry_of(make_pack(RING), 5)
    early = dataclasses.replace(entry.frames[1], offset=20)
    with pytest.raises(ValueError, match="one another"):
        encode_table([[entry.frames[0], early]])
    with pytest.raises(struct.error):
        index.encode_segment(RING, [dataclasses.replace(entry, size=1 << 40)])


def test_a_trailer_that_lies() -> None:
    data = bytes(make_pack(RING).data)
    span = pack.trailer_span(data[-4:], len(data))
    place = (RING.cipher(KIND, 1), RING.repository_id, KIND, 1)
    listing = decode_map(open_part(*place, data[len(data) - span + 12 : -4], b"trailer"), 1 << 20)

    def with_trailer(**fields: object) -> bytes:
        sealed = seal_part(*place, encode(listing | fields), b"trailer")
        return data[:-span] + data[:12] + sealed + struct.pack(">I", 12 + len(sealed))

    good = with_trailer()
    assert len(pack.read_trailer(RING, good, len(good)).frames) == 2
    columns = bytearray(zstandard.decompress(listing["columns"]))
    columns[3] = 1  # the second frame 64 KiB further on: outside of the pack
    for fields in (
        {"columns": compress_always(bytes(columns), 1)},
        {"content_id_key": 2},
        {"ids": b""},
        {"blobs": 70_000},
    ):
        bad = with_trailer(**fields)
        with pytest.raises(Corrupt):
            pack.read_trailer(RING, bad, len(bad))
