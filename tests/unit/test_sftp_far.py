"""A server that is far away gets several connections, which are one session (storage.md: "2 to 4 connections
above about 20 ms"; tier-protocol.md, Sessions)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.support.slowlink import far_away
from tests.support.sshd import Sshd, running_sshd

from tandem_protocol.errors import Unavailable
from tandem_protocol.stores import sftp
from tandem_protocol.stores.sftp import FAR_CONNECTIONS, SftpStore

DATA = random.Random(53).randbytes(700_000)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
async def far(sshd: Sshd) -> AsyncIterator[int]:
    async with far_away(sshd.port, 0.02) as port:
        yield port


async def test_a_near_server_gets_one_connection(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp, "FAR_S", 60)  # however busy this machine is
    store = SftpStore(sshd.target())
    await store.open()
    assert store.uploads == len(store._connections) == 1
    await store.close()


@pytest.mark.parametrize("use_system_ssh", [True, False], ids=["ssh", "paramiko"])
async def test_a_far_server_gets_several_and_they_work_side_by_side(
    sshd: Sshd, far: int, use_system_ssh: bool
) -> None:
    store = SftpStore(sshd.target(port=far, use_system_ssh=use_system_ssh, known_hosts=_line(sshd)))
    await store.open()
    assert store.uploads == FAR_CONNECTIONS
    await all_there(store)
    names = [f"packs/{n:02x}/{n:064x}" for n in range(6)]
    began = asyncio.get_running_loop().time()
    await store.put(f"packs/ff/{255:064x}", DATA)
    alone = asyncio.get_running_loop().time() - began
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(store.put(name, DATA) for name in names))
    together = asyncio.get_running_loop().time() - began
    assert together < alone * len(names)
    assert await asyncio.gather(*(store.read(name) for name in names)) == [DATA] * 6
    await store.close()


async def test_when_one_connection_breaks_the_session_ends(sshd: Sshd, far: int) -> None:
    store = SftpStore(sshd.target(port=far, known_hosts=_line(sshd)))
    await store.open()
    await all_there(store)
    store._connections[1].link.abort()
    outcomes = await asyncio.gather(*(store.size("tandem") for _ in range(3)), return_exceptions=True)
    assert any(isinstance(outcome, Unavailable) for outcome in outcomes)
    with pytest.raises(Unavailable, match="not open"):
        await store.size("tandem")
    await store.open()
    await store.put("keys/" + "00" * 32, b"x")
    await store.close()


async def test_a_server_that_allows_fewer_has_its_way(
    sshd: Sshd, far: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = sftp._Connection.connect, 0

    def connect(connection: sftp._Connection, make_root: bool) -> None:
        nonlocal made
        made += 1
        if made == 2:
            raise Unavailable("too many connections from there")
        real(connection, make_root)

    monkeypatch.setattr(sftp._Connection, "connect", connect)
    store = SftpStore(sshd.target(port=far, known_hosts=_line(sshd)))
    await store.open()
    await all_there(store)
    assert len(store._connections) == FAR_CONNECTIONS - 1
    await asyncio.gather(*(store.put(f"lists/{n:064x}", DATA) for n in range(3)))
    await store.close()


async def test_closing_while_connections_are_on_their_way_leaves_nothing(sshd: Sshd, far: int) -> None:
    store = SftpStore(sshd.target(port=far, known_hosts=_line(sshd)))
    await store.open()
    await asyncio.sleep(0)  # the further ones begin
    connections = list(store._connections)
    assert [one.folder is None for one in connections] == [False, True, True]
    await store.put("keys/" + "00" * 32, b"x")  # the first serves meanwhile
    await store.close()
    for connection in connections:
        connection.end().result(timeout=10)
    with pytest.raises(Unavailable):
        await store.size("tandem")


async def all_there(store: SftpStore) -> None:
    assert store._more is not None
    await store._more


def _line(sshd: Sshd) -> tuple[str]:
    return (sshd.known_hosts_line.split(" ", 1)[1],)
