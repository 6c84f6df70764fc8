"""Headers, capped decoding and signed documents (storage.md, Evolution and Content; trust.md 22, 23, 25)."""

from __future__ import annotations

import struct
import tracemalloc

import msgpack
import pytest
from tests.support.formats import make_ring

from tandem_protocol import envelope
from tandem_protocol.envelope import DocType
from tandem_protocol.errors import Corrupt, Unsupported
from tandem_protocol.fields import Fields

RING = make_ring()


def test_header_is_twelve_bytes_and_comes_back() -> None:
    data = envelope.pack_header(DocType.DATA_PACK, suite=1, key_number=0x01020304)
    assert data.hex() == "544e444d0701010001020304"
    assert envelope.read_header(data, {DocType.DATA_PACK}) == envelope.Header(
        DocType.DATA_PACK, 1, 1, 0x01020304
    )


def test_newer_version_and_suite_say_to_upgrade() -> None:
    for data in (
        envelope.pack_header(DocType.LIST, version=2),
        envelope.pack_header(DocType.LIST, suite=2),
    ):
        with pytest.raises(Unsupported) as caught:
            envelope.read_header(data, {DocType.LIST})
        assert caught.value.remedy == "upgrade tandem"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"TNDM\x05\x01\x00\x00\x00\x00\x00",
        b"XNDM\x05\x01\x00\x00\x00\x00\x00\x00",
        b"TNDM\x05\x00\x00\x00\x00\x00\x00\x00",
        b"TNDM\x05\x01\x00\x01\x00\x00\x00\x00",
        b"TNDM\x07\x01\x00\x00\x00\x00\x00\x00",
        b"TNDM\xff\x01\x00\x00\x00\x00\x00\x00",
    ],
    ids=["empty", "short", "magic", "version 0", "padding", "other type", "unknown type"],
)
def test_wrong_headers_are_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        envelope.read_header(data, {DocType.LIST})


def test_values_come_back() -> None:
    value = {"a": 1, "b": [b"x", "y", None, True, -5, 2**64 - 1], "c": {"d": []}}
    assert envelope.decode(envelope.encode(value), 1000) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x01",
        b"\x81\x01\x01",
        b"\x81\xc4\x01a\x01",
        b"\x82\xa1a\x01\xa1a\x02",
        b"\xcb" + bytes(8),
        b"\xd6\xff" + bytes(4),
        b"\xd4\x05\x00",
        b"\xa2\xff\xfe",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
    ],
    ids=[
        "empty", "left over", "integer key", "bytes key", "key twice", "float", "timestamp", "extension",
        "not UTF-8", "unused code", "huge array", "huge map", "huge bytes", "huge string", "huge extension",
    ],
)  # fmt: skip
def test_what_is_not_a_document_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        envelope.decode(data, 1000)


def test_depth_is_capped() -> None:
    fits = b"\x91" * 4 + b"\x01"
    assert envelope.decode(fits, 1000, max_depth=4) == [[[[1]]]]
    with pytest.raises(Corrupt):
        envelope.decode(b"\x91" * 5 + b"\x01", 1000, max_depth=4)
    for depth in (1000, 1024, 1025, 100_000, 4_000_000):
        with pytest.raises(Corrupt):
            envelope.decode(b"\x91" * depth + b"\x01", 8 << 20)


def test_size_is_capped_before_decoding() -> None:
    with pytest.raises(Corrupt):
        envelope.decode(b"\xc6" + struct.pack(">I", 100) + bytes(100), 104)


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd" + struct.pack(">I", 4_000_000) + b"\x90" * 4_000_000,
        b"\xdc\xff\xff" * 1000 + bytes(3_000_000),
        b"\xdd\x00\x40\x00\x00" * 1000 + bytes(6_000_000),
        (b"\xdc\xff\xff" + b"\x90" * 0xFFFE) * 60,
        b"\xde\xff\xff" * 1000 + bytes(3_000_000),
    ],
    ids=["empty arrays", "nested promises", "nested huge promises", "wide and nested", "nested maps"],
)
def test_bombs_take_little_memory(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt):
            envelope.decode(bomb, 8 << 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Arrays that promise 65,535 items are reserved 512 KiB each, of which the system never sees a page.
    assert peak < 1100 * (512 << 10)


def test_signed_documents() -> None:
    key = RING.root_key()
    data = envelope.sign(DocType.CLAIM, {"n": 5}, key)
    assert envelope.verify(data, DocType.CLAIM, RING.root_public) == {"n": 5}
    assert envelope.unverified_body(data, DocType.CLAIM) == {"n": 5}
    with pytest.raises(Corrupt):
        envelope.verify(data, DocType.CLAIM, make_ring(9).root_public)
    with pytest.raises(Corrupt):
        envelope.verify(data, DocType.RECORD, RING.root_public)


def test_a_signature_holds_in_its_own_context_only() -> None:
    claim = envelope.sign(DocType.CLAIM, {"n": 5}, RING.root_key())
    as_record = envelope.pack_header(DocType.RECORD) + claim[12:]
    with pytest.raises(Corrupt):
        envelope.verify(as_record, DocType.RECORD, RING.root_public)
    bare = envelope.pack_header(DocType.CLAIM) + envelope.encode({"n": 5})
    with pytest.raises(Corrupt):
        envelope.verify(bare + RING.root_key().sign(bare), DocType.CLAIM, RING.root_public)


def test_only_a_signature_tells_a_newer_version_from_a_flipped_bit() -> None:
    data = envelope.sign(DocType.RECORD, {"n": 5}, RING.root_key())
    for offset in (5, 6):
        front = data[:offset] + b"\2" + data[offset + 1 : -64]
        with pytest.raises(Corrupt):
            envelope.verify(front + data[-64:], DocType.RECORD, RING.root_public)
        newer = front + RING.root_key().sign(b"tandem record signature 1\0" + front)
        with pytest.raises(Unsupported) as caught:
            envelope.verify(newer, DocType.RECORD, RING.root_public)
        assert caught.value.remedy == "upgrade tandem"
        assert envelope.unverified_body(newer, DocType.RECORD) == {"n": 5}


def test_a_signed_document_that_is_too_large_is_never_made() -> None:
    with pytest.raises(ValueError, match="too large"):
        envelope.sign(DocType.RECORD, {"x": bytes(envelope.MAX_DOCUMENT)}, RING.root_key())


def test_fields_check_types_and_bounds() -> None:
    fields = Fields({"b": b"abc", "i": 5, "t": True, "s": "text", "l": [b"a", b"b"], "m": {"x": 1}})
    assert (fields.bytes("b", 3), fields.int("i", 0, 5), fields.bool("t")) == (b"abc", 5, True)
    assert (fields.str("s", 4), fields.bytes_list("l", 1), fields.map("m").int("x")) == (
        "text",
        [b"a", b"b"],
        1,
    )
    assert (fields.int("no", default=7), fields.has("no"), fields.dict("m")) == (7, False, {"x": 1})
    for wrong in (
        lambda: fields.bytes("b", 2),
        lambda: fields.bytes("b", max=2),
        lambda: fields.bytes("s"),
        lambda: fields.int("i", 0, 4),
        lambda: fields.int("t"),
        lambda: fields.bool("i"),
        lambda: fields.str("s", 3),
        lambda: fields.list("l", 1),
        lambda: fields.bytes_list("l", 2),
        lambda: fields.map("l"),
        lambda: fields.int("no"),
        lambda: Fields([]),
    ):
        with pytest.raises(Corrupt):
            wrong()


def test_fields_name_what_is_wrong() -> None:
    with pytest.raises(Corrupt, match="'size' of the snapshot"):
        Fields({}, "snapshot").int("size")


def test_encoding_is_msgpack_with_bytes_and_text_apart() -> None:
    assert msgpack.unpackb(envelope.encode({"a": b"x", "b": "x"})) == {"a": b"x", "b": "x"}
