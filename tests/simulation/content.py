"""What is backed up, and whether it can be had again: files of a few blocks, in the real formats.

`inline_pipeline` stands in for the engine's, which is made of threads: it cuts, deduplicates, seals and hands over
packs in the same way, of small files that it is given. `Catalogue` knows from the bytes alone which blocks each
pack has and which packs each segment names; nothing of the agent's own books is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.machines import PROCESS, Files

from tandem_agent.engine.pipeline import PipelineResult
from tandem_protocol.envelope import DocType
from tandem_protocol.index import decode_segment
from tandem_protocol.keys import KeyRing
from tandem_protocol.names import ObjectType, object_name, object_path
from tandem_protocol.pack import PackBuilder, SealedPack, read_trailer
from tandem_protocol.seal import content_id
from tandem_protocol.tree import FILE, PageBuilder

CAPACITY = 16 << 10


@dataclass(eq=False)
class Made:
    """An attempt at a backup: what was in it, which blocks it needs, and the ``root`` among them. Another attempt at
    the same backup may have had other files. ``acked``: when each tier was said to have it (line of the trace)."""

    id: str
    files: Files
    root: bytes
    blocks: set[bytes]
    snapshot: bytes | None = None
    acked: dict[str, int] = field(default_factory=dict)
    pruned: bool = False


def _pack(ring: KeyRing, kind: DocType, blocks: list[tuple[bytes, bytes]]) -> SealedPack:
    builder = PackBuilder(ring, ring.repository_id, kind, capacity=CAPACITY)
    builder.add_frame(
        [data for _, data in blocks], b"".join(i for i, _ in blocks), [len(d) for _, d in blocks]
    )
    return builder.finish()


def _page(ring: KeyRing, files: Files) -> tuple[bytes, bytes]:
    """(id, bytes) of the page of the one folder."""
    builder = PageBuilder(lambda _: "anna", lambda _: "anna")
    key = ring.content_id_key[1]
    for name, blocks in sorted(files.items()):
        content = b"".join(content_id(key, block) for block in blocks)
        assert builder.add((FILE, name, 0o644, 1, 1, 1, 0, sum(map(len, blocks)), content, None)) is None
    page = builder.finish()
    assert page is not None
    return content_id(key, page), page


async def inline_pipeline(
    *,
    ring: KeyRing,
    known: Callable[[bytes], bool],
    sink: Callable[[SealedPack], Awaitable[None]],
    **_more: Any,
) -> PipelineResult:
    """`run_backup_pipeline` of the files of the machine that this process runs on."""
    process = PROCESS.get()
    files = {name: list(blocks) for name, blocks in process.machine.files.items()}
    wanted = {
        content_id(ring.content_id_key[1], block): block for name in sorted(files) for block in files[name]
    }
    page_id, page = _page(ring, files)
    process.scanned(files, page_id, {*wanted, page_id})
    waiting: list[tuple[bytes, bytes]] = []
    for block_id, block in wanted.items():
        if not known(block_id):
            waiting.append((block_id, block))
        if len(waiting) == 2:
            await sink(_pack(ring, DocType.DATA_PACK, waiting))
            waiting = []
            await asyncio.sleep(process.scan_s)
    if waiting:
        await sink(_pack(ring, DocType.DATA_PACK, waiting))
    if not known(page_id):
        await sink(_pack(ring, DocType.TREE_PACK, [(page_id, page)]))
    size = sum(map(len, wanted.values()))
    return PipelineResult(page_id, {"files": len(files), "others": 0, "bytes": size, "bytes_read": size}, [])


class Catalogue:
    """What each object is, learnt from its bytes. Objects that do not decode have nothing."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring
        self._blocks: dict[str, frozenset[bytes]] = {}
        self._named: dict[str, frozenset[bytes]] = {}

    def good(self, shared: Mapping[str, bytes], kind: ObjectType, name: bytes) -> bool:
        data = shared.get(object_path(kind, name))
        return data is not None and object_name(data) == name

    def _packs(self, shared: Mapping[str, bytes]) -> Iterable[tuple[str, frozenset[bytes]]]:
        for path, data in shared.items():
            if path.startswith("packs/") and _is_good(path, data):
                if path not in self._blocks:
                    frames = read_trailer(self._ring, data, len(data)).frames
                    self._blocks[path] = frozenset(
                        frame.ids[at : at + 32] for frame in frames for at in range(0, len(frame.ids), 32)
                    )
                yield path, self._blocks[path]

    def _segments(self, shared: Mapping[str, bytes]) -> Iterable[tuple[str, frozenset[bytes]]]:
        for path, data in shared.items():
            if path.startswith("index/") and _is_good(path, data):
                if path not in self._named:
                    entries = decode_segment(self._ring, data)
                    self._named[path] = frozenset(entry.name for entry in entries)
                yield path, self._named[path]

    def having(self, shared: Mapping[str, bytes], blocks: set[bytes]) -> set[str]:
        """Paths of the packs that have any of ``blocks`` and of the segments that name one of those."""
        packs = {path for path, has in self._packs(shared) if has & blocks}
        names = {bytes.fromhex(path[-64:]) for path in packs}
        return packs | {path for path, named in self._segments(shared) if named & names}

    def lost(self, shared: Mapping[str, bytes], made: Made) -> str:
        """Why ``made`` cannot be restored from what is in ``shared``; "" if it can."""
        if made.snapshot is None or not self.good(shared, ObjectType.SNAPSHOT, made.snapshot):
            return "its snapshot is not there"
        named: set[bytes] = set()
        for _, names in self._segments(shared):
            named |= names
        there: set[bytes] = set()
        for path, has in self._packs(shared):
            if bytes.fromhex(path[-64:]) in named:
                there |= has
        missing = made.blocks - there
        return f"{len(missing)} of its {len(made.blocks)} blocks are not there" if missing else ""


_GOOD: dict[tuple[str, int], bytes] = {}


def _is_good(path: str, data: bytes) -> bool:
    """Whether an object's bytes are what its name says; the same bytes object is hashed once."""
    key = (path, id(data))
    if _GOOD.get(key) is data:
        return True
    if len(_GOOD) > 20_000:
        _GOOD.clear()
    if object_name(data).hex() != path[-64:]:
        return False
    _GOOD[key] = data
    return True
