"""Back up and restore everything that a Linux file system has (issue 3, Must show 6; A3, F1; trust.md 1 to 8,
57, 59, 60): the real pipeline into tiers in folders, then the real restore, compared by two independent means.
"""

from __future__ import annotations

import ast
import asyncio
import os
import random
import shutil
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.comparetree import compare
from tests.support.requirements import require_program, require_root
from tests.support.smallrepo import Node, SmallRepo, file, folder
from tests.support.uglytree import make

from tandem_agent.engine.blobindex import BlobIndex
from tandem_agent.engine.filescache import FilesCache
from tandem_agent.engine.options import ScanOptions
from tandem_agent.engine.pipeline import run_backup_pipeline
from tandem_agent.engine.plan import Limits
from tandem_agent.progress import Progress
from tandem_agent.reading import NamedStore, RepositoryView
from tandem_agent.restore import restore
from tandem_protocol.errors import Unavailable
from tandem_protocol.history import LiveObject
from tandem_protocol.index import entry_of
from tandem_protocol.keys import KeyRing
from tandem_protocol.names import ObjectType, object_name, object_path
from tandem_protocol.pack import SealedPack
from tandem_protocol.snapshot import Snapshot, encode_snapshot
from tandem_protocol.stores.directory import DirectoryStore
from tandem_protocol.tree import CHAR

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
    assert rsync_says(ugly, f"{tmp_path}/out{ugly}") == (0, b"", b"")


def rsync_says(source: str, copy: str) -> tuple[int, bytes, bytes]:
    options = "-aHAXSni" if os.geteuid() == 0 else "-rlptHSni"
    words = ["rsync", options, "--delete", f"{source}/", f"{copy}/"]
    done = subprocess.run(words, capture_output=True, timeout=100, check=False)
    return done.returncode, done.stdout, done.stderr


class Dying(DirectoryStore):
    """A vault whose cable is pulled after some reads of packs."""

    left = 0

    async def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        if name.startswith("packs/"):
            self.left -= 1
            if self.left < 0:
                raise Unavailable("the vault is gone")
        return await super().read(name, offset, length)


async def test_the_vault_dies_half_way(tmp_path: Path, tiers: Tiers, ugly: str) -> None:
    """At every ninth read from the first to the last (A3)."""
    make(ugly, SEED + 2, files=40, extreme=False)
    tiers.stores["vault"] = Dying(str(tmp_path / "vault"), make_root=True)
    vault = tiers.stores["vault"]
    name = await tiers.back_up(ugly)
    vault.left = reads = 10**6
    limits = Limits(max_bytes=4 << 20, max_uses=100, merge_gap=0, max_range=1 << 20)
    await restore(tiers.view(), name, str(tmp_path / "whole"), limits=limits, durable=False)
    shutil.rmtree(tmp_path / "whole")
    reads -= vault.left
    assert reads > 12
    for alive in range(1, reads, 9):
        vault.left = alive
        result = await restore(tiers.view(), name, str(tmp_path / "out"), limits=limits, durable=False)
        assert same(ugly, tmp_path / "out") == []
        assert result.exit_code == 3
        assert result.warnings == ["tier vault failed: the vault is gone"]
        assert result.read_from["remote"] > 0
        shutil.rmtree(tmp_path / "out")


async def test_a_flipped_bit_in_any_pack_comes_from_the_other_tier(
    tmp_path: Path, tiers: Tiers, ugly: str
) -> None:
    """In the frames of each pack and at its end (F1, trust.md 13)."""
    chance = random.Random(SEED)
    make(ugly, SEED + 3, files=20, extreme=False)
    name = await tiers.back_up(ugly)
    flips = 0
    for path in tiers.packs():
        place = tmp_path / "vault" / path
        good = place.read_bytes()
        os.chmod(place, 0o600)
        for part in (3, 15):
            bad = bytearray(good)
            bad[len(good) * part // 16 + chance.randrange(len(good) // 16)] ^= 1 << chance.randrange(8)
            assert bad != good
            place.write_bytes(bad)
            flips += 1
            result = await restore(tiers.view(), name, str(tmp_path / "out"), durable=False)
            assert result.exit_code == 0, result
            assert same(ugly, tmp_path / "out") == []
            shutil.rmtree(tmp_path / "out")
        place.write_bytes(good)
    assert flips >= 4


async def test_only_one_tier_is_left(tmp_path: Path, tiers: Tiers, ugly: str) -> None:
    """Each tier alone gives everything back."""
    make(ugly, SEED + 4, files=20, extreme=False)
    name = await tiers.back_up(ugly)
    for tier in ("vault", "remote"):
        view = tiers.view()
        view.tiers = [one for one in view.tiers if one.name == tier]
        result = await restore(view, name, str(tmp_path / "out"), durable=False)
        assert (result.exit_code, list(result.read_from)) == (0, [tier])
        assert same(ugly, tmp_path / "out") == []
        shutil.rmtree(tmp_path / "out")


def as_nobody(work: Callable[[], list[str]]) -> list[str]:
    """What ``work`` gives in a process of a user who is not root."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            lines = work()
        except BaseException as error:
            lines = traceback.format_exception(error)[-3:]
        os.write(writer, repr(lines).encode()[:60_000])
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as result:
        text = result.read()
    os.waitpid(child, 0)
    found: list[str] = ast.literal_eval(text.decode())
    return found


def test_a_user_who_is_not_root(tmp_path: Path) -> None:
    """Restores all of their own; of others' files what they may, with warnings and without setuid bits."""
    require_root()
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    os.chmod(place, 0o777)
    try:
        assert as_nobody(lambda: asyncio.run(_own_files(place))) == []
        assert as_nobody(lambda: asyncio.run(_others_files(place))) == []
    finally:
        shutil.rmtree(place)


async def _own_files(place: Path) -> list[str]:
    source, folder = str(place / "source"), place / "work"
    folder.mkdir()
    made = make(source, SEED + 5, files=20, extreme=False)
    tiers = Tiers(folder)
    name = await tiers.back_up(source)
    result = await restore(tiers.view(), name, str(folder / "out"), paths=[os.fsencode(source)])
    again = await restore(tiers.view(), name, str(folder / "out"), paths=[os.fsencode(source)])
    tiers.index.close()
    return same(source, folder / "out") + made.skipped + result.warnings[1:] + [str(x) for x in again.damaged]


async def _others_files(place: Path) -> list[str]:
    repo = SmallRepo()
    name = repo.snapshot(
        {
            b"mine": file(b"1", mode=0o4755, uid=65534, gid=65534),
            b"roots": file(b"2", mode=0o6755, uid=0, gid=0),
            b"group": file(b"3", mode=0o2755, uid=65534, gid=12),
            b"dev": Node(CHAR, extras={"r": (1, 3)}),
            b"d": folder({b"x": file(b"4", uid=3)}, mode=0o500, uid=65534, gid=65534),
        }
    )
    view = await repo.view(str(place / "index"))
    result = await restore(view, name, str(place / "out"))
    modes = {n: os.stat(place / "out" / n).st_mode & 0o7777 for n in ("mine", "roots", "group", "d")}
    wrong = [] if modes == {"mine": 0o4755, "roots": 0o755, "group": 0o755, "d": 0o500} else [repr(modes)]
    if result.exit_code != 3 or (place / "out/dev").exists():
        wrong.append(repr(result))
    owner = "owner could not be set (only root may): group and 2 more"
    if sorted(result.warnings) != ["device left out (only root may make one): dev", owner]:
        wrong += result.warnings
    again = await restore(view, name, str(place / "out"), overwrite=True)
    os.chmod(place / "out/d", 0o700)
    view.index.close()
    return wrong + ([] if again.exit_code == 3 else [repr(again)])
