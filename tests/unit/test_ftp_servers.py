"""The FTP store on real servers of Debian, in the moods that the conformance suite does not put them in (issue 4:
vsftpd, ProFTPD, Pure-FTPD): no right to overwrite or to go on, full disks, wrong passwords, cut listings.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.support.ftpservers import KINDS, FtpServer, running_ftp
from tests.support.mounts import tmpfs

from tandem_protocol.errors import Full, Refused
from tandem_protocol.stores.ftp import FtpStore

NAME = "packs/ab/" + "ab" * 32
DATA = bytes(range(256)) * 8192


@asynccontextmanager
async def opened(server: FtpServer, folder: str = "x", **changes: object) -> AsyncIterator[FtpStore]:
    if not (server.root / folder).exists():
        server.folder_for(folder)
    store = FtpStore(server.target(server.root / folder, **changes))
    try:
        await store.open()
        yield store
    finally:
        await store.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wrong_password_is_permanent_and_told(kind: str) -> None:
    with running_ftp(kind, "explicit") as server, pytest.raises(Refused, match="refuses the login") as caught:
        async with opened(server, password="not-this"):
            pass
    assert "not-this" not in str(caught.value)
    assert "password" in caught.value.remedy


async def test_without_the_right_to_go_on_the_part_is_sent_again() -> None:
    """ProFTPD as it comes: nothing may be overwritten, no upload goes on."""
    with running_ftp("proftpd", extra="AllowOverwrite off\nAllowStoreRestart off\n") as server:
        async with opened(server) as store:
            part = server.root / "x" / "tmp" / NAME.rpartition("/")[2]
            part.parent.mkdir()
            part.write_bytes(DATA[:500_000])
            server.give(part)
            told: list[int] = []
            await store.put(NAME, DATA, told.append)
            assert await store.read(NAME) == DATA
            assert sum(told) == len(DATA)
            await store.create("tandem", b"identity")
            assert await store.read("tandem") == b"identity"


async def test_a_listing_that_is_cut_short_is_refused() -> None:
    with running_ftp("pureftpd", extra="-L 20:2") as server:
        async with opened(server) as store:
            for number in range(15):
                await store.put(f"keys/{number:02x}", b"x")
            assert len([entry async for entry in store.list("keys")]) == 15
            for number in range(15, 40):
                await store.put(f"keys/{number:02x}", b"x")
            with pytest.raises(Refused, match="cuts long listings"):
                _ = [entry async for entry in store.list("keys")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tls", ["none", "explicit"])
async def test_a_full_disk_is_full_and_can_be_used_again(kind: str, tls: str) -> None:
    with running_ftp(kind, tls) as server, tmpfs(server.root / "x", "size=1m,mode=0777"):
        async with opened(server) as store:
            await store.create("tandem", b"identity")
            with pytest.raises(Full) as caught:
                await store.put(NAME, DATA)
            assert caught.value.remedy
            assert await store.read("tandem") == b"identity"
            await store.put(NAME, DATA[:500_000])
            assert await store.size(NAME) == 500_000


@pytest.mark.parametrize("kind", KINDS)
async def test_what_may_not_be_looked_into_is_refused_not_missing(kind: str) -> None:
    with running_ftp(kind) as server:
        async with opened(server) as store:
            closed = server.root / "x" / "keys"
            closed.mkdir(mode=0o700)
            (closed / "a").write_bytes(b"x")
            assert os.stat(closed).st_uid == 0
            with pytest.raises(Refused):
                await store.size("keys/a")
            with pytest.raises(Refused):
                await store.read("keys/a")
            with pytest.raises(Refused):
                _ = [entry async for entry in store.list("keys")]


@pytest.mark.parametrize("kind", ["vsftpd", "proftpd"])
async def test_the_tls_session_is_reused_however_transfers_end(kind: str) -> None:
    """Both servers refuse a data connection with a session of its own, so every one of these reuses it."""
    with running_ftp(kind, "explicit") as server:
        async with opened(server) as store:
            await store.put(NAME, DATA)
            for offset in range(0, 1_000_000, 100_000):
                assert await store.read(NAME, offset, 1000) == DATA[offset : offset + 1000]
            await store.put("keys/a", b"after reads that were cut")
            assert await store.read("keys/a") == b"after reads that were cut"
            assert [entry.name async for entry in store.list("keys")] == ["a"]
