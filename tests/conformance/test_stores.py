"""The Store contract, against every store over real servers (issue: "the Store contract and its conformance
suite"; code.md 14). What a name means, what each verb does and refuses, in both forms of an object."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, suppress

import pytest
from tests.conformance.places import MemoryPlace, Place, opened

from tandem_protocol.errors import Absent, Exists, Missing, Refused, TandemError, Unavailable
from tandem_protocol.store import Entry, Store

NAME = "packs/ab/" + "ab" * 32
OTHER = "packs/cd/" + "cd" * 32
CLAIM = "revisions/000000000000/00/01.claim"
BIG = random.Random(3).randbytes(3 * 1024 * 1024 + 12345)


async def names(store: Store, folder: str) -> set[str]:
    return {entry.name async for entry in store.list(folder)}


async def test_created_is_read_back(store: Store) -> None:
    await store.create("tandem", b"identity")
    await store.create(CLAIM, bytearray(b"claim"))
    assert await store.read("tandem") == b"identity"
    assert await store.read(CLAIM) == b"claim"
    assert await store.size(CLAIM) == 5


async def test_an_empty_object_is_an_object(store: Store) -> None:
    await store.create("tandem", b"")
    await store.put(NAME, b"")
    for name in ("tandem", NAME):
        assert (await store.read(name), await store.size(name)) == (b"", 0)


async def test_create_never_overwrites(store: Store, place: Place) -> None:
    await store.create(CLAIM, b"first")
    with pytest.raises(Exists):
        await store.create(CLAIM, b"second")
    assert await store.read(CLAIM) == b"first"


async def test_of_two_racing_creates_one_wins(place: Place, closing: AsyncExitStack) -> None:
    """Two sessions, 200 names: exactly one winner each, and what stands there is the winner's."""
    sessions = [await opened(place.make(), closing) for _ in range(2)]

    async def attempt(who: int, name: str) -> bool:
        try:
            await sessions[who].create(name, b"writer %d of " % who + name.encode())
        except Exists:
            return False
        return True

    for number in range(200):
        name = f"revisions/000000000000/00/{number:02x}.claim"
        won = await asyncio.gather(*(attempt(who, name) for who in (0, 1)))
        assert sorted(won) == [False, True]
        assert await sessions[0].read(name) == b"writer %d of " % won.index(True) + name.encode()
    if not isinstance(place, MemoryPlace):
        assert await names(sessions[0], "tmp") == set()


async def part_of(store: Store, offset: int, length: int) -> bytes:
    """A server may end the session with a part read (ProFTPD does, seldom): the next verb finds the store closed."""
    try:
        return await store.read(NAME, offset, length)
    except Unavailable as closed:
        assert "is not open" in str(closed)
        await store.open()
        return await store.read(NAME, offset, length)


async def test_put_is_read_back_whole_and_in_parts(store: Store) -> None:
    reported: list[int] = []
    await store.put(NAME, memoryview(BIG), reported.append)
    assert sum(reported) == len(BIG)
    assert await store.size(NAME) == len(BIG)
    assert await store.read(NAME) == BIG
    for offset, length in [
        (0, 1),
        (7, 300_001),
        (1_000_000, 2_000_000),
        (len(BIG) - 3, 3),
        (len(BIG) - 3, 9),
    ]:
        assert await part_of(store, offset, length) == BIG[offset : offset + length]
    assert await store.read(NAME, 12345) == BIG[12345:]
    assert await store.read(NAME, 5, 0) == b""
    assert await store.read(NAME, len(BIG), 10) == b""
    assert await store.read(NAME, len(BIG) + 7) == b""


async def test_put_again_is_done_with_the_same_size_and_refused_with_another(store: Store) -> None:
    await store.put(NAME, BIG)
    await store.put(NAME, BIG)
    with pytest.raises(Exists):
        await store.put(NAME, BIG + b"x")
    assert await store.read(NAME) == BIG


async def test_publishing_leaves_nothing_behind(store: Store) -> None:
    await store.create(CLAIM, b"claim")
    with pytest.raises(Exists):
        await store.create(CLAIM, b"claim")
    await store.put(NAME, BIG)
    await store.put(NAME, BIG)
    assert await names(store, "tmp") == set()


@pytest.mark.parametrize("left", [BIG[:1_000_000], BIG[:999_999] + b"\0", BIG + b"more", b""], ids=len)
async def test_put_goes_on_from_a_part_only_if_it_is_right(store: Store, place: Place, left: bytes) -> None:
    place.plant("tmp/" + NAME.rpartition("/")[2], left)
    reported: list[int] = []
    await store.put(NAME, BIG, reported.append)
    assert await store.read(NAME) == BIG
    if place.resumes:
        spared = len(left) if left and BIG.startswith(left) else 0
        assert sum(reported) == len(BIG) - spared
        assert await names(store, "tmp") == set()


async def test_what_is_not_there_is_missing(store: Store, place: Place) -> None:
    place.plant_folder("packs/ab")
    for name in ("tandem", NAME, "epochs/0000000000000001", "packs/ab", "packs"):
        with pytest.raises(Missing):
            await store.read(name)
        with pytest.raises(Missing):
            await store.size(name)
        with pytest.raises(Missing):
            await store.read(name, 3, 4)


async def test_listing(store: Store) -> None:
    assert await names(store, "packs") == set()
    assert await names(store, "revisions/000000000000/00") == set()
    await store.create("tandem", b"identity")
    await store.put(NAME, b"12345")
    await store.put(OTHER, b"123")
    assert {e async for e in store.list("packs")} == {Entry("ab", 0, True), Entry("cd", 0, True)}
    assert [e async for e in store.list("packs/ab")] == [Entry("ab" * 32, 5, False)]
    root = {e async for e in store.list("")}
    assert Entry("tandem", 8, False) in root
    assert Entry("packs", 0, True) in root


async def test_long_listings_are_complete(store: Store, place: Place) -> None:
    wanted = {f"{number:016x}" for number in range(1500)}
    for name in wanted:
        place.plant(f"epochs/{name}", b"x")
    listed = [entry async for entry in store.list("epochs")]
    assert len(listed) == len(wanted)
    assert {entry.name for entry in listed} == wanted


async def test_names_that_are_not_valid_are_passed_over(store: Store, place: Place) -> None:
    for name in ("UPPER", "with space", "-dash", ".hidden", "a\nb", "esc\x1b[31m", b"\xff\xfe", "ok"):
        place.plant(name if isinstance(name, bytes) else f"keys/{name}", b"x")
        if isinstance(name, bytes):
            place.plant(b"keys/" + name, b"x")
    assert await names(store, "keys") == {"ok"}


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a//b", "", "a/../b", "A", "a/.b", "a/", "x\0", "é", "a" * 256]
)
async def test_names_that_are_not_valid_are_refused(store: Store, place: Place, name: str) -> None:
    before = place.names()
    for verb in (
        lambda: store.create(name, b"x"),
        lambda: store.put(name, b"x"),
        lambda: store.read(name),
        lambda: store.size(name),
        lambda: store.delete(name),
        lambda: store.move(name, "keys/ok"),
        lambda: store.move("keys/ok", name),
    ):
        with pytest.raises(Refused):
            await verb()
    if name:
        with pytest.raises(Refused):
            await names(store, name)
    assert place.names() == before


async def test_move(store: Store) -> None:
    await store.put(NAME, b"12345")
    goal = f"quarantine/removed/{NAME}"
    await store.move(NAME, goal)
    assert await store.read(goal) == b"12345"
    with pytest.raises(Missing):
        await store.read(NAME)
    with pytest.raises(Missing):
        await store.move(NAME, "quarantine/removed/other")
    await store.put(NAME, b"123")
    with pytest.raises(Exists):
        await store.move(NAME, goal)
    assert (await store.read(NAME), await store.read(goal)) == (b"123", b"12345")


async def test_delete(store: Store) -> None:
    await store.put(NAME, b"12345")
    await store.delete(NAME)
    await store.delete(NAME)
    await store.delete("index/00/" + "00" * 32)
    with pytest.raises(Missing):
        await store.size(NAME)
    assert await names(store, "packs/ab") == set()


async def test_an_object_may_be_a_folder_with_one_file(store: Store, place: Place) -> None:
    """The form in which FTP creates exclusively (tier-protocol.md, "every store reads both forms")."""
    place.plant(f"{CLAIM}/c", b"claim")
    place.plant(f"{NAME}/c", BIG)
    assert (await store.read(CLAIM), await store.size(CLAIM)) == (b"claim", 5)
    assert await store.read(NAME, 7, 300_001) == BIG[7:300_008]
    assert [e async for e in store.list("packs/ab")] == [Entry("ab" * 32, len(BIG), False)]
    with pytest.raises(Exists):
        await store.create(CLAIM, b"claim")
    await store.put(NAME, BIG)
    with pytest.raises(Exists):
        await store.put(NAME, b"short")
    await store.move(CLAIM, "quarantine/damaged/x")
    assert await store.read("quarantine/damaged/x") == b"claim"
    await store.delete(NAME)
    await store.delete(NAME)
    with pytest.raises(Missing):
        await store.read(NAME)
    assert not {name for name in place.names() if name.startswith("packs")}


async def test_a_missing_root_is_not_made_unless_asked(place: Place, closing: AsyncExitStack) -> None:
    if isinstance(place, MemoryPlace):
        return  # a dictionary is always there
    root = place.root / "deeper" / "vault"
    store = place.make_at(root, False)
    with pytest.raises(Absent) as caught:
        await store.open()
    assert caught.value.remedy
    assert not root.exists()
    await store.close()
    made = await opened(place.make_at(root, True), closing)
    await made.create("tandem", b"identity")
    file = root / "tandem"
    assert (file / "c" if file.is_dir() else file).read_bytes() == b"identity"


async def test_a_root_that_is_a_file(place: Place) -> None:
    if isinstance(place, MemoryPlace):
        return  # a dictionary is no path
    place.plant("file", b"")
    store = place.make_at(place.root / "file", False)
    with pytest.raises(Refused):
        await store.open()
    await store.close()


async def test_sessions_end_and_begin_again(place: Place) -> None:
    store = place.make()
    await store.close()
    with pytest.raises(TandemError):
        await store.read("tandem")
    await store.open()
    await store.create("tandem", b"identity")
    await store.close()
    await store.close()
    with pytest.raises(TandemError):
        await store.read("tandem")
    await store.open()
    assert await store.read("tandem") == b"identity"
    await store.close()


async def test_a_cancelled_put_publishes_all_or_nothing_and_can_be_repeated(
    place: Place, closing: AsyncExitStack
) -> None:
    store = await opened(place.make(), closing)
    task: asyncio.Task[None] | None = None

    def stop(_count: int) -> None:
        assert task is not None
        task.cancel()

    task = asyncio.create_task(store.put(NAME, BIG * 4, stop))
    with suppress(asyncio.CancelledError):
        await task
    again = await opened(place.make(), closing)
    if NAME in place.names():  # it was done before the cancellation came
        assert await again.read(NAME) == BIG * 4
    await again.put(NAME, BIG * 4)
    assert await again.read(NAME) == BIG * 4


async def test_what_is_under_way_when_somebody_closes_is_told_so(place: Place) -> None:
    """Nobody was cancelled: a verb that waits for its turn ends with an answer or `Unavailable`, and does not hang."""
    store = place.make()
    await store.open()
    await store.put(NAME, BIG)
    verbs = [asyncio.ensure_future(store.read(NAME)) for _ in range(40)]
    verbs += [asyncio.ensure_future(store.put(OTHER, BIG)), asyncio.ensure_future(store.size(NAME))]
    await asyncio.sleep(0.005)
    await store.close()
    done = await asyncio.wait_for(asyncio.gather(*verbs, return_exceptions=True), 30)
    for answer in done:
        assert not isinstance(answer, BaseException) or isinstance(answer, (Unavailable, Refused)), answer
