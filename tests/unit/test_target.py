"""The target folder's own rules: nothing replaced unasked, no file but our own reopened, paths of any depth."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem_agent.engine import linux
from tandem_agent.engine.metadata import Spot
from tandem_agent.engine.target import Target

HERE = Spot(b"", fresh=False)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    target = Target(str(tmp_path))
    yield target
    target.close()


def made(target: Target, data: bytes = b"new") -> bytes:
    fd, name = target.create(target.root, 0o600)
    os.write(fd, data)
    os.close(fd)
    return name


def test_a_name_taken_meanwhile_is_not_replaced(target: Target, tmp_path: Path) -> None:
    """Somebody else makes the file between our look and our rename."""
    temporary = made(target)
    (tmp_path / "f").write_text("theirs")
    with pytest.raises(FileExistsError):
        target.publish(HERE, target.root, temporary, b"f")
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_text() == "theirs"


def test_with_overwrite_it_is(tmp_path: Path) -> None:
    target = Target(str(tmp_path), overwrite=True)
    (tmp_path / "f").write_text("theirs")
    target.publish(HERE, target.root, made(target), b"f")
    target.close()
    assert (tmp_path / "f").read_text() == "new"


def test_without_the_kernel_call_links_do_the_same(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linux, "_libc", object())
    target.publish(HERE, target.root, made(target), b"f")
    assert (tmp_path / "f").read_text() == "new"
    with pytest.raises(FileExistsError):
        target.publish(HERE, target.root, made(target), b"f")
    assert os.listdir(tmp_path) == ["f"]
    target.sync()


def test_a_temporary_file_that_was_swapped_is_not_written_to(target: Target, tmp_path: Path) -> None:
    temporary = made(target)
    about = os.stat(tmp_path / os.fsdecode(temporary))
    os.close(target.reopen(target.root, temporary, (about.st_dev, about.st_ino)))
    (tmp_path / "other").write_text("not ours")
    os.rename(tmp_path / os.fsdecode(temporary), tmp_path / "kept")
    os.link(tmp_path / "other", tmp_path / os.fsdecode(temporary))
    with pytest.raises(FileNotFoundError):
        target.reopen(target.root, temporary, (about.st_dev, about.st_ino))
    os.unlink(tmp_path / os.fsdecode(temporary))
    os.symlink("other", tmp_path / os.fsdecode(temporary))
    with pytest.raises(OSError, match="symbolic links"):
        target.reopen(target.root, temporary, (about.st_dev, about.st_ino))


def test_a_folder_swapped_for_a_symlink_is_not_entered(target: Target, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    spot = target.make_folder(target.top(), b"d")
    os.rmdir(tmp_path / "d")
    os.symlink("outside", tmp_path / "d")
    with pytest.raises(NotADirectoryError):
        target.folder(spot.path)
    assert spot.fresh


def test_hundreds_of_folders_deep_and_wide(target: Target, tmp_path: Path) -> None:
    """More than are kept open, longer than PATH_MAX; and no descriptor is left behind."""
    before = len(os.listdir("/proc/self/fd"))
    spots = [target.top()]
    for number in range(700):
        spots.append(target.make_folder(spots[-1], b"deep-%03d" % number))
    assert len(spots[-1].path) > 4096
    for spot in spots[::-7] + spots[::13]:
        os.stat(b".", dir_fd=target.folder(spot.path))
    name = made(target)
    target.publish(spots[-1], target.root, name, b"x")
    target.link((b"", b"x"), spots[650], b"far")
    assert os.stat(b"far", dir_fd=target.folder(spots[650].path)).st_nlink == 2
    assert len(os.listdir("/proc/self/fd")) - before <= 64
    target.close()
    assert len(os.listdir("/proc/self/fd")) < before
