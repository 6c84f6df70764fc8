"""Snapshot manifests: sealed, checked field by field (storage.md; trust.md 19)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from tests.support.formats import make_ring, make_snapshot

from tandem_protocol import snapshot
from tandem_protocol.envelope import DocType, encode
from tandem_protocol.errors import Corrupt
from tandem_protocol.seal import seal_part

RING = make_ring()


def sealed(body: object) -> bytes:
    data = snapshot.encode_snapshot(RING, make_snapshot())
    cipher = RING.cipher(DocType.SNAPSHOT, 1)
    return data[:12] + seal_part(cipher, RING.repository_id, DocType.SNAPSHOT, 1, encode(body))


def test_everything_comes_back() -> None:
    data = snapshot.encode_snapshot(RING, make_snapshot())
    assert data[:12].hex() == "544e444d0a01010000000001"
    assert snapshot.decode_snapshot(RING, data) == make_snapshot()
    assert b"office" not in data and b"/srv" not in data


def test_fields_of_a_newer_program_are_ignored() -> None:
    body = {**dataclasses.asdict(make_snapshot()), "parity": [1]}
    assert snapshot.decode_snapshot(RING, sealed(body)) == make_snapshot()


@pytest.mark.parametrize(
    "change",
    [
        {"backup_id": bytes(15)},
        {"root": bytes(33)},
        {"root": bytes(32 * 1025)},
        {"host": b"office"},
        {"host": "x" * 5000},
        {"sources": [5]},
        {"sources": ["/srv"]},
        {"sources": [bytes(70_000)]},
        {"started_ns": 2**63},
        {"ended_ns": None},
        {"utc_offset_s": 100_000},
        {"zone": "x" * 256},
        {"point_in_time": 1},
        {"stats": []},
        {"stats": {"files": "many"}},
        {"stats": {"files": True}},
        {"program": 1},
    ],
    ids=lambda change: str(change)[:40],
)
def test_fields_that_lie(change: dict[str, Any]) -> None:
    with pytest.raises(Corrupt):
        snapshot.decode_snapshot(RING, sealed({**dataclasses.asdict(make_snapshot()), **change}))


def test_a_snapshot_of_another_repository() -> None:
    data = snapshot.encode_snapshot(RING, make_snapshot())
    with pytest.raises(Corrupt):
        snapshot.decode_snapshot(dataclasses.replace(RING, repository_id=bytes(16)), data)
    with pytest.raises(Corrupt):
        snapshot.decode_snapshot(make_ring(2), data)
    with pytest.raises(Corrupt):
        snapshot.decode_snapshot(RING, data + bytes(5 << 20))
