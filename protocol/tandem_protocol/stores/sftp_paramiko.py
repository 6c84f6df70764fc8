"""The link over paramiko's own transport: for passwords, and for machines without ``ssh``.

Tuned as measured: AES-GCM first (paramiko has it last), a large window, rekeying as rare as the cipher
allows. Only algorithms without known weakness are offered.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import paramiko

from ..errors import Refused, TandemError, Unavailable
from ..store import Buffer
from .host_keys import UNKNOWN, read_pins
from .sftp_errors import LOGIN
from .sftp_transport import CONNECT_S, NOT_TOLD, SftpTarget, ask_offered

_CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
_MACS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)
_WINDOW = 16 * 1024 * 1024
_PACKET = 128 * 1024
_TAKE = 4 * 1024 * 1024
_SEND = 64 * 1024
# RFC 4344 allows 2^32 blocks of AES under one key, 64 GiB. A quarter of it, instead of paramiko's 512 MiB.
_REKEY_BYTES = 16 * 1024**3
_KEY_FILES = ("id_ed25519", "id_ecdsa", "id_rsa")

# Without a handler Python prints a library's warnings on stderr, in the middle of the progress display.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class ParamikoLink:
    """An SFTP channel on a transport of its own."""

    def __init__(self, target: SftpTarget) -> None:
        self._target = target
        self._pins = read_pins(target.known_hosts)
        self._socket: socket.socket | None = None
        self._transport: paramiko.Transport | None = None
        self._channel: paramiko.Channel | None = None
        self._buffer = memoryview(b"")
        self._lock = threading.Lock()
        self._aborted = False

    def start(self) -> None:
        """Connect, check the host key, log in, open the channel."""
        target = self._target
        if not self._pins:
            raise Refused(
                f"no host key is pinned for {target.server}; it offers {ask_offered(target)}", UNKNOWN
            )
        try:
            self._connect()
            assert self._transport is not None
            key = self._transport.get_remote_server_key()
            self._pins.check(key.get_name(), key.asbytes(), target.server)
            self._log_in(self._transport)
            self._open_channel(self._transport)
        except TandemError:
            raise
        except Exception as error:
            # paramiko raises here whatever its parser met in a stranger's bytes, not only its own kinds.
            raise self.reason(f"cannot connect: {str(error) or type(error).__name__}") from error

    def connected(self) -> None:
        """Nothing to tidy up once the first answer has come."""

    def _connect(self) -> None:
        target = self._target
        sock = socket.create_connection((target.host, target.port), CONNECT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # paramiko goes on for ever with a socket that takes no more; the kernel then ends it.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(target.deadline_s * 1000))
        with self._lock:
            self._socket = sock
            if self._aborted:
                raise EOFError
            transport = self._transport = paramiko.Transport(sock)
        transport.banner_timeout = transport.handshake_timeout = CONNECT_S
        transport.auth_timeout = CONNECT_S
        transport.packetizer.REKEY_BYTES = _REKEY_BYTES
        options = transport.get_security_options()
        options.ciphers = _CIPHERS
        options.digests = _MACS
        options.key_types = self._pins.algorithms()
        try:
            transport.start_client(timeout=CONNECT_S)
        except paramiko.SSHException as error:
            text = str(error)
            # A key of another type than the pinned one; or one that only signs with SHA-1, which nobody asks for.
            if "no acceptable host key" in text and (shown := ask_offered(target)) != NOT_TOLD:
                raise self._pins.refusal(shown, target.server) from error
            if "no acceptable" in text or "Incompatible" in text:
                raise Refused(
                    f"{target.server}: the server offers no algorithm that is safe enough: {text}",
                    "have the server's SSH brought up to date",
                ) from error
            raise
        transport.set_keepalive(15)

    def _log_in(self, transport: paramiko.Transport) -> None:
        target = self._target
        user = target.user or getpass.getuser()
        refused: Exception | None = None
        if target.password is not None:
            try:
                transport.auth_password(user, target.password)
                return
            except paramiko.AuthenticationException as error:
                refused = error
        for key in _keys(target):
            try:
                transport.auth_publickey(user, key)
                if transport.is_authenticated():
                    return
            except paramiko.AuthenticationException as error:
                refused = error
        raise Refused(f"{target.place}: the server refuses the login", LOGIN) from refused

    def _open_channel(self, transport: paramiko.Transport) -> None:
        channel = transport.open_session(_WINDOW, _PACKET, CONNECT_S)
        self._channel = channel
        channel.settimeout(CONNECT_S)
        try:
            channel.invoke_subsystem("sftp")
        except paramiko.SSHException as error:
            raise Refused(
                f"{self._target.place}: the server offers no SFTP", "have SFTP turned on for this account"
            ) from error

    def send(self, buffers: Sequence[Buffer], seconds: float) -> None:
        assert self._channel is not None
        end = time.monotonic() + seconds
        for part in buffers:
            view = memoryview(part)
            while view:
                self._channel.settimeout(max(end - time.monotonic(), 0.001))
                try:
                    done = self._channel.send(bytes(view[:_SEND]))
                except (EOFError, paramiko.SSHException) as error:
                    raise BrokenPipeError("the transport has ended") from error
                if done == 0:
                    raise BrokenPipeError("the channel is closed")
                view = view[done:]

    def receive_into(self, view: memoryview, seconds: float) -> int:
        # paramiko moves all that is left in its buffer at each read, so everything is taken at once.
        if not self._buffer:
            assert self._channel is not None
            self._channel.settimeout(seconds)
            self._buffer = memoryview(self._channel.recv(_TAKE))
        count = min(len(view), len(self._buffer))
        view[:count] = self._buffer[:count]
        self._buffer = self._buffer[count:]
        return count

    def reason(self, what: str) -> TandemError:
        if self._aborted:
            what = "the connection was given up"
        return Unavailable(f"{self._target.place}: {what}")

    def abort(self) -> None:
        """Cut the connection, from any thread; whatever waits on it ends now."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the transport and its thread."""
        self.abort()
        if self._transport is not None:
            self._transport.close()
            self._transport.join(2)
        if self._socket is not None:
            self._socket.close()


def _keys(target: SftpTarget) -> Iterator[paramiko.PKey]:
    """The key file that was named; else the agent's keys, then the usual files."""
    if target.identity_file is not None:
        path = os.path.expanduser(target.identity_file)
        try:
            yield paramiko.PKey.from_path(path)
        except (paramiko.PasswordRequiredException, TypeError) as error:
            # TypeError is how the library below says that a key is encrypted and no password came with it.
            yield from _from_agent(path, error)
        except OSError as error:
            raise Refused(
                f"cannot read the key file {path}: {error.strerror}", "give the right file"
            ) from error
        except (paramiko.SSHException, ValueError) as error:
            raise Refused(
                f"{path} is not a private key that can be read", "give an OpenSSH key file"
            ) from error
        return
    yield from _agent_keys()
    for name in _KEY_FILES:
        path = os.path.expanduser(f"~/.ssh/{name}")
        with contextlib.suppress(OSError, paramiko.SSHException, ValueError, TypeError):
            yield paramiko.PKey.from_path(path)


def _from_agent(path: str, error: Exception) -> Iterator[paramiko.PKey]:
    """The agent's key for a file that has a passphrase, found by the public half beside it."""
    wanted = b""
    with contextlib.suppress(OSError, IndexError), open(f"{path}.pub", encoding="utf-8") as file:
        wanted = file.read(65536).split()[1].encode()
    for key in _agent_keys():
        if key.get_base64().encode() == wanted:
            yield key
            return
    raise Refused(f"the key file {path} has a passphrase", "add it to the SSH agent with ssh-add") from error


def _agent_keys() -> Iterator[paramiko.PKey]:
    try:
        agent = paramiko.Agent()
    except (paramiko.SSHException, OSError):
        return
    try:
        yield from agent.get_keys()
    finally:
        agent.close()
