"""Small files written by processes of their own are the same files, with the same warnings, losses and ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import manifest
from tests.support.smallrepo import Node, SmallRepo, file, folder, link

from tandem_agent.engine import deliver
from tandem_agent.engine.writerprocesses import WriterProcesses, writer_processes
from tandem_agent.restore import RestoreResult, restore
from tandem_protocol.errors import Full, TandemError
from tandem_protocol.names import ObjectType


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], WriterProcesses]]:
    """Starts them when called, so that they have what was patched until then, and ends those before: they hold the lock
    of a target. The threads of a test runner do nothing that they could trip over."""
    monkeypatch.setattr(deliver, "_WORTH_SENDING", 1)
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    with contextlib.ExitStack() as stack:

        def start() -> WriterProcesses:
            stack.close()
            made = stack.enter_context(writer_processes())
            assert made
            return made

        yield start


def tree() -> dict[bytes, Node]:
    chance = random.Random(4)
    files = {b"f%d" % n: file(chance.randbytes(chance.randrange(1, 500))) for n in range(60)}
    odd = {
        b"mode": file(b"1", mode=0o4755),
        b"read only": file(b"2", mode=0o400),
        b"of another": file(b"3", uid=12345, gid=54321),
        b"attribute": file(b"4", extras={"x": {b"user.tandem": b"yes"}}),
        b"first": file(b"5" * 50, extras={"l": (1, 2)}),
        b"big": file(chance.randbytes(3000), b"between", chance.randbytes(2000)),
        b"empty": file(),
        b"link": link(b"f1"),
        b"\xff\xfe": file(b"no utf-8"),
    }
    below = {b"second": file(b"5" * 50, extras={"l": (1, 2)}), **files}
    return {b"d": folder({**odd, b"sub": folder(below, mode=0o500), **files})}


def run(
    repo: SmallRepo, name: bytes, tmp_path: Path, out: str, with_: WriterProcesses | None, **more: Any
) -> RestoreResult:
    async def all_() -> RestoreResult:
        index = tmp_path / f"index-{random.randbytes(4).hex()}"
        view = await repo.view(str(index))
        return await restore(view, name, str(tmp_path / out), durable=False, processes=with_, **more)

    return asyncio.run(all_())


def test_the_same_as_by_threads(tmp_path: Path, processes: Callable[[], WriterProcesses]) -> None:
    repo = SmallRepo()
    name = repo.snapshot(tree())
    by_threads = run(repo, name, tmp_path, "threads", None)
    by_processes = run(repo, name, tmp_path, "processes", processes())
    assert (
        manifest.differences(manifest.take(str(tmp_path / "threads/d")), str(tmp_path / "processes/d")) == []
    )
    for field in ("files", "bytes", "folders", "kept", "warnings", "damaged", "read_from"):
        assert getattr(by_processes, field) == getattr(by_threads, field)
    out = tmp_path / "processes/d"
    assert (out / "first").stat().st_ino == (out / "sub/second").stat().st_ino


def test_they_do_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: Callable[[], WriterProcesses]
) -> None:
    parent, rename = os.getpid(), os.rename

    def spied(source: Any, target: Any, **more: Any) -> None:
        assert os.getpid() != parent or target in (b"big", b"empty", b"link")
        rename(source, target, **more)

    monkeypatch.setattr(os, "rename", spied)
    repo = SmallRepo(blobs_in_frame=1)
    result = run(repo, repo.snapshot(tree()), tmp_path, "out", processes())
    assert (result.exit_code, result.files) == (0, 130)


@pytest.mark.parametrize("tiers", [("vault",), ("vault", "remote")])
def test_damage_is_told(
    tmp_path: Path, processes: Callable[[], WriterProcesses], tiers: tuple[str, ...]
) -> None:
    repo = SmallRepo(tiers, blobs_in_frame=7)
    name = repo.snapshot(tree())
    largest = max(repo.paths(ObjectType.PACK), key=lambda p: len(repo.stores["vault"].shared[p]))
    repo.damage("vault", largest, 400)
    result = run(repo, name, tmp_path, "out", processes())
    assert [damage.tier for damage in result.damage] == ["vault"]
    names = {path.name for path in (tmp_path / "out/d").iterdir()}
    if len(tiers) == 2:
        assert (result.exit_code, result.files) == (0, 130)
    else:
        assert result.exit_code == 6
        assert result.damaged
        assert not names & {os.path.basename(os.fsdecode(lost.path)) for lost in result.damaged}
        assert result.files == 130 - len(result.damaged)


def test_what_is_there_stays_and_is_told(tmp_path: Path, processes: Callable[[], WriterProcesses]) -> None:
    repo = SmallRepo()
    name = repo.snapshot(tree())
    for out in ("threads", "processes"):
        (tmp_path / out / "d").mkdir(parents=True)
        (tmp_path / out / "d" / "f7").write_text("mine")
    by_threads = run(repo, name, tmp_path, "threads", None)
    made = processes()
    by_processes = run(repo, name, tmp_path, "processes", made)
    assert by_processes.warnings == by_threads.warnings
    assert (tmp_path / "processes/d/f7").read_text() == "mine"


def test_a_file_that_cannot_be_written_and_its_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: Callable[[], WriterProcesses]
) -> None:
    rename = os.rename

    def failing(source: Any, target: Any, **more: Any) -> None:
        if target == b"first":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target, **more)

    monkeypatch.setattr(os, "rename", failing)
    repo = SmallRepo()
    result = run(repo, repo.snapshot(tree()), tmp_path, "out", processes())
    assert result.warnings == [
        "could not be written (Input/output error): d/first",
        "hard link of a file that was not restored: d/sub/second",
    ]
    assert result.files == 128


@pytest.mark.parametrize("how", ["full", "bug", "killed"])
def test_what_ends_the_restore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: Callable[[], WriterProcesses], how: str
) -> None:
    parent, pwrite = os.getpid(), os.pwrite
    left = 20

    def failing(fd: int, data: Any, at: int) -> int:
        nonlocal left
        left -= os.getpid() != parent
        if left == 0:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, "no room") if how == "full" else ValueError("a bug")
        return pwrite(fd, data, at)

    monkeypatch.setattr(os, "pwrite", failing)
    repo = SmallRepo()
    name = repo.snapshot(tree(), files=130)
    expected = {"full": Full, "bug": RuntimeError, "killed": TandemError}[how]
    with pytest.raises(expected, match={"full": "no space left; ", "bug": "a bug", "killed": "again"}[how]):
        run(repo, name, tmp_path, "out", processes())
    monkeypatch.setattr(os, "pwrite", pwrite)
    anew = processes()
    if how != "killed":
        assert not list((tmp_path / "out").rglob(".tandem-part-*"))
    result = run(repo, name, tmp_path, "out", anew)
    assert (result.exit_code, result.files) == (0, 130)
    assert not list((tmp_path / "out").rglob(".tandem-part-*"))


@pytest.mark.parametrize("number", [1, 2])
def test_those_that_have_ended_before_are_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: Callable[[], WriterProcesses], number: int
) -> None:
    fork, pids = os.fork, []

    def noted() -> int:
        pids.append(fork())
        return pids[-1]

    monkeypatch.setattr(os, "fork", noted)
    made = processes()
    for pid in pids[:number]:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    repo = SmallRepo()
    result = run(repo, repo.snapshot(tree()), tmp_path, "out", made)
    assert (result.exit_code, result.files) == (0, 130)


def test_they_end_with_whoever_started_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    pids = []
    fork = os.fork

    def noted() -> int:
        pids.append(fork())
        return pids[-1]

    monkeypatch.setattr(os, "fork", noted)
    with writer_processes():
        assert len(pids) == 2
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_none_beside_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    with writer_processes() as made:
        assert not made


def test_none_where_the_system_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> int:
        raise OSError(errno.EAGAIN, "no process")

    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(os, "fork", none)
    with writer_processes() as made:
        assert not made
