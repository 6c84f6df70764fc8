"""Fetching across tiers (A3, F1): the first tier that has it good, block by block, and an account of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.faulty import Fault, FaultyStore, scripted
from tests.support.smallrepo import SmallRepo, file

from tandem_agent.engine.fetch import Damage, Fetcher, NamedStore
from tandem_agent.reading import RepositoryView
from tandem_protocol.envelope import DocType
from tandem_protocol.errors import Missing, NoTierReachable, Refused, Unavailable, Unreadable
from tandem_protocol.names import ObjectType, object_path
from tandem_protocol.snapshot import MAX_SNAPSHOT
from tandem_protocol.store import Store

DATA = b"block of data"


def fetcher(view: RepositoryView) -> Fetcher:
    return Fetcher(view.ring, view.tiers, view.index)


async def one_blob(tmp_path: Path) -> tuple[SmallRepo, RepositoryView, bytes, str]:
    """A repository with a blob, the blob's id, and where its pack is."""
    repo = SmallRepo()
    repo.snapshot({b"f": file(DATA)})
    view = await repo.view(str(tmp_path / "index"))
    block = repo.id_of(DATA)
    (place,) = view.index.lookup(block)
    return repo, view, block, object_path(ObjectType.PACK, view.index.pack(place[0]).name)


def name_of(path: str) -> bytes:
    return bytes.fromhex(path.rpartition("/")[2])


async def test_the_first_tier_answers(tmp_path: Path) -> None:
    _, view, block, _ = await one_blob(tmp_path)
    fetch = fetcher(view)
    assert await fetch.blob(block) == DATA
    assert fetch.read_from["vault"] > 0
    assert fetch.read_from["remote"] == 0
    assert fetch.damage == []


@pytest.mark.parametrize("harm", ["missing", "short", "damaged", "empty"])
async def test_the_next_tier_answers_for_bad_bytes(tmp_path: Path, harm: str) -> None:
    repo, view, block, path = await one_blob(tmp_path)
    vault = repo.stores["vault"].shared
    if harm == "missing":
        del vault[path]
    elif harm == "damaged":
        repo.damage("vault", path, 60)
    else:
        vault[path] = vault[path][: 20 if harm == "short" else 0]
    fetch = fetcher(view)
    assert await fetch.blob(block) == DATA
    assert fetch.read_from["remote"] > 0
    what = "short" if harm == "empty" else harm
    assert fetch.damage == [Damage("vault", ObjectType.PACK, name_of(path), what)]


async def test_known_holders_are_asked_first(tmp_path: Path) -> None:
    repo, view, block, _ = await one_blob(tmp_path)
    view.tiers[0] = NamedStore("vault", repo.stores["vault"], lambda _: False)
    fetch = fetcher(view)
    assert await fetch.blob(block) == DATA
    assert fetch.read_from["vault"] == 0
    view.tiers[1] = NamedStore("remote", repo.stores["remote"], lambda _: False)
    fetch = fetcher(view)
    assert await fetch.blob(block) == DATA
    assert fetch.read_from["vault"] > 0


async def test_another_place_of_the_same_block(tmp_path: Path) -> None:
    """The same content in two packs: damaged in one on every tier, it comes from the other."""
    repo, view, block, path = await one_blob(tmp_path)
    repo._known.clear()
    repo.blob(DATA)
    repo.blob(b"more")
    repo.flush()
    view.index.add_pack(repo.entries[-1])
    for tier in repo.stores:
        del repo.stores[tier].shared[path]
    assert len(list(view.index.lookup(block))) == 2
    fetch = fetcher(view)
    assert await fetch.blob(block) == DATA


async def test_a_swapped_block_is_noticed(tmp_path: Path) -> None:
    """Another valid object in place of the right one (trust.md 18)."""
    repo, view, block, path = await one_blob(tmp_path)
    (other,) = [p for p in repo.paths(ObjectType.PACK) if p != path]
    vault = repo.stores["vault"].shared
    vault[path] = vault[other]
    fetch = fetcher(view)
    assert await fetch.blob(block) == DATA
    assert [d.tier for d in fetch.damage] == ["vault"]


async def test_good_nowhere_is_missing(tmp_path: Path) -> None:
    repo, view, block, path = await one_blob(tmp_path)
    for tier in repo.stores:
        repo.damage(tier, path, 60)
    with pytest.raises(Missing, match="good on no tier"):
        await fetcher(view).blob(block)
    with pytest.raises(Missing, match="in no index"):
        await fetcher(view).blob(b"?" * 32)


async def test_of_one_tier_alone_nothing_is_said_of_others(tmp_path: Path) -> None:
    repo, view, block, path = await one_blob(tmp_path)
    repo.damage("vault", path, 60)
    alone = Fetcher(view.ring, view.tiers[:1], view.index, remedy="ask the others")
    with pytest.raises(Missing, match=r"^pack [0-9a-f]{16} is not good on vault: ask the others$"):
        await alone.blob(block)
    assert await fetcher(view).blob(block) == DATA


async def faulty_view(repo: SmallRepo, tmp_path: Path, *stores: Store) -> RepositoryView:
    return await repo.view(str(tmp_path / "other"), dict(zip(repo.stores, stores, strict=True)))


async def test_a_tier_that_fails_is_not_asked_again(tmp_path: Path) -> None:
    repo, view, _, path = await one_blob(tmp_path)
    with scripted(Fault("read", 1, Refused("no permission"))) as script:
        faulty = FaultyStore(repo.stores["vault"], script)
        view.tiers[0] = NamedStore("vault", faulty, lambda _: True)
        fetch = fetcher(view)
        for _ in range(3):
            assert (await fetch.read(ObjectType.PACK, name_of(path), 0, 30))[1] == "remote"
        assert script.calls["read"] == 1
        assert fetch.notices == ["tier vault failed: no permission"]
        assert fetch.damage == []


async def test_a_tier_with_a_bad_block_is_asked_for_everything_else(tmp_path: Path) -> None:
    repo, view, _, path = await one_blob(tmp_path)
    with scripted(Fault("read", 1, Unreadable("Input/output error"))) as script:
        view.tiers[0] = NamedStore("vault", FaultyStore(repo.stores["vault"], script), lambda _: True)
        fetch = fetcher(view)
        assert [(await fetch.read(ObjectType.PACK, name_of(path), 0, 30))[1] for _ in range(2)] == [
            "remote",
            "vault",
        ]
        assert fetch.notices == []
        assert fetch.damage == [Damage("vault", ObjectType.PACK, name_of(path), "damaged")]


async def test_away_is_told_from_lost(tmp_path: Path) -> None:
    repo, view, block, path = await one_blob(tmp_path)
    del repo.stores["remote"].shared[path]
    with scripted(Fault("read", 1)) as script:
        view.tiers[0] = NamedStore("vault", FaultyStore(repo.stores["vault"], script), lambda _: True)
        with pytest.raises(Unavailable, match="while vault is away"):
            await fetcher(view).blob(block)


async def test_all_tiers_away(tmp_path: Path) -> None:
    repo, view, block, _ = await one_blob(tmp_path)
    with scripted(Fault("read", 1), Fault("read", 2)) as script:
        view.tiers[:] = [
            NamedStore(name, FaultyStore(store, script), lambda _: True)
            for name, store in repo.stores.items()
        ]
        with pytest.raises(NoTierReachable, match=r"every tier failed .vault: a scripted fault; remote"):
            await fetcher(view).blob(block)


async def test_a_tier_is_connected_when_first_asked_and_once(tmp_path: Path) -> None:
    repo, view, block, _ = await one_blob(tmp_path)
    connected: list[str] = []

    def connect(name: str) -> NamedStore:
        async def open_it() -> None:
            connected.append(name)
            await repo.stores[name].open()

        return NamedStore(name, repo.stores[name], lambda _: True, open_it)

    for store in repo.stores.values():
        await store.close()
    view.tiers[:] = [connect("vault"), connect("remote")]
    fetch = fetcher(view)
    await fetch.blob(block)
    await fetch.read(
        ObjectType.PACK, repo.entries[0].name if repo.entries else view.index.pack(0).name, 0, 12
    )
    assert connected == ["vault"]


async def test_tree_packs_are_read_ahead(tmp_path: Path) -> None:
    repo = SmallRepo(blobs_in_frame=1)
    blocks = [repo.blob(b"page %d" % n, DocType.TREE_PACK) for n in range(50)]
    repo.snapshot({})
    view = await repo.view(str(tmp_path / "index"))
    with scripted() as script:
        view.tiers[0] = NamedStore("vault", FaultyStore(repo.stores["vault"], script), lambda _: True)
        fetch = fetcher(view)
        for number, block in enumerate(blocks):
            assert await fetch.blob(block) == b"page %d" % number
        assert script.calls["read"] == 1


async def test_whole_objects_are_verified_by_name(tmp_path: Path) -> None:
    repo, view, _, _ = await one_blob(tmp_path)
    (path,) = repo.paths(ObjectType.SNAPSHOT)
    repo.damage("vault", path, 30)
    fetch = fetcher(view)
    data = await fetch.whole(ObjectType.SNAPSHOT, name_of(path))
    assert data == repo.stores["remote"].shared[path]
    assert fetch.damage == [Damage("vault", ObjectType.SNAPSHOT, name_of(path), "damaged")]
    repo.damage("remote", path, 30)
    with pytest.raises(Missing, match="snapshot"):
        await fetcher(view).whole(ObjectType.SNAPSHOT, name_of(path))


async def test_what_is_longer_than_any_of_its_kind_is_not_read_to_its_end(tmp_path: Path) -> None:
    repo, view, _, _ = await one_blob(tmp_path)
    (path,) = repo.paths(ObjectType.SNAPSHOT)
    good = repo.stores["remote"].shared[path]
    repo.stores["vault"].shared[path] = good + bytes(2 * MAX_SNAPSHOT)
    fetch = fetcher(view)
    assert await fetch.whole(ObjectType.SNAPSHOT, name_of(path)) == good
    assert fetch.damage == [Damage("vault", ObjectType.SNAPSHOT, name_of(path), "damaged")]
    assert fetch.read_from["vault"] == MAX_SNAPSHOT + 1
