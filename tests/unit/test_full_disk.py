"""A full disk, no inodes, a disk mounted read-only: permanent faults with a remedy, nothing published, nothing
left behind, and writing goes on once there is room (issue, Bad input: "full disk (tmpfs)")."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support.mounts import remount, tmpfs
from tests.support.sshd import running_sshd

from tandem_protocol.errors import Full, Refused
from tandem_protocol.store import Store
from tandem_protocol.stores.directory import DirectoryStore
from tandem_protocol.stores.sftp import SftpStore

NAME, SMALL = "packs/ab/" + "ab" * 32, "packs/ab/" + "cd" * 32
DATA = random.Random(31).randbytes(3 * 1024 * 1024)


@pytest.fixture(scope="module", params=["directory", "ssh", "paramiko"])
def make(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Path], Store]]:
    if request.param == "directory":
        yield lambda root: DirectoryStore(str(root))
        return
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield lambda root: SftpStore(server.target(root, use_system_ssh=request.param == "ssh"))


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Store]:
    try:
        await store.open()
        yield store
    finally:
        await store.close()


async def test_no_space(make: Callable[[Path], Store], tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", "size=2m") as root:
        async with opened(make(root)) as store:
            with pytest.raises(Full) as caught:
                await store.put(NAME, DATA)
            assert "room" in caught.value.remedy
            await store.put(SMALL, DATA[: 1 << 20])  # what did not fit has left its room
            with pytest.raises(Full):
                await store.create("lists/" + "ab" * 32, DATA)
            assert [e async for e in store.list("tmp")] == []
            assert [e.name async for e in store.list("packs/ab")] == [SMALL[-64:]]
            remount(root, "size=8m")
            await store.put(NAME, DATA)
            assert await store.read(NAME) == DATA


async def test_no_inodes(make: Callable[[Path], Store], tmp_path: Path) -> None:
    with tmpfs(tmp_path / "few", "nr_inodes=6") as root:
        async with opened(make(root)) as store:
            await store.create("tandem", b"identity")
            with pytest.raises(Full):
                for number in range(6):
                    await store.create(f"epochs/{number:016x}", b"x")
            assert await store.read("tandem") == b"identity"
            remount(root, "nr_inodes=60")
            await store.put(NAME, DATA)


async def test_read_only(make: Callable[[Path], Store], tmp_path: Path) -> None:
    with tmpfs(tmp_path / "ro", "size=8m") as root:
        async with opened(make(root)) as store:
            await store.put(NAME, DATA)
            assert await store.size(NAME) == len(DATA)  # the server has closed the file by now
            remount(root, "ro")
            for attempt in (store.put(SMALL, DATA), store.create("tandem", b"x")):
                with pytest.raises(Refused) as caught:
                    await attempt
                assert not isinstance(caught.value, Full)
                assert "mount" in caught.value.remedy
            assert await store.read(NAME) == DATA
