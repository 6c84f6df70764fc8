"""The jail (trust.md 37 to 41, 43): no path, link or race reaches a file outside the root, and names are
never overwritten by rename and link."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tandem_server import exclusive
from tandem_server.jail import Jail, parts_of

SECRET = b"not for clients"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of the jail, with a secret beside it and links that lead there from inside."""
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(SECRET)
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "file").write_bytes(b"inside")
    (root / "link").symlink_to("../secret")
    (root / "absolute").symlink_to(tmp_path / "secret")
    (root / "dangling").symlink_to("../made")
    (root / "way").symlink_to("../outside")
    (root / "inner").symlink_to("file")
    return root


@pytest.fixture
def jail(root: Path) -> Iterator[Jail]:
    jail = Jail(str(root))
    yield jail
    jail.close()


def read(jail: Jail, path: bytes) -> bytes:
    fd = jail.open_file(path, os.O_RDONLY, 0)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


def refused(call: Callable[[], object], *numbers: int) -> None:
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno in numbers, caught.value
    assert caught.value.filename is None or not os.path.isabs(os.fsdecode(caught.value.filename))


@pytest.mark.parametrize(
    "path",
    [b"file", b"/file", b"//file", b"./file", b"folder/../file", b"/../../../file", b"../root/../file"],
)
def test_every_way_of_writing_a_path_stays_inside(jail: Jail, path: bytes) -> None:
    assert read(jail, path) == b"inside"


@pytest.mark.parametrize(
    "path",
    [b"/etc/passwd", b"../secret", b"folder/../../secret", b"/..//.././../secret", b"..", b"../outside/file"],
)
def test_absolute_paths_and_dots_reach_nothing_outside(jail: Jail, path: bytes) -> None:
    refused(lambda: read(jail, path), errno.ENOENT, errno.EACCES)


def test_paths_that_are_no_paths(jail: Jail) -> None:
    refused(lambda: read(jail, b"file\0.txt"), errno.EINVAL)
    refused(lambda: read(jail, b"a/" * 5000), errno.ENAMETOOLONG)
    refused(lambda: read(jail, b"x" * 300), errno.ENAMETOOLONG)
    assert parts_of(b"/a/./b//../c/") == [b"a", b"c"]
    assert parts_of(b"../..") == []


@pytest.mark.parametrize("name", [b"link", b"absolute", b"inner", b"dangling", b"way/file", b"way"])
def test_symbolic_links_are_not_followed(jail: Jail, root: Path, name: bytes) -> None:
    outside = root.parent
    not_followed = errno.ELOOP, errno.ENOTDIR, errno.EACCES
    writing = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    refused(lambda: read(jail, name), *not_followed)
    refused(lambda: jail.open_file(name, writing, 0o600), *not_followed)
    refused(lambda: jail.stat(name + b"/x" if name == b"way" else name), *not_followed)
    refused(lambda: jail.open_any(name), *not_followed)
    refused(lambda: jail.statvfs(name), *not_followed)
    refused(lambda: jail.scan(name), *not_followed)
    refused(lambda: jail.mkdir(name + b"/new", 0o700), *not_followed)
    refused(lambda: jail.rename(name, b"elsewhere"), *not_followed)
    refused(lambda: jail.replace(name, b"elsewhere"), *not_followed)
    refused(lambda: jail.link(name, b"elsewhere"), *not_followed)
    refused(lambda: jail.rename(b"file", name + b"/new"), *not_followed)
    refused(lambda: jail.link(b"file", name + b"/new"), *not_followed)
    assert (outside / "secret").read_bytes() == SECRET
    assert (outside / "outside/file").read_bytes() == SECRET
    assert sorted(os.listdir(outside)) == ["outside", "root", "secret"]
    assert os.listdir(outside / "outside") == ["file"]


def test_a_link_itself_can_be_seen_and_removed(jail: Jail, root: Path) -> None:
    assert jail.lstat(b"link").st_size == len("../secret")
    jail.remove(b"link")
    assert not os.path.lexists(root / "link")
    assert (root.parent / "secret").read_bytes() == SECRET


def test_writing_over_a_link_replaces_the_link(jail: Jail, root: Path) -> None:
    jail.replace(b"file", b"link")
    assert not (root / "link").is_symlink()
    assert (root.parent / "secret").read_bytes() == SECRET


def test_only_regular_files_are_opened(jail: Jail, root: Path) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(root / "socket"))
        for name in (b"fifo", b"socket"):
            refused(lambda name=name: read(jail, name), errno.EACCES, errno.ENXIO)
            refused(lambda name=name: jail.link(name, b"second"), errno.EACCES)
            refused(lambda name=name: jail.open_any(name), errno.EACCES, errno.ENXIO)
    refused(lambda: read(jail, b"folder"), errno.EISDIR)


def test_the_root_stays(jail: Jail, root: Path) -> None:
    for path in (b"", b"/", b"..", b"folder/.."):
        refused(lambda path=path: jail.rmdir(path), errno.EACCES)
        refused(lambda path=path: jail.rename(path, b"folder/root"), errno.EACCES)
        refused(lambda path=path: jail.replace(b"file", path), errno.EACCES)
        refused(lambda path=path: jail.mkdir(path, 0o700), errno.EACCES)
        assert jail.lstat(path).st_ino == root.stat().st_ino


def test_special_bits_are_masked_at_creation(jail: Jail, root: Path) -> None:
    os.close(jail.open_file(b"new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o106755))
    jail.mkdir(b"made", 0o7777)
    assert (root / "new").stat().st_mode & 0o7000 == 0
    assert (root / "made").stat().st_mode & 0o7000 == 0


def test_a_folder_swapped_for_a_link_at_any_moment(jail: Jail, root: Path) -> None:
    """43: while another thread swaps a folder and a link to outside, no access ever leaves the jail."""
    (root / "swap").mkdir()
    (root / "swap/file").write_bytes(b"inside")
    (root / "other").symlink_to("../outside")
    folder = os.open(root, os.O_RDONLY)
    stop = threading.Event()
    seen: set[bytes] = set()

    def swap() -> None:
        while not stop.is_set():
            assert exclusive._renameat2 is not None
            exclusive._renameat2(folder, b"swap", folder, b"other", 2)  # RENAME_EXCHANGE

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for number in range(100_000):
            if number > 2000 and len(seen) >= 2:
                break
            try:
                seen.add(read(jail, b"swap/file"))
                jail.link(b"file", b"swap/%d" % number)
            except OSError as error:
                seen.add(errno.errorcode[error.errno or 0].encode())
    finally:
        stop.set()
        swapper.join()
        os.close(folder)
    assert seen == {b"inside", b"ENOTDIR"}
    assert os.listdir(root.parent / "outside") == ["file"]


# Names are taken once


@pytest.fixture(params=["kernel", "by hand"])
def rename(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of renaming: where the file system knows RENAME_NOREPLACE and where it does not."""
    if request.param == "by hand":
        monkeypatch.setattr(exclusive, "_by_kernel", lambda *_: errno.EINVAL)


@pytest.mark.usefixtures("rename")
def test_rename_refuses_an_existing_target(jail: Jail, root: Path) -> None:
    (root / "empty").mkdir()
    for target in (b"file", b"empty", b"folder", b"link", b"dangling"):
        (root / "new").write_bytes(b"new")
        refused(lambda target=target: jail.rename(b"new", target), errno.EEXIST)
        (root / "newfolder").mkdir(exist_ok=True)
        refused(lambda target=target: jail.rename(b"newfolder", target), errno.EEXIST)
        refused(lambda target=target: jail.link(b"new", target), errno.EEXIST)
    assert (root / "file").read_bytes() == b"inside"
    refused(lambda: jail.rename(b"nothing", b"free"), errno.ENOENT)
    refused(lambda: jail.rename(b"folder", b"folder/below"), errno.EINVAL)
    jail.rename(b"new", b"folder/moved")
    jail.rename(b"newfolder", b"folder/folder")
    assert sorted(os.listdir(root / "folder")) == ["folder", "moved"]
    assert not (root / "new").exists()


@pytest.mark.usefixtures("rename")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_of_two_racing_renames_one_wins(jail: Jail, root: Path, what: str) -> None:
    start = threading.Barrier(2)

    def run(name: bytes) -> bool:
        start.wait()
        try:
            jail.rename(name, b"target")
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        for _ in range(200):
            for name in ("a", "b"):
                (root / name).mkdir() if what == "folder" else (root / name).write_text(name)
            won = dict(zip("ab", pool.map(run, (b"a", b"b")), strict=True))
            assert sorted(won.values()) == [False, True]
            loser = "b" if won["a"] else "a"
            assert (root / loser).exists()
            if what == "folder":
                (root / "target").rmdir()
                (root / loser).rmdir()
            else:
                assert (root / "target").read_text() != loser
                (root / "target").unlink()


def test_changed_names_are_durable(jail: Jail, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever changes a name syncs the folders concerned, for a client cannot."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    top, folder = root.stat().st_ino, (root / "folder").stat().st_ino
    cases: list[tuple[Callable[[], None], set[int]]] = [
        (lambda: jail.link(b"file", b"folder/a"), {folder}),
        (lambda: jail.remove(b"file"), set()),  # the other name is durable already
        (lambda: jail.rename(b"folder/a", b"b"), {folder, top}),
        (lambda: jail.replace(b"b", b"folder/c"), {folder, top}),
        (lambda: jail.mkdir(b"made", 0o700), {top}),
        (lambda: jail.rmdir(b"made"), {top}),
        (lambda: jail.remove(b"folder/c"), {folder}),
    ]
    for call, expected in cases:
        synced.clear()
        call()
        assert set(synced) == expected
