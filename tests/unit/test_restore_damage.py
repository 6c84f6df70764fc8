"""Restoring from tiers that are damaged, lag or die (A3, F1, trust.md 13, 18 to 23): whole or not at all."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.faulty import Fault, FaultyStore, scripted
from tests.support.smallrepo import SmallRepo, file, folder

from tandem_agent.engine.blobindex import BlobIndex
from tandem_agent.engine.blobruns import Place
from tandem_agent.engine.plan import Limits
from tandem_agent.restore import restore
from tandem_protocol.errors import Corrupt, NoTierReachable, Unavailable
from tandem_protocol.names import ObjectType
from tandem_protocol.store import Store

SEED = 11
TINY = Limits(max_bytes=3000, max_uses=5, merge_gap=64, max_range=2000)


def content(chance: random.Random) -> dict[str, list[bytes]]:
    """Small files, and larger ones in pieces, two of which share some."""
    shared = [chance.randbytes(700) for _ in range(4)]
    files = {f"small{n}": [chance.randbytes(chance.randrange(1, 400))] for n in range(12)}
    files["one"] = [shared[0], chance.randbytes(900), shared[1], shared[2]]
    files["two"] = [shared[3], shared[1], chance.randbytes(500), shared[0]]
    return files


def planted(files: dict[str, list[bytes]], repo: SmallRepo) -> bytes:
    return repo.snapshot({b"d": folder({n.encode(): file(*chunks) for n, chunks in files.items()})}, files=14)


def found(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "d").iterdir()}


def whole(files: dict[str, list[bytes]]) -> dict[str, bytes]:
    return {name: b"".join(chunks) for name, chunks in files.items()}


@pytest.mark.parametrize("limits", [None, TINY])
async def test_each_bit_flip_on_the_vault_is_served_by_the_remote(
    tmp_path: Path, limits: Limits | None
) -> None:
    chance = random.Random(SEED)
    files = content(chance)
    repo = SmallRepo(blobs_in_frame=3)
    name = planted(files, repo)
    view = await repo.view(str(tmp_path / "index"))
    good = dict(repo.stores["vault"].shared)
    healed = 0
    for path in repo.paths(ObjectType.PACK):
        for round_ in range(6):
            repo.stores["vault"].shared = dict(good)
            repo.damage("vault", path, chance.randrange(12, len(good[path])))
            assert repo.stores["vault"].shared[path] != good[path]
            view.tiers[0] = view.tiers[0].__class__("vault", repo.stores["vault"], lambda _: True)
            result = await restore(view, name, str(tmp_path / f"{path[-8:]}{round_}"), limits=limits)
            assert found(tmp_path / f"{path[-8:]}{round_}") == whole(files)
            assert result.exit_code == 0, result
            healed += bool(result.damage)
    assert healed >= 6


async def test_both_tiers_damaged_in_different_places(tmp_path: Path) -> None:
    """Each block from whichever tier has it, mid-file."""
    chance = random.Random(SEED + 1)
    files = {"f": [chance.randbytes(5000) for _ in range(8)]}
    repo = SmallRepo(blobs_in_frame=1)
    name = planted(files, repo)
    view = await repo.view(str(tmp_path / "index"))
    (pack,) = [p for p in repo.paths(ObjectType.PACK) if len(repo.stores["vault"].shared[p]) > 30_000]
    for number in range(8):
        repo.damage(("vault", "remote")[number % 2], pack, 100 + number * 5040)
    result = await restore(view, name, str(tmp_path / "out"))
    assert found(tmp_path / "out") == whole(files)
    assert result.exit_code == 0
    assert {d.tier for d in result.damage} == {"vault"}, "of the remote only what the vault has bad is read"
    assert min(result.read_from.values()) > 0


async def test_the_third_tier_has_it(tmp_path: Path) -> None:
    """Bad on two tiers at the same place, in a small file and in a piece of a larger one."""
    chance = random.Random(SEED)
    files = content(chance)
    repo = SmallRepo(("vault", "remote", "disk"), blobs_in_frame=30)
    name = planted(files, repo)
    view = await repo.view(str(tmp_path / "index"))
    for tier in ("vault", "remote"):
        for path in repo.paths(ObjectType.PACK):
            repo.damage(tier, path, 30)
    result = await restore(view, name, str(tmp_path / "out"))
    assert found(tmp_path / "out") == whole(files)
    assert result.exit_code == 0
    assert {d.tier for d in result.damage} == {"vault", "remote"}


async def test_damaged_everywhere_is_named_and_nothing_else_is_lost(tmp_path: Path) -> None:
    chance = random.Random(SEED + 2)
    files = {f"f{n}": [chance.randbytes(3000), chance.randbytes(3000)] for n in range(6)}
    repo = SmallRepo(blobs_in_frame=1)
    name = planted(files, repo)
    view = await repo.view(str(tmp_path / "index"))
    (pack,) = [p for p in repo.paths(ObjectType.PACK) if len(repo.stores["vault"].shared[p]) > 30_000]
    for tier in repo.stores:
        repo.damage(tier, pack, 200 + 3 * 3040)  # the second half of f1
    result = await restore(view, name, str(tmp_path / "out"))
    assert result.exit_code == 6
    assert [lost.path for lost in result.damaged] == [b"d/f1"]
    assert str(result.damaged[0]).startswith("d/f1: ")
    expected = whole(files)
    del expected["f1"]
    assert found(tmp_path / "out") == expected
    assert result.files == 5
    assert os.stat(tmp_path / "out/d").st_mtime_ns != 0


async def test_a_lost_pack_loses_its_files_only(tmp_path: Path) -> None:
    repo = SmallRepo()
    first = repo.tree({b"a": file(b"1" * 100), b"b": file(b"2" * 100)})
    lost = repo.flush()[0]
    name = repo.snapshot({b"x": folder({}), b"c": file(b"3" * 100), b"a": file(b"1" * 100)})
    assert first
    view = await repo.view(str(tmp_path / "index"))
    for store in repo.stores.values():
        del store.shared[next(p for p in repo.paths(ObjectType.PACK) if p.endswith(lost.hex()))]
    result = await restore(view, name, str(tmp_path / "out"))
    assert [x.path for x in result.damaged] == [b"a"]
    assert (tmp_path / "out/c").read_bytes() == b"3" * 100
    assert sorted(os.listdir(tmp_path / "out")) == ["c", "x"]


async def test_sizes_that_do_not_agree_are_damage(tmp_path: Path) -> None:
    """A tree that claims more or less than its blocks hold must not give a padded or cut file."""
    repo = SmallRepo()
    name = repo.snapshot(
        {
            b"less": file(b"12345", b"67890", size=9),
            b"more": file(b"12345", b"67890", size=11),
            b"one": file(b"abc", size=2),
            b"nul": file(b"abcd", size=1 << 40),
            b"good": file(b"fine"),
        }
    )
    view = await repo.view(str(tmp_path / "index"))
    result = await restore(view, name, str(tmp_path / "out"))
    assert sorted(x.path for x in result.damaged) == [b"less", b"more", b"nul", b"one"]
    assert os.listdir(tmp_path / "out") == ["good"]


async def test_an_index_that_lies_gives_no_wrong_content(tmp_path: Path) -> None:
    """Two blocks swapped in the index: each is checked by its id, wherever it is said to be."""
    repo = SmallRepo()
    name = repo.snapshot({b"a": file(b"A" * 50), b"b": file(b"B" * 50), b"c": file(b"B" * 50, b"A" * 50)})
    view = await repo.view(str(tmp_path / "right"))
    honest = view.index
    ids = [repo.id_of(b"A" * 50), repo.id_of(b"B" * 50)]
    (a,), (b,) = (list(honest.lookup(block)) for block in ids)

    class Lying(BlobIndex):
        def lookup(self, content_id: bytes) -> Iterator[Place]:
            yield from {ids[0]: [b], ids[1]: [a]}.get(content_id, super().lookup(content_id))

    honest.flush()
    view.index = Lying(str(tmp_path / "right"))
    result = await restore(view, name, str(tmp_path / "out"))
    assert sorted(x.path for x in result.damaged) == [b"a", b"b", b"c"]
    assert os.listdir(tmp_path / "out") == []

    class Unsure(BlobIndex):
        def lookup(self, content_id: bytes) -> Iterator[Place]:
            yield from {ids[0]: [b, a], ids[1]: [a, b]}.get(content_id, super().lookup(content_id))

    view.index = Unsure(str(tmp_path / "right"))
    assert (await restore(view, name, str(tmp_path / "out"))).damaged == []
    assert (tmp_path / "out/c").read_bytes() == b"B" * 50 + b"A" * 50


async def test_hard_links_of_a_lost_file_are_lost_by_name(tmp_path: Path) -> None:
    repo = SmallRepo()
    extras = {"l": (1, 2)}
    name = repo.snapshot({b"a": file(b"x", extras=extras, size=5), b"b": file(b"x", extras=extras, size=5)})
    view = await repo.view(str(tmp_path / "index"))
    result = await restore(view, name, str(tmp_path / "out"))
    assert [x.path for x in result.damaged] == [b"a", b"b"]
    assert os.listdir(tmp_path / "out") == []


async def test_a_lost_page_is_named_and_the_rest_restored(tmp_path: Path) -> None:
    repo = SmallRepo()
    good = repo.tree({b"a": file(b"1")})
    name = repo.snapshot(good + b"?" * 32)
    view = await repo.view(str(tmp_path / "index"))
    result = await restore(view, name, str(tmp_path / "out"))
    assert result.exit_code == 6
    assert (tmp_path / "out/a").read_bytes() == b"1"


async def test_a_snapshot_lost_everywhere(tmp_path: Path) -> None:
    repo = SmallRepo()
    name = repo.snapshot({})
    view = await repo.view(str(tmp_path / "index"))
    for store in repo.stores.values():
        del store.shared[repo.paths(ObjectType.SNAPSHOT)[0]]
    with pytest.raises(Corrupt, match="manifest"):
        await restore(view, name, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("reads", range(1, 12))
async def test_the_vault_dies_at_every_read(tmp_path: Path, reads: int) -> None:
    """Fault at every operation: the remote finishes, whatever was under way."""
    chance = random.Random(SEED)
    files = content(chance)
    repo = SmallRepo(blobs_in_frame=3)
    name = planted(files, repo)
    view = await repo.view(str(tmp_path / "index"))
    with scripted(Fault("read", reads, Unavailable("the cable"))) as script:
        view.tiers[0] = view.tiers[0].__class__(
            "vault", FaultyStore(repo.stores["vault"], script), lambda _: True
        )
        result = await restore(view, name, str(tmp_path / "out"), limits=TINY)
    assert found(tmp_path / "out") == whole(files)
    assert result.exit_code == 3
    assert result.warnings == ["tier vault failed: the cable"]
    assert result.read_from["remote"] > 0


async def test_a_lagging_tier_serves_what_it_holds_while_the_other_is_away(tmp_path: Path) -> None:
    repo = SmallRepo()
    older = repo.tree({b"a": file(b"old" * 50)})
    repo.flush()
    name = repo.snapshot({b"old": folder({b"a": file(b"old" * 50)}), b"new": file(b"new" * 50)})
    assert older
    view = await repo.view(str(tmp_path / "index"))
    (place,) = view.index.lookup(repo.id_of(b"new" * 50))
    missing = view.index.pack(place[0]).name
    path = next(p for p in repo.paths(ObjectType.PACK) if p.endswith(missing.hex()))
    del repo.stores["vault"].shared[path]
    with scripted(Fault("read", 1)) as script:
        view.tiers[1] = view.tiers[1].__class__(
            "remote", FaultyStore(repo.stores["remote"], script), lambda _: True
        )
        result = await restore(view, name, str(tmp_path / "out"))
    assert result.exit_code == 5
    assert [x.path for x in result.away] == [b"new"]
    assert result.damaged == []
    assert (tmp_path / "out/old/a").read_bytes() == b"old" * 50


async def test_every_tier_dies(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    files = content(chance)
    repo = SmallRepo(blobs_in_frame=3)
    name = planted(files, repo)
    view = await repo.view(str(tmp_path / "index"))
    with scripted(Fault("read", 5), Fault("read", 6)) as script:
        stores: dict[str, Store] = {n: FaultyStore(s, script) for n, s in repo.stores.items()}
        view.tiers[:] = [view.tiers[0].__class__(n, s, lambda _: True) for n, s in stores.items()]
        with pytest.raises(NoTierReachable):
            await restore(view, name, str(tmp_path / "out"), limits=TINY)
    assert not [n for _, _, names in os.walk(tmp_path / "out") for n in names if n.startswith(".tandem")]
    view = await repo.view(str(tmp_path / "again"))
    assert (await restore(view, name, str(tmp_path / "out"))).exit_code == 0
    assert found(tmp_path / "out") == whole(files)
