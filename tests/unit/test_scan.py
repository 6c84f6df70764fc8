"""Scanning sources: everything a Linux file system has, and the bad inputs 1 to 10 of trust.md (issue 3, C1)."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.enginerun import EngineRepo, names_of

from tandem_agent.engine import chunkreader, filereader, scan
from tandem_agent.engine.options import ScanOptions
from tandem_protocol.errors import Missing, Usage
from tandem_protocol.tree import BLOCK, CHAR, DIR, FIFO, FILE, SOCKET, SYMLINK

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def repo(tmp_path: Path) -> EngineRepo:
    (tmp_path / "own").mkdir()
    return EngineRepo(tmp_path / "own")


@pytest.fixture
def src(tmp_path: Path) -> Path:
    made = tmp_path / "src"
    made.mkdir()
    return made


def write(folder: Path, name: bytes, data: bytes) -> None:
    with open(os.fsencode(folder) + b"/" + name, "wb") as file:
        file.write(data)


def write_sparse(path: Path, size: int, parts: dict[int, bytes]) -> None:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in parts.items():
            file.seek(offset)
            file.write(data)


async def test_every_kind_with_its_metadata(repo: EngineRepo, src: Path) -> None:
    (src / "file").write_bytes(b"hello")
    os.chmod(src / "file", 0o4751)
    os.utime(src / "file", ns=(1, 1_500_000_000_123_456_789))
    (src / "old").write_bytes(b"x")
    os.utime(src / "old", ns=(1, -1_500_000_001))
    (src / "empty").touch()
    (src / "folder").mkdir(mode=0o700)
    os.symlink("no/where\n", src / "link")
    os.mkfifo(src / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(src)
        server.bind("socket")
    os.setxattr(src / "file", "user.note", b"\x00\xff")
    result = await repo.run(src)
    tree = repo.tree(result, src)
    assert result.warnings == []
    kinds = {name: seen.kind for name, seen in tree.items()}
    assert kinds == {
        b"empty": FILE,
        b"fifo": FIFO,
        b"file": FILE,
        b"folder": DIR,
        b"link": SYMLINK,
        b"old": FILE,
        b"socket": SOCKET,
    }
    file = tree[b"file"]
    assert file.data == b"hello"
    assert file.entry[2:8] == (0o4751, os.geteuid(), os.getegid(), 1_500_000_000, 123_456_789, 5)
    assert file.extras == {"x": {b"user.note": b"\x00\xff"}}
    assert tree[b"old"].entry[5:7] == (-2, 499_999_999)
    assert tree[b"link"].entry[8] == b"no/where\n"
    assert (tree[b"folder"].entry[2], tree[b"folder"].entry[8]) == (0o700, b"")
    assert result.stats["files"] == 3 and result.stats["folders"] == 1 and result.stats["others"] == 3


@needs_root
async def test_devices_are_recorded_and_not_opened(repo: EngineRepo, src: Path) -> None:
    os.mknod(src / "tty", 0o600 | stat.S_IFCHR, os.makedev(4, 300))
    os.mknod(src / "disk", 0o600 | stat.S_IFBLK, os.makedev(259, 70_000))
    tree = repo.tree(await repo.run(src), src)
    assert (tree[b"tty"].kind, tree[b"tty"].extras) == (CHAR, {"r": (4, 300)})
    assert (tree[b"disk"].kind, tree[b"disk"].extras) == (BLOCK, {"r": (259, 70_000)})


async def test_acls_and_attributes_of_folders_and_large_files(repo: EngineRepo, src: Path) -> None:
    acl = bytes.fromhex(
        "02000000 01000600ffffffff 02000400e8030000 04000400ffffffff 10000400ffffffff 20000000ffffffff"
    )
    (src / "folder").mkdir()
    os.setxattr(src / "folder", "system.posix_acl_default", acl)
    (src / "large").write_bytes(os.urandom(300_000))
    os.setxattr(src / "large", "system.posix_acl_access", acl)
    tree = repo.tree(await repo.run(src), src)
    assert tree[b"folder"].extras["x"] == {b"system.posix_acl_default": acl}
    assert tree[b"large"].extras["x"] == {b"system.posix_acl_access": acl}


def after(monkeypatch: pytest.MonkeyPatch, call: str, action: Callable[[int], None]) -> None:
    """Do ``action`` with the number of the call each time after ``os.<call>`` read file content."""
    real, count = getattr(os, call), 0

    def wrapped(*args: object) -> int:
        nonlocal count
        got: int = real(*args)
        count += 1
        action(count)
        return got

    monkeypatch.setattr(filereader.os, call, wrapped)


async def test_1_a_file_that_changes_once_is_read_again(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (src / "log").write_bytes(b"one")
    after(monkeypatch, "readv", lambda n: (src / "log").write_bytes(b"one, two") and None)
    result = await repo.run(src)
    assert result.warnings == []
    assert repo.tree(result, src)[b"log"].data == b"one, two"


@pytest.mark.parametrize("size", [10, 400_000])
async def test_1_a_file_that_changes_all_the_time_is_reported(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    log = src / "log"
    log.write_bytes(bytes(size))

    def grow(_: int) -> None:
        with log.open("ab") as file:
            file.write(b"more")

    after(monkeypatch, "readv", grow)
    after(monkeypatch, "preadv", grow)
    result = await repo.run(src)
    assert names_of(result.warnings, "log: changed while it was being backed up")
    seen = repo.tree(result, src)[b"log"]
    assert len(seen.data) == seen.entry[7] >= size


async def test_1_a_file_cut_short_while_it_is_read(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = src / "large"
    large.write_bytes(os.urandom(20 << 20))
    after(monkeypatch, "preadv", lambda n: os.truncate(large, 9 << 20))
    result = await repo.run(src)
    seen = repo.tree(result, src)[b"large"]
    assert result.warnings and len(seen.data) == seen.entry[7] == 9 << 20


async def test_1_a_large_file_that_cannot_be_read_to_its_end(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector: the file is left out with a warning, and nobody waits for its chunks."""
    (src / "bad").write_bytes(os.urandom(20 << 20))
    (src / "good").write_bytes(os.urandom(3 << 20))

    def fail(call: int) -> None:
        if call == 2:
            raise OSError(5, "Input/output error")

    after(monkeypatch, "preadv", fail)
    result = await repo.run(src)
    assert names_of(result.warnings, "bad: could not be read: Input/output error")
    assert {name: seen.data for name, seen in repo.tree(result, src).items()} == {
        b"good": (src / "good").read_bytes()
    }


async def test_1_attributes_that_cannot_be_read_do_not_cost_the_file(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (src / "file").write_bytes(b"x")
    os.setxattr(src / "file", "user.note", b"y")

    def fail(*_: object, **__: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "getxattr", fail)
    result = await repo.run(src)
    assert names_of(result.warnings, "file: its extended attributes could not be read")
    assert repo.tree(result, src)[b"file"].data == b"x"


def swap_before_open(monkeypatch: pytest.MonkeyPatch, name: bytes, swap: Callable[[], object]) -> None:
    """Do ``swap`` between the look at ``name`` and its opening."""
    real = filereader.FileReader._open

    def opened(self: filereader.FileReader, folder: int, wanted: bytes, st: os.stat_result) -> int:
        if wanted == name:
            swap()
        return real(self, folder, wanted, st)

    monkeypatch.setattr(filereader.FileReader, "_open", opened)


@pytest.mark.parametrize("size", [100, 300_000])
async def test_2_a_fifo_swapped_in_does_not_hang(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    (src / "file").write_bytes(bytes(size))

    def swap() -> None:
        (src / "file").unlink(missing_ok=True)
        os.mkfifo(src / "file")

    swap_before_open(monkeypatch, b"file", swap)
    result = await repo.run(src)
    assert names_of(result.warnings, "file: was replaced")
    assert b"file" not in repo.tree(result, src)


@pytest.mark.parametrize("size", [100, 300_000])
async def test_3_a_symlink_swapped_in_leads_nowhere(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    (src.parent / "secret").write_bytes(b"secret" * 20)
    (src / "file").write_bytes(bytes(size))

    def swap() -> None:
        (src / "file").unlink()
        os.symlink("../secret", src / "file")

    swap_before_open(monkeypatch, b"file", swap)
    result = await repo.run(src)
    assert names_of(result.warnings, "file: was replaced by a symlink")
    assert not any(b"secret" in blob for name, blob in repo.blobs.items() if name not in result.root)


async def test_3_a_folder_swapped_for_a_symlink(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (src.parent / "outside").mkdir()
    (src.parent / "outside" / "file").write_bytes(b"outside")
    (src / "folder").mkdir()
    (src / "kept").write_bytes(b"kept")
    real = scan.open_folder

    def opened(name: bytes, folder: int | None, follow: bool = False) -> int:
        if name == b"folder":
            (src / "folder").rmdir()
            os.symlink("../outside", src / "folder")
        return real(name, folder, follow)

    monkeypatch.setattr(scan, "open_folder", opened)
    result = await repo.run(src)
    assert list(repo.tree(result, src)) == [b"kept"]
    assert len(result.warnings) == 1 and b"outside" not in repo.blobs.values()


async def test_4_and_8_names_of_any_bytes_in_order(repo: EngineRepo, src: Path) -> None:
    names = [
        b"-rf",
        b"a\nb",
        b"\x1b[2J",
        b"\xff\xfe",
        b"caf\xe9",
        "café".encode(),
        b" ",
        b"~",
        "\U0001f600".encode(),
    ]
    for name in names:
        write(src, name, name)
    result = await repo.run(src)
    tree = repo.tree(result, src)
    assert list(tree) == sorted(names)
    assert all(seen.data == name for name, seen in tree.items())


async def test_8_warnings_show_no_terminal_escape(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = b"\x1b[2Jevil\n\xff"
    write(src, name, b"x")
    swap_before_open(monkeypatch, name, lambda: os.unlink(os.fsencode(src) + b"/" + name))
    (warning,) = (await repo.run(src)).warnings
    assert warning.isprintable() and "\\x1b[2Jevil\\n\\xff: vanished" in warning


async def test_5_longest_names_and_paths_beyond_the_systems_limit(repo: EngineRepo, src: Path) -> None:
    fd = os.open(src, os.O_RDONLY)
    name = "d" * 255
    for _ in range(120):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    for last in ("a" * 255, "z"):
        os.close(os.open(last, os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.mkdir(b"/proc/self/fd/%d/../zz" % fd)
    os.close(fd)
    result = await repo.run(src)
    assert result.warnings == []
    tree = repo.tree(result, src)
    assert len(tree) == 123 and max(len(path) for path in tree) == 121 * 256 - 1
    assert (b"/".join([b"d" * 255] * 119) + b"/zz") in tree


async def test_deep_folders_come_back_to_the_right_parents(repo: EngineRepo, src: Path) -> None:
    """Deeper than the number of folders that are kept open."""
    path, expected = src, set()
    for depth in range(scan.OPEN_FOLDERS * 2 + 5):
        path = path / "m"
        path.mkdir()
        for name in ("a", "z"):
            (path / name).write_bytes(b"%d %s" % (depth, name.encode()))
    for folder, folders, files in os.walk(src):
        expected |= {
            os.fsencode(os.path.relpath(os.path.join(folder, name), src)) for name in folders + files
        }
    result = await repo.run(src)
    tree = repo.tree(result, src)
    assert result.warnings == [] and set(tree) == expected
    assert tree[b"m/" * 70 + b"z"].data == b"69 z"


async def test_a_deep_folder_that_is_moved_away_while_it_is_scanned(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was closed to save descriptors is never taken for another folder on the way back up."""
    monkeypatch.setattr(scan, "OPEN_FOLDERS", 2)
    deep = src / "a" / "b" / "c" / "d" / "e"
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"x")
    for name in ("z", "a/z", "a/b/z", "a/b/c/z"):
        (src / name).write_bytes(b"z")

    def move() -> None:
        os.rename(src / "a" / "b" / "c", src.parent / "c")
        (src.parent / "a").mkdir()
        (src.parent / "a" / "secret").write_bytes(b"secret")

    swap_before_open(monkeypatch, b"file", move)
    result = await repo.run(src)
    tree = repo.tree(result, src)
    assert tree[b"a/b/c/d/e/file"].data == b"x" and b"z" in tree
    assert not any(b"secret" in path for path in tree)
    assert all(b"z" not in blob or blob == b"z" for blob in (seen.data for seen in tree.values()))


async def test_6_a_sparse_file_of_a_tebibyte_is_quick(repo: EngineRepo, src: Path) -> None:
    offsets = (0, 1 << 30, (1 << 40) - 4096)
    write_sparse(src / "sparse", 1 << 40, {offset: b"%16d" % offset * 256 for offset in offsets})
    write_sparse(src / "hole", 1 << 40, {})
    began = time.monotonic()
    result = await repo.run(src)
    assert time.monotonic() - began < 5
    tree = repo.tree(result, src)
    seen = tree[b"sparse"]
    assert seen.entry[7] == 1 << 40
    assert seen.extras["s"] == ((0, 4096), (1 << 30, 4096), ((1 << 40) - 4096, 4096))
    assert seen.data == b"".join(b"%16d" % offset * 256 for offset in offsets)
    assert (tree[b"hole"].extras, tree[b"hole"].entry[8]) == ({"s": ()}, b"")


async def test_6_more_extents_than_are_recorded(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunkreader, "MAX_EXTENTS", 8)
    write_sparse(src / "sparse", 50 << 20, {i << 20: b"x" * 4096 for i in range(40)})
    seen = repo.tree(await repo.run(src), src)[b"sparse"]
    assert len(seen.extras["s"]) <= 8
    content = bytearray(50 << 20)
    at = 0
    for offset, length in seen.extras["s"]:
        content[offset : offset + length] = seen.data[at : at + length]
        at += length
    assert content == (src / "sparse").read_bytes()


async def test_7_hard_links_also_across_folders(repo: EngineRepo, src: Path) -> None:
    (src / "a").mkdir()
    (src / "b").mkdir()
    for name, size in (("small", 1000), ("large", 2_000_000)):
        (src / "a" / name).write_bytes(os.urandom(size))
        os.link(src / "a" / name, src / "b" / f"{name} again")
    os.symlink("..", src / "b" / "up")
    result = await repo.run(src)
    tree = repo.tree(result, src)
    for name in ("small", "large"):
        one, other = tree[f"a/{name}".encode()], tree[f"b/{name} again".encode()]
        st = os.stat(src / "a" / name)
        assert one.extras["l"] == other.extras["l"] == (st.st_dev, st.st_ino)
        assert one.data == other.data == (src / "a" / name).read_bytes()
    assert result.stats["files_read"] == 2
    assert "l" not in tree[b"a"].extras


async def test_9_unreadable_files_and_folders_are_left_out_and_reported_each_time(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (src / "file").write_bytes(b"locked")
    (src / "folder").mkdir()
    (src / "folder" / "inner").write_bytes(b"inner")
    (src / "kept").write_bytes(b"kept")
    os.utime(src / "kept", (1, 1))
    real = os.open

    def refuse(path: object, flags: int, *args: object, **more: object) -> int:
        if path in (b"file", b"folder"):
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *args, **more)  # type: ignore[arg-type]  # passed on as they came

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        for _ in range(2):
            result = await repo.run(src)
            assert sorted(line.rsplit("/", 1)[1] for line in result.warnings) == [
                "file: could not be read: Permission denied",
                "folder: could not be read: Permission denied",
            ]
            assert set(repo.tree(result, src)) == {b"folder", b"kept"}
    result = await repo.run(src)
    assert result.warnings == []
    assert set(repo.tree(result, src)) == {b"file", b"folder", b"folder/inner", b"kept"}


async def test_9_names_that_vanish(repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (src / name).write_bytes(b"x")
    (src / "folder").mkdir()
    swap_before_open(monkeypatch, b"a", lambda: ((src / "a").unlink(), (src / "folder").rmdir()))
    result = await repo.run(src)
    assert set(repo.tree(result, src)) == {b"b"}
    assert len(names_of(result.warnings, "vanished")) == 2


async def test_10_missing_sources(repo: EngineRepo, src: Path) -> None:
    (src / "file").write_bytes(b"x")
    with pytest.raises(Missing, match="gone cannot be read"):
        await repo.run(src / "gone")
    result = await repo.run(src / "gone", src)
    assert names_of(result.warnings, "gone: is not there") and b"file" in repo.tree(result, src)
    with pytest.raises(Usage):
        await repo.run()


async def test_10_a_source_that_was_not_empty_before(repo: EngineRepo, src: Path) -> None:
    (src / "file").write_bytes(b"x")
    assert (await repo.run(src)).warnings == []
    (src / "file").unlink()
    assert names_of((await repo.run(src)).warnings, "is empty, and was not at the last backup")
    assert (await repo.run(src)).warnings == []


async def test_sources_below_each_other_files_and_symlinks(repo: EngineRepo, src: Path) -> None:
    (src / "data" / "inner").mkdir(parents=True)
    (src / "data" / "inner" / "file").write_bytes(b"x")
    (src / "other").mkdir()
    (src / "other" / "not wanted").write_bytes(b"no")
    (src / "other" / "single").write_bytes(b"yes")
    (src / "other" / "large").write_bytes(os.urandom(300_000))
    os.symlink("data", src / "link")
    os.symlink("data", src / "followed")
    os.chmod(src / "other", 0o711)
    result = await repo.run(
        src / "data",
        src / "data" / "inner",
        src / "other" / "single",
        src / "other" / "large",
        src / "link",
        os.fsencode(src) + b"/followed/",
    )
    tree = repo.tree(result, src)
    assert result.warnings == []
    assert list(tree) == [
        b"data", b"data/inner", b"data/inner/file",
        b"followed", b"followed/inner", b"followed/inner/file",
        b"link",
        b"other", b"other/large", b"other/single",
    ]  # fmt: skip
    assert (tree[b"link"].kind, tree[b"followed"].kind) == (SYMLINK, DIR)
    assert tree[b"other"].entry[2] == 0o711 and tree[b"other/single"].data == b"yes"


async def test_folders_that_are_never_a_source(repo: EngineRepo, src: Path) -> None:
    for name in ("vault", "state", "data"):
        (src / name).mkdir()
        (src / name / "file").write_bytes(b"x")
    options = ScanOptions(skip=(os.fsencode(src / "vault"), os.fsencode(src / "state"), b"/not/there"))
    assert set(repo.tree(await repo.run(src, options=options), src)) == {b"data", b"data/file"}
    with pytest.raises(Missing):
        await repo.run(src / "vault", options=options)


@pytest.mark.skipif(not os.path.ismount("/proc"), reason="needs a mount point to stop at")
async def test_one_file_system_stops_at_mount_points(repo: EngineRepo) -> None:
    options = ScanOptions(one_file_system=True, excludes=("*", "!/proc/"))
    result = await repo.run(b"/", options=options)
    seen = dict(repo.walk(result.root))
    assert set(seen) == {b"/proc"} and seen[b"/proc"].entry[8] == b""


async def test_access_times_are_left_alone(repo: EngineRepo, src: Path) -> None:
    (src / "folder").mkdir()
    (src / "folder" / "small").write_bytes(b"x")
    (src / "folder" / "large").write_bytes(bytes(200_000))
    for path in (src / "folder" / "small", src / "folder" / "large", src / "folder"):
        os.utime(path, (1000, os.stat(path).st_mtime))
    await repo.run(src)
    for path in (src / "folder" / "small", src / "folder" / "large", src / "folder"):
        assert os.stat(path).st_atime == 1000


async def test_the_root_is_the_same_whatever_is_cached(repo: EngineRepo, src: Path) -> None:
    for i in range(40):
        (src / f"d{i % 7}").mkdir(exist_ok=True)
        (src / f"d{i % 7}" / f"f{i}").write_bytes(b"%d" % i)
    first = await repo.run(src)
    os.unlink(repo.folder / "files.sqlite")
    second = await repo.run(src)
    third = await repo.run(src)
    assert repo.pages(first, src) == repo.pages(second, src) == repo.pages(third, src)
    assert max(second.stats["blobs"], third.stats["blobs"]) <= len(src.parts)
