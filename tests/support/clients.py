"""Connections of asyncssh's client to the embedded server, for tests that need more than a Store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncssh
from tests.support.embedded import EmbeddedServer


@asynccontextmanager
async def connected(server: EmbeddedServer, **changes: object) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """A connection that has logged in; ``changes`` are other arguments of `asyncssh.connect`."""
    async with asyncssh.connect(**{**server.options(), **changes}) as connection:
        yield connection


@asynccontextmanager
async def sftp_client(server: EmbeddedServer, **changes: object) -> AsyncIterator[asyncssh.SFTPClient]:
    """The same with one SFTP session in it."""
    async with connected(server, **changes) as connection, connection.start_sftp_client() as sftp:
        yield sftp


async def listing(server: EmbeddedServer, **changes: object) -> list[str]:
    """The names in the root, by a connection of its own."""
    async with asyncio.timeout(60), sftp_client(server, **changes) as sftp:
        return [name for name in await sftp.listdir("/") if name not in (".", "..")]
