"""The files cache: unchanged files are not read, and it may be lost or damaged at any time (issue 3; storage.md)."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from pathlib import Path

import pytest
from tests.support.enginerun import EngineRepo

from tandem_agent.engine.filescache import FilesCache, NewRow, children_digest
from tandem_agent.engine.seen import stats_digest

ABOVE = 8
"""Pages of the folders above the source may change at any time: others work in them too."""


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineRepo:
    """A repository in which files are old enough at once: the scanner's clock runs ten seconds ahead."""
    (tmp_path / "own").mkdir()
    real = time.time_ns
    monkeypatch.setattr("tandem_agent.engine.scan.time.time_ns", lambda: real() + 10_000_000_000)
    return EngineRepo(tmp_path / "own")


@pytest.fixture
def src(tmp_path: Path) -> Path:
    made = tmp_path / "src"
    for i in range(30):
        folder = made / f"d{i % 5}" / "e"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{i}").write_bytes(random.Random(i).randbytes(1000 + i))
    (made / "large").write_bytes(random.Random(99).randbytes(600_000))
    return made


async def test_an_unchanged_run_reads_and_stores_nothing(repo: EngineRepo, src: Path) -> None:
    first = await repo.run(src)
    assert first.stats["files_read"] == 31
    second = await repo.run(src)
    assert repo.pages(second, src) == repo.pages(first, src)
    assert second.stats["files_read"] == second.stats["bytes_read"] == 0
    assert second.stats["blobs"] <= ABOVE
    assert second.stats["files"] == 31 and second.stats["bytes"] == first.stats["bytes"]


async def test_only_what_changed_is_read(repo: EngineRepo, src: Path) -> None:
    await repo.run(src)
    (src / "d1" / "e" / "f1").write_bytes(b"new content")
    (src / "d2" / "e" / "added").write_bytes(b"added")
    (src / "d3" / "e" / "f3").unlink()
    os.chmod(src / "d4", 0o700)
    result = await repo.run(src)
    assert result.stats["files_read"] == 2
    tree = repo.tree(result, src)
    assert tree[b"d1/e/f1"].data == b"new content" and tree[b"d2/e/added"].data == b"added"
    assert b"d3/e/f3" not in tree and tree[b"d4"].entry[2] == 0o700
    assert tree[b"large"].data == (src / "large").read_bytes()
    again = await repo.run(src)
    assert (repo.pages(again, src), again.stats["files_read"]) == (repo.pages(result, src), 0)


@pytest.mark.parametrize("change", ["content", "mode", "xattr", "swap", "times"])
async def test_every_change_is_seen_though_size_and_mtime_stay(
    repo: EngineRepo, src: Path, change: str
) -> None:
    path = src / "d1" / "e" / "f1"
    await repo.run(src)
    before = os.stat(path)
    data = path.read_bytes()
    if change == "content":
        path.write_bytes(data[::-1])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "mode":
        os.chmod(path, 0o600)
    elif change == "xattr":
        os.setxattr(path, "user.new", b"1")
    elif change == "swap":
        (src / "new").write_bytes(data[::-1])
        os.utime(src / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
        os.rename(src / "new", path)
    else:
        os.utime(path, ns=(0, 12_345))
    seen = repo.tree(await repo.run(src), src)[b"d1/e/f1"]
    assert seen.data == path.read_bytes()
    assert seen.entry[2] == os.stat(path).st_mode & 0o7777
    assert seen.extras.get("x") == ({b"user.new": b"1"} if change == "xattr" else None)
    assert seen.entry[6] == os.stat(path).st_mtime_ns % 10**9


async def test_files_too_new_to_be_trusted_are_read_again(
    tmp_path: Path, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The racy rule: a second change within the clock's grain would not show."""
    (tmp_path / "own").mkdir()
    repo = EngineRepo(tmp_path / "own")
    newest = max(os.stat(os.path.join(d, f)).st_ctime_ns for d, _, files in os.walk(src) for f in files)
    monkeypatch.setattr("tandem_agent.engine.scan.time.time_ns", lambda: newest + 1_900_000_000)
    await repo.run(src)
    assert (await repo.run(src)).stats["files_read"] == 31
    monkeypatch.setattr("tandem_agent.engine.scan.time.time_ns", lambda: newest + 2_100_000_000)
    assert (await repo.run(src)).stats["files_read"] == 31, "what the last run saw was too new then"
    assert (await repo.run(src)).stats["files_read"] == 0


async def test_without_trust_every_id_is_asked_and_lost_content_read_again(
    repo: EngineRepo, src: Path
) -> None:
    await repo.run(src)
    repo.trust = False
    assert (await repo.run(src)).stats["files_read"] == 0
    lost = next(name for name, blob in repo.blobs.items() if blob == (src / "d1" / "e" / "f1").read_bytes())
    repo.has = lambda name: name != lost and repo.index.known(name)
    result = await repo.run(src)
    assert result.stats["files_read"] == 1
    assert lost in {frame.ids for pack in repo.last_packs for frame in pack.frames}


async def test_a_page_that_a_target_lacks_is_stored_again(repo: EngineRepo, src: Path) -> None:
    first = await repo.run(src)
    pages = {seen.entry[8] for path, seen in repo.tree(first, src).items() if path == b"d1/e"}
    repo.trust = False
    repo.has = lambda name: name not in pages and repo.index.known(name)
    result = await repo.run(src)
    assert repo.pages(result, src) == repo.pages(first, src)
    stored = b"".join(frame.ids for pack in repo.last_packs for frame in pack.frames)
    assert all(page in stored for page in pages)


async def test_what_was_not_committed_is_not_believed(repo: EngineRepo, src: Path) -> None:
    await repo.run(src, commit=False)
    assert (await repo.run(src)).stats["files_read"] == 31
    assert (await repo.run(src)).stats["files_read"] == 0


async def test_folders_that_are_gone_leave_no_rows(repo: EngineRepo, src: Path) -> None:
    await repo.run(src)
    os.rename(src / "d1", src.parent / "d1")
    await repo.run(src)
    with sqlite3.connect(repo.folder / "files.sqlite") as db:
        rows = db.execute("SELECT path, detail FROM pages").fetchall()
        details = {number for (number,) in db.execute("SELECT id FROM details")}
        runs = db.execute("SELECT count(*) FROM runs").fetchone()[0]
    db.close()
    assert not any(b"/d1" in path for path, _ in rows)
    assert details == {number for _, number in rows} and runs <= 2


@pytest.mark.parametrize("seed", range(12))
async def test_a_damaged_file_is_an_empty_one(repo: EngineRepo, src: Path, seed: int) -> None:
    """Bytes flipped, cut, zeroed anywhere: every backup is right, and soon they are quick again."""
    first = await repo.run(src)
    path = repo.folder / "files.sqlite"
    random_ = random.Random(seed)
    data = bytearray(path.read_bytes())
    if seed % 3 == 0:
        data = data[: random_.randrange(len(data))]
    for _ in range(20 if data else 0):
        at = random_.randrange(len(data))
        data[at : at + 8] = random_.randbytes(8) if seed % 2 else bytes(8)
    path.write_bytes(data)
    result = await repo.run(src)
    assert repo.pages(result, src) == repo.pages(first, src) and result.warnings == []
    for _ in range(2):  # damage may show in what a later run happens to look at
        assert repo.pages(await repo.run(src), src) == repo.pages(first, src)
    assert (await repo.run(src)).stats["files_read"] == 0


async def test_damage_that_shows_late_begins_the_run_again(repo: EngineRepo, src: Path) -> None:
    """The page of "src" is believed by its digest; only when it must be made anew its detail is missed."""
    await repo.run(src)
    with sqlite3.connect(repo.folder / "files.sqlite") as db:
        db.execute("UPDATE details SET data = zeroblob(length(data))")
    db.close()
    (src / "d1" / "e" / "f1").write_bytes(b"changed")
    result = await repo.run(src)
    assert result.warnings == [] and result.stats["files"] == repo.progress.files - 31 == 31
    assert repo.tree(result, src)[b"d1/e/f1"].data == b"changed"
    await repo.run(src)
    assert (await repo.run(src)).stats["files_read"] == 0


async def test_a_cache_of_another_repository_is_not_used(repo: EngineRepo, src: Path) -> None:
    await repo.run(src)
    FilesCache(str(repo.folder / "files.sqlite"), b"another").close()
    assert (await repo.run(src)).stats["files_read"] == 31


async def test_link_groups_follow_the_device_number(
    repo: EngineRepo, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Device numbers may change between boots; links seen now must still meet those from the cache."""
    os.link(src / "large", src / "again")
    await repo.run(src)
    monkeypatch.setattr(
        "tandem_agent.engine.treebuilder.stats_digest", lambda d, n, s: stats_digest(d + 1, n, s)
    )
    (src / "added").write_bytes(b"x")
    tree = repo.tree(await repo.run(src), src)
    assert tree[b"large"].extras["l"] == tree[b"again"].extras["l"]


def row(names: list[bytes], page: bytes = b"p" * 32) -> NewRow:
    stats = [1, 2, 3, 4, 5] * len(names)
    return NewRow(b"", stats_digest(7, names, stats), page, children_digest([]), stats, b"\x81\xa1e\x90")


def test_rows_move_and_details_of_dropped_ones_go(tmp_path: Path) -> None:
    path = str(tmp_path / "cache")
    cache = FilesCache(path, b"o")
    for part in range(3):
        cache.put(b"/x", part, row([b"%d" % part], bytes([part]) * 32))
    cache.finish(b"/x", 3, 0, [])
    cache.commit(9)
    first, second, third = cache.rows(b"/x")
    assert cache.revision(first.run) == 9
    cache.put(b"/x", 0, second)
    cache.finish(b"/x", 1, 3, [first.detail, third.detail])
    cache.commit(10)
    (left,) = cache.rows(b"/x")
    assert (left.part, left.page, cache.revision(left.run)) == (0, second.page, 9)
    assert cache.detail(left) is not None and cache.detail(first) is None
    cache.close()
    assert cache.rows(b"/x") == []


def test_inode_numbers_of_64_bits(tmp_path: Path) -> None:
    big = [2**64 - 1, 2**63, -1, 0, 5]
    assert stats_digest(1, [b"a"], big) != stats_digest(1, [b"a"], [2**64 - 2, *big[1:]])
