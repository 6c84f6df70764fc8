"""A plain SFTP server on asyncssh inside the test, for what sshd cannot be asked: passwords and misbehaving.

`misbehaving` takes a subclass of `asyncssh.SFTPServer`; the whole machinery below it is the real one.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncssh

from tandem_protocol.stores.sftp_transport import SftpTarget

USER, PASSWORD = "backup", "correct horse"


class _Login(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == (USER, PASSWORD)


@dataclass
class PlainServer:
    """A server that listens; ``target`` says how a store logs in with the password."""

    port: int
    root: str
    known_hosts_line: str

    def target(self, **changes: object) -> SftpTarget:
        values: dict[str, object] = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": USER,
            "path": self.root,
            "password": PASSWORD,
            "known_hosts": (self.known_hosts_line,),
            "deadline_s": 20.0,
        }
        return SftpTarget(**(values | changes))  # type: ignore[arg-type]  # the tests' own keywords


@asynccontextmanager
async def plain_server(
    root: str | os.PathLike[str],
    sftp: Callable[[asyncssh.SSHServerChannel[bytes]], asyncssh.SFTPServer] | None = None,
    key_type: str = "ssh-ed25519",
) -> AsyncIterator[PlainServer]:
    """A server for ``root``, ended with all its connections when the block is left."""
    key = asyncssh.generate_private_key(key_type)
    listener = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=_Login,
        server_host_keys=[key],
        sftp_factory=sftp or asyncssh.SFTPServer,
    )
    port = listener.get_port()
    kind, blob = key.export_public_key().decode().split()[:2]
    try:
        yield PlainServer(port, str(root), f"[127.0.0.1]:{port} {kind} {blob}")
    finally:
        listener.close()
        await listener.wait_closed()
