"""Packs: sealed once, verified without a key by name, readable frame by frame (C6, F8; storage.md)."""

from __future__ import annotations

import dataclasses
import random
import struct
from collections.abc import Callable

import pytest
from tests.support.formats import ids_of, make_pack, make_ring, old_trailer, verify_pack

from tandem_protocol import pack
from tandem_protocol.envelope import DocType, decode_map, encode
from tandem_protocol.errors import Corrupt, Unsupported
from tandem_protocol.frames import RECORD_SIZE, Frame
from tandem_protocol.names import object_name
from tandem_protocol.pack import PackBuilder
from tandem_protocol.seal import CODEC_RAW, CODEC_ZSTD, content_id, open_part, seal_part

RING = make_ring()
KIND = DocType.DATA_PACK


def builder(capacity: int = 1 << 20, kind: DocType = KIND, buffer: bytearray | None = None) -> PackBuilder:
    return PackBuilder(RING, RING.repository_id, kind, capacity, buffer)


@pytest.mark.parametrize("kind", pack.PACK_TYPES)
def test_a_pack_comes_back_from_its_bytes_alone(kind: DocType) -> None:
    made = make_pack(RING, kind)
    data = bytes(made.data)
    assert made.name == object_name(data)
    trailer = pack.read_trailer(RING, data[-pack.trailer_span(data[-4:], len(data)) :], len(data))
    assert trailer == pack.Trailer(kind, 1, made.frames) == verify_pack(RING, data)
    assert verify_pack(RING, old_trailer(RING, made)) == trailer
    texts, noise = made.frames
    assert (texts.codec, len(texts.lengths), noise.codec) == (CODEC_ZSTD, 3, CODEC_RAW)
    raw = pack.open_frame(RING, kind, 1, texts, data[texts.offset : texts.offset + texts.sealed_length])
    assert raw == b"all work and no play " * 15


def test_frame_ids() -> None:
    """One blob: its id. Several: the content id of the whole."""
    texts, noise = make_pack(RING).frames
    assert noise.frame_id == noise.ids
    assert texts.frame_id == content_id(RING.content_id_key[1], b"all work and no play " * 15)


def test_the_same_content_is_never_sealed_alike() -> None:
    assert make_pack(RING).name != make_pack(RING).name


def test_room_is_for_certain_and_the_pack_stays_within_its_capacity() -> None:
    """Whatever is put in where there was room, header, trailer and all fit."""
    source = random.Random(11)
    for capacity in (2000, 5000, 70_000):
        buffer = bytearray(b"\xee" * (capacity + 10))
        making = builder(capacity, buffer=buffer)
        while True:
            blobs = [source.randbytes(source.randrange(1, 60)) for _ in range(source.randrange(1, 9))]
            if not making.room(sum(map(len, blobs)), len(blobs)):
                break
            making.add_frame(blobs, ids_of(RING, blobs), [len(blob) for blob in blobs])
        with pytest.raises(ValueError, match="full"):
            making.add_frame(source.randbytes(capacity), bytes(32), [capacity])
        made = making.finish()
        assert len(made.data) <= capacity and buffer[capacity:] == b"\xee" * 10
        assert made.buffer is buffer
        verify_pack(RING, made.data)


def test_a_buffer_can_be_used_again() -> None:
    buffer = bytearray(1 << 20)
    first = builder(buffer=buffer)
    first.add_frame(b"first" * 100, ids_of(RING, [b"first" * 100]), [500])
    sent = bytes(first.finish().data)
    second = builder(buffer=buffer)
    second.add_frame(b"2", ids_of(RING, [b"2"]), [1])
    verify_pack(RING, second.finish().data)
    verify_pack(RING, sent)


def test_blobs_per_pack_are_capped() -> None:
    making = builder(16 << 20)
    many = pack.MAX_BLOBS
    assert making.room(many, many) and not making.room(many, many + 1)
    making.add_frame(b"x" * many, bytes(32) * many, [1] * many)
    assert not making.room(1, 1)
    data = bytes(making.finish().data)
    assert pack.trailer_span(data[-4:], len(data)) <= pack.MAX_TRAILER + 4
    assert len(pack.read_trailer(RING, data, len(data)).frames[0].lengths) == many


def test_largest_trailer_is_within_its_cap() -> None:
    making = builder(32 << 20)
    count = 0
    while making.room(1, 1):
        making.add_frame(b"x", bytes(32), [1], bytes(32))
        count += 1
    data = making.finish().data
    assert count == pack.MAX_BLOBS
    assert pack.trailer_span(data[-4:], len(data)) <= pack.MAX_TRAILER + 4


def test_what_cannot_be_a_frame_is_a_bug_of_the_caller() -> None:
    making = builder()
    for raw, ids, lengths in (
        (b"abc", bytes(32), [2]),
        (b"abc", bytes(33), [3]),
        (b"abc", bytes(64), [3]),
        (b"", b"", []),
        (bytes(9 << 20), bytes(32), [9 << 20]),
    ):
        with pytest.raises(ValueError, match="frame"):
            making.add_frame(raw, ids, lengths)
    with pytest.raises(ValueError, match="without frames"):
        making.finish()
    with pytest.raises(ValueError, match="no pack"):
        builder(kind=DocType.SNAPSHOT)
    with pytest.raises(ValueError, match="smaller"):
        builder(buffer=bytearray(100))


def test_prepared_elsewhere_is_the_same() -> None:
    blobs = [b"one" * 50, b"two" * 60]
    prepared = pack.prepare_frame(RING, blobs, ids_of(RING, blobs), [150, 180])
    making = builder()
    frame = making.add_prepared(prepared)
    assert (frame.sealed_length, making.size) == (prepared.sealed_length, 12 + prepared.sealed_length)
    assert verify_pack(RING, making.finish().data).frames == [frame]


@pytest.mark.parametrize(
    "change",
    [
        {"frame_id": bytes(32)},
        {"codec": CODEC_RAW},
        {"raw_length": 314},
        {"raw_length": 9 << 20},
        {"sealed_length": 50},
    ],
    ids=str,
)
def test_a_frame_opens_only_as_what_it_was_sealed(change: dict[str, int]) -> None:
    made = make_pack(RING)
    frame = made.frames[0]
    sealed = made.data[frame.offset : frame.offset + frame.sealed_length]
    with pytest.raises(Corrupt):
        pack.open_frame(RING, KIND, 1, dataclasses.replace(frame, **change), sealed)
    with pytest.raises(Corrupt):
        pack.open_frame(RING, DocType.TREE_PACK, 1, frame, sealed)
    with pytest.raises(Corrupt):
        pack.open_frame(RING, KIND, 2, frame, sealed)
    with pytest.raises(Unsupported):
        pack.open_frame(RING, KIND, 1, dataclasses.replace(frame, dictionary=1), sealed)


def test_a_frame_swapped_with_another_valid_one() -> None:
    """trust.md 18: both verify where they are, neither in the other's place."""
    one, two = make_pack(RING, seed=1), make_pack(RING, seed=2)
    frame = one.frames[1]
    assert frame.sealed_length == two.frames[1].sealed_length
    data = bytearray(one.data)
    there = slice(frame.offset, frame.offset + frame.sealed_length)
    other = two.frames[1].offset
    data[there] = two.data[other : other + frame.sealed_length]
    with pytest.raises(Corrupt):
        verify_pack(RING, data)


def test_another_repository_with_the_same_keys_opens_nothing() -> None:
    made = make_pack(RING)
    stranger = dataclasses.replace(RING, repository_id=bytes(16))
    with pytest.raises(Corrupt):
        pack.read_trailer(stranger, made.data, len(made.data))
    frame = made.frames[0]
    with pytest.raises(Corrupt):
        sealed = made.data[frame.offset : frame.offset + frame.sealed_length]
        pack.open_frame(stranger, KIND, 1, frame, sealed)


def resealed(change: Callable[[dict[str, bytes]], None]) -> bytes:
    """A pack whose trailer of form 1 was made by someone who has the keys, and lies. Form 2: see test_tables."""
    data = old_trailer(RING, make_pack(RING))
    span = pack.trailer_span(data[-4:], len(data))
    cipher = RING.cipher(KIND, 1)
    place = (cipher, RING.repository_id, KIND, 1)
    listing = decode_map(open_part(*place, data[len(data) - span + 12 : -4], b"trailer"), 1 << 20)
    change(listing)
    sealed = seal_part(*place, encode(listing), b"trailer")
    front = data[: len(data) - span]
    return front + front[:12] + sealed + struct.pack(">I", 12 + len(sealed))


def put(column: str, position: int, value: bytes) -> Callable[[dict[str, bytes]], None]:
    def change(listing: dict[str, bytes]) -> None:
        old = listing[column]
        listing[column] = old[:position] + value + old[position + len(value) :]

    return change


LYING = [
    put("frames", 0, struct.pack(">I", 2**32 - 1)),
    put("frames", 0, struct.pack(">I", 11)),
    put("frames", 4, struct.pack(">I", 2**32 - 1)),
    put("frames", 4, struct.pack(">I", 40)),
    put("frames", 8, struct.pack(">I", 2**32 - 1)),
    put("frames", 8, struct.pack(">I", 314)),
    put("frames", 20, struct.pack(">I", 2**32 - 1)),
    put("frames", 20, struct.pack(">I", 0)),
    put("frames", 20, struct.pack(">I", 2)),
    put("frames", RECORD_SIZE, struct.pack(">I", 13)),
    put("lengths", 0, struct.pack(">I", 2**32 - 1)),
    put("lengths", 0, struct.pack(">I", 22)),
    put("lengths", 0, bytes(4)),
    lambda listing: listing.update(ids=listing["ids"][:-1]),
    lambda listing: listing.update(lengths=listing["lengths"] + bytes(3) + b"\1"),
    lambda listing: listing.update(lengths=listing["lengths"] + b"\0\0\0\1", ids=listing["ids"] + bytes(32)),
    lambda listing: listing.update(frames=listing["frames"][:-1]),
    lambda listing: listing.update(frames=listing["frames"][:RECORD_SIZE]),
    lambda listing: listing.update(frames=b""),
    lambda listing: listing.pop("ids"),
    lambda listing: listing.update(content_id_key="1"),
    lambda listing: listing.update(content_id_key=2),
]


@pytest.mark.parametrize("change", LYING)
def test_lying_trailers(change: Callable[[dict[str, bytes]], None]) -> None:
    good, bad = resealed(lambda listing: None), resealed(change)
    assert len(pack.read_trailer(RING, good, len(good)).frames) == 2
    with pytest.raises(Corrupt):
        pack.read_trailer(RING, bad, len(bad))


def test_nonces_of_frames_differ_though_the_randomness_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same content in the same form: the same nonce is harmless. Anything else: another nonce."""
    monkeypatch.setattr("os.urandom", bytes)
    one, two = random.Random(1).randbytes(100), random.Random(2).randbytes(100)
    making = builder()
    frames = [making.add_frame(blob, ids_of(RING, [blob]), [100]) for blob in (one, two, one)]
    text = b"all work and no play " * 50
    for level in (1, 19):
        prepared = pack.prepare_frame(RING, text, ids_of(RING, [text]), [len(text)], level=level)
        frames.append(making.add_prepared(prepared))
    data = making.finish().data
    nonces = [bytes(data[frame.offset : frame.offset + 24]) for frame in frames]
    assert nonces[0] == nonces[2] and len(set(nonces)) == 4


def test_lying_trailer_lengths() -> None:
    data = bytes(make_pack(RING).data)
    for length in (0, 1, 51, 52, len(data), len(data) - 15, 2**31, 2**32 - 1):
        with pytest.raises(Corrupt):
            pack.read_trailer(RING, data[:-4] + struct.pack(">I", length), len(data))
    for tail, size in (
        (b"", 100),
        (data[-3:], len(data)),
        (data[-4:], len(data)),
        (data, 1 << 40),
        (data, 60),
    ):
        with pytest.raises(Corrupt):
            pack.read_trailer(RING, tail, size)


def test_padding_before_the_trailer_is_legal() -> None:
    data = bytes(make_pack(RING).data)
    span = pack.trailer_span(data[-4:], len(data))
    padded = data[:-span] + bytes(1000) + data[-span:]
    assert (
        pack.read_trailer(RING, padded, len(padded)).frames == pack.read_trailer(RING, data, len(data)).frames
    )


def test_a_frame_record_is_56_bytes() -> None:
    assert RECORD_SIZE == 56
    assert Frame.__slots__ == (
        "offset", "sealed_length", "raw_length", "codec", "dictionary", "frame_id", "ids", "lengths",
    )  # fmt: skip
