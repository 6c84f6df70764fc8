"""Opening a repository for reading: the index from segments, from other tiers, and from the packs (B3, A13)."""

from __future__ import annotations

import random
import weakref
from pathlib import Path
from typing import Any

import pytest
from tests.support.smallrepo import SmallRepo, file

from tandem_agent import segments
from tandem_agent.engine.blobindex import BlobIndex
from tandem_agent.reading import RepositoryView, open_index, update_index
from tandem_agent.restore import restore
from tandem_protocol.errors import NoTierReachable
from tandem_protocol.names import ObjectType

CHUNKS = [b"%d" % n * 100 for n in range(40)]


def filled() -> tuple[SmallRepo, bytes]:
    repo = SmallRepo()
    name = repo.snapshot({b"f%02d" % n: file(chunk) for n, chunk in enumerate(CHUNKS)})
    return repo, name


async def check(view: RepositoryView, name: bytes, out: Path) -> None:
    result = await restore(view, name, str(out))
    assert result.damaged == []
    assert [p.read_bytes() for p in sorted(out.iterdir())] == CHUNKS


async def test_segments_that_were_seen_are_not_read_again(tmp_path: Path) -> None:
    repo, _ = filled()
    view = await repo.view(str(tmp_path / "index"))
    view.index.flush()
    view.index.close()
    for store in repo.stores.values():
        store.shared.clear()
    index, notices = await open_index(str(tmp_path / "index"), repo.ring, repo.live, view.tiers)
    assert notices == []
    assert list(index.lookup(repo.id_of(CHUNKS[3])))
    index.close()


async def test_segments_that_are_live_no_more_are_forgotten(tmp_path: Path) -> None:
    """Backups merge them for ever; what they named stays known."""
    repo, _ = filled()
    view = await repo.view(str(tmp_path / "index"))
    (segment,) = view.index.segments_seen()
    view.index.flush()
    view.index.close()
    live = {name: o for name, o in repo.live.items() if name != segment}
    index, _ = await open_index(str(tmp_path / "index"), repo.ring, live, view.tiers)
    index.close()
    index = BlobIndex(str(tmp_path / "index"))
    assert index.segments_seen() == set() and index.naming() == {}
    assert list(index.lookup(repo.id_of(CHUNKS[3])))
    index.close()


async def test_a_damaged_segment_comes_from_the_next_tier(tmp_path: Path) -> None:
    repo, name = filled()
    (path,) = repo.paths(ObjectType.INDEX)
    repo.damage("vault", path, 40)
    view = await repo.view(str(tmp_path / "index"))
    assert view.notices == [f"index segment {path.rpartition('/')[2][:16]} is damaged on vault"]
    await check(view, name, tmp_path / "out")


@pytest.mark.parametrize("harm", ["damaged", "missing", "empty"])
async def test_with_every_index_damaged_it_is_rebuilt_from_the_packs(tmp_path: Path, harm: str) -> None:
    repo, name = filled()
    (path,) = repo.paths(ObjectType.INDEX)
    for tier, store in repo.stores.items():
        if harm == "damaged":
            repo.damage(tier, path, 40)
        elif harm == "missing":
            del store.shared[path]
        else:
            store.shared[path] = b""
    view = await repo.view(str(tmp_path / "index"))
    assert "1 index segments are good on no tier; 2 packs are read instead" in view.notices
    await check(view, name, tmp_path / "out")


async def test_trailers_are_taken_from_the_tier_where_they_are_good(tmp_path: Path) -> None:
    repo, name = filled()
    for store in repo.stores.values():
        del store.shared[repo.paths(ObjectType.INDEX)[0]]
    packs = repo.paths(ObjectType.PACK)
    for path in packs:
        repo.damage("vault", path, len(repo.stores["vault"].shared[path]) - 1 - 4 * packs.index(path))
    view = await repo.view(str(tmp_path / "index"))
    await check(view, name, tmp_path / "out")


async def test_a_long_trailer_is_read_whole(tmp_path: Path) -> None:
    """More blobs than the first read of a pack's end shows."""
    chance = random.Random(6)
    repo = SmallRepo(blobs_in_frame=500)
    chunks = [chance.randbytes(30) for _ in range(3000)]
    name = repo.snapshot({b"f": file(*chunks[:1000]), b"g": file(*chunks[1000:], indirect=True)})
    del repo.stores["vault"].shared[repo.paths(ObjectType.INDEX)[0]]
    del repo.stores["remote"].shared[repo.paths(ObjectType.INDEX)[0]]
    view = await repo.view(str(tmp_path / "index"))
    result = await restore(view, name, str(tmp_path / "out"))
    assert result.exit_code == 0
    assert (tmp_path / "out/g").read_bytes() == b"".join(chunks[1000:])


async def test_without_the_packs_a_lost_segment_is_only_told(tmp_path: Path) -> None:
    repo, _ = filled()
    view = await repo.view(str(tmp_path / "index"))
    for store in repo.stores.values():
        del store.shared[repo.paths(ObjectType.INDEX)[0]]
    segments = {n: o for n, o in repo.live.items() if o.type is ObjectType.INDEX}
    index = BlobIndex(str(tmp_path / "new"))
    notices = await update_index(index, repo.ring, segments, view.tiers)
    assert notices[-1] == "1 index segments are good on no tier; what they name cannot be found"
    assert len(index) == 0
    index.close()


async def test_a_damaged_local_index_is_made_again(tmp_path: Path) -> None:
    repo, name = filled()
    view = await repo.view(str(tmp_path / "index"))
    view.index.flush()
    view.index.close()
    manifest = tmp_path / "index/manifest"
    manifest.write_bytes(manifest.read_bytes()[:-3])
    index, notices = await open_index(str(tmp_path / "index"), repo.ring, repo.live, view.tiers)
    assert notices == ["the local index was damaged and is made again"]
    view.index = index
    await check(view, name, tmp_path / "out")


async def test_one_segment_at_a_time_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded, one takes a hundred megabytes: four at once, as they are fetched, took as much as a whole backup."""

    class Decoded(list[Any]):
        pass

    before: list[weakref.ref[Decoded]] = []
    decode = segments.decode_segment

    def counted(*arguments: Any) -> Decoded:
        # A thread that has done with one may not yet have let go of it.
        assert sum(entries() is not None for entries in before) <= 1
        found = Decoded(decode(*arguments))
        before.append(weakref.ref(found))
        return found

    monkeypatch.setattr(segments, "decode_segment", counted)
    repo = SmallRepo()
    for n in range(10):
        repo.snapshot({b"f": file(CHUNKS[n])})
    view = await repo.view(str(tmp_path / "index"))
    assert len(before) == len(repo.paths(ObjectType.INDEX)) > 5
    view.index.close()


async def test_all_tiers_failing_is_not_an_empty_index(tmp_path: Path) -> None:
    repo, _ = filled()
    view = await repo.view(str(tmp_path / "index"))
    for store in repo.stores.values():
        await store.close()
    index = BlobIndex(str(tmp_path / "new"))
    segments = {n: o for n, o in repo.live.items() if o.type is ObjectType.INDEX}
    with pytest.raises(NoTierReachable):
        await update_index(index, repo.ring, segments, view.tiers, lambda: {})
    index.close()
