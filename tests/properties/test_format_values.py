"""Whatever is written comes back, and what someone with the keys could seal does no harm (trust.md 18 to 23)."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.formats import ids_of, make_ring, verify_pack

from tandem_protocol import envelope, index, lists, pack, seal, snapshot, tree
from tandem_protocol.envelope import DocType
from tandem_protocol.errors import Corrupt, Unsupported
from tandem_protocol.frames import Frame
from tandem_protocol.names import ObjectType

RING = make_ring()
IDS = st.integers(0, 40).map(lambda count: bytes(range(32)) * count)
NAMES = st.binary(min_size=1, max_size=40).filter(lambda name: name not in (b".", b".."))
NAMES = NAMES.map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"0"))
UINT32, INT64 = st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**63 - 1)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=40)
    | st.text(max_size=20)
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=6), inner, max_size=6),
    max_leaves=20,
)


@given(JUNK)
def test_documents_come_back(value: object) -> None:
    assert envelope.decode(envelope.encode(value), 1 << 20, 20) == value


@st.composite
def entries(draw: st.DrawFn) -> list[tree.Entry]:
    found = []
    for name in sorted(draw(st.sets(NAMES, max_size=20))):
        kind = draw(st.integers(tree.FILE, tree.SOCKET))
        size, content = draw(st.integers(1, 2**63 - 1)), b""
        extras: dict[str, Any] = {}
        if kind == tree.FILE:
            content = draw(IDS)
            size = size if content else 0
        elif kind == tree.DIR:
            content = draw(IDS)
        elif kind == tree.SYMLINK:
            content = draw(st.binary(min_size=1, max_size=60).filter(lambda target: b"\0" not in target))
        if draw(st.booleans()):
            extras["x"] = draw(st.dictionaries(NAMES, st.binary(max_size=30), max_size=3))
        if draw(st.booleans()):
            extras["l"] = draw(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=2))
        found.append(
            (
                kind, name, draw(st.integers(0, 0o7777)), draw(UINT32), draw(UINT32), draw(INT64),
                draw(st.integers(0, 999_999_999)), size, content, extras or None,
            )
        )  # fmt: skip
    return found


@given(entries())
def test_directories_come_back(directory: list[tree.Entry]) -> None:
    making = tree.PageBuilder(lambda uid: f"user {uid}", lambda gid: None)
    pages = [page for entry in directory if (page := making.add(entry)) is not None]
    last = making.finish()
    pages += [] if last is None else [last]
    assert [entry for page in pages for entry in tree.decode_page(page).entries] == directory
    for page in pages:
        decoded = tree.decode_page(page)
        assert decoded.users == {entry[3]: f"user {entry[3]}" for entry in decoded.entries}


@given(
    st.fixed_dictionaries({}, optional={"v": JUNK, "names": JUNK, "e": JUNK, "u": JUNK, "g": JUNK}), st.data()
)
def test_any_page_of_any_shape(body: dict[str, Any], draw: st.DataObject) -> None:
    rows = draw.draw(st.lists(st.lists(JUNK, min_size=9, max_size=11), max_size=3))
    page = {"v": 1, "names": "posix", "e": rows, "u": [], "g": [], **body}
    try:
        decoded = tree.decode_page(msgpack.packb(page))
    except (Corrupt, Unsupported):
        return
    for entry in decoded.entries:
        assert b"/" not in entry[1] and entry[1] not in (b"", b".", b"..")


@given(st.integers(0, 9), st.data())
def test_an_entry_with_one_wrong_item(position: int, draw: st.DataObject) -> None:
    """Anything in any place of an entry: it is refused, or it is within the bounds."""
    entry: list[Any] = [tree.FILE, b"a", 0o644, 0, 0, 1, 2, 3, bytes(32), None]
    entry[position] = draw.draw(JUNK)
    try:
        decoded = tree.decode_page(msgpack.packb({"v": 1, "names": "posix", "e": [entry], "u": [], "g": []}))
    except Corrupt:
        return
    assert list(decoded.entries[0]) == entry
    assert (0 <= entry[2] <= 0o7777 and 0 <= entry[6] < 10**9 and len(entry[8]) % 32 == 0) or entry[
        0
    ] == tree.SYMLINK


@given(
    st.lists(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=8), min_size=1, max_size=6)
)
@settings(max_examples=60)
def test_packs_come_back(frames: list[list[bytes]]) -> None:
    making = pack.PackBuilder(RING, RING.repository_id, DocType.DATA_PACK, 64 << 10)
    for blobs in frames:
        making.add_frame(blobs, ids_of(RING, blobs), [len(blob) for blob in blobs])
    data = bytes(making.finish().data)
    trailer = verify_pack(RING, data)
    for frame, blobs in zip(trailer.frames, frames, strict=True):
        sealed = data[frame.offset : frame.offset + frame.sealed_length]
        assert pack.open_frame(RING, trailer.kind, trailer.key_number, frame, sealed) == b"".join(blobs)


@given(st.binary(max_size=3000), st.integers(-5, 9))
def test_compression_comes_back(data: bytes, level: int) -> None:
    codec, payload = seal.compress(data, level)
    assert seal.decompress(codec, payload, len(data)) == data


@given(st.integers(0, 255), st.binary(max_size=300), st.integers(-1, 2**32))
def test_any_payload(codec: int, payload: bytes, raw_length: int) -> None:
    with contextlib.suppress(Corrupt, Unsupported):
        assert len(seal.decompress(codec, payload, raw_length)) == raw_length


@given(
    st.dictionaries(st.sampled_from(["name", "size", "revision", "kind", "frames", "ids", "lengths"]), JUNK)
)
def test_any_entry_of_a_segment(change: dict[str, Any]) -> None:
    """Sealed by someone who has the keys."""
    frame = Frame(12, 100, 60, 0, 0, bytes(32), bytes(32), [60])
    good = index.PackEntry(bytes(32), 300, 1, DocType.DATA_PACK, 1, [frame])
    data = index.encode_segment(RING, [good], 1)
    place = (RING.cipher(DocType.INDEX_SEGMENT, 1), RING.repository_id, DocType.INDEX_SEGMENT, 1)
    body = envelope.decode_map(seal.open_part(*place, data[12:]), 1 << 20)
    body["packs"][0].update(change)
    with contextlib.suppress(Corrupt):
        index.decode_segment(RING, data[:12] + seal.seal_part(*place, envelope.encode(body)))


@st.composite
def packs(draw: st.DrawFn) -> list[index.PackEntry]:
    """Packs as any writer might make them: gaps between frames, several codecs, one blob under another frame id."""
    found = []
    for _ in range(draw(st.integers(0, 5))):
        made, end = [], 12
        for _ in range(draw(st.integers(0, 5))):
            lengths = draw(st.lists(st.integers(1, 1 << 20), min_size=1, max_size=7))
            ids = b"".join(draw(st.binary(min_size=32, max_size=32)) for _ in lengths)
            frame_id = ids[:32] if draw(st.booleans()) else draw(st.binary(min_size=32, max_size=32))
            offset, sealed = end + draw(st.integers(0, 300)), draw(st.integers(41, 9 << 20))
            codec, dictionary = draw(st.integers(0, 255)), draw(UINT32)
            made.append(Frame(offset, sealed, sum(lengths), codec, dictionary, frame_id, ids, lengths))
            end = offset + sealed
        name, revision = draw(st.binary(min_size=32, max_size=32)), draw(st.integers(1, 2**64 - 1))
        key_number, kind = draw(st.integers(1, 2**32 - 1)), draw(st.sampled_from(pack.PACK_TYPES))
        found.append(index.PackEntry(name, end + draw(st.integers(0, 99)), revision, kind, key_number, made))
    return found


@given(packs(), st.sampled_from([1, 2]))
@settings(max_examples=60)
def test_segments_come_back(found: list[index.PackEntry], form: int) -> None:
    assert index.decode_segment(RING, index.encode_segment(RING, found, form)) == found


@given(
    packs(),
    st.dictionaries(
        st.sampled_from(["packs", "names", "frames", "blobs", "ids", "frame_ids", "columns"]),
        JUNK | st.integers(0, 70_000) | st.binary(max_size=3000),
    ),
    st.binary(max_size=40),
    st.integers(0, 2000),
)
def test_any_table(found: list[index.PackEntry], change: dict[str, Any], edit: bytes, at: int) -> None:
    """Form 2, sealed by someone who has the keys: any field, and any part of what is compressed."""
    data = index.encode_segment(RING, found)
    place = (RING.cipher(DocType.INDEX_SEGMENT, 1), RING.repository_id, DocType.INDEX_SEGMENT, 1)
    body = envelope.decode_map(seal.open_part(*place, data[12:]), 1 << 20)
    columns = zstandard.decompress(body["columns"])
    body["columns"] = seal.compress_always(columns[:at] + edit + columns[at + len(edit) :], 1)
    body.update(change)
    with contextlib.suppress(Corrupt):
        for entry in index.decode_segment(RING, data[:12] + seal.seal_part(*place, envelope.encode(body))):
            ends = [frame.offset + frame.sealed_length for frame in entry.frames]
            assert ends == sorted(ends) and max(ends, default=0) <= entry.size <= 64 << 20
            assert all(sum(f.lengths) == f.raw_length <= 8 << 20 and min(f.lengths) for f in entry.frames)
            assert all(len(f.ids) == 32 * len(f.lengths) and len(f.frame_id) == 32 for f in entry.frames)


@given(st.dictionaries(st.sampled_from(["backup_id", "root", "host", "sources", "stats", "zone"]), JUNK))
def test_any_snapshot(change: dict[str, Any]) -> None:
    """Sealed by someone who has the keys."""
    plain = snapshot.Snapshot(bytes(16), bytes(32), "h", "i", [b"/x"], 1, 2)
    data = snapshot.encode_snapshot(RING, plain)
    place = (RING.cipher(DocType.SNAPSHOT, 1), RING.repository_id, DocType.SNAPSHOT, 1)
    body = envelope.decode_map(seal.open_part(*place, data[12:]), 1 << 20) | change
    with contextlib.suppress(Corrupt):
        snapshot.decode_snapshot(RING, data[:12] + seal.seal_part(*place, envelope.encode(body)))


@given(st.sets(st.binary(min_size=32, max_size=32), max_size=20), st.data())
def test_lists_come_back(names: set[bytes], draw: st.DataObject) -> None:
    tier_ids = st.lists(st.binary(min_size=16, max_size=16), max_size=3)
    found = [
        lists.ListEntry(
            draw.draw(st.sampled_from(ObjectType)),
            name,
            draw.draw(st.integers(0, 2**63 - 1)),
            draw.draw(tier_ids),
        )
        for name in sorted(names)
    ]
    assert lists.decode_list(lists.encode_list(found)) == found
