"""List objects of base records: plain, ordered, capped (tier-protocol.md, Base)."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from tests.support.formats import make_list_entries

from tandem_protocol import lists
from tandem_protocol.envelope import DocType, encode, pack_header
from tandem_protocol.errors import Corrupt
from tandem_protocol.lists import ListEntry
from tandem_protocol.names import ObjectType

NAME = bytes(32)


def listing(rows: object) -> bytes:
    return pack_header(DocType.LIST) + encode({"entries": rows})


def test_entries_come_back() -> None:
    entries = make_list_entries()
    assert lists.decode_list(lists.encode_list(entries)) == entries
    assert lists.decode_list(lists.encode_list([])) == []
    assert lists.encode_list(entries)[:12].hex() == "544e444d0501000000000000"


def test_a_full_list_is_fast() -> None:
    source = random.Random(5)
    names = sorted(source.randbytes(32) for _ in range(lists.MAX_ENTRIES))
    entries = [ListEntry(ObjectType.PACK, name, 1 << 25, [bytes(16)]) for name in names]
    data = lists.encode_list(entries)
    begun = time.process_time()
    assert lists.decode_list(data) == entries
    assert time.process_time() - begun < 3


def test_splitting_and_order() -> None:
    entries = [ListEntry(ObjectType.PACK, number.to_bytes(32, "big"), 1) for number in range(250_001)]
    pieces = lists.split_list(entries)
    assert [len(piece) for piece in pieces] == [100_000, 100_000, 50_001]
    assert [entry for piece in pieces for entry in piece] == entries
    assert lists.split_list([]) == []
    with pytest.raises(ValueError, match="too many"):
        lists.encode_list(entries)
    with pytest.raises(ValueError, match="order"):
        lists.encode_list([entries[1], entries[0]])
    with pytest.raises(ValueError, match="order"):
        lists.encode_list([entries[1], entries[1]])


@pytest.mark.parametrize(
    "row",
    [
        5,
        [],
        ["pack", NAME, 1],
        ["pack", NAME, 1, [], 0],
        ["pac", NAME, 1, []],
        [b"pack", NAME, 1, []],
        [["pack"], NAME, 1, []],
        ["pack", NAME[:31], 1, []],
        ["pack", "x" * 32, 1, []],
        ["pack", NAME, -1, []],
        ["pack", NAME, 2**63, []],
        ["pack", NAME, True, []],
        ["pack", NAME, 1, None],
        ["pack", NAME, 1, [bytes(15)]],
        ["pack", NAME, 1, [5]],
        ["pack", NAME, 1, [bytes(16)] * 257],
    ],
    ids=lambda row: str(row)[:40],
)
def test_rows_that_lie(row: Any) -> None:
    with pytest.raises(Corrupt):
        lists.decode_list(listing([row]))
    with pytest.raises(Corrupt):
        lists.decode_list(listing([["key", b"\0" * 31 + b"\1", 1, []], row]))


def test_lists_that_are_none() -> None:
    good = ["pack", NAME, 1, []]
    for data in (
        listing({}),
        listing([good, good]),
        listing([["pack", b"\2" * 32, 1, []], ["pack", b"\1" * 32, 1, []]]),
        listing([good])[:-1],
        listing([good]) + b"\0",
        listing([]).replace(b"entries", b"Entries"),
        pack_header(DocType.LIST) + b"\x91" * 2000,
        pack_header(DocType.LIST) + b"\xdd\xff\xff\xff\xff",
        pack_header(DocType.LIST) + bytes(33 << 20),
        pack_header(DocType.LIST, suite=1) + encode({"entries": []}),
    ):
        with pytest.raises(Corrupt):
            lists.decode_list(data)
