"""A restore stays in its target and respects what is there (trust.md 3, 57, 59, 60), whatever the tree says."""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import stat
from pathlib import Path
from typing import Any

import pytest
from tests.support.requirements import require_root
from tests.support.smallrepo import MTIME, Node, SmallRepo, file, folder, link

from tandem_agent.restore import RestoreResult, restore
from tandem_protocol.errors import Busy, Missing, Refused, Usage
from tandem_protocol.tree import BLOCK, CHAR, FIFO, SOCKET

NS = MTIME[0] * 10**9 + MTIME[1]


async def restored(tmp_path: Path, children: dict[bytes, Node], **options: Any) -> RestoreResult:
    repo = SmallRepo()
    name = repo.snapshot(children)
    view = await repo.view(str(tmp_path / "index"))
    try:
        return await restore(view, name, str(tmp_path / "out"), **options)
    finally:
        view.index.close()


def below(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the target that must stay as it is."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("mine")
    (tmp_path / "out").mkdir()
    return outside


@pytest.mark.parametrize("overwrite", [False, True])
async def test_planted_symlinks_to_folders_are_not_followed(
    tmp_path: Path, outside: Path, overwrite: bool
) -> None:
    os.symlink(outside, tmp_path / "out/d")
    tree = {b"d": folder({b"keep": file(b"theirs"), b"sub": folder({b"x": file(b"1")})}), b"e": file(b"2")}
    result = await restored(tmp_path, tree, overwrite=overwrite)
    assert below(outside) == ["keep"]
    assert (outside / "keep").read_text() == "mine"
    assert (tmp_path / "out/e").read_bytes() == b"2"
    if overwrite:
        assert (result.exit_code, (tmp_path / "out/d/keep").read_bytes()) == (0, b"theirs")
        assert not (tmp_path / "out/d").is_symlink()
    else:
        assert result.exit_code == 3
        assert result.warnings == ["something else has the name of a folder, left out with all below it: d"]


@pytest.mark.parametrize("overwrite", [False, True])
async def test_planted_symlinks_to_files_are_not_written_through(
    tmp_path: Path, outside: Path, overwrite: bool
) -> None:
    for name in ("f", "big", "empty", "fifo", "link"):
        os.symlink(outside / "keep", tmp_path / "out" / name)
    tree = {
        b"f": file(b"theirs"),
        b"big": file(b"a" * 10, b"b" * 10),
        b"empty": file(),
        b"fifo": Node(FIFO),
        b"link": link(b"nowhere"),
    }
    result = await restored(tmp_path, tree, overwrite=overwrite)
    assert (outside / "keep").read_text() == "mine"
    assert below(outside) == ["keep"]
    if overwrite:
        assert (tmp_path / "out/f").read_bytes() == b"theirs"
        assert (tmp_path / "out/big").read_bytes() == b"a" * 10 + b"b" * 10
        assert os.readlink(tmp_path / "out/link") == "nowhere"
        assert stat.S_ISFIFO(os.lstat(tmp_path / "out/fifo").st_mode)
    else:
        assert result.warnings == ["is there already, not overwritten: big and 4 more"]
        assert os.readlink(tmp_path / "out/f") == str(outside / "keep")


async def test_a_symlink_of_the_tree_is_not_followed_by_the_tree(tmp_path: Path, outside: Path) -> None:
    """A folder on one page and a symlink of its name on another cannot be told by one honest scan."""
    repo = SmallRepo()
    first = repo.tree({b"x": link(os.fsencode(outside))})
    second = repo.tree({b"x": folder({b"planted": file(b"1")})})
    name = repo.snapshot(first + second)
    view = await repo.view(str(tmp_path / "index"))
    result = await restore(view, name, str(tmp_path / "out"))
    assert result.exit_code == 6
    assert below(outside) == ["keep"]


async def test_the_target_itself_may_be_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    os.symlink("real", tmp_path / "out")
    await restored(tmp_path, {b"f": file(b"1")})
    assert (tmp_path / "real/f").read_bytes() == b"1"


async def test_existing_files_are_left_alone(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "out/f").write_text("my own")
    (tmp_path / "out/d").mkdir()
    (tmp_path / "out/d/other").write_text("stays")
    result = await restored(tmp_path, {b"f": file(b"theirs"), b"d": folder({b"g": file(b"1")})})
    assert (tmp_path / "out/f").read_text() == "my own"
    assert (tmp_path / "out/d/g").read_bytes() == b"1"
    assert (tmp_path / "out/d/other").read_text() == "stays"
    assert (result.exit_code, result.warnings) == (3, ["is there already, not overwritten: f"])


async def test_overwrite_replaces_files_but_never_a_folder_by_a_file(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "out/f").write_text("my own")
    (tmp_path / "out/d").mkdir()
    (tmp_path / "out/d/other").write_text("stays")
    result = await restored(tmp_path, {b"f": file(b"theirs"), b"d": file(b"a file")}, overwrite=True)
    assert (tmp_path / "out/f").read_bytes() == b"theirs"
    assert (tmp_path / "out/d/other").read_text() == "stays"
    assert result.exit_code == 3
    assert result.warnings == ["could not be written (Is a directory): d"]
    assert below(tmp_path / "out") == ["d", "d/other", "f"]


async def test_overwrite_replaces_the_name_not_the_inode(tmp_path: Path, outside: Path) -> None:
    """Another hard link of the file that is replaced keeps its content."""
    os.link(outside / "keep", tmp_path / "out/f")
    await restored(tmp_path, {b"f": file(b"theirs")}, overwrite=True)
    assert (outside / "keep").read_text() == "mine"
    assert (tmp_path / "out/f").read_bytes() == b"theirs"


async def test_selection(tmp_path: Path) -> None:
    tree = {b"a": folder({b"x": file(b"1"), b"y": folder({b"z": file(b"2")})}, mode=0o750), b"b": file(b"3")}
    result = await restored(tmp_path, tree, paths=[b"/a/y/", b"b"])
    assert below(tmp_path / "out") == ["a", "a/y", "a/y/z", "b"]
    assert (tmp_path / "out/a").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "out/a").stat().st_mtime_ns == NS
    assert result.files == 2


async def test_a_folder_only_passed_through_keeps_its_own_metadata(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "out/a").mkdir(mode=0o711)
    os.utime(tmp_path / "out/a", ns=(5, 5))
    await restored(tmp_path, {b"a": folder({b"x": file(b"1")}, mode=0o750)}, paths=[b"a/x"])
    assert (tmp_path / "out/a").stat().st_mode & 0o777 == 0o711


async def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="not in this backup: /nope"):
        await restored(tmp_path, {b"a": file(b"1")}, paths=[b"a", b"/nope"])
    assert below(tmp_path / "out") == []
    with pytest.raises(Usage):
        await restored(tmp_path, {b"a": file(b"1")}, paths=[b"../a"])


async def test_targets_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(Refused, match="not a folder"):
        await restored(tmp_path, {b"a": file(b"1")})
    os.unlink(tmp_path / "out")
    (tmp_path / "out").mkdir()
    fd = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(Busy, match="another restore"):
        await restored(tmp_path, {b"a": file(b"1")})
    os.close(fd)
    assert (await restored(tmp_path, {b"a": file(b"1")})).exit_code == 0


async def test_temporary_files_of_an_interrupted_run_are_swept_and_nothing_else(
    tmp_path: Path, outside: Path
) -> None:
    part = ".tandem-part-0123456789ab-1f"
    (tmp_path / "out/d").mkdir()
    (tmp_path / "out" / part).write_text("half")
    (tmp_path / "out/d" / part).write_text("half")
    os.symlink(outside / "keep", tmp_path / "out/.tandem-part-0123456789ab-2")
    (tmp_path / "out/.tandem-part-mine").write_text("not ours")
    await restored(tmp_path, {b"d": folder({b"x": file(b"1")})})
    assert below(tmp_path / "out") == [".tandem-part-mine", "d", "d/x"]
    assert (outside / "keep").read_text() == "mine"


async def test_special_files_as_root(tmp_path: Path) -> None:
    require_root()
    tree = {
        b"null": Node(CHAR, mode=0o666, extras={"r": (1, 3)}),
        b"block": Node(BLOCK, mode=0o660, extras={"r": (259, 1_000_001)}),
        b"sock": Node(SOCKET, mode=0o755),
        b"fifo": Node(FIFO, mode=0o4640, uid=5, gid=6),
    }
    result = await restored(tmp_path, tree)
    assert (result.exit_code, result.files) == (0, 4)
    about = {name: os.lstat(tmp_path / "out" / name) for name in ("null", "block", "sock", "fifo")}
    assert stat.S_ISCHR(about["null"].st_mode) and about["null"].st_rdev == os.makedev(1, 3)
    assert stat.S_ISBLK(about["block"].st_mode) and about["block"].st_rdev == os.makedev(259, 1_000_001)
    assert stat.S_ISSOCK(about["sock"].st_mode)
    assert (about["fifo"].st_mode & 0o7777, about["fifo"].st_uid, about["fifo"].st_gid) == (0o4640, 5, 6)
    assert {one.st_mtime_ns for one in about.values()} == {NS}


async def test_access_lists_of_the_target_are_not_inherited(tmp_path: Path, outside: Path) -> None:
    from tests.support.uglytree import DEFAULT

    os.setxattr(tmp_path / "out", "system.posix_acl_default", DEFAULT)
    tree = {b"d": folder({b"f": file(b"1", mode=0o640)}), b"g": file(b"2"), b"fifo": Node(FIFO, mode=0o600)}
    assert (await restored(tmp_path, tree)).exit_code == 0
    for name in ("d", "d/f", "g", "fifo"):
        assert os.listxattr(tmp_path / "out" / name) == []
    assert (tmp_path / "out/d/f").stat().st_mode & 0o7777 == 0o640


async def test_what_this_machine_cannot_hold_is_a_warning_each(tmp_path: Path, outside: Path) -> None:
    """Names too long, sizes and numbers out of reach (trust.md 23): the rest is restored."""
    tree = {
        b"n" * 300: file(b"1"),
        b"d" * 300: folder({b"x": file(b"1")}),
        b"hole": file(size=2**63 - 1, extras={"s": ()}),
        b"late": file(b"1", mtime=(2**62, 0)),
        b"early": link(b"x", mtime=(-(2**62), 0)),
        b"much": file(b"1", extras={"x": {b"user.big": bytes(100_000), b"nonsense": b"1"}}),
        b"who": file(b"1", uid=2**32 - 1, gid=2**32 - 1, mode=0o6755),
        b"ok": file(b"fine"),
    }
    if os.geteuid() == 0:
        tree[b"dev"] = Node(CHAR, extras={"r": (2**63, 2**63)})
    result = await restored(tmp_path, tree)
    assert result.exit_code == 3
    assert result.damaged == []
    assert (tmp_path / "out/ok").read_bytes() == b"fine"
    assert (tmp_path / "out/who").stat().st_mode & 0o6000 == 0
    assert {"ok", "late", "early", "much", "who"} <= set(os.listdir(tmp_path / "out"))
    assert not [n for n in os.listdir(tmp_path / "out") if n.startswith(".tandem")]


async def test_owners_by_name(tmp_path: Path) -> None:
    require_root()
    names = {777: "daemon", 778: "daemon", 779: "nobody here has this name"}
    repo = SmallRepo(names=names)
    root = repo.tree({b"f": file(b"1", uid=777, gid=778), b"g": file(b"1", uid=779, gid=780)})
    name = repo.snapshot(root)
    view = await repo.view(str(tmp_path / "index"))
    await restore(view, name, str(tmp_path / "number"))
    await restore(view, name, str(tmp_path / "name"), owners_by_name=True)
    owner = {
        (how, n): os.stat(tmp_path / how / n)[stat.ST_UID : stat.ST_GID + 1]
        for how in ("number", "name")
        for n in ("f", "g")
    }
    daemon = (pwd.getpwnam("daemon").pw_uid, grp.getgrnam("daemon").gr_gid)
    assert owner == {
        ("number", "f"): (777, 778),
        ("number", "g"): (779, 780),
        ("name", "f"): daemon,
        ("name", "g"): (779, 780),
    }
