"""Builds a small repository in memory with the real formats: packs, tree pages, index segments, a snapshot.

A tree is given as nodes, so that a test can also make trees that no scanner would (wrong names, cycles, wrong
sizes). All tiers get the same bytes; tests then damage or remove objects on one of them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tandem_agent.engine.blobindex import BlobIndex
from tandem_agent.reading import NamedStore, RepositoryView, update_index
from tandem_protocol.envelope import DocType
from tandem_protocol.history import LiveObject
from tandem_protocol.index import PackEntry, encode_segment, entry_of
from tandem_protocol.keys import KeyRing
from tandem_protocol.names import ObjectType, object_name, object_path
from tandem_protocol.pack import PackBuilder
from tandem_protocol.seal import content_id
from tandem_protocol.snapshot import Snapshot, encode_snapshot
from tandem_protocol.store import Store
from tandem_protocol.stores.memory import MemoryStore
from tandem_protocol.tree import DIR, FILE, SYMLINK, PageBuilder

MTIME = (1_600_000_000, 123_456_789)


@dataclass
class Node:
    """One entry. ``chunks``: content of a file, cut like this. ``size`` and ``content`` override what follows
    from the rest; ``indirect`` stores a file's ids as blobs."""

    kind: int = FILE
    chunks: list[bytes] = field(default_factory=list)
    children: Mapping[bytes, Node] = field(default_factory=dict)
    target: bytes = b""
    mode: int = 0o644
    uid: int = field(default_factory=os.geteuid)
    gid: int = field(default_factory=os.getegid)
    mtime: tuple[int, int] = MTIME
    extras: dict[str, Any] | None = None
    size: int | None = None
    content: bytes | None = None
    indirect: bool = False


def file(*chunks: bytes, **more: Any) -> Node:
    return Node(FILE, chunks=list(chunks), **more)


def folder(children: Mapping[bytes, Node], mode: int = 0o755, **more: Any) -> Node:
    return Node(DIR, children=children, mode=mode, **more)


def link(target: bytes, **more: Any) -> Node:
    return Node(SYMLINK, target=target, mode=0o777, **more)


class SmallRepo:
    """``stores``: one MemoryStore for each tier. ``live``: everything, added by revision 2."""

    def __init__(
        self,
        tiers: Iterable[str] = ("vault", "remote"),
        blobs_in_frame: int = 8,
        names: Mapping[int, str] | None = None,
    ) -> None:
        self._names = names
        self.ring = KeyRing.generate(random.randbytes(16))
        self.stores = {name: MemoryStore({}) for name in tiers}
        self.live: dict[bytes, LiveObject] = {}
        self.entries: list[PackEntry] = []
        self._blobs_in_frame = blobs_in_frame
        self._pending: dict[DocType, list[tuple[bytes, bytes]]] = {
            DocType.DATA_PACK: [],
            DocType.TREE_PACK: [],
        }
        self._known: set[bytes] = set()

    def id_of(self, data: bytes) -> bytes:
        return content_id(self.ring.content_id_key[1], data)

    def blob(self, data: bytes, kind: DocType = DocType.DATA_PACK) -> bytes:
        """Take a blob into the next pack of its kind (once); gives its id."""
        block = self.id_of(data)
        if block not in self._known:
            self._known.add(block)
            self._pending[kind].append((block, data))
        return block

    def tree(self, children: Mapping[bytes, Node]) -> bytes:
        """The concatenated page ids of a folder."""
        if self._names is None:
            builder = PageBuilder(lambda uid: f"user{uid}", lambda gid: f"group{gid}")
        else:
            builder = PageBuilder(self._names.get, self._names.get)
        pages = []
        for name in sorted(children):
            page = builder.add(self._entry(name, children[name]))
            if page is not None:
                pages.append(page)
        last = builder.finish()
        if last is not None:
            pages.append(last)
        return b"".join(self.blob(page, DocType.TREE_PACK) for page in pages)

    def _entry(self, name: bytes, node: Node) -> Any:
        content, extras, size = b"", dict(node.extras or {}), 0
        if node.kind == FILE:
            content = b"".join(self.blob(chunk) for chunk in node.chunks)
            size = sum(map(len, node.chunks))
            if node.indirect:
                half = len(content) // 64 * 32 or 32
                parts = [content[:half], content[half:]]
                content = b"".join(self.blob(part, DocType.TREE_PACK) for part in parts if part)
                extras["indirect"] = 1
        elif node.kind == DIR:
            content = self.tree(node.children)
        elif node.kind == SYMLINK:
            content, size = node.target, len(node.target)
        return (
            node.kind,
            name,
            node.mode,
            node.uid,
            node.gid,
            *node.mtime,
            size if node.size is None else node.size,
            content if node.content is None else node.content,
            extras or None,
        )

    def flush(self) -> list[bytes]:
        """Seal what is pending into one pack of each kind and put them on every tier; gives their names."""
        names = []
        for kind, blobs in self._pending.items():
            if not blobs:
                continue
            builder = PackBuilder(self.ring, self.ring.repository_id, kind)
            for i in range(0, len(blobs), self._blobs_in_frame):
                part = blobs[i : i + self._blobs_in_frame]
                builder.add_frame(
                    [d for _, d in part], b"".join(b for b, _ in part), [len(d) for _, d in part]
                )
            pack = builder.finish()
            self.put(ObjectType.PACK, bytes(pack.data))
            self.entries.append(entry_of(pack, 2))
            names.append(pack.name)
            blobs.clear()
        return names

    def put(self, kind: ObjectType, data: bytes) -> bytes:
        name = object_name(data)
        for store in self.stores.values():
            store.shared[object_path(kind, name)] = data
        self.live[name] = LiveObject(kind, name, len(data), 2)
        return name

    def snapshot(self, children: Mapping[bytes, Node] | bytes, **stats: int) -> bytes:
        """Everything of a backup of ``children`` (or of a root made before); gives the snapshot's name."""
        root = children if isinstance(children, bytes) else self.tree(children)
        self.flush()
        self.put(ObjectType.INDEX, encode_segment(self.ring, self.entries))
        self.entries = []
        made = Snapshot(bytes(16), root, "host", "id", [b"/"], 1, 2, stats=stats)
        return self.put(ObjectType.SNAPSHOT, encode_snapshot(self.ring, made))

    def paths(self, kind: ObjectType) -> list[str]:
        """Where the objects of a type are on each tier."""
        return [object_path(o.type, o.name) for o in self.live.values() if o.type is kind]

    def damage(self, tier: str, path: str, at: int) -> None:
        """Flip one bit of an object on one tier."""
        data = bytearray(self.stores[tier].shared[path])
        data[at] ^= 1 << (at % 8)
        self.stores[tier].shared[path] = bytes(data)

    async def view(self, folder: str, stores: Mapping[str, Store] | None = None) -> RepositoryView:
        """The repository opened for reading, its index in ``folder``."""
        used: Mapping[str, Store] = stores or self.stores
        tiers = []
        for name, store in used.items():
            await store.open()
            tiers.append(NamedStore(name, store, self.live.__contains__))
        index = BlobIndex(folder)
        segments = {n: o for n, o in self.live.items() if o.type is ObjectType.INDEX}
        packs = {n: o for n, o in self.live.items() if o.type is ObjectType.PACK}
        notices = await update_index(index, self.ring, segments, tiers, lambda: packs)
        return RepositoryView(self.ring, self.live, [], tiers, index, notices)
