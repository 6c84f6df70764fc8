"""Forerunners: what they see is taken where it fits, and nothing is lost where it does not (issue 5)."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import signal
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.enginerun import EngineRepo

from tandem_agent.engine import forerun, largefile, scan
from tandem_agent.engine.filereader import FileReader
from tandem_agent.engine.filescache import FilesCache
from tandem_agent.engine.forerun import Forerun, now
from tandem_agent.engine.forerunners import FORERUNNERS, FRESH_S, NICER, Forerunners, _Teller, forerunners
from tandem_agent.engine.options import ScanOptions
from tandem_agent.engine.sourcetree import outermost, source_tree
from tandem_agent.scanning import EMPTY_CACHE
from tandem_protocol.tree import SYMLINK

NEVER = 2**62
"""A time (ns) after which nothing has changed."""

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


def seen(
    *sources: Path, options: ScanOptions | None = None, among: int = 2, since: int = NEVER
) -> Forerunners:
    """What forerunners see now, without their processes."""
    pipes = []
    for number in range(among):
        told: list[bytes] = []
        walk = Forerun(options or ScanOptions(), number, among, told.append, since)
        walk.walk(outermost(source_tree([os.fsencode(source) for source in sources])))
        pipes.append(pipe_with(b"".join(told)))
    return Forerunners(pipes, since)


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


@pytest.mark.parametrize("since", [NEVER, 0])
async def test_a_folder_that_took_the_place_of_the_one_seen(repo: EngineRepo, src: Path, since: int) -> None:
    """Also one that was reached through a link put in the way: which folder it was is compared, not its path. Its
    entry is never that of the other one, which may have been open to all."""
    (src / "a" / "fresh").touch()
    await repo.run(src)
    (src / "a" / "fresh").write_bytes(b"so that this page is made anew")
    before = seen(src, since=since)
    os.rename(src / "a" / "out", src / "elsewhere")
    os.makedirs(src / "a" / "out" / "deep")
    (src / "a" / "out").chmod(0o700)
    (src / "a" / "out" / "deep" / "f").write_bytes(b"another")
    result = await repo.run(src, forerunners=before)
    tree = repo.tree(result, src)
    assert result.warnings == [] and tree[b"a/out"].entry[2] == 0o700
    assert tree[b"a/out/deep/f"].data == b"another"


@pytest.mark.parametrize("since", [NEVER, 0])
async def test_a_folder_that_took_the_place_of_one_in_an_unchanged_page(
    repo: EngineRepo, src: Path, since: int
) -> None:
    await repo.run(src)
    before = seen(src, since=since)
    os.rename(src / "a" / "out", src / "elsewhere")
    os.makedirs(src / "a" / "out" / "deep")
    (src / "a" / "out" / "deep" / "f").write_bytes(b"another")
    result = await repo.run(src, forerunners=before)
    lines = [line for line in result.warnings if "was replaced by another folder" in line]
    assert len(lines) == 1, "the folder above was seen when the old one was in it"
    again = await repo.run(src)
    assert repo.tree(again, src)[b"a/out/deep/f"].data == b"another"


@pytest.mark.parametrize("since", [NEVER, 0])
async def test_a_folder_that_is_gone_since_it_was_seen(repo: EngineRepo, src: Path, since: int) -> None:
    """It was there some seconds ago: nobody has to be told."""
    await repo.run(src)
    before = seen(src, since=since)
    shutil.rmtree(src / "a" / "out")
    result = await repo.run(src, forerunners=before)
    assert result.warnings == [] and b"a/out" not in repo.tree(result, src)


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
        if st.st_ino != other:
            return st
        return os.stat_result((*st[:2], st.st_dev + 1, *st[3:]), {"st_ctime_ns": st.st_ctime_ns})

    monkeypatch.setattr("tandem_agent.engine.forerun.os.fstat", fstat)
    a = os.stat(src / "a")
    for one_file_system in (True, False):
        there = seen(src, options=ScanOptions(one_file_system=one_file_system))
        below = os.stat(src / "a" / "c")
        assert there.seen(os.fsencode(src / "a"), a.st_dev, a.st_ino) is None
        line = there.seen(os.fsencode(src / "a" / "c"), below.st_dev, below.st_ino)
        assert (line is None) == one_file_system


@pytest.mark.parametrize("since", [NEVER, 0])
async def test_a_name_that_cannot_be_looked_at_is_looked_at_by_the_scanner(
    repo: EngineRepo, src: Path, listed: list[bytes], monkeypatch: pytest.MonkeyPatch, since: int
) -> None:
    first = await repo.run(src)
    listed.clear()
    real = os.stat

    def look(name: bytes, **more: Any) -> os.stat_result:
        if name == b"link":
            raise PermissionError(13, "no")
        return real(name, **more)

    with monkeypatch.context() as patched:
        patched.setattr(forerun.os, "stat", look)
        there = seen(src, since=since)
    result = await repo.run(src, forerunners=there)
    assert os.fsencode(src / "a") in listed and (since == 0 or len(listed) == 1)
    assert repo.pages(result, src) == repo.pages(first, src)


@pytest.mark.parametrize("length", [0, 3, 40, -7])
async def test_lines_may_end_anywhere(repo: EngineRepo, src: Path, length: int) -> None:
    first = await repo.run(src)
    told: list[bytes] = []
    Forerun(ScanOptions(), 0, 1, told.append, NEVER).walk([(os.fsencode(src), False)])
    result = await repo.run(src, forerunners=Forerunners([pipe_with(b"".join(told)[:length])]))
    assert repo.pages(result, src) == repo.pages(first, src) and result.stats["files_read"] == 0


def test_one_that_ends_in_the_padding_of_a_line() -> None:
    """Killed while it waits for room in the pipe, as it mostly does: what is there of the line is no other line."""
    there = Forerunners([pipe_with((100).to_bytes(4, "little") + bytes(50))])
    for _ in range(3):
        assert there.seen(b"/", 1, 1) is None


def test_one_that_nobody_reads_ends() -> None:
    """Where it is not killed with the backup that started it."""
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(SystemExit):
        _Teller(writing).tell(b"x" * 5000)
    os.close(writing)


def test_a_line_that_waits_goes_out_before_the_next_one_is_there() -> None:
    reading, writing = os.pipe()
    teller = _Teller(writing)
    teller.tell(b"line")
    time.sleep(0.01)
    teller.tell(b"")
    assert os.read(reading, 100) == b"line"
    os.close(reading)
    os.close(writing)


async def test_a_time_beyond_all_numbers(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems hold the year 3000; the other names are seen all the same."""
    real = os.stat

    def look(name: bytes, **more: Any) -> os.stat_result:
        st = real(name, **more)
        if name != b"f2":
            return st
        numbers = {"st_mtime_ns": 2**65, "st_ctime_ns": st.st_ctime_ns, "st_rdev": 0}
        return os.stat_result(tuple(st)[:10], numbers)

    with monkeypatch.context() as patched:
        patched.setattr(forerun.os, "stat", look)
        there = seen(src, since=0)
    assert len(walked(there, src)) == FOLDERS


async def test_one_that_says_nothing_is_not_listened_to_for_long(
    repo: EngineRepo, src: Path, listed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a line, too."""
    first = await repo.run(src)
    listed.clear()
    told: list[bytes] = []
    Forerun(ScanOptions(), 0, 1, told.append, NEVER).walk([(os.fsencode(src), False)])
    reading, writing = os.pipe()
    lines = list(filter(None, told))
    os.write(writing, lines[0] + lines[1][:10])
    monkeypatch.setattr("tandem_agent.engine.forerunners.PATIENCE_S", 0.01)
    result = await repo.run(src, forerunners=Forerunners([reading]))
    assert len(listed) == FOLDERS - 1
    assert repo.pages(result, src) == repo.pages(first, src)
    os.close(reading)
    os.close(writing)


def looked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The names in folders that are looked at from now on."""
    found: list[bytes] = []
    real = os.stat

    def look(name: bytes, **more: Any) -> os.stat_result:
        if "dir_fd" in more:
            found.append(name)
        return real(name, **more)

    monkeypatch.setattr(scan.os, "stat", look)
    return found


@pytest.mark.parametrize("since", [NEVER, 0])
async def test_folders_of_many_names_are_seen_in_several_lines(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch, since: int
) -> None:
    (src / "many").mkdir()
    for number in range(40):
        (src / "many" / f"{number:02}").write_bytes(b"%d" % number)
    monkeypatch.setattr(forerun, "NAMES_AT_ONCE", 7)
    first = await repo.run(src)
    there = seen(src, since=since)
    names = looked(monkeypatch)
    result = await repo.run(src, forerunners=there)
    assert set(names) <= {b"link"}
    assert repo.pages(result, src) == repo.pages(first, src) and result.stats["files_read"] == 0


async def test_a_page_of_several_lines_in_which_something_changed(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that came and went after a forerunner had been there, too."""
    (src / "many").mkdir()
    for number in range(40):
        (src / "many" / f"{number:02}").write_bytes(b"%d" % number)
    monkeypatch.setattr(forerun, "NAMES_AT_ONCE", 7)
    await repo.run(src)
    (src / "many" / "20").write_bytes(b"changed")
    there = seen(src)
    (src / "many" / "13").unlink()
    (src / "many" / "13+").write_bytes(b"came since")
    (src / "many" / "99").write_bytes(b"came since")
    names = looked(monkeypatch)
    result = await repo.run(src, forerunners=there)
    assert {b"13+", b"99"} <= set(names) and b"20" not in names
    assert result.warnings == [] and result.stats["files_read"] == 3
    tree, plain = repo.tree(result, src), repo.tree(await repo.run(src), src)
    assert {name: found.data for name, found in tree.items()} == {n: found.data for n, found in plain.items()}
    assert b"many/13" not in tree and tree[b"many/20"].data == b"changed"


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch, src: Path) -> Path:
    """A folder of 40 files, of which four at most are in a page."""
    monkeypatch.setattr("tandem_protocol.tree.CUT_FROM", 150)
    monkeypatch.setattr("tandem_protocol.tree.CUT_MASK", 0)
    monkeypatch.setattr(forerun, "NAMES_AT_ONCE", 7)
    (src / "many").mkdir()
    for number in range(40):
        (src / "many" / f"{number:02}").write_bytes(b"%02d" % number)
    return src / "many"


@pytest.mark.parametrize("since", [NEVER, 0])
async def test_a_page_of_which_all_names_are_gone(
    repo: EngineRepo, src: Path, pages: Path, since: int
) -> None:
    await repo.run(src)
    for number in range(12):
        (pages / f"{number:02}").unlink()
    result = await repo.run(src, forerunners=seen(src, since=since))
    assert result.warnings == [] and repo.pages(await repo.run(src), src) == repo.pages(result, src)


async def test_what_waited_too_long_for_its_page_is_looked_at_again(
    repo: EngineRepo, src: Path, pages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is below the page before may take hours."""
    await repo.run(src)
    there = seen(src)
    for number in range(40):
        (pages / f"{number:02}").write_bytes(b"ch")
    monkeypatch.setattr(scan, "is_fresh", lambda _seconds: False)
    result = await repo.run(src, forerunners=there)
    changed = [name for name, found in repo.tree(result, src).items() if found.data == b"ch"]
    assert b"many/06" in changed and b"many/05" in changed, "of the first line and the second page"


async def test_a_file_replaced_a_moment_ago_is_read_again_the_next_time(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could change once more within the clock's grain."""
    there = seen(src, since=0)
    await asyncio.sleep(0.05)
    (src / "new").write_bytes(b"another")
    (src / "new").rename(src / "a" / "f0")
    changed = os.stat(src / "a" / "f0").st_ctime_ns
    monkeypatch.setattr("tandem_agent.engine.scan.time.time_ns", lambda: changed + scan.RACY_NS)
    result = await repo.run(src, forerunners=there)
    assert repo.tree(result, src)[b"a/f0"].data == b"another"
    again = await repo.run(src)
    assert again.stats["files_read"] == 1


async def test_what_could_change_after_it_was_seen_is_read_again_the_next_time(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system with coarse times, by a change in the same tick, while the first tier is long in coming."""
    there = seen(src, since=0)
    there.begun = os.stat(src / "a" / "f0").st_ctime_ns
    result = await repo.run(src, forerunners=there)
    again = await repo.run(src)
    assert again.stats["files_read"] == result.stats["files_read"] > 0


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


# What is new, in a first backup everything, is fetched


async def test_new_files_are_fetched_once(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ahead of the scanner, which then neither asks for them again nor looks at their names; a folder that came since
    it looks after itself."""
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
        there = seen(src, since=0)
    assert {name for name in opened if b"/" not in name} == {b"f0", b"f1", b"f2", b"f"}
    (src / "z").mkdir()
    for name in ("one", "two"):
        (src / "z" / name).write_bytes(b"came since")
    ahead: list[list[bytes]] = []
    names = looked(monkeypatch)
    monkeypatch.setattr(
        FileReader, "ahead", lambda _, folder, files: ahead.append([name for name, _ in files])
    )
    result = await repo.run(src, forerunners=there)
    assert [names for names in ahead if names] == [[b"one", b"two"]]
    assert sorted(names) == [b"fifo", b"link", b"one", b"two", b"z"]
    assert result.stats["files_read"] == result.stats["files"] == 7 * 3 + 1 + 2 + 2
    plain = await repo.run(src)
    assert repo.pages(plain, src) == repo.pages(result, src)


async def test_only_what_is_new_is_fetched(
    repo: EngineRepo, src: Path, listed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    await repo.run(src)
    listed.clear()
    os.utime(src / "a" / "c" / "f1")
    new = os.stat(src / "a" / "c" / "f1").st_ctime_ns
    opened: list[bytes] = []
    real = os.open
    with monkeypatch.context() as patched:
        patched.setattr(forerun.os, "open", lambda path, *m, **n: opened.append(path) or real(path, *m, **n))
        there = seen(src, since=new)
    assert [name for name in opened if b"/" not in name] == [b"f1"]
    names = looked(monkeypatch)
    result = await repo.run(src, forerunners=there)
    assert listed == [os.fsencode(src / "a" / "c")] and names == []
    assert result.stats["files_read"] == 1


@pytest.mark.parametrize("at_once", [1 << 30, 600])
def test_what_waits_to_be_read_fills_the_pipe(
    src: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """So that a forerunner's lead is bounded in bytes, also within a folder."""
    monkeypatch.setattr(forerun, "FETCHED_AT_ONCE", at_once)
    (src / "a" / "c" / "big").write_bytes(bytes(forerun.FETCHED - 1))
    told: list[bytes] = []
    Forerun(ScanOptions(), 0, 1, told.append, 0).walk([(os.fsencode(src / "a" / "c"), False)])
    told = list(filter(None, told))
    waiting = (forerun.FETCHED - 1 + 3 * 500) // forerun.BYTES_FOR_ONE
    assert waiting - 5 <= sum(map(len, told)) <= waiting + 2000
    assert len(told) == (1 if at_once > 600 else 3)


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
    assert seen(src, since=0).seen(os.fsencode(src), at.st_dev, at.st_ino) is not None


async def test_files_that_were_replaced_since_they_were_seen(repo: EngineRepo, src: Path) -> None:
    """As editors and databases do it all the time: what is there now is backed up, and nobody is told."""
    large = forerun.FETCHED + 5000
    (src / "large").write_bytes(bytes(large))
    (src / "soon gone").write_bytes(b"x")
    there = seen(src, since=0)
    for name, data in (("a/f0", b"another"), ("large", b"L" * large), ("a/f2", b"longer" * 100)):
        (src / "new").write_bytes(data)
        (src / "new").rename(src / name)
    (src / "a" / "f1").unlink()
    os.symlink("somewhere", src / "a" / "f1")
    (src / "a" / "link").unlink()
    (src / "a" / "link").write_bytes(b"a file now")
    result = await repo.run(src, forerunners=there)
    tree = repo.tree(result, src)
    assert tree[b"a/f0"].data == b"another" and tree[b"large"].data == b"L" * large
    assert tree[b"a/f2"].data == b"longer" * 100 and tree[b"a/link"].data == b"a file now"
    assert tree[b"a/f1"].entry[0] == SYMLINK
    assert result.warnings == []
    again = await repo.run(src)
    assert again.stats["files_read"] == 0, "what was noted is of what was read"


async def test_files_that_are_gone_since_they_were_seen(repo: EngineRepo, src: Path) -> None:
    there = seen(src, since=0)
    (src / "a" / "c" / "f0").unlink()
    (src / "a" / "c" / "f1").unlink()
    (src / "a" / "c" / "f1").mkdir()
    result = await repo.run(src, forerunners=there)
    tree = repo.tree(result, src)
    assert b"a/c/f0" not in tree and b"a/c/f1" not in tree
    assert [line.rpartition("/")[2] for line in result.warnings] == [
        "f1: was replaced by a folder while it was being backed up"
    ]
    again = await repo.run(src)
    assert b"a/c/f1" in repo.tree(again, src) and again.warnings == []


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
    with forerunners([os.fsencode(src)], ScanOptions(), NEVER) as there:
        assert len(children() - before) == FORERUNNERS
        assert len(walked(there, src)) == FOLDERS
    assert children() == before


@pytest.mark.usefixtures("alone")
def test_processes_give_way_to_the_scanner(src: Path) -> None:
    """Beside as many as there are of them it fell behind on a small machine, and then went on alone."""
    before = children()
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with forerunners([os.fsencode(src)], ScanOptions(), NEVER) as there:
        started = children() - before
        for path in (b"/nowhere/%d" % number for number in range(10 * FORERUNNERS)):
            there.seen(path, 0, 0)  # to their ends, which are after all that they have said
        given = {os.getpriority(os.PRIO_PROCESS, pid) for pid in started}
    assert len(started) == FORERUNNERS and given == {min(own + NICER, 19)}
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


@pytest.mark.usefixtures("alone")
def test_processes_that_wait_for_a_reader_end_with_the_backup(src: Path) -> None:
    """Far more than a pipe holds."""
    for number in range(3000):
        os.makedirs(src / "many" / (f"{number:05}" + "x" * 200) / ("y" * 200))
    before = children()
    with forerunners([os.fsencode(src)], ScanOptions(), NEVER) as there:
        st = os.stat(src)
        assert there.seen(os.fsencode(src), st.st_dev, st.st_ino) is not None
    assert children() == before


@pytest.mark.usefixtures("alone")
def test_processes_that_are_killed_take_only_what_they_saw_with_them(src: Path) -> None:
    before = children()
    with forerunners([os.fsencode(src)], ScanOptions(), NEVER) as there:
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
    with forerunners([os.fsencode(src)], ScanOptions(), NEVER) as there:
        assert len(children() - before) == FORERUNNERS - 1
        assert walked(there, src) == []
    assert children() == before


def test_after_a_first_backup_that_did_not_end_all_is_new(tmp_path: Path) -> None:
    cache = FilesCache(str(tmp_path / "files.sqlite"), b"owner")
    cache.discard()
    cache.close()
    assert 0 < (tmp_path / "files.sqlite").stat().st_size <= EMPTY_CACHE


def test_no_process_is_started_beside_threads(src: Path) -> None:
    """A copy of a process with threads may find locks that nobody will ever release."""
    waiting = threading.Event()
    thread = threading.Thread(target=waiting.wait)
    thread.start()
    before = children()
    try:
        with forerunners([os.fsencode(src)], ScanOptions(), NEVER) as there:
            assert children() == before and walked(there, src) == []
    finally:
        waiting.set()
        thread.join()
