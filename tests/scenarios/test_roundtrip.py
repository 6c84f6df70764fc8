"""Back up and restore everything that a Linux file system has (issue 3, Must show 6; A3, F1; trust.md 1 to 8,
57, 59, 60): the real pipeline into tiers in folders, then the real restore, compared by two independent means.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.comparetree import compare
from tests.support.requirements import require_program
from tests.support.uglytree import make

from tandem_agent.engine.blobindex import BlobIndex
from tandem_agent.engine.filescache import FilesCache
from tandem_agent.engine.pipeline import run_backup_pipeline
from tandem_agent.engine.scan import ScanOptions
from tandem_agent.progress import Progress
from tandem_agent.reading import NamedStore, RepositoryView
from tandem_agent.restore import restore
from tandem_protocol.history import LiveObject
from tandem_protocol.index import entry_of
from tandem_protocol.keys import KeyRing
from tandem_protocol.names import ObjectType, object_name, object_path
from tandem_protocol.pack import SealedPack
from tandem_protocol.snapshot import Snapshot, encode_snapshot
from tandem_protocol.stores.directory import DirectoryStore

SEED = 20261122


class Tiers:
    """Two tiers in folders, filled by the pipeline without the write protocol."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ring = KeyRing.generate(bytes(16))
        self.stores = {
            name: DirectoryStore(str(folder / name), make_root=True) for name in ("vault", "remote")
        }
        self.index = BlobIndex(str(folder / "index"))
        self.live: dict[bytes, LiveObject] = {}
        self.warnings: list[str] = []

    async def put(self, kind: ObjectType, data: bytes) -> bytes:
        name = object_name(data)
        for store in self.stores.values():
            await store.put(object_path(kind, name), data)
        self.live[name] = LiveObject(kind, name, len(data), 1)
        return name

    async def back_up(self, source: str) -> bytes:
        """The snapshot's name."""
        for store in self.stores.values():
            await store.open()

        async def sink(pack: SealedPack) -> None:
            await self.put(ObjectType.PACK, bytes(pack.data))
            self.index.add_pack(entry_of(pack, 1))

        cache = FilesCache(str(self.folder / "files.sqlite"), b"test")
        try:
            result = await run_backup_pipeline(
                sources=[os.fsencode(source)],
                options=ScanOptions(),
                ring=self.ring,
                known=self.index.known,
                cache=cache,
                trusted=lambda _: False,
                sink=sink,
                progress=Progress(),
            )
        finally:
            cache.close()
        self.warnings = result.warnings
        snapshot = Snapshot(
            bytes(16), result.root, "host", "", [os.fsencode(source)], 1, 2, stats=result.stats
        )
        return await self.put(ObjectType.SNAPSHOT, encode_snapshot(self.ring, snapshot))

    def view(self) -> RepositoryView:
        tiers = [NamedStore(name, store, self.live.__contains__) for name, store in self.stores.items()]
        return RepositoryView(self.ring, self.live, [], tiers, self.index)

    def packs(self) -> list[str]:
        return [object_path(o.type, o.name) for o in self.live.values() if o.type is ObjectType.PACK]


@pytest.fixture
def tiers(tmp_path: Path) -> Iterator[Tiers]:
    tiers = Tiers(tmp_path)
    yield tiers
    tiers.index.close()


@pytest.fixture
def ugly(tmp_path: Path) -> Iterator[str]:
    """Removed with folder descriptors: its paths are longer than the system takes."""
    source = tmp_path / "source"
    yield str(source)
    for path in (source, tmp_path / "out"):
        shutil.rmtree(os.fsencode(path), ignore_errors=True)


def same(source: str, target: Path) -> list[str]:
    return compare(source, f"{target}{source}", owners=os.geteuid() == 0)


async def test_everything_comes_back(tmp_path: Path, tiers: Tiers, ugly: str) -> None:
    made = make(ugly, SEED)
    name = await tiers.back_up(ugly)
    assert tiers.warnings == []
    result = await restore(tiers.view(), name, str(tmp_path / "out"))
    assert same(ugly, tmp_path / "out") == []
    assert (result.exit_code, result.warnings) == (0, [])
    assert result.files + result.folders >= made.entries
    assert result.read_from["remote"] == 0
    assert not tiers.view().index.damaged


async def test_rsync_sees_no_difference(tmp_path: Path, tiers: Tiers, ugly: str) -> None:
    require_program("rsync", "rsync")
    make(ugly, SEED + 1, extreme=False)
    name = await tiers.back_up(ugly)
    await restore(tiers.view(), name, str(tmp_path / "out"))
    options = ["-aHAXSni", "--delete"] if os.geteuid() == 0 else ["-rlptHSni", "--delete"]
    done = subprocess.run(
        ["rsync", *options, f"{ugly}/", f"{tmp_path}/out{ugly}/"],
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
