"""Index segments: compact, split, decoded fast, and never believed (B1, B3; storage.md)."""

from __future__ import annotations

import dataclasses
import random
import time
from typing import Any

import pytest
from tests.support.formats import make_pack, make_ring

from tandem_protocol import index
from tandem_protocol.envelope import DocType, decode_map, encode
from tandem_protocol.errors import Corrupt
from tandem_protocol.frames import Frame, encode_frames
from tandem_protocol.index import PackEntry
from tandem_protocol.seal import open_part, seal_part

RING = make_ring(keys_each=2)
SEGMENT = DocType.INDEX_SEGMENT


def big_entry(source: random.Random, frames: int, blobs: int) -> PackEntry:
    made, offset = [], 12
    for _ in range(frames):
        lengths = [source.randrange(1, 8000) for _ in range(blobs)]
        ids = source.randbytes(32 * blobs)
        made.append(Frame(offset, 1000, sum(lengths), 1, 0, source.randbytes(32), ids, lengths))
        offset += 1000
    return PackEntry(source.randbytes(32), offset + 100, 7, DocType.DATA_PACK, 1, made)


def test_entries_come_back() -> None:
    entries = [
        index.entry_of(make_pack(RING), 5),
        index.entry_of(make_pack(RING, DocType.TREE_PACK), 2**64 - 1),
    ]
    for form in (1, 2):
        data = index.encode_segment(RING, entries, form)
        assert data[:12].hex() == f"544e444d090{form}010000000002"
        assert index.decode_segment(RING, data) == entries
        assert index.decode_segment(RING, memoryview(data)) == entries
        assert index.decode_segment(RING, index.encode_segment(RING, [], form)) == []
    assert [entry.blobs for entry in entries] == [4, 4]


def test_a_full_segment_is_small_and_fast() -> None:
    """200,000 blobs: about 34 bytes each, and well under a second (0.03 s on the machine of storage.md)."""
    source = random.Random(3)
    entries = [big_entry(source, 25, 250) for _ in range(32)]
    data = index.encode_segment(RING, entries)
    begun = time.process_time()
    assert index.decode_segment(RING, data) == entries
    assert time.process_time() - begun < 1
    assert len(data) < 200_000 * 35


def test_splitting_keeps_order_and_caps() -> None:
    source = random.Random(4)
    full = big_entry(source, 10, 6000)
    entries = [full] * 7 + [make_small(source) for _ in range(index.MAX_SEGMENT_PACKS + 5)]
    groups = index.split_entries(entries)
    assert [entry for group in groups for entry in group] == entries
    assert [len(group) for group in groups[:2]] == [3, 3]
    assert all(sum(entry.blobs for entry in group) <= index.MAX_SEGMENT_BLOBS for group in groups)
    assert max(map(len, groups)) == index.MAX_SEGMENT_PACKS
    assert index.split_entries([]) == []
    with pytest.raises(ValueError, match="too much"):
        index.encode_segment(RING, [full] * 4)


def make_small(source: random.Random) -> PackEntry:
    frame = Frame(12, 100, 60, 0, 0, bytes(32), bytes(32), [60])
    return PackEntry(source.randbytes(32), 300, 1, DocType.TREE_PACK, 1, [frame])


def resealed(change: dict[str, Any] | None = None, of_pack: dict[str, Any] | None = None) -> bytes:
    """A segment of form 1 made by someone who has the keys, and lies. Form 2: see test_tables."""
    data = index.encode_segment(RING, [index.entry_of(make_pack(RING), 5)], 1)
    place = (RING.cipher(SEGMENT, 2), RING.repository_id, SEGMENT, 2)
    body = decode_map(open_part(*place, data[12:]), 1 << 20)
    body.update(change or {})
    if of_pack is not None:
        body["packs"][0].update(of_pack)
    return data[:12] + seal_part(*place, encode(body))


@pytest.mark.parametrize(
    "of_pack",
    [
        {"name": bytes(31)},
        {"name": "x" * 32},
        {"size": 0},
        {"size": 100},
        {"size": 1 << 40},
        {"revision": 0},
        {"revision": -1},
        {"kind": 9},
        {"kind": True},
        {"key_number": 0},
        {"key_number": 2**32},
        {"frames": b""},
        {"ids": b""},
        {"lengths": bytes(16)},
        {"frames": bytes(56)},
    ],
    ids=str,
)
def test_lying_entries(of_pack: dict[str, Any]) -> None:
    assert len(index.decode_segment(RING, resealed())) == 1
    with pytest.raises(Corrupt):
        index.decode_segment(RING, resealed(of_pack=of_pack))


@pytest.mark.parametrize(
    "change",
    [{"packs": [1]}, {"packs": {}}, {"packs": [[]] * 20_000}, {"content_id_key": 2}],
    ids=["1", "2", "3", "4"],
)
def test_lying_segments(change: dict[str, Any]) -> None:
    with pytest.raises(Corrupt):
        index.decode_segment(RING, resealed(change))


def test_a_segment_with_more_blobs_than_possible() -> None:
    frame = Frame(12, 100, 60_000, 0, 0, bytes(32), bytes(32 * 60_000), [1] * 60_000)
    columns = encode_frames([frame])
    packs = [{"name": bytes(32), "size": 1000, "revision": 1, "kind": 7, "key_number": 1, **columns}]
    assert len(index.decode_segment(RING, resealed({"packs": packs * 3}))) == 3
    with pytest.raises(Corrupt, match="too many blobs"):
        index.decode_segment(RING, resealed({"packs": packs * 4}))


def test_fields_of_a_newer_program_are_ignored() -> None:
    assert len(index.decode_segment(RING, resealed({"parity": 1}, {"tier": b"x"}))) == 1


def test_a_segment_opens_only_as_what_it_is() -> None:
    data = index.encode_segment(RING, [index.entry_of(make_pack(RING), 5)])
    for ring in (make_ring(9, 2), dataclasses.replace(RING, repository_id=bytes(16))):
        with pytest.raises(Corrupt):
            index.decode_segment(ring, data)
    as_snapshot = data[:4] + bytes([DocType.SNAPSHOT]) + data[5:]
    with pytest.raises(Corrupt):
        index.decode_segment(RING, as_snapshot)
    with pytest.raises(Corrupt):
        index.decode_segment(RING, data + bytes(65 << 20))
