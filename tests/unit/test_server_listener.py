"""The running server at work under real clients (issue: the server's first form): many at once, races
between two connections, OpenSSH's own sftp, a slow reader, and what stops and crashes leave."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import asyncssh
import pytest
from tests.support.clients import connected, listing, sftp_client
from tests.support.embedded import EmbeddedServer

needs_openssh = pytest.mark.skipif(shutil.which("sftp") is None, reason="openssh-client is not installed")


def batch(server: EmbeddedServer, lines: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run lines of OpenSSH's sftp in ``folder``."""
    command = ["sftp", *server.client_options(), "-b", "-", f"{server.user}@{server.host}"]
    return subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60, cwd=folder)


def frame(kind: int, *fields: int | bytes) -> bytes:
    """An SFTP packet of 32-bit numbers and strings."""
    parts = [
        field.to_bytes(4, "big") if isinstance(field, int) else len(field).to_bytes(4, "big") + field
        for field in fields
    ]
    body = bytes([kind]) + b"".join(parts)
    return len(body).to_bytes(4, "big") + body


async def test_fifty_connections_at_once(sftp_server: EmbeddedServer) -> None:
    async def one(number: int) -> bool:
        data = os.urandom(300_000)
        async with sftp_client(sftp_server) as sftp:
            async with sftp.open(f"/{number}", "xb") as file:
                await file.write(data)
            async with sftp.open(f"/{number}", "rb") as file:
                return await file.read() == data

    async with asyncio.timeout(120):
        assert all(await asyncio.gather(*(one(number) for number in range(50))))
    assert len(os.listdir(sftp_server.root)) == 50


@pytest.mark.parametrize("verb", ["rename", "link", "open exclusively", "mkdir"])
async def test_of_two_racing_connections_one_wins(sftp_server: EmbeddedServer, verb: str) -> None:
    """200 rounds on one name; the loser is told, and the winner's bytes are there."""

    async def publish(sftp: asyncssh.SFTPClient, who: str, name: str) -> bool:
        try:
            if verb == "rename":
                await sftp.rename(f"/tmp/{who}{name}", f"/{name}")
            elif verb == "link":
                await sftp.link(f"/tmp/{who}{name}", f"/{name}")
            elif verb == "mkdir":
                await sftp.mkdir(f"/{name}")
            else:
                await (await sftp.open(f"/{name}", "xb")).close()
        except asyncssh.SFTPFailure:
            return False
        return True

    (sftp_server.root / "tmp").mkdir()
    for number in range(200):
        for who in "ab":
            (sftp_server.root / f"tmp/{who}{number}").write_text(who)
    async with asyncio.timeout(60), sftp_client(sftp_server) as first, sftp_client(sftp_server) as second:
        for number in range(200):
            won = await asyncio.gather(publish(first, "a", f"{number}"), publish(second, "b", f"{number}"))
            assert sorted(won) == [False, True]
            if verb in ("rename", "link"):
                assert (sftp_server.root / f"{number}").read_text() == "ab"[won.index(True)]
    assert len(os.listdir(sftp_server.root / "tmp")) == (200 if verb == "rename" else 400)


@needs_openssh
def test_openssh_moves_files_both_ways(sftp_server: EmbeddedServer, tmp_path: Path) -> None:
    """The real sftp: put, resumed put, get, ls, rename, hard link, and a folder with all below it."""
    data = os.urandom(3_000_000)
    (tmp_path / "data").write_bytes(data)
    (tmp_path / "tree/below").mkdir(parents=True)
    (tmp_path / "tree/below/file").write_bytes(b"x")
    (sftp_server.root / "part").write_bytes(data[:1_000_000])
    lines = """put data /whole
reput data /part
put -pr tree /tree
get /part back
mkdir /new
-mkdir /new
rename /whole /new/whole
ln /new/whole /second
df /
ls -la /
"""
    done = batch(sftp_server, lines, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == data
    assert (sftp_server.root / "new/whole").read_bytes() == data
    assert (sftp_server.root / "second").stat().st_nlink == 2
    assert (sftp_server.root / "tree/below/file").read_bytes() == b"x"
    assert str(len(data)) in done.stdout


@needs_openssh
@pytest.mark.parametrize(
    "line", ["ln -s /etc/passwd /x", "chmod 4755 /file", "chown 1 /file", "get /../../etc/passwd"]
)
def test_openssh_is_refused(sftp_server: EmbeddedServer, tmp_path: Path, line: str) -> None:
    (sftp_server.root / "file").write_bytes(b"kept")
    assert batch(sftp_server, line, tmp_path).returncode == 1
    assert os.listdir(sftp_server.root) == ["file"]
    assert not (tmp_path / "passwd").exists()


async def test_a_reader_who_does_not_read_holds_up_nobody(sftp_server: EmbeddedServer) -> None:
    """50: requests for more than a window of data, no reply taken; others are served meanwhile."""
    (sftp_server.root / "big").write_bytes(bytes(8_000_000))
    async with asyncio.timeout(60), connected(sftp_server) as slow:
        stdin, _stdout, _ = await slow.open_session(subsystem="sftp", encoding=None, window=100_000)
        stdin.write(frame(1, 3))
        stdin.write(frame(3, 0, b"big", 1, 0))
        for number in range(200):
            stdin.write(frame(5, number, bytes(8), 0, 0, 200_000))
        for _ in range(5):
            assert await listing(sftp_server) == ["big"]


async def test_killed_in_the_middle_of_an_upload(sftp_server: EmbeddedServer) -> None:
    """SIGKILL leaves only the part in tmp/; on the same port, with the same key, the rest can be added."""
    (sftp_server.root / "tmp").mkdir()
    data = os.urandom(2_000_000)
    with pytest.raises((asyncssh.Error, OSError)):
        async with asyncio.timeout(60), sftp_client(sftp_server) as sftp:
            file = await sftp.open("/tmp/part", "xb")
            await file.write(data[:1_000_000])
            await file.fsync()
            sftp_server.kill()
            await file.write(data[1_000_000:])
            await file.close()
            await sftp.rename("/tmp/part", "/whole")
    assert os.listdir(sftp_server.root) == ["tmp"]
    assert os.listdir(sftp_server.root / "tmp") == ["part"]
    left = (sftp_server.root / "tmp/part").read_bytes()
    assert data.startswith(left)
    assert len(left) >= 1_000_000
    port, fingerprint = sftp_server.port, sftp_server.fingerprint
    sftp_server.start()
    assert (sftp_server.port, sftp_server.fingerprint) == (port, fingerprint)
    async with asyncio.timeout(60), sftp_client(sftp_server) as sftp:
        async with sftp.open("/tmp/part", "r+b") as file:
            await file.write(data[len(left) :], len(left))
            await file.fsync()
        await sftp.rename("/tmp/part", "/whole")
    assert (sftp_server.root / "whole").read_bytes() == data


async def test_a_client_that_vanishes_leaves_no_open_file(sftp_server: EmbeddedServer) -> None:
    assert sftp_server.process is not None
    descriptors = f"/proc/{sftp_server.process.pid}/fd"

    def held() -> bool:
        for fd in os.listdir(descriptors):
            with suppress(FileNotFoundError):  # closed since it was listed
                if os.readlink(f"{descriptors}/{fd}").endswith("/held"):
                    return True
        return False

    async with asyncio.timeout(60):
        for _ in range(5):
            async with connected(sftp_server) as connection:
                sftp = await connection.start_sftp_client()
                file = await sftp.open("/held", "wb")
                await file.write(b"x")
                assert held()
                connection.abort()
            while held():  # the server hears of it by the socket; another client's request gives it the time
                assert await listing(sftp_server) == ["held"]


async def test_stopped_in_the_middle_of_a_transfer(sftp_server: EmbeddedServer) -> None:
    async with asyncio.timeout(60), connected(sftp_server) as connection:
        sftp = await connection.start_sftp_client()
        file = await sftp.open("/part", "xb")
        await file.write(bytes(1_000_000))
        writing = asyncio.create_task(file.write(bytes(50_000_000)))
        assert await asyncio.to_thread(sftp_server.stop) == 0
        with pytest.raises((asyncssh.Error, OSError)):
            await writing
    assert "Traceback" not in (sftp_server.folder / "server.log").read_text()
