"""Key rings and slots: wrong passphrase, caps on Argon2id's costs, no key in a repr (E3, storage.md)."""

from __future__ import annotations

import dataclasses
import struct
import time
from typing import Any

import pytest
from tests.support.formats import AGENT_KEY, CHEAP, PHRASE, make_ring

from tandem_protocol import keys
from tandem_protocol.envelope import DocType, encode, pack_header
from tandem_protocol.errors import Corrupt, Refused, Unsupported
from tandem_protocol.keys import KeyRing, SlotInfo

RING = make_ring(keys_each=3)


def slot_of(readable: dict[str, Any], sealed: bytes = bytes(200)) -> bytes:
    described = encode(readable)
    return pack_header(DocType.KEY_SLOT, suite=1) + struct.pack(">I", len(described)) + described + sealed


def test_a_new_ring_has_its_own_keys() -> None:
    one, two = KeyRing.generate(bytes(16)), KeyRing.generate(bytes(16))
    secrets = [
        key
        for ring in (one, two)
        for key in (
            ring.root_private,
            ring.content_id_key[1],
            ring.gear_key[1],
            ring.data[1],
            ring.metadata[1],
        )
    ]
    assert len(set(secrets)) == 10 and all(len(key or b"") == 32 for key in secrets)
    assert one.root_key().public_key().public_bytes_raw() == one.root_public
    assert 0 <= one.gear_seed() < 2**64 and one.gear_seed() == one.gear_seed() != two.gear_seed()


def test_passphrase_slot_holds_the_whole_ring() -> None:
    data = keys.passphrase_slot(RING, PHRASE, "desk", **CHEAP, created=1_700_000_000)
    assert keys.open_slot_with_passphrase(data, PHRASE) == RING
    assert keys.slot_info(data) == SlotInfo("passphrase", "desk", 1_700_000_000)


def test_agent_slot_never_holds_the_root() -> None:
    data = keys.agent_slot(RING, AGENT_KEY, "agent")
    opened = keys.open_slot_with_agent_key(data, AGENT_KEY)
    assert opened == RING.without_root() and opened.root_private is None
    assert keys.slot_info(data).kind == "agent"
    with pytest.raises(Refused, match="passphrase"):
        opened.root_key()


def test_the_passphrase_is_the_same_however_it_is_typed() -> None:
    composed, decomposed = "Zürich", "Zu\u0308rich"
    assert composed != decomposed
    data = keys.passphrase_slot(RING, composed, **CHEAP)
    assert keys.open_slot_with_passphrase(data, decomposed) == RING


def test_wrong_secrets_are_refused() -> None:
    by_phrase = keys.passphrase_slot(RING, PHRASE, **CHEAP)
    by_agent = keys.agent_slot(RING, AGENT_KEY)
    for wrong in ("", PHRASE + " ", PHRASE.upper()):
        with pytest.raises(Refused, match="wrong passphrase: mind the keyboard layout, or try another"):
            keys.open_slot_with_passphrase(by_phrase, wrong)
    with pytest.raises(Refused, match="agent key"):
        keys.open_slot_with_agent_key(by_agent, bytes(32))
    with pytest.raises(Refused):
        keys.open_slot_with_passphrase(by_agent, PHRASE)
    with pytest.raises(Refused):
        keys.open_slot_with_agent_key(by_phrase, AGENT_KEY)
    with pytest.raises(Corrupt):
        keys.open_slot_with_agent_key(by_agent, AGENT_KEY[:31])


def test_no_secret_in_a_repr() -> None:
    for ring in (RING, RING.without_root()):
        text = repr(ring) + str(ring)
        for secret in (
            RING.root_private,
            RING.content_id_key[1],
            RING.gear_key[1],
            RING.data[1],
            RING.metadata[3],
        ):
            assert secret is not None
            assert repr(secret)[2:-1] not in text and secret.hex() not in text


@pytest.mark.parametrize(
    "cost",
    [
        {"memory_kib": 2**32 - 1},
        {"memory_kib": keys.MAX_MEMORY_KIB + 1},
        {"memory_kib": 7},
        {"passes": 0},
        {"passes": keys.MAX_PASSES + 1},
        {"passes": 2**64 - 1},
        {"lanes": 0},
        {"lanes": 17},
        {"lanes": 2**32},
        {"memory_kib": 16, "lanes": 4},
        {"salt": b"short"},
        {"salt": bytes(65)},
        {"salt": "text"},
        {"passes": 5, "memory_kib": keys.MAX_MEMORY_KIB},
        {"passes": True},
        {"memory_kib": -1},
    ],
    ids=str,
)
def test_costs_outside_the_caps_are_corrupt_at_once(cost: dict[str, Any]) -> None:
    readable = {"kind": "passphrase", "label": "", "created": 0, "salt": bytes(16), **CHEAP, **cost}
    begun = time.process_time()
    with pytest.raises(Corrupt):
        keys.open_slot_with_passphrase(slot_of(readable), PHRASE)
    assert time.process_time() - begun < 1


def test_a_slot_of_a_kind_to_come_can_be_listed_but_not_opened() -> None:
    data = slot_of({"kind": "recipient", "label": "printed", "created": 5})
    assert keys.slot_info(data) == SlotInfo("recipient", "printed", 5)
    with pytest.raises(Refused):
        keys.open_slot_with_passphrase(data, PHRASE)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        pack_header(DocType.KEY_SLOT, suite=1),
        pack_header(DocType.KEY_SLOT, suite=1) + b"\xff\xff\xff\xff",
        pack_header(DocType.KEY_SLOT, suite=1) + b"\0\0\0\0",
        pack_header(DocType.KEY_SLOT, suite=0) + b"\0\0\0\1\x80",
        slot_of({"kind": 5}),
        slot_of({"kind": "passphrase", "label": "x" * 5000}),
        slot_of({}, bytes(keys.MAX_SLOT)),
    ],
    ids=["empty", "header only", "lying length", "no map", "plain", "kind", "long label", "too large"],
)
def test_slots_that_are_none(data: bytes) -> None:
    with pytest.raises(Corrupt):
        keys.slot_info(data)


def test_a_newer_slot_says_to_upgrade() -> None:
    data = bytearray(keys.agent_slot(RING, AGENT_KEY))
    data[5] = 2
    with pytest.raises(Unsupported) as caught:
        keys.slot_info(bytes(data))
    assert caught.value.remedy == "upgrade tandem"


def test_a_tier_cannot_swap_root_or_repository() -> None:
    keys.check_ring_matches(RING, RING.repository_id, RING.root_public)
    for repository, root in ((bytes(16), RING.root_public), (RING.repository_id, bytes(32))):
        with pytest.raises(Corrupt):
            keys.check_ring_matches(RING, repository, root)


@pytest.mark.parametrize(
    "change",
    [
        {"root_private": bytes(32)},
        {"repository_id": bytes(15)},
        {"content_id_key": (0, bytes(32))},
        {"gear_key": (1, bytes(31))},
        {"data": {}},
        {"data": {1: bytes(33)}},
        {"metadata": {2**32: bytes(32)}},
        {"current_data": 9},
        {"current_metadata": 9},
    ],
    ids=str,
)
def test_a_well_sealed_ring_that_is_none(change: dict[str, Any]) -> None:
    data = keys.passphrase_slot(dataclasses.replace(RING, **change), PHRASE, **CHEAP)
    with pytest.raises(Corrupt):
        keys.open_slot_with_passphrase(data, PHRASE)


def test_ciphers_by_type_and_number() -> None:
    assert RING.current_key(DocType.DATA_PACK) == RING.current_key(DocType.SNAPSHOT) == 3
    data, metadata = RING.cipher(DocType.DATA_PACK, 1), RING.cipher(DocType.TREE_PACK, 1)
    assert data is RING.cipher(DocType.DATA_PACK, 1) and metadata is RING.cipher(DocType.RECORD, 1)
    sealed = data.seal(b"x", bytes(24), b"")
    with pytest.raises(Corrupt):
        metadata.open(sealed, b"")
    with pytest.raises(Corrupt, match="key 4"):
        RING.cipher(DocType.INDEX_SEGMENT, 4)
