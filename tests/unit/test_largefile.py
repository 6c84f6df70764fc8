"""Large files are read past the page cache and ahead, and every byte is the file's (issue 5: first backups)."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from tests.support.enginerun import EngineRepo, names_of

from tandem_agent.engine import chunkreader, largefile
from tandem_agent.engine.chunkreader import WINDOW
from tandem_agent.engine.cut import Cutter
from tandem_agent.engine.largefile import SMALLEST, Helper, LargeFile
from tandem_agent.engine.linux import cached_pages
from tandem_protocol.seal import content_id

LENGTHS = [1, SMALLEST - 1, SMALLEST, SMALLEST + 1, 3 * SMALLEST + 4096, 5 * SMALLEST - 777]
CACHED = 10**9


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.fixture
def target() -> memoryview:
    return memoryview(mmap.mmap(-1, 8 << 20))


@pytest.fixture(params=[0, CACHED], ids=["from the disk", "from the cache"])
def pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """What the kernel says is in the page cache."""
    monkeypatch.setattr(largefile, "cached_pages", lambda *_: request.param)
    return int(request.param)


@contextmanager
def opened(path: Path) -> Iterator[LargeFile]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield LargeFile(fd, os.makedev(8, 1))
    finally:
        os.close(fd)


def write(path: Path, length: int) -> bytes:
    data = random.Random(length).randbytes(length)
    path.write_bytes(data)
    return data


def with_holes(path: Path, parts: dict[int, bytes]) -> None:
    with path.open("wb") as file:
        for offset, data in parts.items():
            file.seek(offset)
            file.write(data)


def is_direct(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)


@pytest.mark.usefixtures("pages")
@pytest.mark.parametrize("length", LENGTHS)
def test_every_byte_is_read(path: Path, target: memoryview, length: int) -> None:
    data = write(path, length)
    with opened(path) as file:
        assert file.read(target, [(0, length)]) == length
        assert target[:length] == data
        assert file.read(target, [(0, 3 * SMALLEST)]) == min(length, 3 * SMALLEST)  # further than it reaches
        assert file.read(target, [(length, SMALLEST)]) == 0


@pytest.mark.usefixtures("pages")
def test_pieces_follow_one_another_and_end_where_the_file_does(path: Path, target: memoryview) -> None:
    data = write(path, 4 * SMALLEST)
    odd = [(4096, 2 * SMALLEST), (0, 5), (SMALLEST, SMALLEST + 4096), (7, SMALLEST)]
    beyond = [*odd, (3 * SMALLEST, 2 * SMALLEST), (0, SMALLEST)]
    expected = b"".join(data[offset : offset + length] for offset, length in beyond[:-1])
    with opened(path) as file:
        assert file.read(target, beyond) == len(expected)
        assert target[: len(expected)] == expected


def test_what_is_in_memory_already_comes_from_there(
    path: Path, target: memoryview, pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, SMALLEST)
    asked: list[int] = []
    real = LargeFile._past_cache
    monkeypatch.setattr(LargeFile, "_past_cache", lambda *given: asked.append(given[2]) or real(*given))
    with opened(path) as file:
        assert file.read(target, [(0, SMALLEST)]) == SMALLEST
    assert asked == ([] if pages == CACHED else [0])


def test_a_file_on_no_device_is_read_through_the_cache(
    path: Path, target: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(largefile, "cached_pages", lambda *_: 0)
    data = write(path, 2 * SMALLEST)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert LargeFile(fd, os.makedev(0, 45)).read(target, [(0, 2 * SMALLEST)]) == 2 * SMALLEST
        assert target[: 2 * SMALLEST] == data and not is_direct(fd)
    finally:
        os.close(fd)


def test_a_file_system_that_refuses_is_asked_once(
    path: Path, target: memoryview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(largefile, "cached_pages", lambda *_: 0)
    data = write(path, 4 * SMALLEST)
    real, refused = os.preadv, 0

    def preadv(fd: int, views: list[memoryview], offset: int) -> int:
        nonlocal refused
        if is_direct(fd):
            refused += 1
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, views, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    with opened(path) as file:
        assert file.read(target, [(0, 2 * SMALLEST), (2 * SMALLEST, 2 * SMALLEST)]) == 4 * SMALLEST
        assert target[: 4 * SMALLEST] == data
    assert refused <= 1  # 0 where already the flag is refused


def test_a_bad_sector_is_an_error(path: Path, target: memoryview, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(largefile, "cached_pages", lambda *_: 0)
    write(path, SMALLEST)

    def preadv(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", preadv)
    with opened(path) as file, pytest.raises(OSError, match="Input/output"):
        file.read(target, [(0, SMALLEST)])


def test_pages_in_the_cache_are_counted(path: Path) -> None:
    path.write_bytes(bytes(10 * mmap.PAGESIZE + 1))
    fd = os.open(path, os.O_RDONLY)
    assert cached_pages(fd, 0, 10 * mmap.PAGESIZE + 1) == 11  # just written
    assert cached_pages(fd, 2 * mmap.PAGESIZE, 3 * mmap.PAGESIZE) == 3
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        cached_pages(fd, 0, mmap.PAGESIZE)


def test_a_helper_makes_calls_in_order_and_passes_on_what_they_raise() -> None:
    helper = Helper()
    order: list[int] = []

    def call(number: int) -> int:
        order.append(number)
        if number == 2:
            raise OSError(errno.EIO, "Input/output error")
        return number

    futures = [helper.start(partial(call, number)) for number in range(4)]
    helper.close()
    assert [future.result() for future in futures if future is not futures[2]] == [0, 1, 3]
    with pytest.raises(OSError, match="Input/output"):
        futures[2].result()
    assert order == [0, 1, 2, 3]
    assert helper._thread is not None
    helper._thread.join(5)
    assert not helper._thread.is_alive()


@pytest.fixture
def repo(tmp_path: Path) -> EngineRepo:
    (tmp_path / "own").mkdir()
    return EngineRepo(tmp_path / "own")


@pytest.fixture
def src(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    return tmp_path / "src"


@pytest.mark.parametrize("length", [WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 3 * WINDOW + 12345])
async def test_windows_do_not_move_cuts(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """The chunks are those of the whole content, whatever was read at once, also of a file with holes."""
    monkeypatch.setattr(largefile, "cached_pages", lambda *_: 0)
    data = write(src / "file", length)
    step = 700 * 4096
    with_holes(
        src / "holes", {at + at // step * SMALLEST: data[at : at + step] for at in range(0, length, step)}
    )
    result = await repo.run(src)
    tree = repo.tree(result, src)
    ids, at = b"", 0
    for chunk in Cutter(repo.ring.gear_seed()).lengths(memoryview(data), last=True):
        ids += content_id(repo.ring.content_id_key[1], data[at : at + chunk])
        at += chunk
    assert tree[b"file"].entry[8] == tree[b"holes"].entry[8] == ids
    assert tree[b"file"].data == tree[b"holes"].data == data
    assert sum(size for _, size in tree[b"holes"].extras["s"]) == length


async def test_files_that_cannot_be_read_take_no_buffer_with_them(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More bad files than there are buffers, each failing at another window: the others are all backed up."""
    for number in range(9):
        (src / f"bad{number}").write_bytes(b"bad" * (WINDOW // 2))
        (src / f"good{number}").write_bytes(random.Random(number).randbytes(200_000 * number + 130_000))
    bad, real = {os.stat(src / f"bad{number}").st_ino for number in range(9)}, os.preadv
    failing = iter(range(100))

    def preadv(fd: int, views: list[memoryview], offset: int) -> int:
        if os.fstat(fd).st_ino in bad and offset >= (next(failing) % 3 and WINDOW):
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, views, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    result = await repo.run(src)
    assert len(names_of(result.warnings, "could not be read: Input/output error")) == 9
    assert {name: seen.data for name, seen in repo.tree(result, src).items()} == {
        f"good{number}".encode(): (src / f"good{number}").read_bytes() for number in range(9)
    }


async def test_a_run_that_ends_leaves_no_thread_behind(repo: EngineRepo, src: Path) -> None:
    write(src / "file", 2 * WINDOW)

    def reading() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "tandem-reading"]

    repo.has = lambda _: (_ for _ in ()).throw(ValueError("the index is broken"))
    with pytest.raises(ValueError, match="the index is broken"):
        await repo.run(src)
    for thread in reading():
        thread.join(5)
    assert reading() == []
    repo.has = None
    await repo.run(src)
    for thread in reading():
        thread.join(5)
    assert reading() == []


def test_a_window_is_whole_pages_and_leaves_room_for_what_is_left() -> None:
    assert chunkreader.CHUNK_BUFFER == chunkreader.HEAD + WINDOW
    assert not WINDOW % largefile.ALIGNMENT and not chunkreader.HEAD % largefile.ALIGNMENT
