"""Walking trees that are not to be trusted (trust.md 22 to 24, 26): cycles, depth, names, lost pages."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.support.smallrepo import SmallRepo, file, folder, link

from tandem_agent.engine.treewalk import Broken, Enter, Entries, Leave, Selection, TreeWalker, normal_path
from tandem_protocol.envelope import DocType
from tandem_protocol.errors import Corrupt, Missing, Usage
from tandem_protocol.tree import DIR, FILE, PageBuilder


def reader(repo: SmallRepo) -> Callable[[bytes], Awaitable[bytes]]:
    blobs = dict(repo._pending[DocType.TREE_PACK])

    async def read(block: bytes) -> bytes:
        if block not in blobs:
            raise Missing("not there")
        return blobs[block]

    return read


async def told(repo: SmallRepo, root: bytes, *paths: bytes, **options: Any) -> list[Any]:
    found: list[Any] = []
    async for event in TreeWalker(reader(repo), **options).walk(root, Selection(paths)):
        match event:
            case Enter(at):
                found.append(("in", at.path, at.wanted))
            case Entries(at, entries, _):
                found += [(at.path, entry[1]) for entry in entries]
            case Leave(at):
                found.append(("out", at.path))
            case Broken(path, error):
                found.append(("broken", path, type(error)))
    return found


TREE = {
    b"a": folder({b"x": file(b"1"), b"y": folder({b"deep": file(b"2")}), b"z": file()}),
    b"b": file(b"3"),
    b"c": folder({}),
}


async def test_everything_once_folders_closed_after_what_is_in_them() -> None:
    repo = SmallRepo()
    assert await told(repo, repo.tree(TREE)) == [
        ("in", b"", True),
        (b"", b"b"),
        ("in", b"a", True),
        (b"a", b"x"),
        (b"a", b"z"),
        ("in", b"a/y", True),
        (b"a/y", b"deep"),
        ("out", b"a/y"),
        ("out", b"a"),
        ("in", b"c", True),
        ("out", b"c"),
        ("out", b""),
    ]


async def test_a_selection_passes_only_through_what_leads_to_it() -> None:
    repo = SmallRepo()
    root = repo.tree(TREE)
    found = await told(repo, root, b"/a/y/")
    assert found == [
        ("in", b"", False),
        ("in", b"a", False),
        ("in", b"a/y", True),
        (b"a/y", b"deep"),
        ("out", b"a/y"),
        ("out", b"a"),
        ("out", b""),
    ]
    assert (b"a", b"x") in await told(repo, root, b"a/x", b"b")
    assert (b"a", b"z") not in await told(repo, root, b"a/x", b"b")
    assert await told(repo, root, b"a", b"a/y") == await told(repo, root, b"a")


def page(entries: list[Any]) -> bytes:
    builder = PageBuilder(lambda _: None, lambda _: None)
    for entry in entries:
        builder._last = b""
        builder.add(entry)
    made = builder.finish()
    assert made is not None
    return made


def entry(name: bytes, kind: int = 0, content: bytes = b"") -> Any:
    return (kind, name, 0o755, 0, 0, 0, 0, 0, content, None)


@pytest.mark.parametrize("name", [b"..", b".", b"", b"a/b", b"/etc/passwd", b"../x", b"nul\0"])
async def test_names_that_lead_elsewhere_are_refused(name: bytes) -> None:
    repo = SmallRepo()
    good = repo.tree({b"ok": file(b"1")})
    builder = PageBuilder(lambda _: None, lambda _: None)
    builder._last = b""
    rows = [entry(name)] if name else []
    builder._rows = [builder._pack(row) for row in rows] or [builder._pack(entry(b""))]
    made = builder.finish()
    assert made is not None
    bad = repo.blob(made, DocType.TREE_PACK)
    root = repo.blob(page([entry(b"bad", DIR, bad), entry(b"good", DIR, good)]), DocType.TREE_PACK)
    found = await told(repo, root)
    assert ("broken", b"bad", Corrupt) in found
    assert (b"good", b"ok") in found
    assert len([one for one in found if one[0] == b"bad"]) == 0


async def test_names_twice_over_two_pages_are_refused() -> None:
    """A symlink in one page and a folder of its name in the next would lead through it."""
    repo = SmallRepo()
    first = repo.tree({b"x": link(b"/etc")})
    second = repo.tree({b"x": folder({b"passwd": file(b"1")})})
    found = await told(repo, first + second)
    assert found == [("in", b"", True), (b"", b"x"), ("broken", b"", Corrupt), ("out", b"")]


async def test_a_folder_that_contains_itself_ends() -> None:
    """Made by hand, since ids are hashes: the reader gives the same page for two ids."""
    one, two = b"1" * 32, b"2" * 32
    pages = {one: page([entry(b"in", DIR, two)]), two: page([entry(b"in", DIR, one)])}

    async def read(block: bytes) -> bytes:
        return pages[block]

    found = [event async for event in TreeWalker(read).walk(one)]
    broken = [event for event in found if isinstance(event, Broken)]
    assert [b.path for b in broken] == [b"in/in"]
    assert "contains itself" in broken[0].error.what
    assert sum(isinstance(e, Enter) for e in found) == sum(isinstance(e, Leave) for e in found)


async def test_depth_is_limited() -> None:
    repo = SmallRepo()
    node = file(b"1")
    for _ in range(30):
        node = folder({b"d": node})
    root = repo.tree({b"d": node})
    assert ("broken", b"/".join([b"d"] * 21), Corrupt) in await told(repo, root, max_depth=20)
    assert not [one for one in await told(repo, root) if one[0] == "broken"]


async def test_a_tree_with_more_paths_than_anyone_can_count_can_be_stopped() -> None:
    """Forty folders that each hold the next one twice, all at hand: nothing waits, and still others get turns."""
    ids = {depth: bytes([depth]) * 32 for depth in range(41)}
    pages = {ids[0]: page([entry(b"f", FILE, b"x" * 32)])}
    for depth in range(1, 41):
        pages[ids[depth]] = page([entry(name, DIR, ids[depth - 1]) for name in (b"a", b"b")])

    async def read(block: bytes) -> bytes:
        return pages[block]

    async def walk() -> None:
        async for _ in TreeWalker(read).walk(ids[40]):
            pass

    walking = asyncio.create_task(walk())
    await asyncio.sleep(0)
    walking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await walking


async def test_a_lost_page_loses_only_what_is_on_it() -> None:
    repo = SmallRepo()
    whole = repo.tree({b"a": file(b"1")})
    root = whole + b"?" * 32 + repo.tree({b"z": file(b"2")})
    assert await told(repo, root) == [
        ("in", b"", True),
        (b"", b"a"),
        ("broken", b"", Missing),
        (b"", b"z"),
        ("out", b""),
    ]


async def test_lists_of_ids_are_followed_and_must_be_whole() -> None:
    repo = SmallRepo()
    root = repo.tree({b"big": file(*[os.urandom(10) for _ in range(9)], indirect=True)})
    walker = TreeWalker(reader(repo))
    big, _ = await walker.find(root, b"/big")
    assert big is not None
    ids = [block async for block in walker.content_ids(big)]
    assert len(ids) == 9
    assert len(big[8]) == 64
    torn = (*big[:8], repo.blob(b"x" * 33, DocType.TREE_PACK), {"indirect": 1})
    with pytest.raises(Corrupt):
        _ = [block async for block in TreeWalker(reader(repo)).content_ids(torn)]


async def test_find() -> None:
    repo = SmallRepo()
    root = repo.tree(TREE)
    walker = TreeWalker(reader(repo))
    found, page = await walker.find(root, b"/a/y/deep")
    assert found is not None and page is not None
    assert found[1] == b"deep"
    assert await walker.find(root, b"/") == (None, None)
    with pytest.raises(Missing, match="not in this backup: /a/nope"):
        await walker.find(root, b"a/nope")
    with pytest.raises(Missing, match="below a file"):
        await walker.find(root, b"b/x")


def test_paths() -> None:
    assert normal_path(b"//srv//data/") == b"srv/data"
    for bad in (b"../x", b"/srv/../etc", b"a/./b", b"nul\0"):
        with pytest.raises(Usage):
            normal_path(bad)
