"""The SSH side: who gets a connection, for how long without a login, and with which algorithms.

Public keys are the only way in; every user name is answered alike and none is used for anything. Of the
channels SSH has, only sessions are accepted (and of those only SFTP, see channel.py); every kind of
forwarding is refused, which is asyncssh's way when nothing is overridden.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Semaphore

import asyncssh

from tandem_protocol.errors import Refused, TandemError, printable

from . import access
from .channel import SftpChannel
from .jail import Jail
from .limits import Limits
from .sftp import SftpSession

# AES-GCM first: with AES in hardware it is the fastest here by far. No CBC, no SHA-1, no plain RSA/SHA-1.
_CIPHERS = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes256-ctr", "aes128-ctr"]
_MACS = ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512"]
_SIGNATURES = [
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
]
_KEX = [
    "mlkem768x25519-sha256",
    "sntrup761x25519-sha512",
    "sntrup761x25519-sha512@openssh.com",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp521",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp256",
]


_log = logging.getLogger("tandem_server")


@dataclass(frozen=True, slots=True)
class Setup:
    """What a server is started with. ``port`` 0 takes a free one."""

    root: str
    host: str
    port: int
    authorized_keys: str
    host_key: asyncssh.SSHKey
    limits: Limits = field(default_factory=Limits)


class Listener:
    """A running server. Use `start`, then `stop`, in one event loop."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.jail = Jail(setup.root)
        self.handles = Semaphore(setup.limits.all_handles)
        self.executor = ThreadPoolExecutor(setup.limits.threads, thread_name_prefix="sftp")
        self.waiting: dict[_Connection, asyncssh.SSHServerConnection] = {}
        self.connections: dict[_Connection, asyncssh.SSHServerConnection] = {}
        self.channels: set[SftpChannel] = set()
        self._acceptor: asyncssh.SSHAcceptor | None = None

    async def start(self) -> int:
        """Listen; returns the port. `Refused` when the address cannot be had."""
        setup, limits = self.setup, self.setup.limits
        try:
            self._acceptor = await asyncssh.create_server(
                lambda: _Connection(self),
                setup.host,
                setup.port,
                config=None,
                server_version="Tandem",
                server_host_keys=[setup.host_key],
                encoding=None,
                backlog=256,
                kex_algs=_available(_KEX, asyncssh.kex.get_kex_algs()),
                encryption_algs=_CIPHERS,
                mac_algs=_MACS,
                compression_algs=["none"],
                signature_algs=_SIGNATURES,
                public_key_auth=True,
                password_auth=False,
                kbdint_auth=False,
                host_based_auth=False,
                gss_host=None,
                gss_kex=False,
                gss_auth=False,
                allow_pty=False,
                agent_forwarding=False,
                x11_forwarding=False,
                login_timeout=limits.login_s,
                keepalive_interval=limits.keepalive_s,
                keepalive_count_max=limits.keepalive_count,
            )
        except OSError as error:
            where = f"{setup.host}:{setup.port}"
            raise Refused(f"cannot listen on {where}: {error.strerror or error}") from None
        return self._acceptor.get_port()

    async def stop(self) -> None:
        """Stop listening, end every connection, wait until every handle is closed."""
        if self._acceptor is not None:
            self._acceptor.close()
        channels = list(self.channels)
        for connection in [*self.connections.values(), *self.waiting.values()]:
            connection.abort()
        await asyncio.gather(*(channel.finished() for channel in channels))
        self.executor.shutdown()
        self.jail.close()


class _Connection(asyncssh.SSHServer):
    """One connection: counted from its first byte, heard only with a key."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._sessions = 0

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        waiting = self._listener.waiting
        waiting[self] = conn
        if len(waiting) > self._listener.setup.limits.waiting:
            # Who stalls before the login makes room for who comes after: the queue can never be full.
            longest = next(iter(waiting))
            waiting.pop(longest).abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._listener.waiting.pop(self, None)
        if self._listener.connections.pop(self, None):
            _log.info("end of %s", self._who)

    def begin_auth(self, username: str) -> bool:
        self._who = f"{printable(username)} at {self._conn.get_extra_info('peername')[0]}"
        # Read at every login, so that a key taken out of the file is refused from then on.
        try:
            self._conn.set_authorized_keys(access.authorized_keys(self._listener.setup.authorized_keys))
        except TandemError as error:
            _log.error("nobody can log in: %s", error)
            self._conn.abort()
        return True

    def auth_completed(self) -> None:
        listener = self._listener
        listener.waiting.pop(self, None)
        if len(listener.connections) >= listener.setup.limits.connections:
            _log.warning("refused %s: too many connections", self._who)
            self._conn.disconnect(asyncssh.DISC_TOO_MANY_CONNECTIONS, "too many connections")
            return
        listener.connections[self] = self._conn
        _log.info("login of %s", self._who)

    def session_requested(self) -> SftpChannel | bool:
        listener, limits = self._listener, self._listener.setup.limits
        if self._sessions >= limits.sessions:
            return False
        self._sessions += 1
        session = SftpSession(listener.jail, limits.handles, listener.handles)
        channel = SftpChannel(session, listener.executor, self._session_ended)
        listener.channels.add(channel)
        return channel

    def _session_ended(self, channel: SftpChannel) -> None:
        self._sessions -= 1
        self._listener.channels.discard(channel)


def _available(wanted: list[str], known: list[bytes]) -> list[str]:
    """Those of ``wanted`` that this installation has (the post-quantum ones need a library)."""
    return [name for name in wanted if name.encode() in known]
