"""Each system call that writes into the target fails once (trust.md, fault at every I/O operation): no room ends
the restore with one clear error, any other fault is the one entry's, and nothing half-done gets a name.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.badblock import bad_blocks
from tests.support.smallrepo import Node, SmallRepo, file, folder, link

from tandem_agent.engine import deliver, target
from tandem_agent.restore import restore
from tandem_protocol.errors import Full, Refused
from tandem_protocol.names import IDENTITY, ObjectType
from tandem_protocol.stores.directory import DirectoryStore
from tandem_protocol.tree import FIFO

CALLS = ["open", "pwrite", "rename", "mkdir", "symlink", "mknod", "link", "utime", "fchmod"]


def tree() -> dict[bytes, Node]:
    chance = random.Random(9)
    linked = {"l": (1, 2)}
    return {
        b"d": folder(
            {
                b"small": file(b"1" * 100, extras=linked),
                b"big": file(chance.randbytes(300), chance.randbytes(300)),
                b"sparse": file(b"x" * 10, size=5000, extras={"s": ((100, 10),)}),
                b"empty": file(mode=0o4600),
                b"s": link(b"small"),
                b"fifo": Node(FIFO),
                b"sub": folder({b"linked": file(b"1" * 100, extras=linked)}),
            }
        )
    }


class Failing:
    """The ``at``-th call in the target fails with ``number``; ``failed`` says that it came to that."""

    def __init__(self, call: Callable[..., Any], at: int, number: int) -> None:
        self._call, self._left, self._number = call, at, number
        self.failed = False

    def __call__(self, *args: Any, **options: Any) -> Any:
        if "dir_fd" in options or "src_dir_fd" in options or isinstance(args[0], int):
            self._left -= 1
            if self._left == 0:
                self.failed = True
                raise OSError(self._number, os.strerror(self._number))
        return self._call(*args, **options)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", CALLS)
async def test_every_call_fails_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    repo = SmallRepo()
    name = repo.snapshot(tree(), files=7)
    view = await repo.view(str(tmp_path / "index"))
    whole = tmp_path / "whole"
    await restore(view, name, str(whole), durable=False)
    expected = contents(whole)
    for at in range(1, 40):
        out = tmp_path / str(at)
        failing = Failing(getattr(os, call), at, number)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                result = await restore(view, name, str(out), durable=False)
            except Full:
                assert number == errno.ENOSPC
            else:
                assert not failing.failed or result.exit_code == 3, (call, at)
        if not failing.failed:
            assert contents(out) == expected
            break
        found = contents(out)
        assert not [n for n in found if ".tandem" in n], (call, at)
        assert all(expected[n] == content for n, content in found.items()), (call, at)
        again = await restore(view, name, str(out), overwrite=True, durable=False)
        assert (again.exit_code, contents(out)) == (0, expected), (call, at, again)
    assert at > 1, f"{call} was never called: the test would prove nothing"


def contents(root: Path) -> dict[str, bytes]:
    """Of everything below, without following anything: files their bytes, others their kind."""
    found = {}
    for path in sorted(root.rglob("*")):
        plain = path.is_file() and not path.is_symlink()
        found[str(path.relative_to(root))] = (
            path.read_bytes() if plain else b"%o" % (path.lstat().st_mode >> 12)
        )
    return found


async def test_an_error_of_an_early_sync_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel tells it once, to the sync that comes first; the last one then knows of nothing."""
    asked = 0

    def failing_once(_fd: int) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(deliver, "_SYNC_EACH", 1)
    monkeypatch.setattr(target, "sync_file_system", failing_once)
    repo = SmallRepo()
    name = repo.snapshot(tree())
    view = await repo.view(str(tmp_path / "index"))
    with pytest.raises(Refused, match="durable"):
        await restore(view, name, str(tmp_path / "out"))
    assert asked == 1
    result = await restore(view, name, str(tmp_path / "again"))
    assert (result.exit_code, asked > 2) == (0, True)


async def test_nothing_is_synced_for_who_does_not_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "_SYNC_EACH", 1)
    monkeypatch.setattr(target, "sync_file_system", None)
    repo = SmallRepo()
    name = repo.snapshot(tree())
    view = await repo.view(str(tmp_path / "index"))
    assert (await restore(view, name, str(tmp_path / "out"), durable=False)).exit_code == 0


async def test_a_bad_block_of_the_only_tier_costs_what_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One place of its disk cannot be read: everything else comes back, and what does not is named."""
    repo = SmallRepo(["vault"])
    repo.snapshot({b"first": file(b"1" * 100)})
    (pack, *_) = repo.paths(ObjectType.PACK)
    name = repo.snapshot({b"first": file(b"1" * 100), b"second": file(b"2" * 100)})
    root = tmp_path / "vault"
    for path, data in {**repo.stores["vault"].shared, IDENTITY: b"identity"}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    bad_blocks(monkeypatch, [root / pack])
    view = await repo.view(str(tmp_path / "index"), {"vault": DirectoryStore(str(root))})
    result = await restore(view, name, str(tmp_path / "out"))
    assert ([lost.path for lost in result.damaged], result.exit_code) == ([b"first"], 6)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["second"]
