"""Large files, written past the page cache: every byte in its place, whatever the lengths, the order, the damage and
the file system (row B1); and never in part."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.smallrepo import SmallRepo, file, folder

from tandem_agent.engine import linux, writer
from tandem_agent.engine.plan import Limits
from tandem_agent.restore import restore
from tandem_protocol.errors import Full
from tandem_protocol.names import ObjectType

LENGTHS = [4096, 8192, 1, 4095, 70_000, 4097, 12_288, 300_000, 5, 3_000_000, 1_500_000, 33]
NARROW = Limits(merge_gap=0, max_range=400_000)


@pytest.fixture(autouse=True)
def _all_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "LARGE_FROM", 2)


def chunks(seed: int = 1) -> list[bytes]:
    """Random and compressible ones, none twice."""
    chance = random.Random(seed)
    made = [chance.randbytes(n) if n % 2 else chance.randbytes(n // 8 + 1) * 8 for n in LENGTHS]
    return [chunk[:n] for chunk, n in zip(made, LENGTHS, strict=True)]


@pytest.mark.parametrize("limits", [None, NARROW])
@pytest.mark.parametrize("in_frame", [1, 3])
async def test_every_byte_comes_back(tmp_path: Path, limits: Limits | None, in_frame: int) -> None:
    one, two = chunks(1), chunks(2)
    mixed = [piece for pair in zip(one, reversed(two), strict=True) for piece in pair]
    twice = [*one[3:6], *one[3:6], one[9]]
    files = {"one": one, "two": two, "mixed": mixed, "twice": twice}
    sparse = file(one[7], two[3], size=900_000, extras={"s": ((1000, 300_000), (500_000, 4095))})
    repo = SmallRepo(blobs_in_frame=in_frame)
    tree = {name.encode(): file(*parts) for name, parts in files.items()}
    name = repo.snapshot({b"d": folder({**tree, b"sparse": sparse})})
    view = await repo.view(str(tmp_path / "index"))
    result = await restore(view, name, str(tmp_path / "out"), limits=limits)
    assert (result.exit_code, result.warnings, result.files) == (0, [], 5)
    out = tmp_path / "out/d"
    for path, parts in files.items():
        assert (out / path).read_bytes() == b"".join(parts)
    expected = bytearray(900_000)
    expected[1000:301_000], expected[500_000:504_095] = one[7], two[3]
    assert (out / "sparse").read_bytes() == expected
    assert result.bytes == sum(map(len, [b"".join(parts) for parts in files.values()])) + 304_095


@pytest.mark.parametrize("tiers", [("vault",), ("vault", "remote")])
async def test_damage_inside_of_a_run(tmp_path: Path, tiers: tuple[str, ...]) -> None:
    repo = SmallRepo(tiers, blobs_in_frame=1)
    parts = chunks()
    name = repo.snapshot({b"d": folder({b"big": file(*parts), b"other": file(*chunks(2)[2:])})})
    view = await repo.view(str(tmp_path / "index"))
    place = next(iter(view.index.lookup(repo.id_of(parts[4]))))
    pack = view.index.pack(place[0]).name
    path = next(p for p in repo.paths(ObjectType.PACK) if pack.hex() in p)
    repo.damage("vault", path, view.index.frame(place[0], place[1]).offset + 50)
    before = open_files()
    result = await restore(view, name, str(tmp_path / "out"))
    out = tmp_path / "out/d"
    assert (out / "other").read_bytes() == b"".join(chunks(2)[2:])
    assert open_files() == before
    if "remote" in tiers:
        assert (result.exit_code, result.damage[0].tier) == (0, "vault")
        assert (out / "big").read_bytes() == b"".join(parts)
    else:
        assert [lost.path for lost in result.damaged] == [b"d/big"]
        assert os.listdir(out) == ["other"]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


class Direct:
    """Stands in for os.pwrite: whatever goes past the cache is refused, cut short or has no room."""

    def __init__(self, call: Callable[..., int], how: str) -> None:
        self._call, self._how, self.asked = call, how, 0

    def __call__(self, fd: int, data: Any, at: int) -> int:
        if not self.is_direct(fd):
            return self._call(fd, data, at)
        self.asked += 1
        if self._how == "refused":
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if self._how == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._call(fd, memoryview(data)[:4096], at)

    @staticmethod
    def is_direct(fd: int) -> bool:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
            flags = next(line for line in info if line.startswith("flags:"))
        return bool(int(flags.split()[1], 8) & os.O_DIRECT)


@pytest.mark.parametrize("how", ["refused", "short", "full"])
async def test_where_it_does_not_go_past_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    repo = SmallRepo(blobs_in_frame=1)
    parts = chunks()
    name = repo.snapshot({b"big": file(*parts)}, files=1)
    view = await repo.view(str(tmp_path / "index"))
    calls = Direct(os.pwrite, how)
    monkeypatch.setattr(os, "pwrite", calls)
    out, before = tmp_path / "out", open_files()
    if how != "full":
        await restore(view, name, str(out))
        assert (out / "big").read_bytes() == b"".join(parts)
    elif direct_possible(tmp_path):
        with pytest.raises(Full):
            await restore(view, name, str(out))
        assert os.listdir(out) == []
    assert open_files() == before
    assert bool(calls.asked) == direct_possible(tmp_path)


def direct_possible(folder: Path) -> bool:
    """Whether the file system of the tests is one that restores write to past the cache."""
    if os.major(folder.stat().st_dev) == 0:
        return False
    try:
        os.close(os.open(folder / "probe", os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


async def test_no_room_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if not direct_possible(tmp_path):
        pytest.skip("a file system without direct writing")
    monkeypatch.setattr("tandem_agent.engine.partfile.reserve", full)
    repo = SmallRepo(blobs_in_frame=1)
    name = repo.snapshot({b"big": file(*chunks())}, files=1)
    view = await repo.view(str(tmp_path / "index"))
    with pytest.raises(Full, match="0 of 1 files are restored"):
        await restore(view, name, str(tmp_path / "out"))
    assert os.listdir(tmp_path / "out") == []


def test_reserving_gives_the_file_its_size(tmp_path: Path) -> None:
    with open(tmp_path / "x", "wb") as file_:
        linux.reserve(file_.fileno(), 100_000)
        if os.fstat(file_.fileno()).st_size:
            assert os.fstat(file_.fileno()).st_size == 100_000
    with open(tmp_path / "x", "rb") as reading, pytest.raises(OSError, match="Bad file"):
        linux.reserve(reading.fileno(), 200_000)
