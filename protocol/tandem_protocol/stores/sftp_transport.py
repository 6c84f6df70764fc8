"""Two ways to carry SFTP to a server: the system's ``ssh`` over a socket pair, and paramiko's own transport.

The first encrypts in C in a process of its own and brings the user's agent, configuration and jump hosts;
the second serves passwords and machines without ``ssh``. Both check the host key against pins before
anything else, and both can be cut from another thread at once (`abort`). They know nothing of SFTP.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import Full, Refused, TandemError, Unavailable, Usage
from ..store import Buffer
from .faults import from_oserror
from .host_keys import UNKNOWN, Pins, offered_keys, read_pins
from .sftp_errors import HOST_KEY_FAILED, from_ssh, offered_fingerprint

CONNECT_S = 20
NOT_TOLD = "a key that could not be asked for from here"
_ALIAS = "tandem-tier"
_MAX_STDERR = 64 * 1024
_BUFFER = 4 * 1024 * 1024
_CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
_MACS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "umac-128-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
    "umac-128@openssh.com",
)
_HOST = re.compile(r"[A-Za-z0-9_.:%\[\]][A-Za-z0-9_.:%\[\]-]*")
_USER = re.compile(r"(?!-)[^\s\x00-\x1f\x7f'\"`$;&<>|(){}]+")


@dataclass(frozen=True)
class SftpTarget:
    """Where a server is and how to log in. ``path`` is absolute, or relative to the login folder.

    ``known_hosts`` pins the host key: lines of known_hosts, or fingerprints ``SHA256:…``. ``use_system_ssh``
    None picks the system's ``ssh`` if it is there and no password is given. ``deadline_s`` is how long one
    request may go unanswered.
    """

    host: str
    port: int = 22
    user: str | None = None
    path: str = ""
    identity_file: str | None = None
    password: str | None = field(default=None, repr=False)
    known_hosts: Sequence[str] = ()
    use_system_ssh: bool | None = None
    deadline_s: float = 60.0

    def __post_init__(self) -> None:
        # Both end on the command line of ssh, where a leading "-" would be an option.
        if not _HOST.fullmatch(self.host):
            raise Usage(f"{self.host!r} cannot be the host of an SFTP address")
        if self.user is not None and not _USER.fullmatch(self.user):
            raise Usage(f"{self.user!r} cannot be a user name of an SFTP address")
        if self.use_system_ssh and self.password is not None:
            raise Usage("the system's ssh takes no password from a program", "use a key, or leave ssh out")

    @property
    def place(self) -> str:
        """The address for messages; no secrets. An absolute path follows two slashes."""
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == 22 else f":{self.port}"
        return f"sftp://{user}{host}{port}/{self.path}"

    @property
    def server(self) -> str:
        return f"{self.host}, port {self.port}"


def uses_system_ssh(target: SftpTarget) -> bool:
    """Whether the system's ``ssh`` carries this target."""
    if target.use_system_ssh is None:
        return target.password is None and shutil.which("ssh") is not None
    return target.use_system_ssh


class SshPipe:
    """``ssh -s host sftp`` with both its ends on one socket, its stderr drained and kept for judging."""

    def __init__(self, target: SftpTarget) -> None:
        self._target = target
        self._pins = read_pins(target.known_hosts)
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._known_hosts: str | None = None
        self._said = bytearray()
        self._lock = threading.Lock()
        self._aborted = False

    def start(self) -> None:
        """Start ``ssh``; whether it gets through is known when the first answer comes."""
        self._pins = _with_keys(self._pins, self._target)
        if shutil.which("ssh") is None:
            raise Refused("the program ssh is not there", "install OpenSSH's client")
        try:
            self._launch()
        except OSError as error:
            fault = from_oserror(error, f"start ssh for {self._target.place}")
            remedy = "check the folder for temporary files"
            raise fault if isinstance(fault, Full) else Refused(fault.what, remedy) from error
        self._reader = threading.Thread(target=self._drain, name="tandem-ssh-stderr", daemon=True)
        self._reader.start()

    def _launch(self) -> None:
        ours, theirs = socket.socketpair()
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            ours.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
            theirs.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        with theirs, self._lock:
            self._socket = ours
            if self._aborted:
                raise Unavailable("the connection was given up")
            handle, self._known_hosts = tempfile.mkstemp(prefix="tandem-known-hosts-")
            with open(handle, "w", encoding="ascii") as file:
                file.write(self._pins.known_hosts(_ALIAS))
            # A session of its own: Ctrl-C is for this program, which then ends ssh in order.
            self._process = subprocess.Popen(  # noqa: S603 - no shell, and SftpTarget checked host and user
                ssh_command(self._target, self._known_hosts),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.PIPE,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,
            )

    def connected(self) -> None:
        """The first answer has come: what ``ssh`` only reads at its start can go."""
        path, self._known_hosts = self._known_hosts, None
        if path is not None:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _drain(self) -> None:
        assert self._process is not None and self._process.stderr is not None
        with self._process.stderr as stream:
            while part := os.read(stream.fileno(), 4096):
                self._said += part[: _MAX_STDERR - len(self._said)]

    def send(self, buffers: Sequence[Buffer], seconds: float) -> None:
        assert self._socket is not None
        end = time.monotonic() + seconds
        left = [memoryview(part) for part in buffers]
        while left:
            self._socket.settimeout(max(end - time.monotonic(), 0.001))
            done = self._socket.sendmsg(left)
            while left and done >= len(left[0]):
                done -= len(left.pop(0))
            if left:
                left[0] = left[0][done:]

    def receive_into(self, view: memoryview, seconds: float) -> int:
        assert self._socket is not None
        self._socket.settimeout(seconds)
        return self._socket.recv_into(view)

    def reason(self, what: str) -> TandemError:
        if self._aborted:
            return Unavailable(f"{self._target.place}: the connection was given up")
        code = self._end(wait_s=2)
        said = bytes(self._said).decode(errors="replace")
        if HOST_KEY_FAILED.search(said):
            return self._pins.refusal(
                offered_fingerprint(said) or ask_offered(self._target), self._target.server
            )
        return (
            from_ssh(said, self._target.place, code)
            if said or code
            else Unavailable(f"{self._target.place}: {what}")
        )

    def abort(self) -> None:
        """Cut the connection, from any thread; whatever waits on it ends now."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
            self._kill(signal.SIGTERM)

    def close(self) -> None:
        """End ``ssh`` and release everything."""
        self.abort()
        self._end(wait_s=1)
        if self._socket is not None:
            self._socket.close()
        self.connected()

    def _end(self, wait_s: float) -> int | None:
        """The exit code of ``ssh``, which is killed if it does not end in time."""
        if self._process is None:
            return None
        try:
            code = self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self._kill(signal.SIGKILL)
            self._process.wait()
            code = None
        if self._reader is not None:
            self._reader.join(wait_s)
        return code

    def _kill(self, number: int) -> None:
        # The whole group: a ProxyCommand of the user's configuration must not outlive its ssh.
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def ssh_command(target: SftpTarget, known_hosts: str) -> list[str]:
    """The command line. Only what the user's configuration says about reaching the host is left to it."""
    quoted = known_hosts.replace("%", "%%")
    options = [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        f'UserKnownHostsFile="{quoted}"',
        "GlobalKnownHostsFile=/dev/null",
        "UpdateHostKeys=no",
        f"HostKeyAlias={_ALIAS}",
        "CheckHostIP=no",
        "VerifyHostKeyDNS=no",
        "ControlMaster=no",
        "ControlPath=none",
        "ClearAllForwardings=yes",
        "ForwardAgent=no",
        "ForwardX11=no",
        "Tunnel=no",
        "PermitLocalCommand=no",
        "RemoteCommand=none",
        "Compression=no",
        # OpenSSH's own default set, but AES-GCM first: half the processor time of its first choice.
        f"Ciphers={','.join(_CIPHERS)}",
        # For the ciphers that need one; without SHA-1, which is what the other transport does too.
        f"MACs={','.join(_MACS)}",
        "LogLevel=INFO",
        "ServerAliveInterval=15",
        "ServerAliveCountMax=3",
        f"ConnectTimeout={CONNECT_S}",
    ]
    command = ["ssh", "-T", "-p", str(target.port)]
    if target.user:
        command += ["-l", target.user]
    if target.identity_file:
        command += ["-i", target.identity_file]
        options.append("IdentitiesOnly=yes")
    for option in options:
        command += ["-o", option]
    return [*command, "-s", "--", target.host, "sftp"]


def _with_keys(pins: Pins, target: SftpTarget) -> Pins:
    """Pins with whole keys, as known_hosts needs them: the key of a pinned fingerprint is fetched."""
    if not pins:
        raise Refused(f"no host key is pinned for {target.server}; it offers {ask_offered(target)}", UNKNOWN)
    if pins.keys:
        return pins
    offered = offered_keys(target.host, target.port, CONNECT_S)
    lines = [key.line for key in offered if key.fingerprint in pins.fingerprints]
    if not lines:
        raise pins.refusal(", ".join(f"{key.fingerprint} ({key.type})" for key in offered), target.server)
    return read_pins(lines)


def ask_offered(target: SftpTarget) -> str:
    """What the server offers, for a message."""
    try:
        offered = offered_keys(target.host, target.port, CONNECT_S)
    except TandemError:
        return NOT_TOLD
    return ", ".join(f"{key.fingerprint} ({key.type})" for key in offered)
