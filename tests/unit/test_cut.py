"""Cutting large files: cuts depend on content and key alone, never on how the file was read (storage.md, Content)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.support.enginerun import EngineRepo

from tandem_agent.engine import filereader
from tandem_agent.engine.cut import MAX_CHUNK, MIN_CHUNK, Cutter

DATA = random.Random(5).randbytes(24 << 20)
FLAT = bytes(14 << 20)


def cut_in_pieces(cutter: Cutter, data: bytes, piece: int) -> list[int]:
    """Chunk lengths when ``data`` comes in buffers that hold the rest of the last one and ``piece`` bytes more."""
    lengths: list[int] = []
    at, rest = 0, b""
    while at < len(data):
        buffer = rest + data[at : at + piece]
        at += piece
        found = cutter.lengths(memoryview(buffer), last=at >= len(data))
        lengths += found
        rest = buffer[sum(found) :]
    assert not rest
    return lengths


@pytest.mark.parametrize("data", [DATA, FLAT], ids=["random", "zeros"])
@pytest.mark.parametrize("piece", [999_983, 1 << 20, 5_000_001, 8 << 20])
def test_buffer_edges_do_not_matter(data: bytes, piece: int) -> None:
    cutter = Cutter(7)
    whole = cutter.lengths(memoryview(data), last=True)
    assert cut_in_pieces(cutter, data, piece) == whole
    assert all(MIN_CHUNK <= length <= MAX_CHUNK for length in whole[:-1]) and sum(whole) == len(data)


def test_an_insertion_moves_few_cuts() -> None:
    cutter = Cutter(7)

    def chunks(data: bytes) -> set[bytes]:
        found, at = set(), 0
        for length in cutter.lengths(memoryview(data), last=True):
            found.add(data[at : at + length])
            at += length
        return found

    before = chunks(DATA)
    after = chunks(DATA[: 9 << 20] + b"inserted" + DATA[9 << 20 :])
    assert len(before - after) <= 3


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_every_seed_works(seed: int) -> None:
    assert sum(Cutter(seed).lengths(memoryview(DATA), last=True)) == len(DATA)


def test_the_key_decides_the_lengths() -> None:
    assert Cutter(1).lengths(memoryview(DATA), True) != Cutter(2).lengths(memoryview(DATA), True)


def test_nothing_to_cut() -> None:
    assert Cutter(1).lengths(memoryview(b""), True) == Cutter(1).lengths(memoryview(b"abc"), False) == []


async def test_files_are_cut_the_same_wherever_they_lie_in_a_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, behind others in one buffer, and read in short pieces: the same chunks, so nothing new is stored."""
    for name in ("own", "one", "two", "three"):
        (tmp_path / name).mkdir()
    repo = EngineRepo(tmp_path / "own")
    (tmp_path / "one" / "file").write_bytes(DATA)
    first = await repo.run(tmp_path / "one")
    for i in range(7):
        (tmp_path / "two" / f"a{i}").write_bytes(random.Random(i).randbytes(1_300_000))
    (tmp_path / "two" / "file").write_bytes(DATA)
    second = await repo.run(tmp_path / "two")
    real = filereader.os.preadv
    monkeypatch.setattr(filereader.os, "preadv", lambda fd, views, at: real(fd, [views[0][:777_777]], at))
    (tmp_path / "three" / "file").write_bytes(DATA)
    third = await repo.run(tmp_path / "three")
    contents = {
        repo.tree(r, tmp_path / n)[b"file"].entry[8]
        for r, n in ((first, "one"), (second, "two"), (third, "three"))
    }
    assert len(contents) == 1
    assert repo.tree(third, tmp_path / "three")[b"file"].data == DATA
