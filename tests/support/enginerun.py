"""Runs the backup pipeline against packs kept in memory, and reads what it made back with the formats alone.

The real scanner, cache, packer and index; only tiers are missing. Nothing here trusts the index for reading:
blobs are found by the packs' own frames.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem_agent.engine.blobindex import BlobIndex
from tandem_agent.engine.filescache import FilesCache
from tandem_agent.engine.forerunners import Forerunners
from tandem_agent.engine.options import ScanOptions
from tandem_agent.engine.pipeline import PipelineResult, run_backup_pipeline
from tandem_agent.progress import Progress
from tandem_protocol.index import entry_of
from tandem_protocol.keys import KeyRing
from tandem_protocol.pack import SealedPack, open_frame
from tandem_protocol.seal import content_id
from tandem_protocol.tree import DIR, FILE, Entry, decode_page


@dataclass
class Seen:
    """An entry as it was read back, with its content: a file's bytes (of its data only, if sparse)."""

    entry: Entry
    data: bytes

    @property
    def kind(self) -> int:
        return self.entry[0]

    @property
    def extras(self) -> dict[str, Any]:
        """The entry's extras, all arrays as tuples."""
        return {key: _tuples(value) for key, value in (self.entry[9] or {}).items()}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


class EngineRepo:
    """What a repository is to the engine. ``folder`` takes index and files cache; ``blobs`` is every blob."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self.folder = folder
        self.workers = workers
        self.ring = KeyRing.generate(random.Random(1).randbytes(16))
        self.blobs: dict[bytes, bytes] = {}
        self.packs: list[int] = []
        self.last_packs: list[SealedPack] = []
        self.index = BlobIndex(str(folder / "index"))
        self.revision = 0
        self.trust = True
        self.has: Callable[[bytes], bool] | None = None
        self.progress = Progress()

    async def run(
        self,
        *sources: bytes | Path,
        options: ScanOptions | None = None,
        commit: bool = True,
        forerunners: Forerunners | None = None,
    ) -> PipelineResult:
        """One backup. The cache is opened for it and closed after it, as a command does."""
        cache = FilesCache(str(self.folder / "files.sqlite"), self.ring.repository_id)
        self.last_packs = []
        try:
            result = await run_backup_pipeline(
                sources=[os.fsencode(source) for source in sources],
                options=options or ScanOptions(),
                ring=self.ring,
                known=self.has or self.index.known,
                cache=cache,
                trusted=lambda revision: self.trust and revision <= self.revision,
                sink=self.take,
                progress=self.progress,
                workers=self.workers,
                forerunners=forerunners,
            )
            self.revision += 1
            if commit:
                cache.commit(self.revision)
            return result
        finally:
            cache.close()

    async def take(self, pack: SealedPack) -> None:
        """The sink: opens every frame at once, since the pack's buffer is used again."""
        for frame in pack.frames:
            sealed = bytes(pack.data[frame.offset : frame.offset + frame.sealed_length])
            raw = open_frame(self.ring, pack.kind, pack.key_number, frame, sealed)
            at = 0
            for i, length in enumerate(frame.lengths):
                name = frame.ids[32 * i : 32 * i + 32]
                blob = raw[at : at + length]
                assert content_id(self.ring.content_id_key[1], blob) == name
                self.blobs[name] = blob
                at += length
        self.packs.append(len(pack.data))
        self.last_packs.append(pack)
        self.index.add_pack(entry_of(pack, self.revision + 1))

    def join(self, content: bytes, indirect: bool = False) -> list[bytes]:
        """The blobs that a content names."""
        blobs = [self.blobs[content[at : at + 32]] for at in range(0, len(content), 32)]
        return self.join(b"".join(blobs)) if indirect else blobs

    def walk(self, root: bytes, path: bytes = b"") -> Iterator[tuple[bytes, Seen]]:
        """(path, what was found) of everything below the root, depth first."""
        for page in self.join(root):
            for entry in decode_page(page).entries:
                below = path + b"/" + entry[1]
                indirect = bool(entry[9] and "indirect" in entry[9])
                data = b"".join(self.join(entry[8], indirect)) if entry[0] == FILE else b""
                yield below, Seen(entry, data)
                if entry[0] == DIR:
                    pages = b"".join(self.join(entry[8])) if indirect else entry[8]
                    yield from self.walk(pages, below)

    def pages(self, result: PipelineResult, path: bytes | Path) -> bytes:
        """Ids of the pages of a folder: equal if everything in and below it is. The root's are not, since the
        folders above a source carry their real times."""
        content = result.root
        for name in os.fsencode(path).strip(b"/").split(b"/"):
            entries = [entry for page in self.join(content) for entry in decode_page(page).entries]
            content = next(entry[8] for entry in entries if entry[1] == name)
        return content

    def tree(self, result: PipelineResult, below: bytes | Path = b"") -> dict[bytes, Seen]:
        """What was backed up below a path, by path relative to it."""
        prefix = os.fsencode(below)
        found = dict(self.walk(result.root))
        return {
            path[len(prefix) + 1 :]: seen for path, seen in found.items() if path.startswith(prefix + b"/")
        }


def names_of(warnings: Sequence[str], part: str) -> list[str]:
    """The warnings that contain ``part``."""
    return [line for line in warnings if part in line]
