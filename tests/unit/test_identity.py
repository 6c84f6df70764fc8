"""The identity file of a tier: what it says, and that every damage is noticed (trust.md 11-13, 25)."""

from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tandem_protocol.envelope import HEADER_SIZE, DocType, encode, pack_header
from tandem_protocol.errors import Corrupt, Unsupported
from tandem_protocol.identity import LAYOUT, MAX_SIZE, Identity, decode_identity

OURS = Identity(b"r" * 16, b"t" * 16, b"k" * 32)
DATA = OURS.encode()


def sealed(header: bytes, body: object) -> bytes:
    data = header + encode(body)
    return data + blake3(data).digest()


def body(**changes: object) -> dict[str, object]:
    return {"layout": 1, "repository": b"r" * 16, "tier": b"t" * 16, "root": b"k" * 32} | changes


def test_round_trip() -> None:
    assert decode_identity(DATA) == OURS
    assert decode_identity(sealed(pack_header(DocType.IDENTITY), body())) == OURS
    assert OURS.layout == LAYOUT


def test_a_flipped_bit_at_every_offset_is_damage() -> None:
    for bit in range(len(DATA) * 8):
        flipped = bytearray(DATA)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corrupt):
            decode_identity(bytes(flipped))


def test_cut_short_or_longer_at_every_length_is_damage() -> None:
    for length in range(len(DATA)):
        with pytest.raises(Corrupt):
            decode_identity(DATA[:length])
    for more in (b"\0", b"x" * MAX_SIZE):
        with pytest.raises(Corrupt):
            decode_identity(DATA + more)


@given(st.binary(max_size=300))
def test_junk_is_damage(junk: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_identity(junk)


def test_a_newer_layout_or_header_needs_a_newer_program() -> None:
    with pytest.raises(Unsupported, match="upgrade"):
        decode_identity(sealed(pack_header(DocType.IDENTITY), body(layout=LAYOUT + 1)))
    with pytest.raises(Unsupported):
        decode_identity(sealed(pack_header(DocType.IDENTITY, version=2), body()))


@pytest.mark.parametrize(
    "wrong",
    [
        {"layout": 0},
        {"layout": True},
        {"layout": "1"},
        {"repository": b"r" * 15},
        {"tier": b"t" * 17},
        {"root": "k" * 32},
        {"root": None},
    ],
)
def test_fields_that_do_not_fit_are_damage(wrong: dict[str, object]) -> None:
    with pytest.raises(Corrupt):
        decode_identity(sealed(pack_header(DocType.IDENTITY), body(**wrong)))


def test_other_documents_and_other_shapes_are_damage() -> None:
    for data in (
        sealed(pack_header(DocType.CLAIM), body()),
        sealed(pack_header(DocType.IDENTITY), [1]),
        sealed(pack_header(DocType.IDENTITY), {k: v for k, v in body().items() if k != "tier"}),
        sealed(pack_header(DocType.IDENTITY), body(more=b"x" * (MAX_SIZE - HEADER_SIZE))),
    ):
        with pytest.raises(Corrupt):
            decode_identity(data)


def test_fields_of_a_later_minor_program_are_passed_over() -> None:
    assert decode_identity(sealed(pack_header(DocType.IDENTITY), body(comment="x"))) == OURS
