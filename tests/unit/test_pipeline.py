"""The data path as a whole: large folders and files, memory, errors, cancelling, back-pressure (issue 3; B1)."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
import tracemalloc
from pathlib import Path

import pytest
from tests.support.enginerun import EngineRepo

from tandem_agent.engine import packer, treebuilder
from tandem_agent.engine.options import ScanOptions
from tandem_protocol.errors import Full, Usage
from tandem_protocol.pack import SealedPack

ABOVE = 8
"""Pages of the folders above the source may change at any time: others work in them too."""


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineRepo:
    """Files are old enough for the cache at once: the scanner's clock runs ten seconds ahead."""
    (tmp_path / "own").mkdir()
    real = time.time_ns
    monkeypatch.setattr("tandem_agent.engine.scan.time.time_ns", lambda: real() + 10_000_000_000)
    return EngineRepo(tmp_path / "own")


@pytest.fixture
def src(tmp_path: Path) -> Path:
    made = tmp_path / "src"
    made.mkdir()
    return made


def make_names(folder: Path, count: int) -> list[bytes]:
    names = [b"%08x.name" % (i * 2654435761 % 2**32) for i in range(count)]
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.close(os.open(b"one", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        for i, name in enumerate(names):
            if i % 30_000 == 0:
                os.close(os.open(b"one%d" % i, os.O_CREAT | os.O_WRONLY, dir_fd=fd))
            os.symlink(b"target", name, dir_fd=fd)
    finally:
        os.close(fd)
    return names


async def test_a_folder_of_very_many_names(repo: EngineRepo, src: Path) -> None:
    """Its pages leave one by one; one more name changes few of them; unchanged, none is made."""
    names = make_names(src, 60_000)
    tracemalloc.start()
    first = await repo.run(src)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30_000_000, f"{peak:,} bytes for 60,000 names"
    tree = repo.tree(first, src)
    assert len(tree) == len(names) + 3 and list(tree) == sorted(tree)
    second = await repo.run(src)
    assert repo.pages(second, src) == repo.pages(first, src) and second.stats["blobs"] <= ABOVE
    os.symlink("target", src / "80000000.new")
    third = await repo.run(src)
    assert len(repo.pages(third, src)) >= 5 * 32 and third.stats["blobs"] <= 3 + ABOVE
    assert len(repo.tree(third, src)) == len(tree) + 1
    for name in names[:20_000]:
        os.unlink(os.fsencode(src) + b"/" + name)
    fourth = await repo.run(src)
    assert len(repo.tree(fourth, src)) == len(tree) + 1 - 20_000
    os.unlink(repo.folder / "files.sqlite")
    assert repo.pages(await repo.run(src), src) == repo.pages(fourth, src)


async def test_lists_of_ids_that_are_stored_themselves(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of many chunks and a folder of many pages, with the limit put down to 3 ids."""
    monkeypatch.setattr(treebuilder, "MAX_IDS", 3)
    (src / "large").write_bytes(random.Random(1).randbytes(12 << 20))
    (src / "folder").mkdir()
    make_names(src / "folder", 12_000)
    first = await repo.run(src)
    tree = repo.tree(first, src)
    assert tree[b"large"].extras["indirect"] == tree[b"folder"].extras["indirect"] == 1
    assert tree[b"large"].data == (src / "large").read_bytes() and len(tree) == 12_004
    (src / "beside").write_bytes(b"x")
    second = await repo.run(src)
    assert second.stats["files_read"] == 1
    assert repo.tree(second, src)[b"folder"] == tree[b"folder"]
    for name in os.listdir(src / "folder"):
        os.unlink(src / "folder" / name)
    third = await repo.run(src)
    assert repo.tree(third, src)[b"folder"].extras == {}


async def test_changes_far_below_reach_the_root(repo: EngineRepo, src: Path) -> None:
    deep = src / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"1")
    (src / "a" / "other").write_bytes(b"o")
    first = await repo.run(src)
    (deep / "file").write_bytes(b"22")
    second = await repo.run(src)
    assert second.stats["files_read"] == 1 and repo.pages(second, src) != repo.pages(first, src)
    assert repo.tree(second, src)[b"a/b/c/file"].data == b"22"
    (deep / "file").write_bytes(b"1")
    assert repo.tree(await repo.run(src), src)[b"a/other"].data == b"o"


@pytest.mark.parametrize("seed", range(4))
async def test_random_changes_round_after_round(repo: EngineRepo, src: Path, seed: int) -> None:
    """What is backed up is what is there, whatever the cache holds; and equals a backup without a cache."""
    rng = random.Random(seed)
    for _ in range(8):
        change(rng, src)
        result = await repo.run(src)
        found = {path: seen.data for path, seen in repo.tree(result, src).items()}
        assert found == on_disk(src) and result.warnings == []
    os.unlink(repo.folder / "files.sqlite")
    assert repo.pages(await repo.run(src), src) == repo.pages(result, src)


def change(rng: random.Random, src: Path) -> None:
    for _ in range(15):
        folders = [Path(path) for path, _, _ in os.walk(src)]
        files = [Path(path) / name for path, _, names in os.walk(src) for name in names]
        what = rng.randrange(6)
        target = rng.choice(folders) / f"n{rng.randrange(1000)}"
        if what <= 1:
            if not target.exists():
                target.write_bytes(rng.randbytes(rng.choice([0, 10, 5000, 200_000, 1_500_000])))
        elif what == 2:
            target.mkdir(exist_ok=True) if not target.is_file() else None
        elif what == 3 and files:
            rng.choice(files).unlink()
        elif what == 4 and files:
            rng.choice(files).write_bytes(rng.randbytes(rng.randrange(3000)))
        elif files and not target.exists():
            os.rename(rng.choice(files), target)


def on_disk(src: Path) -> dict[bytes, bytes]:
    found = {}
    for folder, folders, files in os.walk(src):
        for name in folders:
            found[os.fsencode(os.path.relpath(os.path.join(folder, name), src))] = b""
        for name in files:
            path = Path(folder) / name
            found[os.fsencode(os.path.relpath(path, src))] = path.read_bytes()
    return found


def threads_left() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "_thread" in thread.name]


def fill(src: Path, megabytes: int) -> None:
    for i in range(megabytes):
        (src / f"f{i}").write_bytes(random.Random(i).randbytes(1 << 20))
        (src / f"s{i}").write_bytes(random.Random(-i).randbytes(5000))


async def test_an_error_of_the_sink_ends_the_run_once(repo: EngineRepo, src: Path) -> None:
    fill(src, 80)

    async def full(pack: SealedPack) -> None:
        raise Full("no space on the vault", "make room")

    repo.take = full  # type: ignore[method-assign]  # a sink that fails
    with pytest.raises(Full, match="no space on the vault"):
        await repo.run(src)
    assert threads_left() == []


@pytest.mark.parametrize("where", ["known", "scan", "worker"])
async def test_an_error_in_a_thread_ends_the_run(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    fill(src, 20)

    def broken(*_: object) -> bool:
        raise RuntimeError("a bug")

    if where == "known":
        repo.has = broken
    elif where == "scan":
        monkeypatch.setattr("tandem_agent.engine.options.LeftOut.name", broken)
    else:
        monkeypatch.setattr(packer, "prepare_frame", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        await repo.run(src, options=ScanOptions(excludes=("nothing",)))
    assert threads_left() == []


async def test_a_bad_pattern_is_told_before_anything_starts(repo: EngineRepo, src: Path) -> None:
    with pytest.raises(Usage):
        await repo.run(src, options=ScanOptions(excludes=("!",)))
    assert threads_left() == []


async def test_cancelling_stops_the_threads_at_once(repo: EngineRepo, src: Path) -> None:
    fill(src, 150)
    reached = asyncio.Event()

    async def slow(pack: SealedPack) -> None:
        reached.set()
        await asyncio.Event().wait()

    repo.take = slow  # type: ignore[method-assign]  # a sink that hangs
    running = asyncio.create_task(repo.run(src))
    await reached.wait()
    began = time.monotonic()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert time.monotonic() - began < 1.5 and threads_left() == []


async def test_memory_for_packs_is_fixed(repo: EngineRepo, src: Path) -> None:
    """However many packs are made, they are made in the same few buffers, which a slow sink keeps waiting."""
    for i in range(230):
        (src / f"f{i}").write_bytes(random.Random(i).randbytes(1 << 20))
    buffers: list[object] = []
    real = EngineRepo.take

    async def sink(pack: SealedPack) -> None:
        assert isinstance(pack.buffer, memoryview)
        if not any(pack.buffer.obj is known for known in buffers):
            buffers.append(pack.buffer.obj)
        await real(repo, pack)

    repo.take = sink  # type: ignore[method-assign]  # a sink that looks at the buffers
    result = await repo.run(src)
    assert len(repo.tree(result, src)) == 230 and result.stats["packs"] >= 8
    assert len(buffers) <= repo.workers + 2


async def test_progress_counts_what_was_looked_at(repo: EngineRepo, src: Path) -> None:
    fill(src, 3)
    (src / "folder").mkdir()
    result = await repo.run(src)
    assert (repo.progress.files, repo.progress.dirs) == (6, 1)
    assert repo.progress.bytes_read == result.stats["bytes"] == 3 * ((1 << 20) + 5000)
