"""Tree pages: everything a Linux file system has, any byte in names, and nothing that leads outside
(issue 3, Inside and Bad input; trust.md 4, 5, 8, 23, 59)."""

from __future__ import annotations

import random
import time
from typing import Any
from zlib import crc32

import msgpack
import pytest
from tests.support.formats import make_page, sample_entries

from tandem_protocol import tree
from tandem_protocol.errors import Corrupt, Refused, Unsupported
from tandem_protocol.tree import DIR, FIFO, FILE, SYMLINK, Entry, PageBuilder

ID = bytes(range(32))


def file(name: bytes, **change: Any) -> Entry:
    values = {"kind": FILE, "name": name, "mode": 0o644, "uid": 0, "gid": 0, "s": 1, "ns": 2, "size": 3}
    values |= {"content": ID, "extras": None} | change
    return tuple(values.values())  # type: ignore[return-value]  # built by name, to be wrong where asked for


def builder() -> PageBuilder:
    return PageBuilder(lambda uid: None, lambda gid: None)


def pages_of(entries: list[Entry]) -> list[bytes]:
    making = builder()
    pages = [page for entry in entries if (page := making.add(entry)) is not None]
    last = making.finish()
    return pages if last is None else [*pages, last]


def raw_page(entries: object, **change: object) -> bytes:
    packed: bytes = msgpack.packb({"v": 1, "names": "posix", "e": entries, "u": [], "g": [], **change})
    return packed


def test_everything_comes_back() -> None:
    page = tree.decode_page(make_page())
    assert page.entries == sample_entries()
    assert all(type(entry) is tuple for entry in page.entries)
    assert page.users == {0: "root", 1000: "anna"}
    assert page.groups == {0: "root", 6: "disk"}


def test_an_empty_directory_has_no_page() -> None:
    assert builder().finish() is None
    assert tree.decode_page(raw_page([])).entries == []


def test_extremes_come_back() -> None:
    longest = b"\xff" * 255
    entries = [
        file(b"\x01", mode=0o7777, uid=2**32 - 1, gid=2**32 - 1, s=-(2**63), ns=999_999_999, size=2**63 - 1),
        file(b"many", content=ID * tree.MAX_IDS, size=1 << 40),
        file(b"xattr", extras={"x": {b"user.big": bytes(65_536)}, "l": [2**64 - 1, 2**64 - 1], "later": [1]}),
        file(longest, size=0, content=b""),
    ]
    assert [entry for page in pages_of(entries) for entry in tree.decode_page(page).entries] == entries


def test_owners_without_a_writable_name_have_none() -> None:
    names = {0: "root", 1: "\udcff", 2: "", 3: "x" * 5000}
    making = PageBuilder(names.get, names.get)
    for uid in range(5):
        making.add(file(b"%d" % uid, uid=uid, gid=uid))
    page = making.finish()
    assert page is not None
    assert tree.decode_page(page).users == tree.decode_page(page).groups == {0: "root"}


def test_a_large_directory_is_cut_by_content() -> None:
    """A hundred thousand names: pages of 64 KiB to 1 MiB; one more name changes one page, or cuts it in two."""
    names = sorted(b"document %06d.txt" % number for number in range(100_000))
    entries = [file(name) for name in names]
    pages = pages_of(entries)
    assert 10 < len(pages) < 150
    assert all(64 << 10 <= len(page) <= tree.TARGET_PAGE for page in pages[:-1])
    for extra in (b"document 050000a.txt", b"a", b"z"):
        more = sorted([*entries, file(extra)], key=lambda entry: entry[1])
        assert len(set(pages_of(more)) - set(pages)) <= 2


def test_decoding_a_hundred_thousand_entries_is_fast() -> None:
    """Well under a second: 0.15 s on the machine of storage.md."""
    pages = pages_of([file(b"%06d" % number) for number in range(100_000)])
    begun = time.process_time()
    assert sum(len(tree.decode_page(page).entries) for page in pages) == 100_000
    assert time.process_time() - begun < 1


def test_pages_are_forced_at_a_mebibyte() -> None:
    entries = [file(b"%06d" % number, content=ID * 1000, size=10**9) for number in range(200)]
    pages = pages_of(entries)
    assert max(map(len, pages)) <= tree.TARGET_PAGE
    assert [entry for page in pages for entry in tree.decode_page(page).entries] == entries


def test_a_page_has_no_more_entries_than_decode() -> None:
    """The smallest entries there are, none of which cuts: still no page that its own decoder would refuse."""
    every = (
        number.to_bytes(size, "big") for size in (1, 2, 3) for number in range(1, min(256**size, 1 << 17))
    )
    names = {name.translate(NO_SLASH) for name in every} - {b".", b".."}
    names = {name for name in names if crc32(name) & tree.CUT_MASK}
    shortest = sorted(sorted(names, key=lambda name: (len(name), name))[:66_000])
    entries: list[Entry] = [(FIFO, name, 0, 0, 0, 0, 0, 0, b"", None) for name in shortest]
    pages = pages_of(entries)
    assert [len(tree.decode_page(page).entries) for page in pages] == [65_536, 66_000 - 65_536]
    assert len(pages[0]) < tree.TARGET_PAGE


NO_SLASH = bytes(range(256)).replace(b"\0", b"\x01").replace(b"/", b"0")


def test_one_huge_entry_has_a_page_of_its_own() -> None:
    extents = [[number << 33, 1 << 17] for number in range(tree.MAX_EXTENTS)]
    huge = file(b"b", content=ID * 1024, size=1 << 50, extras={"s": extents, "x": {b"user.a": bytes(65_536)}})
    pages = pages_of([file(b"a"), huge, file(b"c")])
    assert [len(tree.decode_page(page).entries) for page in pages] == [1, 1, 1]
    making = builder()
    with pytest.raises(Refused, match="metadata"):
        making.add(file(b"d", extras={"x": {b"user.%d" % n: bytes(60_000) for n in range(40)}}))
    with pytest.raises(Refused, match="pieces"):
        making.add(file(b"d", size=1 << 50, extras={"s": [*extents, [1 << 49, 1]]}))
    assert making.add(file(b"d")) is None


def test_order_is_checked_while_building() -> None:
    making = builder()
    making.add(file(b"b"))
    for name in (b"a", b"b", b""):
        with pytest.raises(ValueError, match="order"):
            making.add(file(name))


@pytest.mark.parametrize(
    "name",
    [b"", b".", b"..", b"../x", b"/etc/passwd", b"a/b", b"/", b"a\0b", b"\0", b"x" * 1025, "text", 5, None],
)
def test_names_that_lead_elsewhere(name: Any) -> None:
    with pytest.raises(Corrupt):
        tree.decode_page(raw_page([file(name)]))
    with pytest.raises(Corrupt):
        tree.decode_page(raw_page([file(b"\x01"), file(name)]))


def test_names_that_only_look_so() -> None:
    names = [b" ", b"-rf", b"...", b"..x", b"C:\\x", b"\x1b[2J", b"\\..", b"\xff\xfe", b"a\nb"]
    for name in names:
        assert tree.decode_page(raw_page([file(name)])).entries[0][1] == name


@pytest.mark.parametrize("names", [[b"b", b"a"], [b"a", b"a"], [b"a", b"b", b"b"], [b"a", b"c", b"b"]])
def test_order_and_doubles(names: list[bytes]) -> None:
    with pytest.raises(Corrupt, match="order"):
        tree.decode_page(raw_page([file(name) for name in names]))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 7}, {"kind": -1}, {"kind": "0"}, {"kind": False},
        {"mode": 0o10000}, {"mode": -1}, {"uid": 2**32}, {"uid": -1}, {"gid": 2**32}, {"gid": None},
        {"s": 2**63}, {"s": 1.5}, {"ns": 10**9}, {"ns": -1}, {"size": -1}, {"size": 2**63}, {"size": 0},
        {"content": b""}, {"content": ID[:31]}, {"content": ID * 1025}, {"content": "x" * 32}, {"content": None},
        {"kind": DIR, "content": ID[:31]}, {"kind": DIR, "content": ID * 1025},
        {"kind": SYMLINK, "content": b""}, {"kind": SYMLINK, "content": b"a\0b"},
        {"kind": SYMLINK, "content": bytes(1 << 17)}, {"kind": FIFO, "content": ID},
        {"extras": {}}, {"extras": []}, {"extras": 0}, {"extras": {b"x": {}}},
        {"extras": {"indirect": 2}}, {"extras": {"indirect": 1}, "content": ID[:5]},
        {"extras": {"indirect": 1}, "content": b""}, {"extras": {"indirect": 1}, "content": ID * 1025},
        {"extras": {"x": []}}, {"extras": {"x": {"user.a": b""}}}, {"extras": {"x": {b"user.a": "b"}}},
        {"extras": {"x": {b"": b"b"}}}, {"extras": {"x": {b"a\0": b"b"}}},
        {"extras": {"l": [1]}}, {"extras": {"l": [1, -1]}}, {"extras": {"l": 5}}, {"extras": {"r": ["8", 1]}},
        {"extras": {"s": []}}, {"extras": {"s": 5}}, {"extras": {"s": [[0, 4]]}}, {"extras": {"s": [[0, 0]]}},
        {"extras": {"s": [[0, 1], [0, 1]]}}, {"extras": {"s": [[1, 1], [0, 1]]}}, {"extras": {"s": [[-1, 1]]}},
        {"extras": {"s": [[0, -1]]}}, {"extras": {"s": [[0]]}}, {"extras": {"s": [[0, 2**64 - 1]]}},
        {"extras": {"s": [[0, 1]]}, "content": b""}, {"extras": {"s": [[0, 1]]}, "kind": DIR},
        {"kind": SYMLINK, "content": b"", "extras": {"x": {}}}, {"kind": FIFO, "extras": {"x": {}}},
    ],
    ids=str,
)  # fmt: skip
def test_fields_that_lie(change: dict[str, Any]) -> None:
    with pytest.raises(Corrupt):
        tree.decode_page(raw_page([file(b"a", **change)]))
    with pytest.raises(Corrupt):
        tree.decode_page(raw_page([file(b"A"), file(b"a", **change), file(b"b")]))


def test_a_sparse_file_without_data() -> None:
    entry = file(b"hole", size=1 << 40, content=b"", extras={"s": []})
    assert tree.decode_page(raw_page([entry])).entries == [entry]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\xdd\xff\xff\xff\xff",
        raw_page({}),
        raw_page([5]),
        raw_page([[]]),
        raw_page([list(file(b"a"))[:9]]),
        raw_page([[*file(b"a"), 1]]),
        raw_page([], u={}),
        raw_page([], u=[[0]]),
        raw_page([], u=[[-1, "x"]]),
        raw_page([], g=[[2**32, "x"]]),
        raw_page([], g=[[0, ""]]),
        raw_page([], g=[[0, b"x"]]),
        raw_page([], v="1"),
        raw_page([]) + b"\0",
    ],
)
def test_pages_that_are_none(data: bytes) -> None:
    with pytest.raises(Corrupt):
        tree.decode_page(data)


def test_bombs() -> None:
    whole = (b"\xdc\xff\xff" + b"\x90" * 0xFFFE) * 60
    for data in (b"\x91" * 4_000_000, b"\xdc\xff\xff" * 1_000_000, whole, bytes(tree.MAX_PAGE + 1)):
        with pytest.raises(Corrupt):
            tree.decode_page(data)


@pytest.mark.parametrize("change", [{"v": 2}, {"names": "wtf8"}], ids=str)
def test_a_newer_page_says_to_upgrade(change: dict[str, Any]) -> None:
    with pytest.raises(Unsupported) as caught:
        tree.decode_page(raw_page([], **change))
    assert caught.value.remedy == "upgrade tandem"


def test_cutting_depends_on_names_alone() -> None:
    """The same directory gives the same pages, though every other field has changed."""
    source = random.Random(8)
    names = sorted({source.randbytes(12).translate(NO_SLASH) for _ in range(5000)})
    before = [len(tree.decode_page(page).entries) for page in pages_of([file(name) for name in names])]
    after = pages_of([file(name, s=9, ns=9, content=ID[::-1]) for name in names])
    assert before == [len(tree.decode_page(page).entries) for page in after]
    assert len(before) > 1
