"""Certificates, claims and records: what verifies, what is damaged, what is forged (A6, A9; trust.md 11-17, 25)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from tests.support.documents import OTHER_TIER, RING, TIER, Writer, nonce_of, ref
from tests.support.formats import make_ring

from tandem_protocol import envelope
from tandem_protocol.certificates import (
    MAX_CERTIFICATE,
    Certificate,
    Forged,
    Installation,
    parse_certificate,
    parse_epoch_file,
)
from tandem_protocol.envelope import DocType
from tandem_protocol.errors import Corrupt, TandemError, Unsupported
from tandem_protocol.names import MAX_NUMBER, ObjectType
from tandem_protocol.revision import (
    MAX_CLAIM,
    MAX_OBJECTS,
    MAX_RECORD,
    Claim,
    Kind,
    Record,
    RecordDraft,
    Removal,
    Requires,
    make_record,
    open_details,
    parse_claim,
    parse_record,
)

REPOSITORY, ROOT = RING.repository_id, RING.root_public
WRITER = Writer()
STRANGER = Writer(root=make_ring(2))
"""Good signatures, but enrolled by another root."""


def claim_of(data: bytes, number: int = 5, tier: bytes = TIER) -> Claim:
    return parse_claim(data, REPOSITORY, ROOT, tier, number)


def record_of(data: bytes, number: int = 5) -> Record:
    return parse_record(data, REPOSITORY, ROOT, number)


def resigned(document: Claim | Record, doc: DocType, **changes: Any) -> bytes:
    """The document with changed fields (None: left out), well signed by its writer."""
    body = envelope.unverified_body(document.data, doc) | changes
    return envelope.sign(doc, {k: v for k, v in body.items() if v is not ...}, WRITER.installation.key)


# Round trips


def test_a_claim_is_read_as_it_was_made() -> None:
    claim = WRITER.claim(5)
    assert claim_of(claim.data) == claim
    assert claim.certificate == WRITER.certificate
    assert open_details(RING, claim) == {"host": "here"}


def test_a_record_is_read_as_it_was_made() -> None:
    removed = (
        Removal(ObjectType.PACK, b"1" * 32),
        Removal(ObjectType.KEY, b"2" * 32, frozenset([TIER, OTHER_TIER])),
    )
    record = WRITER.record(
        5,
        kind=Kind.TAKEOVER,
        parents=(b"p" * 32, b"q" * 32),
        added=tuple(ref(n, kind) for n, kind in enumerate(ObjectType)),
        removed=removed,
        lists=(b"l" * 32,),
        tiers=(OTHER_TIER, TIER),
        requires=Requires((), ("later",)),
    )
    found = record_of(record.data)
    assert found == record
    assert (found.removed, found.is_base, found.kind) == (removed, True, Kind.TAKEOVER)
    assert found.tiers == tuple(sorted([OTHER_TIER, TIER]))
    assert found.write_requires == ("later",)


def test_lists_that_are_empty_make_a_base_and_none_do_not() -> None:
    assert WRITER.record(1, kind=Kind.INIT, lists=(), tiers=(TIER,)).is_base
    assert not WRITER.record(2).is_base


@pytest.mark.parametrize("number", [1, 255, 256, 2**63, MAX_NUMBER])
def test_numbers_up_to_the_last(number: int) -> None:
    record = WRITER.record(number, nonce=bytes(24))
    assert record_of(record.data, number).number == number


@pytest.mark.parametrize("number", [0, MAX_NUMBER + 1])
def test_numbers_that_are_none(number: int) -> None:
    data = resigned(WRITER.record(5), DocType.RECORD, n=min(number, MAX_NUMBER))
    with pytest.raises(Corrupt):
        parse_record(data, REPOSITORY, ROOT, number)


def test_the_same_draft_sealed_twice_differs_and_its_hash_with_it() -> None:
    one, two = WRITER.record(5), WRITER.record(5)
    assert one.hash != two.hash
    assert len(one.hash) == 32


def test_only_the_owner_reads_the_sealed_part() -> None:
    record = WRITER.record(5)
    with pytest.raises(Corrupt):
        open_details(make_ring(2), record)
    moved = parse_record(resigned(record, DocType.RECORD, n=6), REPOSITORY, ROOT)
    with pytest.raises(Corrupt):
        open_details(RING, moved)
    short = parse_record(resigned(record, DocType.RECORD, sealed=b""), REPOSITORY, ROOT)
    with pytest.raises(TandemError):
        open_details(RING, short)


# Damage


@pytest.mark.parametrize(
    ("data", "read"),
    [
        (WRITER.claim(5).data, claim_of),
        (WRITER.record(5, added=(ref(1),)).data, record_of),
        (WRITER.certificate.data, lambda data: parse_epoch_file(data, REPOSITORY, ROOT, 1)),
    ],
    ids=["claim", "record", "epoch"],
)
def test_a_flipped_bit_at_every_offset_and_every_cut_is_noticed(
    data: bytes, read: Callable[[bytes], object]
) -> None:
    """As damage: a flipped version is no newer program, and a flipped certificate no forgery."""
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        with pytest.raises(Corrupt) as caught:
            read(bytes(flipped))
        assert not isinstance(caught.value, Forged), at
        with pytest.raises(Corrupt):
            read(data[:at])
    with pytest.raises(Corrupt):
        read(data + b"\0")


@given(st.binary(max_size=400))
def test_junk_is_damage(junk: bytes) -> None:
    for read in (claim_of, record_of, lambda d: parse_certificate(d, REPOSITORY, ROOT)):
        with pytest.raises(Corrupt):
            read(junk)


def test_documents_from_elsewhere_are_damage() -> None:
    claim, record = WRITER.claim(5), WRITER.record(5)
    other = Writer(ring=make_ring(2))
    for read in (
        lambda: claim_of(claim.data, tier=OTHER_TIER),
        lambda: claim_of(claim.data, number=6),
        lambda: record_of(record.data, number=6),
        lambda: claim_of(other.claim(5).data),
        lambda: record_of(other.record(5).data),
        lambda: claim_of(record.data),
        lambda: record_of(claim.data),
        lambda: record_of(b""),
    ):
        with pytest.raises(Corrupt) as caught:
            read()
        assert not isinstance(caught.value, Forged)


def test_a_signature_on_one_type_is_none_on_another() -> None:
    record = WRITER.record(5)
    body = envelope.unverified_body(record.data, DocType.RECORD)
    as_claim = envelope.pack_header(DocType.CLAIM) + envelope.encode(body) + record.data[-64:]
    with pytest.raises(Corrupt):
        claim_of(as_claim)


# Forged: a good signature under a certificate that the root did not sign, and nothing else


def test_a_stranger_with_a_certificate_of_another_root_is_forged() -> None:
    with pytest.raises(Forged):
        claim_of(STRANGER.claim(5).data)
    with pytest.raises(Forged):
        record_of(STRANGER.record(5).data)


def test_a_stranger_with_our_certificate_is_only_damage() -> None:
    body = envelope.unverified_body(WRITER.claim(5).data, DocType.CLAIM)
    data = envelope.sign(DocType.CLAIM, body, Ed25519PrivateKey.generate())
    with pytest.raises(Corrupt) as caught:
        claim_of(data)
    assert not isinstance(caught.value, Forged)


def test_a_stranger_elsewhere_is_damage_or_forged_but_never_good() -> None:
    with pytest.raises(Corrupt):
        claim_of(STRANGER.claim(5).data, number=6)


def test_an_epoch_file_is_never_forged() -> None:
    with pytest.raises(Corrupt) as caught:
        parse_epoch_file(STRANGER.certificate.data, REPOSITORY, ROOT, 1)
    assert not isinstance(caught.value, Forged)
    with pytest.raises(Corrupt):
        parse_epoch_file(WRITER.certificate.data, REPOSITORY, ROOT, 2)


def test_without_the_root_only_the_shape_is_checked() -> None:
    assert parse_record(STRANGER.record(5).data, REPOSITORY, None, 5).number == 5


def test_certificates() -> None:
    assert parse_certificate(WRITER.certificate.data, REPOSITORY, ROOT) == WRITER.certificate
    assert WRITER.installation.public_key == WRITER.certificate.public_key
    assert WRITER.installation.seed not in repr(WRITER.installation).encode()
    with pytest.raises(Forged):
        parse_certificate(STRANGER.certificate.data, REPOSITORY, ROOT)
    with pytest.raises(Corrupt):
        parse_certificate(WRITER.certificate.data, b"z" * 16, ROOT)
    with pytest.raises(Corrupt):
        parse_certificate(bytes(MAX_CERTIFICATE + 1), REPOSITORY, ROOT)


# Newer programs


@pytest.mark.parametrize(
    "changes",
    [
        {"read_requires": ["sparse-tiers"]},
        {"kind": "merge"},
        {"added": [["delta", b"1" * 32, 1]]},
        {"removed": [["delta", b"1" * 32, None]]},
    ],
)
def test_what_a_newer_program_wrote_is_unsupported(changes: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="upgrade"):
        record_of(resigned(WRITER.record(5), DocType.RECORD, **changes))


def test_fields_that_are_not_known_are_passed_over() -> None:
    assert record_of(resigned(WRITER.record(5), DocType.RECORD, more=[1])).number == 5
    assert claim_of(resigned(WRITER.claim(5), DocType.CLAIM, more=[1])).number == 5


# Well signed, and wrong in shape (a bug of a writer must not become a bug of a reader)


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 0},
        {"n": "5"},
        {"nonce": b"short"},
        {"kind": 5},
        {"parents": [b"short"]},
        {"parents": b"p" * 32},
        {"added": [["pack", b"1" * 31, 1]]},
        {"added": [["pack", b"1" * 32, -1]]},
        {"added": [["pack", b"1" * 32]]},
        {"added": [[b"pack", b"1" * 32, 1]]},
        {"added": ...},
        {"removed": [["pack", b"1" * 32, [b"short"]]]},
        {"removed": [["pack", b"1" * 31, None]]},
        {"removed": {}},
        {"lists": [1]},
        {"tiers": [b"1" * 17]},
        {"read_requires": [1]},
        {"write_requires": ["x" * 65]},
        {"sealed": "text"},
        {"certificate": b"x"},
        {"certificate": ...},
        {"repository": b"z" * 16},
    ],
    ids=repr,
)
def test_records_of_a_wrong_shape_are_damage(changes: dict[str, Any]) -> None:
    with pytest.raises(Corrupt):
        record_of(resigned(WRITER.record(5), DocType.RECORD, **changes))


# Caps


def test_a_record_names_at_most_so_many_objects() -> None:
    draft = RecordDraft(1, bytes(24), Kind.PRUNE, (), {}, added=(ref(1),) * MAX_OBJECTS)
    assert len(make_record(RING, WRITER.installation, WRITER.certificate, draft).added) == MAX_OBJECTS
    removed = (Removal(ObjectType.PACK, b"1" * 32),)
    with pytest.raises(ValueError, match="at most"):
        WRITER.record(1, added=(ref(1),) * MAX_OBJECTS, removed=removed)
    half = MAX_OBJECTS // 2 + 1
    rows = [["pack", b"1" * 32, 1]] * half
    data = resigned(WRITER.record(5), DocType.RECORD, added=rows, removed=[["pack", b"1" * 32, None]] * half)
    with pytest.raises(Corrupt, match="too many"):
        record_of(data)


def test_documents_over_their_size_are_damage_before_they_are_decoded() -> None:
    for limit, read in ((MAX_CLAIM, claim_of), (MAX_RECORD, record_of)):
        with pytest.raises(Corrupt, match="too long"):
            read(bytes(limit + 1))


def test_the_largest_record_fits() -> None:
    removed = tuple(Removal(ObjectType.PACK, os.urandom(32), frozenset([TIER])) for _ in range(MAX_OBJECTS))
    record = WRITER.record(5, removed=removed)
    assert len(record.data) < MAX_RECORD
    assert len(record_of(record.data).removed) == MAX_OBJECTS


def test_nonces_and_installations_are_their_own() -> None:
    assert Installation.generate() != Installation.generate()
    assert nonce_of(1) != nonce_of(2)
    assert Certificate.issue(RING.root_private or b"", REPOSITORY, WRITER.installation, 2).epoch == 2
