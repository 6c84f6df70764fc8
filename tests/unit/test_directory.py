"""The directory store where file systems differ or are tampered with (tier-protocol.md, "Where they are, and
creating once": link, else RENAME_NOREPLACE, else O_EXCL; an unmount cannot redirect writes)."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.support.badblock import bad_blocks
from tests.support.mounts import tmpfs

from tandem_protocol.errors import Absent, Exists, Full, Missing, Refused, Unavailable, Unreadable
from tandem_protocol.names import IDENTITY
from tandem_protocol.stores import directory
from tandem_protocol.stores import folder as folder_module
from tandem_protocol.stores.directory import DirectoryStore

NAME = "packs/ab/" + "ab" * 32
CLAIM = "revisions/000000000000/00/01.claim"
_CALLS = ("_link", "_rename_noreplace")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryStore]:
    store = DirectoryStore(str(tmp_path / "root"), make_root=True)
    await store.open()
    yield store
    await store.close()


@pytest.fixture(
    params=[("_link",), ("_rename_noreplace",), _CALLS], ids=["no-link", "no-noreplace", "neither"]
)
def poorer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file system without some of the calls, as FAT, SMB and FUSE have it."""

    def lacks(number: int) -> Callable[[str, str, int, int], None]:
        def call(source: str, target: str, origin: int, goal: int) -> None:
            raise OSError(number, os.strerror(number))

        return call

    for name, number in zip(request.param, (errno.EPERM, errno.EINVAL), strict=False):
        monkeypatch.setattr(folder_module, name, lacks(number))
    yield


@pytest.mark.usefixtures("poorer")
async def test_creating_is_exclusive_on_poorer_file_systems_too(
    store: DirectoryStore, tmp_path: Path
) -> None:
    second = DirectoryStore(str(tmp_path / "root"))
    await second.open()

    async def attempt(who: DirectoryStore, name: str, data: bytes) -> bool:
        try:
            await who.create(name, data)
        except Exists:
            return False
        return True

    for number in range(60):
        name = f"epochs/{number:016x}"
        won = await asyncio.gather(attempt(store, name, b"first"), attempt(second, name, b"other"))
        assert sorted(won) == [False, True]
        assert await store.read(name) == (b"first" if won[0] else b"other")
    await second.close()
    assert [entry async for entry in store.list("tmp")] == []


@pytest.mark.usefixtures("poorer")
async def test_putting_and_moving_on_poorer_file_systems(store: DirectoryStore) -> None:
    await store.put(NAME, b"data")
    await store.put(NAME, b"data")
    with pytest.raises(Exists):
        await store.put(NAME, b"other size")
    await store.move(NAME, "quarantine/removed/x")
    await store.put(NAME, b"again")
    with pytest.raises(Exists):
        await store.move(NAME, "quarantine/removed/x")
    assert await store.read("quarantine/removed/x") == b"data"
    assert [entry async for entry in store.list("tmp")] == []


async def test_links_are_never_followed(store: DirectoryStore, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ("ab" * 32)).write_bytes(b"planted")
    root = tmp_path / "root"
    (root / "packs").mkdir()
    (root / "packs" / "ab").symlink_to(elsewhere)
    (root / "tandem").symlink_to(elsewhere / ("ab" * 32))
    for attempt in (
        store.read(NAME),
        store.put(NAME, b"x"),
        store.create(NAME, b"x"),
        store.delete(NAME),
        store.read("tandem"),
    ):
        with pytest.raises(Refused):
            await attempt
    with pytest.raises(Missing):
        await store.size("tandem")
    assert (elsewhere / ("ab" * 32)).read_bytes() == b"planted"
    assert [entry.name async for entry in store.list("packs")] == []


async def test_what_is_no_file_is_no_object_and_hangs_nothing(store: DirectoryStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "root" / "tandem")
    with pytest.raises(Missing):
        await store.read("tandem")
    with pytest.raises(Missing):
        await store.size("tandem")
    assert [entry.name async for entry in store.list("")] == []


async def test_an_unmount_does_not_redirect_writes(tmp_path: Path) -> None:
    """Another disk over the path, then none: what is written stays on the one that was opened."""
    root = tmp_path / "vault"
    with tmpfs(root, "size=8m"):
        store = DirectoryStore(str(root))
        await store.open()
        await store.create("tandem", b"identity")
        with tmpfs(root, "size=8m"):
            await store.put(NAME, b"data")
            assert os.listdir(root) == []
        assert (root / NAME).read_bytes() == b"data"
    await store.create(CLAIM, b"claim")  # unmounted lazily: the path is the empty folder below again
    assert os.listdir(root) == []
    assert await store.read(CLAIM) == b"claim"
    await store.close()
    empty = DirectoryStore(str(root))
    await empty.open()
    with pytest.raises(Missing):
        await empty.read("tandem")
    await empty.close()


async def test_every_publication_is_synced(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before its name, its folder after it, and each new parent's own folder."""
    events: list[str] = []
    real_fsync, real_link, real_mkdir = os.fsync, os.link, os.mkdir

    def path_of(fd: int) -> str:
        return os.readlink(f"/proc/self/fd/{fd}").partition("/root")[2] or "/"

    def fsync(fd: int) -> None:
        name = path_of(fd)
        events.append("sync a file" if name.startswith("/tmp/") else f"sync {name}")
        real_fsync(fd)

    def link(*args: str, **kwargs: int) -> None:
        events.append("link")
        real_link(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they came

    def mkdir(name: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        real_mkdir(name, mode, dir_fd=dir_fd)
        events.append(f"mkdir {name}")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "mkdir", mkdir)
    await store.create("epochs/0000000000000001", b"x")
    assert events == ["mkdir tmp", "sync /", "sync a file", "mkdir epochs", "sync /", "link", "sync /epochs"]
    events.clear()
    await store.put(NAME, b"data")
    assert events == ["sync a file", "mkdir packs", "sync /", "mkdir ab", "sync /packs", "sync /packs/ab"]
    events.clear()
    await store.put(NAME, b"data")  # it may stand there since a run that was killed before its last sync
    assert events == ["sync /packs/ab"]
    events.clear()
    with pytest.raises(Exists):
        await store.create("epochs/0000000000000001", b"x")
    assert events[-1] == "sync /epochs"


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, Full),
        (errno.EDQUOT, Full),
        (errno.EACCES, Refused),
        (errno.EROFS, Refused),
        (errno.EIO, Unavailable),
        (errno.ESTALE, Unavailable),
        (errno.ENODEV, Unavailable),
    ],
)
async def test_faults_of_the_system_are_told_apart(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def fail(_fd: int) -> None:
        raise OSError(number, os.strerror(number))

    await store.put("keys/" + "00" * 32, b"x")
    monkeypatch.setattr(os, "fsync", fail)
    for attempt in (store.put("keys/" + "11" * 32, b"x"), store.create("keys/" + "22" * 32, b"x")):
        with pytest.raises(kind) as caught:
            await attempt
        assert type(caught.value) is kind
    monkeypatch.undo()
    assert [entry.name async for entry in store.list("keys")] == ["00" * 32]
    await store.put("keys/" + "11" * 32, b"x")


async def test_a_bad_block_is_told_from_a_disk_that_has_gone(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One name that cannot be read is damaged, and the next tier has it. A retry, and giving up the tier, are for a
    disk that answers nothing."""
    await store.put(NAME, b"data")
    bad_blocks(monkeypatch, [tmp_path / "root" / NAME])
    with pytest.raises(Unavailable):
        await store.read(NAME)  # whether anything can be read there is not known
    await store.create(IDENTITY, b"identity")
    with pytest.raises(Unreadable, match="is the disk failing"):
        await store.read(NAME)
    assert await store.read(IDENTITY) == b"identity"
    bad_blocks(monkeypatch, [tmp_path / "root" / IDENTITY])
    with pytest.raises(Unavailable):
        await store.read(NAME)


async def test_a_disk_that_is_unplugged_is_told_from_a_share_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing there: a retry cannot help. An automount or a share that is late: it may."""
    store = DirectoryStore(str(tmp_path / "unplugged" / "tandem"))
    with pytest.raises(Absent, match="is not there: mount"):
        await store.open()
    store = DirectoryStore(str(tmp_path))
    for number in (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENODEV):

        def fail(_path: str, _flags: int, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(folder_module.os, "open", fail)
        with pytest.raises(Unavailable) as caught:
            await store.open()
        monkeypatch.undo()
        assert type(caught.value) is Unavailable, errno.errorcode[number]


async def test_a_share_that_cannot_sync_folders_is_not_power_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    store = DirectoryStore(str(tmp_path))
    await store.open()
    assert not store.power_safe
    await store.put(NAME, b"data")
    assert await store.read(NAME) == b"data"
    await store.close()


async def test_what_waits_for_a_hanging_disk_is_told_when_somebody_else_closes(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody was cancelled, so nobody sees a cancellation: it would end the whole command as interrupted."""
    await store.put(NAME, b"data")
    disk = Hanging(store, monkeypatch)
    hanging = [asyncio.ensure_future(store.read(NAME)) for _ in range(store.parallel)]
    waiting = [asyncio.ensure_future(store.read(NAME)) for _ in range(3)]
    waiting.append(asyncio.ensure_future(store.put(CLAIM, b"x")))
    await disk.reached(store.parallel)
    await store.close()
    for verb in waiting:
        with pytest.raises(Unavailable, match="closed meanwhile"):
            await asyncio.wait_for(verb, 10)
    disk.goes_on.set()
    await asyncio.gather(*hanging, return_exceptions=True)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_write_whose_store_is_opened_anew_between_two_slices_is_told(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    """Its threads are gone: the next slice finds none that takes it."""
    opening: list[asyncio.Future[None]] = []

    def open_anew(_count: int) -> None:
        if not opening:
            opening.append(asyncio.ensure_future(store.open()))
            if cancelled:
                put.cancel()

    monkeypatch.setattr(directory, "SLICE", 1)
    put = asyncio.ensure_future(store.put(NAME, b"data", open_anew))
    with pytest.raises(asyncio.CancelledError if cancelled else Unavailable):
        await put
    await asyncio.gather(*opening)
    await store.put(NAME, b"data")


async def test_a_cancellation_stays_one_also_where_the_store_is_closed_with_it(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In either order, and also for a caller that was cancelled before and puts things in order."""
    disk = Hanging(store, monkeypatch)
    hanging = [asyncio.ensure_future(store.read(NAME)) for _ in range(store.parallel)]

    async def in_order() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await store.read(NAME)

    before, after, told, again = (
        asyncio.ensure_future(verb) for verb in (store.read(NAME), store.read(NAME), in_order(), in_order())
    )
    await disk.reached(store.parallel)
    told.cancel()
    again.cancel()
    await asyncio.sleep(0.05)
    before.cancel()
    again.cancel()
    await store.close()
    after.cancel()
    for verb in (before, after, again):
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(verb, 10)
    with pytest.raises(Unavailable, match="closed meanwhile"):
        await asyncio.wait_for(told, 10)
    disk.goes_on.set()
    await asyncio.gather(*hanging, return_exceptions=True)


class Hanging:
    """A disk on which every read that has begun hangs until it ``goes_on``."""

    def __init__(self, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.goes_on = threading.Event()
        self._begun = threading.Semaphore(0)
        monkeypatch.setattr(store, "_read", self._read)

    def _read(self, *_: object) -> bytes:
        self._begun.release()
        assert self.goes_on.wait(30)
        return b""

    async def reached(self, count: int) -> None:
        for _ in range(count):
            assert await asyncio.to_thread(self._begun.acquire, timeout=10)
