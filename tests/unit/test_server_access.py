"""Who gets in, and to what (trust.md 49 to 53): keys, algorithms, stalls before the login, and that a
client that got in has SFTP and nothing else. Asked for by real clients."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncssh
import pytest
from tests.support.clients import connected, listing
from tests.support.embedded import EmbeddedServer

from tandem_server.limits import Limits
from tandem_server.listener import Listener, Setup

needs_openssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="openssh-client is not installed")


# Only SFTP


@needs_openssh
@pytest.mark.parametrize(
    "arguments",
    [
        ["{who}", "id"],
        ["{who}"],
        ["-tt", "{who}"],
        ["-s", "{who}", "shell"],
        ["-W", "127.0.0.1:22", "{who}"],
        ["-oExitOnForwardFailure=yes", "-N", "-R", "0:127.0.0.1:22", "{who}"],
        ["-oExitOnForwardFailure=yes", "-N", "-R", "/tmp/tandem-test.socket:127.0.0.1:22", "{who}"],
        ["-oExitOnForwardFailure=yes", "-w", "0:0", "-N", "{who}"],
    ],
)
def test_no_shell_command_or_forwarding(sftp_server: EmbeddedServer, arguments: list[str]) -> None:
    """53, asked for by the real ssh."""
    who = f"{sftp_server.user}@{sftp_server.host}"
    command = ["ssh", *sftp_server.client_options(), *(argument.format(who=who) for argument in arguments)]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60)
    assert done.returncode == 255
    assert "uid=" not in done.stdout
    assert "SSH-2.0" not in done.stdout


async def test_no_channel_but_a_session(sftp_server: EmbeddedServer) -> None:
    """53, asked for by a client that tries each kind of channel; the connection stays good for SFTP."""
    async with asyncio.timeout(30), connected(sftp_server) as connection:
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_connection("127.0.0.1", sftp_server.port)
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_unix_connection("/run/x")
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", 22)
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.run("id")
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.create_process(term_type="xterm")
        async with connection.start_sftp_client() as sftp:
            assert await sftp.isdir("/")


async def test_sessions_of_one_connection_are_limited(sftp_server: EmbeddedServer) -> None:
    async with asyncio.timeout(30), connected(sftp_server) as connection:
        sessions = [await connection.start_sftp_client() for _ in range(Limits().sessions)]
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.start_sftp_client()
        for sftp in sessions:
            sftp.exit()
            await sftp.wait_closed()


# Who gets in


async def test_another_key_is_refused(sftp_server: EmbeddedServer) -> None:
    stranger = asyncssh.generate_private_key("ssh-ed25519")
    with pytest.raises(asyncssh.PermissionDenied):
        async with connected(sftp_server, client_keys=[stranger]):
            raise AssertionError("logged in")


async def test_only_public_keys_are_offered_whatever_the_user(sftp_server: EmbeddedServer) -> None:
    """51, 52: no password for anybody, and every name gets the same answer."""
    for user in (sftp_server.user, "nobody-there", "../x", "root"):
        methods = await asyncssh.get_server_auth_methods(
            sftp_server.host, sftp_server.port, user, config=None
        )
        assert list(methods) == ["publickey"]


async def test_a_key_taken_out_of_the_file_is_refused_at_once(sftp_server: EmbeddedServer) -> None:
    async with connected(sftp_server):
        pass
    key = asyncssh.generate_private_key("ssh-ed25519")
    sftp_server.authorized_keys.write_bytes(key.export_public_key())
    with pytest.raises(asyncssh.PermissionDenied):
        async with connected(sftp_server):
            raise AssertionError("logged in")
    async with connected(sftp_server, client_keys=[key]):
        pass


@pytest.mark.parametrize(
    "weak",
    [
        {"encryption_algs": ["aes256-cbc"]},
        {"encryption_algs": ["aes128-ctr"], "mac_algs": ["hmac-sha1"]},
        {"kex_algs": ["diffie-hellman-group14-sha1"]},
        {"compression_algs": ["zlib@openssh.com"]},
    ],
)
async def test_weak_algorithms_are_refused(sftp_server: EmbeddedServer, weak: dict[str, object]) -> None:
    with pytest.raises((asyncssh.KeyExchangeFailed, asyncssh.ConnectionLost)):
        async with connected(sftp_server, **weak):
            raise AssertionError("connected")


def test_many_who_stall_before_the_login_shut_nobody_out(sftp_server: EmbeddedServer) -> None:
    """49: a thousand that never say a word; after them a client logs in as ever."""
    stalled = []
    try:
        for _ in range(1000):
            stalled.append(socket.create_connection((sftp_server.host, sftp_server.port), timeout=30))
        assert asyncio.run(listing(sftp_server)) == []
    finally:
        for connection in stalled:
            connection.close()
    assert asyncio.run(listing(sftp_server)) == []


@asynccontextmanager
async def listener(server: EmbeddedServer, limits: Limits) -> AsyncIterator[int]:
    """A second server in this process, with limits of its own; gives its port."""
    key = asyncssh.read_private_key(str(server.host_key))
    setup = Setup(str(server.root), server.host, 0, str(server.authorized_keys), key, limits)
    running = Listener(setup)
    try:
        yield await running.start()
    finally:
        await running.stop()


async def test_who_does_not_log_in_is_cut_off(sftp_server: EmbeddedServer) -> None:
    async with listener(sftp_server, Limits(login_s=0.3)) as port, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(sftp_server.host, port)
        assert (await reader.read(-1)).startswith(b"SSH-2.0-Tandem")  # and then the end
        writer.close()


async def test_who_waits_longest_makes_room(sftp_server: EmbeddedServer) -> None:
    async with listener(sftp_server, Limits(waiting=2)) as port, asyncio.timeout(30):
        ends = [await asyncio.open_connection(sftp_server.host, port) for _ in range(3)]
        for reader, _ in ends:
            assert (await reader.readline()).startswith(b"SSH-2.0-Tandem")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await ends[0][0].readexactly(100_000)
        async with connected(sftp_server, port=port, known_hosts=None):
            pass
        for _, writer in ends:
            writer.close()


async def test_logged_in_connections_are_limited(sftp_server: EmbeddedServer) -> None:
    async with listener(sftp_server, Limits(connections=1)) as port, asyncio.timeout(30):
        first = await asyncssh.connect(**{**sftp_server.options(), "port": port, "known_hosts": None})
        with pytest.raises((asyncssh.Error, OSError)):
            await listing(sftp_server, port=port, known_hosts=None)
        async with first.start_sftp_client() as sftp:
            assert await sftp.isdir("/")
        first.close()
        await first.wait_closed()
        assert await listing(sftp_server, port=port, known_hosts=None) == []
