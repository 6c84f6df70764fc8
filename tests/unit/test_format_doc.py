"""docs/format.md is enough to write another reader from (issue 3): one that was, reads what the code writes."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

import pytest
from tests.support import formats, minireader
from tests.support.formats import AGENT_KEY, CHEAP, PHRASE, make_page, make_ring, sample_entries

from tandem_protocol import envelope, frames, index, keys, lists, pack, revision, snapshot, tree
from tandem_protocol.certificates import Certificate, Installation
from tandem_protocol.envelope import DocType
from tandem_protocol.identity import Identity
from tandem_protocol.names import ObjectType, claim_path, object_name, object_path, record_path
from tandem_protocol.revision import Kind, ObjectRef, RecordDraft, Removal
from tandem_protocol.seal import content_id

RING = make_ring(keys_each=2)
TIER = b"\x0a" * 16
DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"


def test_the_reader_uses_nothing_of_tandem() -> None:
    source = ast.parse(Path(minireader.__file__).read_text("utf-8"))
    names = [node.module or "" for node in ast.walk(source) if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in ast.walk(source) if isinstance(node, ast.Import) for alias in node.names]
    assert names and not [name for name in names if "tandem" in name or name.startswith("tests")]


def test_a_passphrase_slot() -> None:
    ring = minireader.open_slot(keys.passphrase_slot(RING, "Zu\u0308rich", "desk", **CHEAP), "Zürich")
    assert ring is not None
    assert (ring["repository"], ring["root_public"]) == (RING.repository_id, RING.root_public)
    assert ring["root_private"] == RING.root_private
    assert dict(ring["data"]) == RING.data and dict(ring["metadata"]) == RING.metadata
    assert (ring["content_id"], ring["current_data"]) == (list(RING.content_id_key), 2)
    assert minireader.open_slot(keys.agent_slot(RING, AGENT_KEY), PHRASE) is None


def ring_as_read() -> minireader.Ring:
    ring = minireader.open_slot(keys.passphrase_slot(RING, PHRASE, **CHEAP), PHRASE)
    assert ring is not None
    return ring


@pytest.mark.parametrize("kind", pack.PACK_TYPES)
def test_a_pack_and_its_index_segment(kind: DocType) -> None:
    made = formats.make_pack(RING, kind)
    data = bytes(made.data)
    ring = ring_as_read()
    blobs = {
        content: minireader.read_blob(ring, data, content, place)
        for content, place in minireader.read_trailer(ring, data)
    }
    texts = [b"all work and no play " * count for count in (1, 5, 9)]
    assert [blobs[content_id(RING.content_id_key[1], text)] for text in texts] == texts
    assert len(blobs) == 4
    in_trailer = minireader.read_trailer(ring, data)
    assert in_trailer == minireader.read_trailer(ring, formats.old_trailer(RING, made))
    for form in (1, 2):
        segment = index.encode_segment(RING, [index.entry_of(made, 1)] * 2, form)
        named = [(content, made.name, place) for content, place in in_trailer]
        assert minireader.read_segment(ring, segment) == named * 2


def test_a_page_a_snapshot_and_a_list() -> None:
    assert [tuple(entry) for entry in minireader.read_page(make_page())] == sample_entries()
    made = formats.make_snapshot()
    found = minireader.read_snapshot(ring_as_read(), snapshot.encode_snapshot(RING, made))
    assert found == {name: getattr(made, name) for name in made.__slots__}
    rows = minireader.read_list(lists.encode_list(formats.make_list_entries()))
    assert rows == [[str(e.type), e.name, e.size, e.dead] for e in formats.make_list_entries()]


class TierMaker:
    """Writes a whole small tier with the code: two packs, an index segment, a snapshot, records, a base."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.installation = Installation.generate()
        seed = RING.root_private
        assert seed is not None
        self.certificate = Certificate.issue(seed, RING.repository_id, self.installation, 1)
        self.parents: tuple[bytes, ...] = ()
        self.added: list[ObjectRef] = []
        self.write("tandem", Identity(RING.repository_id, TIER, RING.root_public).encode())

    def write(self, path: str, data: bytes) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def put(self, kind: ObjectType, data: bytes) -> ObjectRef:
        ref = ObjectRef(kind, object_name(data), len(data))
        self.write(object_path(kind, ref.name), data)
        self.added.append(ref)
        return ref

    def commit(self, number: int, kind: Kind, details: dict[str, Any], **more: Any) -> None:
        nonce = os.urandom(24)
        signer = (RING, self.installation, self.certificate)
        about = {"host": "office", "time": "2026-01-01T00:00:00+00:00"}
        claim = revision.make_claim(*signer, TIER, number, nonce, self.parents, about)
        draft = RecordDraft(number, nonce, kind, self.parents, details, tuple(self.added), **more)
        record = revision.make_record(*signer, draft)
        self.write(claim_path(number), claim.data)
        self.write(record_path(number), record.data)
        self.parents, self.added = (record.hash,), []


def blob_pack(maker: TierMaker, kind: DocType, blobs: list[bytes]) -> tuple[list[bytes], index.PackEntry]:
    builder = pack.PackBuilder(RING, RING.repository_id, kind, 1 << 20)
    ids = [content_id(RING.content_id_key[1], blob) for blob in blobs]
    builder.add_frame(blobs, b"".join(ids), [len(blob) for blob in blobs])
    made = builder.finish()
    maker.put(ObjectType.PACK, bytes(made.data))
    return ids, index.entry_of(made, 2)


def make_tier(folder: Path, base: bool) -> str:
    """Gives the name of the snapshot."""
    maker = TierMaker(folder)
    maker.put(ObjectType.KEY, keys.agent_slot(RING, AGENT_KEY))
    maker.put(ObjectType.KEY, keys.passphrase_slot(RING, PHRASE, **CHEAP))
    maker.put(ObjectType.LIST, lists.encode_list([]))
    maker.commit(1, Kind.INIT, {"tiers": {TIER.hex(): "vault"}}, lists=(), tiers=(TIER,))
    (hello, world, data), of_data = blob_pack(maker, DocType.DATA_PACK, [b"hello ", b"world", b"data"])
    inner = [
        (tree.FILE, b"file", 0o644, 0, 0, 1, 2, 11, hello + world, None),
        (tree.SYMLINK, b"link", 0o777, 0, 0, 1, 2, 4, b"file", None),
        (tree.FILE, b"sparse", 0o600, 0, 0, 1, 2, 1000, data, {"s": [[500, 4]]}),
    ]
    page, many = make_page(inner), hello + world
    (inner_id, many_id), of_inner = blob_pack(maker, DocType.TREE_PACK, [page, many])
    huge = (tree.FILE, b"huge", 0o644, 0, 0, 1, 2, 11, many_id, {"indirect": 1})
    outer = make_page([huge, (tree.DIR, b"srv", 0o755, 0, 0, 1, 2, 0, inner_id, None)])
    (outer_id,), of_outer = blob_pack(maker, DocType.TREE_PACK, [outer])
    maker.put(ObjectType.INDEX, index.encode_segment(RING, [of_data, of_inner, of_outer]))
    manifest = snapshot.Snapshot(b"\x07" * 16, outer_id, "office", "id", [b"/srv"], 1, 2)
    name = maker.put(ObjectType.SNAPSHOT, snapshot.encode_snapshot(RING, manifest)).name
    everything = list(maker.added)
    about = {"id": "07" * 16, "name": "26010101", "snapshot": name.hex(), "status": "complete"}
    maker.commit(2, Kind.BACKUP, {"backup": about})
    rubbish = maker.put(ObjectType.PACK, b"not a pack: whoever reads it fails")
    maker.commit(3, Kind.CHECKPOINT, {})
    removal = (Removal(ObjectType.PACK, rubbish.name),)
    if base:
        live = sorted((lists.ListEntry(r.type, r.name, r.size) for r in everything), key=lambda e: e.name)
        listed = maker.put(ObjectType.LIST, lists.encode_list(live))
        maker.commit(300, Kind.PRUNE, {}, removed=removal, lists=(listed.name,), tiers=(TIER,))
    else:
        maker.commit(300, Kind.PRUNE, {}, removed=removal)
    return name.hex()


@pytest.mark.parametrize("base", [False, True], ids=["records", "base"])
@pytest.mark.parametrize("from_trailers", [False, True], ids=["index", "trailers"])
def test_a_whole_backup(tmp_path: Path, base: bool, from_trailers: bool) -> None:
    name = make_tier(tmp_path, base)
    tier = minireader.Tier(tmp_path, PHRASE)
    assert [backup["snapshot"] for backup in tier.backups()] == [name]
    found = {path: content for path, (_, content) in tier.restore(name, from_trailers).items()}
    assert found == {
        b"/huge": b"hello world",
        b"/srv": b"",
        b"/srv/file": b"hello world",
        b"/srv/link": b"file",
        b"/srv/sparse": bytes(500) + b"data" + bytes(496),
    }
    claim = minireader.read_by_certificate((tmp_path / claim_path(2)).read_bytes(), 3, RING.root_public)
    assert (claim["tier"], claim["n"]) == (TIER, 2)
    assert minireader.read_details(tier.ring, 3, claim)["host"] == "office"


def test_numbers_in_the_document() -> None:
    """Those that the code could change without the reader noticing."""
    text = DOCUMENT.read_text("utf-8").replace("\n", " ")
    for doc_type in DocType:
        assert re.search(rf"\b{doc_type.value} {envelope.label(doc_type)}".replace(" ", r"\s+"), text)
    thousands = "{:,}".format
    limits = text[text.index("## Limits") :]
    for value in (
        thousands(envelope.MAX_ARRAY),
        thousands(envelope.MAX_CONTAINERS),
        f"{thousands(envelope.MAX_CONTAINERS)}; {envelope.MAX_DEPTH}",
        f"{keys.MAX_MEMORY_KIB >> 20} GiB; {keys.MAX_PASSES}; {keys.MAX_LANES}; {keys.MAX_WORK_KIB >> 20} GiB",
        thousands(keys.MAX_KEYS),
        f"{frames.MAX_PACK >> 20} MiB; {thousands(pack.MAX_BLOBS)}; {pack.MAX_FRAME >> 20} MiB",
        f"{index.MAX_SEGMENT >> 20} MiB; {thousands(index.MAX_SEGMENT_BLOBS)}; {thousands(index.MAX_SEGMENT_PACKS)}",
        f"{tree.MAX_PAGE >> 20} MiB; {tree.MAX_ENTRY >> 20} MiB; {thousands(tree.MAX_CONTAINERS)}",
        f"{snapshot.MAX_SNAPSHOT >> 20} MiB; {thousands(snapshot.MAX_SOURCES)}; 64 KiB",
        f"{lists.MAX_LIST >> 20} MiB; {thousands(lists.MAX_ENTRIES)}; {lists.MAX_DEAD}",
        thousands(revision.MAX_OBJECTS),
        f"{keys.MAX_SLOT >> 20} MiB; {envelope.MAX_DOCUMENT >> 20} MiB",
    ):
        assert value in limits, f"{value} is not among the limits"
