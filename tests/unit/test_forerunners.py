"""Forerunners: what they see is taken where it fits, and nothing is lost where it does not (issue 5)."""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.enginerun import EngineRepo

from tandem_agent.engine import forerun, largefile, scan
from tandem_agent.engine.filereader import FileReader
from tandem_agent.engine.forerun import Forerun, now
from tandem_agent.engine.forerunners import FORERUNNERS, FRESH_S, Forerunners, forerunners
from tandem_agent.engine.options import ScanOptions
from tandem_agent.engine.sourcetree import outermost, source_tree

FOLDERS = 13
"""In the tree of `src` that have something in them, the source among them."""


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineRepo:
    """A repository in which files are old enough at once: the scanner's clock runs ten seconds ahead."""
    (tmp_path / "own").mkdir()
    real = time.time_ns
    monkeypatch.setattr("tandem_agent.engine.scan.time.time_ns", lambda: real() + 10_000_000_000)
    return EngineRepo(tmp_path / "own")


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """Names that sort differently as paths and as names, and some that are no text."""
    made = os.fsencode(tmp_path / "src")
    for i, name in enumerate(
        (b"a", b"a-b", b"a/c", b"a.d/e", b"\xffz/\xfe", "\ue000é".encode(), "\U0001f600/x".encode())
    ):
        os.makedirs(made + b"/" + name, exist_ok=True)
        for k in range(3):
            with open(made + b"/" + name + b"/f%d" % k, "wb") as file:
                file.write(random.Random(10 * i + k).randbytes(500))
    os.symlink("nowhere", made + b"/a/link")
    os.makedirs(made + b"/a/out/deep")
    (tmp_path / "src" / "a" / "out" / "deep" / "f").write_bytes(b"deep")
    return tmp_path / "src"


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The folders that the scanner listed itself."""
    found: list[bytes] = []

    def names_in(fd: int) -> list[bytes]:
        found.append(os.readlink(b"/proc/self/fd/%d" % fd))
        return real(fd)

    real = scan.names_in
    monkeypatch.setattr(scan, "names_in", names_in)
    return found


def pipe_with(data: bytes) -> int:
    """A file that is read like a pipe that was written to its end."""
    pipe = os.memfd_create("pipe")
    os.write(pipe, data)
    os.lseek(pipe, 0, os.SEEK_SET)
    return pipe


def seen(*sources: Path, options: ScanOptions | None = None, among: int = 2) -> Forerunners:
    """What forerunners see now, without their processes."""
    pipes = []
    for number in range(among):
        told: list[bytes] = []
        walk = Forerun(options or ScanOptions(), number, among, told.append)
        walk.walk(outermost(source_tree([os.fsencode(source) for source in sources])))
        pipes.append(pipe_with(b"".join(told)))
    return Forerunners(pipes)


@pytest.mark.parametrize("among", [1, 2, 3])
async def test_what_did_not_change_is_not_looked_at_again(
    repo: EngineRepo, src: Path, listed: list[bytes], among: int
) -> None:
    first = await repo.run(src)
    assert len(listed) == FOLDERS
    listed.clear()
    second = await repo.run(src, forerunners=seen(src, among=among))
    assert listed == []
    assert repo.pages(second, src) == repo.pages(first, src)
    for name in ("files", "folders", "others", "bytes"):
        assert second.stats[name] == first.stats[name], name
    assert second.stats["files_read"] == 0
    third = await repo.run(src)
    assert repo.pages(third, src) == repo.pages(first, src) and third.stats["files_read"] == 0


async def test_only_folders_in_which_something_changed_are_looked_at(
    repo: EngineRepo, src: Path, listed: list[bytes]
) -> None:
    await repo.run(src)
    listed.clear()
    (src / "a" / "c" / "f1").write_bytes(b"new")
    (src / "a" / "c" / "new").mkdir()
    (src / "a" / "out" / "deep" / "f").unlink()
    result = await repo.run(src, forerunners=seen(src))
    a = os.fsencode(src / "a")
    above = [a, a + b"/out"]  # the times of the folders in them changed
    assert listed == sorted([*above, a + b"/c", a + b"/c/new", a + b"/out/deep"])
    tree = repo.tree(result, src)
    assert tree[b"a/c/f1"].data == b"new" and stat.S_ISDIR(os.stat(src / "a" / "c" / "new").st_mode)
    assert b"a/c/new" in tree and b"a/out/deep/f" not in tree and b"a/out/deep" in tree
    plain = await repo.run(src)
    assert repo.pages(plain, src) == repo.pages(result, src)


async def test_what_was_seen_long_ago_is_looked_at_again(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await repo.run(src)
    old = seen(src)
    (src / "a" / "c" / "f1").write_bytes(b"changed since")
    monkeypatch.setattr("tandem_agent.engine.forerunners.now", lambda: now() + FRESH_S)
    result = await repo.run(src, forerunners=old)
    assert repo.tree(result, src)[b"a/c/f1"].data == b"changed since"


async def test_a_folder_that_took_the_place_of_the_one_seen_is_looked_at(
    repo: EngineRepo, src: Path, listed: list[bytes]
) -> None:
    """Also one that was reached through a link put in the way: which folder it was is compared, not its path."""
    await repo.run(src)
    before = seen(src)
    os.rename(src / "a" / "out", src / "elsewhere")
    os.makedirs(src / "a" / "out" / "deep")
    (src / "a" / "out" / "deep" / "f").write_bytes(b"another")
    result = await repo.run(src, forerunners=before)
    lines = [line for line in result.warnings if "was replaced by another folder" in line]
    assert len(lines) == 1, "the folder above was seen when the old one was in it"
    again = await repo.run(src)
    assert repo.tree(again, src)[b"a/out/deep/f"].data == b"another"


async def test_forerunners_leave_out_what_the_scanner_leaves_out(
    repo: EngineRepo, src: Path, listed: list[bytes]
) -> None:
    options = ScanOptions(excludes=("f1", "/a/c/", "a-b/*"), skip=(os.fsencode(src / "a" / "out"),))
    first = await repo.run(src, options=options)
    listed.clear()
    second = await repo.run(src, options=options, forerunners=seen(src, options=options))
    assert listed == [os.fsencode(src / "a-b")], "an empty folder has no page to compare with"
    assert repo.pages(second, src) == repo.pages(first, src)
    assert set(repo.tree(second, src)) == set(repo.tree(first, src))


async def test_other_file_systems_are_not_entered_unless_asked_for(
    src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fstat
    other = os.stat(src / "a").st_ino

    def fstat(fd: int) -> os.stat_result:
        st = real(fd)
        return (
            os.stat_result((*st[:2], st.st_dev + (st.st_ino == other), *st[3:])) if st.st_ino == other else st
        )

    monkeypatch.setattr("tandem_agent.engine.forerun.os.fstat", fstat)
    a = os.stat(src / "a")
    for one_file_system in (True, False):
        there = seen(src, options=ScanOptions(one_file_system=one_file_system))
        below = os.stat(src / "a" / "c")
        assert there.seen(os.fsencode(src / "a"), a.st_dev, a.st_ino) is None
        line = there.seen(os.fsencode(src / "a" / "c"), below.st_dev, below.st_ino)
        assert (line is None) == one_file_system


async def test_of_a_folder_with_a_name_that_cannot_be_looked_at_nothing_is_said(
    repo: EngineRepo, src: Path, listed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    await repo.run(src)
    listed.clear()
    real = os.stat

    def look(name: bytes, **more: object) -> os.stat_result:
        if name == b"link":
            raise PermissionError(13, "no")
        return real(name, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(forerun.os, "stat", look)
        there = seen(src)
    await repo.run(src, forerunners=there)
    assert listed == [os.fsencode(src / "a")]


@pytest.mark.parametrize("length", [0, 3, 40, -7])
async def test_lines_may_end_anywhere(repo: EngineRepo, src: Path, length: int) -> None:
    first = await repo.run(src)
    told: list[bytes] = []
    Forerun(ScanOptions(), 0, 1, told.append).walk([(os.fsencode(src), False)])
    result = await repo.run(src, forerunners=Forerunners([pipe_with(b"".join(told)[:length])]))
    assert repo.pages(result, src) == repo.pages(first, src) and result.stats["files_read"] == 0


async def test_one_that_says_nothing_is_not_listened_to_for_long(
    repo: EngineRepo, src: Path, listed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a line, too."""
    first = await repo.run(src)
    listed.clear()
    told: list[bytes] = []
    Forerun(ScanOptions(), 0, 1, told.append).walk([(os.fsencode(src), False)])
    reading, writing = os.pipe()
    os.write(writing, told[0] + told[1][:10])
    monkeypatch.setattr("tandem_agent.engine.forerunners.PATIENCE_S", 0.01)
    result = await repo.run(src, forerunners=Forerunners([reading]))
    assert len(listed) == FOLDERS - 1
    assert repo.pages(result, src) == repo.pages(first, src)
    os.close(reading)
    os.close(writing)


async def test_folders_of_many_names_are_left_to_the_scanner(
    repo: EngineRepo, src: Path, listed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    await repo.run(src)
    listed.clear()
    monkeypatch.setattr(forerun, "MOST_NAMES", 3)
    await repo.run(src, forerunners=seen(src))
    assert set(listed) == {os.fsencode(src), os.fsencode(src / "a")}, "what is in them is seen"


async def test_folders_that_hold_none_are_listed_once(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six of them hold folders."""
    asked: list[object] = []
    real = os.scandir
    monkeypatch.setattr(forerun.os, "scandir", lambda fd: asked.append(fd) or real(fd))
    seen(src, among=3)
    assert len(asked) == 2 * 6


async def test_several_sources_one_in_another_and_the_same_again(
    repo: EngineRepo, src: Path, listed: list[bytes]
) -> None:
    sources = (src / "a-b", src / "a" / "c", src / "a", src / "a")
    first = await repo.run(*sources)
    listed.clear()
    second = await repo.run(*sources, forerunners=seen(*sources))
    assert listed == [] and repo.pages(second, src) == repo.pages(first, src)
    assert second.stats["files"] == first.stats["files"]


# A first backup: nothing to compare with, everything to read


def fetched(src: Path) -> Forerunners:
    """What forerunners of a first backup say."""
    told: list[bytes] = []
    Forerun(ScanOptions(), 0, 1, told.append, fetch=True).walk([(os.fsencode(src), False)])
    return Forerunners([pipe_with(b"".join(told))], fetching=True)


async def test_small_files_are_fetched_once(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ahead of the scanner, which then does not ask for them again; a folder that came since it looks after itself."""
    os.mkfifo(src / "a" / "fifo")
    (src / "large").write_bytes(bytes(forerun.FETCHED))
    (src / "empty").touch()
    opened: list[bytes] = []
    real = os.open

    def record(path: bytes, *more: int, **named: int) -> int:
        opened.append(path)
        return real(path, *more, **named)

    with monkeypatch.context() as patched:
        patched.setattr(forerun.os, "open", record)
        there = fetched(src)
    assert {name for name in opened if b"/" not in name} == {b"f0", b"f1", b"f2", b"f"}
    (src / "z").mkdir()
    for name in ("one", "two"):
        (src / "z" / name).write_bytes(b"came since")
    ahead: list[list[bytes]] = []
    monkeypatch.setattr(
        FileReader, "ahead", lambda _, folder, files: ahead.append([name for name, _ in files])
    )
    result = await repo.run(src, forerunners=there)
    assert [names for names in ahead if names] == [[b"one", b"two"]]
    assert result.stats["files_read"] == result.stats["files"] == 7 * 3 + 1 + 2 + 2
    plain = await repo.run(src)
    assert repo.pages(plain, src) == repo.pages(result, src)


def test_what_waits_to_be_read_fills_the_pipe(src: Path) -> None:
    """So that a forerunner's lead is bounded in bytes."""
    (src / "a" / "c" / "big").write_bytes(bytes(forerun.FETCHED - 1))
    there, at = fetched(src), os.stat(src / "a" / "c")
    line = there.seen(os.fsencode(src / "a" / "c"), at.st_dev, at.st_ino)
    assert line is not None and len(line.digest) == (forerun.FETCHED - 1 + 3 * 500) // forerun.BYTES_FOR_ONE


def test_what_cannot_be_opened_is_left_to_whoever_reads_it(
    src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(path: bytes, *more: int, **named: int) -> int:
        if path.startswith(b"f"):
            raise PermissionError(13, "no")
        return real(path, *more, **named)

    monkeypatch.setattr(forerun.os, "open", refuse)
    at = os.stat(src)
    assert fetched(src).seen(os.fsencode(src), at.st_dev, at.st_ino) is not None


def test_what_is_fetched_is_read_through_the_page_cache() -> None:
    assert forerun.FETCHED == largefile.SMALLEST


# Their processes


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a command has it: threads of other tests that wait for nothing do not count."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    return iter(())


def children() -> set[int]:
    with open(f"/proc/self/task/{threading.get_native_id()}/children") as file:
        return set(map(int, file.read().split()))


def walked(there: Forerunners, src: Path) -> list[bytes]:
    """The folders of which something was seen, in the order of a scan."""
    found = []
    for path, folders, _ in os.walk(os.fsencode(src)):
        folders.sort()
        st = os.stat(path)
        if there.seen(path, st.st_dev, st.st_ino) is not None:
            found.append(path)
    return found


@pytest.mark.usefixtures("alone")
def test_processes_see_every_folder_and_are_gone_afterwards(src: Path) -> None:
    before = children()
    with forerunners([os.fsencode(src)], ScanOptions()) as there:
        assert len(children() - before) == FORERUNNERS
        assert len(walked(there, src)) == FOLDERS
    assert children() == before


@pytest.mark.usefixtures("alone")
def test_processes_that_wait_for_a_reader_end_with_the_backup(src: Path) -> None:
    """Far more than a pipe holds."""
    for number in range(3000):
        os.makedirs(src / "many" / (f"{number:05}" + "x" * 200) / ("y" * 200))
    before = children()
    with forerunners([os.fsencode(src)], ScanOptions()) as there:
        st = os.stat(src)
        assert there.seen(os.fsencode(src), st.st_dev, st.st_ino) is not None
    assert children() == before


@pytest.mark.usefixtures("alone")
def test_processes_that_are_killed_take_only_what_they_saw_with_them(src: Path) -> None:
    before = children()
    with forerunners([os.fsencode(src)], ScanOptions()) as there:
        for pid in children() - before:
            os.kill(pid, signal.SIGKILL)
        assert len(walked(there, src)) <= FOLDERS
    assert children() == before


@pytest.mark.usefixtures("alone")
def test_none_where_the_system_does_not_give_all_of_them(src: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backup looks by itself then, at every folder."""
    before, fork = children(), os.fork
    left = iter(range(FORERUNNERS - 1))

    def few() -> int:
        if next(left, None) is None:
            raise OSError(errno.EAGAIN, "no process")
        return fork()

    monkeypatch.setattr(os, "fork", few)
    with forerunners([os.fsencode(src)], ScanOptions()) as there:
        assert len(children() - before) == FORERUNNERS - 1
        assert walked(there, src) == []
    assert children() == before


def test_no_process_is_started_beside_threads(src: Path) -> None:
    """A copy of a process with threads may find locks that nobody will ever release."""
    waiting = threading.Event()
    thread = threading.Thread(target=waiting.wait)
    thread.start()
    before = children()
    try:
        with forerunners([os.fsencode(src)], ScanOptions()) as there:
            assert children() == before and walked(there, src) == []
    finally:
        waiting.set()
        thread.join()
