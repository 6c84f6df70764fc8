"""A restore that was interrupted goes on when it is run again; a full disk says so and cleans up (A13)."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.requirements import require_root
from tests.support.smallrepo import MTIME, SmallRepo, file, folder, link

from tandem_agent.engine.fetch import NamedStore
from tandem_agent.engine.plan import Limits
from tandem_agent.progress import Progress
from tandem_agent.reading import RepositoryView
from tandem_agent.restore import restore
from tandem_protocol.errors import Full
from tandem_protocol.stores.memory import MemoryStore

TINY = Limits(max_bytes=20_000, max_uses=8, merge_gap=64, max_range=5000)
NS = MTIME[0] * 10**9 + MTIME[1]


def tree(chance: random.Random) -> dict[bytes, Any]:
    return {
        b"d%d" % d: folder(
            {
                **{b"f%d" % n: file(chance.randbytes(900)) for n in range(10)},
                b"big": file(*[chance.randbytes(4000) for _ in range(5)]),
                b"s": link(b"f1"),
                b"e": file(),
            }
        )
        for d in range(5)
    }


def content(root: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in root.rglob("*")
        if p.is_file() and not p.is_symlink()
    }


async def test_complete_files_are_kept(tmp_path: Path) -> None:
    repo = SmallRepo()
    name = repo.snapshot(tree(random.Random(1)))
    view = await repo.view(str(tmp_path / "index"))
    first = await restore(view, name, str(tmp_path / "out"))
    inodes = {p: p.lstat().st_ino for p in (tmp_path / "out").rglob("*")}
    again = await restore(view, name, str(tmp_path / "out"))
    assert (again.exit_code, again.warnings) == (0, [])
    assert (again.files, again.kept, again.bytes) == (first.files, first.files, 0)
    assert {p: p.lstat().st_ino for p in (tmp_path / "out").rglob("*")} == inodes
    assert sum(again.read_from.values()) < sum(first.read_from.values()) / 3


class Stopping(MemoryStore):
    """Hangs at the given read, and says so."""

    def __init__(self, shared: dict[str, bytes], at: int) -> None:
        super().__init__(shared)
        self.left, self.reached = at, asyncio.Event()

    async def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self.left -= 1
        if self.left == 0:
            self.reached.set()
            await asyncio.Event().wait()
        return await super().read(name, offset, length)


@pytest.mark.parametrize("at", [2, 4, 9, 15, 22])
async def test_cancelled_anywhere_then_run_again(tmp_path: Path, at: int) -> None:
    repo = SmallRepo(blobs_in_frame=2)
    name = repo.snapshot(tree(random.Random(2)))
    view = await repo.view(str(tmp_path / "index"))
    store = Stopping(repo.stores["vault"].shared, at)
    await store.open()
    stopping = RepositoryView(view.ring, view.live, [], [NamedStore("v", store, lambda _: True)], view.index)
    task = asyncio.create_task(restore(stopping, name, str(tmp_path / "out"), limits=TINY))
    await store.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left = [n for _, _, names in os.walk(tmp_path / "out") for n in names]
    assert not [n for n in left if n.startswith(".tandem")]
    again = await restore(view, name, str(tmp_path / "out"), limits=TINY)
    assert (again.exit_code, again.warnings) == (0, [])
    assert again.kept == len(left)
    whole = await restore(view, name, str(tmp_path / "whole"))
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert again.files == whole.files
    for path in (tmp_path / "out").rglob("*"):
        assert path.lstat().st_mtime_ns == NS


async def test_overwrite_keeps_what_has_the_right_content_and_replaces_what_only_looks_so(
    tmp_path: Path,
) -> None:
    repo = SmallRepo()
    chunks = [b"a" * 3000, b"b" * 3000]
    name = repo.snapshot({b"same": file(*chunks), b"rot": file(*chunks), b"small": file(b"tiny", mode=0o600)})
    view = await repo.view(str(tmp_path / "index"))
    await restore(view, name, str(tmp_path / "out"))
    for file_name, data in (("rot", b"a" * 3000 + b"b" * 2999 + b"!"), ("small", b"TINY")):
        (tmp_path / "out" / file_name).write_bytes(data)
        os.utime(tmp_path / "out" / file_name, ns=(NS, NS))
    os.chmod(tmp_path / "out/same", 0o777)
    inode = (tmp_path / "out/same").stat().st_ino
    plain = await restore(view, name, str(tmp_path / "out"))
    assert (plain.kept, (tmp_path / "out/small").read_bytes()) == (3, b"TINY")
    result = await restore(view, name, str(tmp_path / "out"), overwrite=True)
    assert (result.exit_code, result.kept, result.files) == (0, 1, 3)
    assert (tmp_path / "out/rot").read_bytes() == b"".join(chunks)
    assert (tmp_path / "out/small").read_bytes() == b"tiny"
    assert (tmp_path / "out/same").stat().st_ino == inode
    assert (tmp_path / "out/same").stat().st_mode & 0o777 == 0o644


async def test_hard_links_are_made_again_where_one_is_there(tmp_path: Path) -> None:
    repo = SmallRepo()
    extras = {"l": (3, 4)}
    names = [b"a", b"b", b"c"]
    name = repo.snapshot({n: file(b"x" * 50, extras=extras) for n in names})
    view = await repo.view(str(tmp_path / "index"))
    await restore(view, name, str(tmp_path / "out"))
    assert os.stat(tmp_path / "out/a").st_nlink == 3
    os.unlink(tmp_path / "out/c")
    again = await restore(view, name, str(tmp_path / "out"))
    assert (again.exit_code, again.kept, os.stat(tmp_path / "out/a").st_nlink) == (0, 2, 3)
    os.unlink(tmp_path / "out/a")
    (tmp_path / "out/a").write_bytes(b"other")
    over = await restore(view, name, str(tmp_path / "out"), overwrite=True)
    assert over.exit_code == 0
    assert {os.stat(tmp_path / "out" / n.decode()).st_ino for n in names} == {
        os.stat(tmp_path / "out/a").st_ino
    }
    assert sorted(os.listdir(tmp_path / "out")) == ["a", "b", "c"]


@pytest.mark.parametrize("only", [[b"two/x"], [b"one/x", b"two/y"], [b"two"]])
async def test_part_of_a_hard_link_group(tmp_path: Path, only: list[bytes]) -> None:
    repo = SmallRepo()
    extras = {"l": (3, 4)}
    shared = {b"x": file(b"x" * 50, extras=extras), b"y": file(b"x" * 50, extras=extras)}
    name = repo.snapshot({b"one": folder(shared), b"two": folder(shared)})
    view = await repo.view(str(tmp_path / "index"))
    assert (await restore(view, name, str(tmp_path / "out"), paths=only)).exit_code == 0
    found = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert {p.read_bytes() for p in found} == {b"x" * 50}
    assert {p.stat().st_nlink for p in found} == {len(found)}


async def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    repo = SmallRepo()
    name = repo.snapshot(tree(random.Random(3)), bytes=145_000, files=60)
    view = await repo.view(str(tmp_path / "index"))
    progress = Progress()
    result = await restore(view, name, str(tmp_path / "out"), progress=progress)
    assert (progress.files, progress.dirs, progress.bytes_read) == (result.files, 5, 145_000)
    assert (progress.bytes_total_estimate, progress.phase) == (145_000, "done")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB and 40 inodes."""
    require_root()
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=40", "none", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def make_room(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=2m,nr_inodes=200", disk], check=True)


@pytest.mark.parametrize("what", ["bytes", "inodes", "one large file"])
async def test_full_disk(tmp_path: Path, small_disk: Path, what: str) -> None:
    """One clear line, nothing half-done left, and it goes on when there is room."""
    chance = random.Random(5)
    trees: dict[str, dict[bytes, Any]] = {
        "bytes": {b"f%02d" % n: file(chance.randbytes(20_000)) for n in range(20)},
        "inodes": {b"f%02d" % n: file(b"%d" % n) for n in range(60)},
        "one large file": {b"f": file(*[chance.randbytes(50_000) for _ in range(10)])},
    }
    repo = SmallRepo()
    name = repo.snapshot(trees[what], files=len(trees[what]))
    view = await repo.view(str(tmp_path / "index"))
    with pytest.raises(
        Full, match=f"no space left; [0-9]+ of {len(trees[what])} files are restored"
    ) as caught:
        await restore(view, name, str(small_disk), limits=TINY)
    assert "run the same command again" in caught.value.remedy
    left = os.listdir(small_disk)
    assert not [n for n in left if n.startswith(".tandem")]
    make_room(small_disk)
    again = await restore(view, name, str(small_disk))
    assert (again.exit_code, again.kept) == (0, len(left))
    assert len(os.listdir(small_disk)) == len(trees[what])
