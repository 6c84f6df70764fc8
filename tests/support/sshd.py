"""OpenSSH's real sshd on a free port of loopback, with keys and configuration of its own.

It runs as root and as an ordinary user; what it serves is this machine's file system, as the user that runs
the tests. Passwords need PAM and are not served here: the asyncssh server of the tests does that.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from tests.support.requirements import require_program

from tandem_protocol.stores.sftp_transport import SftpTarget

_PATIENCE_S = 20


class Sshd:
    """One server with one host key and one client key. Files: ``root/`` is meant for stores."""

    host = "127.0.0.1"

    def __init__(
        self, folder: str | os.PathLike[str], *, extra: str = "", key_type: str = "ed25519", sftp: bool = True
    ) -> None:
        self.program = require_program("sshd", "openssh-server")
        self.folder = Path(folder)
        self.root = self.folder / "root"
        self.root.mkdir(parents=True, exist_ok=True)
        self.user = getpass.getuser()
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.client_key = self.folder / "client_key"
        self.host_key = self.folder / "host_key"
        make_key(self.client_key)
        make_key(self.host_key, key_type)
        self.config = self.folder / "sshd_config"
        self._extra = extra + ("\nSubsystem sftp internal-sftp" if sftp else "")

    def _write_config(self) -> None:
        self.config.write_text(
            f"""ListenAddress {self.host}:{self.port}
HostKey {self.host_key}
AuthorizedKeysFile {self.folder}/client_key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
LogLevel ERROR
MaxStartups 200
{self._extra}
"""
        )

    def start(self) -> Self:
        """Start and wait until it listens; a second start takes the port of the first."""
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)
        self.port = self.port or free_port()
        self._write_config()
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.program, "-D", "-e", "-f", str(self.config)], stderr=log, start_new_session=True
            )
        end = time.monotonic() + _PATIENCE_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex((self.host, self.port)) == 0:
                    return self
            time.sleep(0.01)  # the kernel tells nobody that a port is open now
        self.stop()
        raise AssertionError(f"sshd did not start: {(self.folder / 'sshd.log').read_text()}")

    def stop(self) -> None:
        """End the listener and, as a crash would, every connection that it serves."""
        process = self.process
        if process is not None:
            self.signal_connections(signal.SIGKILL)
            self.process = None
            process.kill()
            process.wait()

    def signal_connections(self, number: signal.Signals) -> None:
        """Send a signal to every process that serves a connection: SIGSTOP makes a server that stalls."""
        assert self.process is not None
        for child in _descendants(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(child, number)

    @property
    def known_hosts_line(self) -> str:
        kind, key = self.host_key.with_suffix(".pub").read_text().split()[:2]
        return f"[{self.host}]:{self.port} {kind} {key}"

    @property
    def fingerprint(self) -> str:
        """The SHA256:… form of the host key."""
        digest = hashlib.sha256(base64.b64decode(self.known_hosts_line.split()[2])).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def url(self, path: str = "") -> str:
        """The URL of a folder below ``root``."""
        return f"sftp://{self.user}@{self.host}:{self.port}/{self.root}{path}"

    def target(self, path: str | os.PathLike[str] | None = None, **changes: object) -> SftpTarget:
        """How a store reaches ``path`` (else ``root/``) here."""
        values: dict[str, object] = {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "path": str(path or self.root),
            "identity_file": str(self.client_key),
            "known_hosts": (self.known_hosts_line,),
            "deadline_s": 20.0,
        }
        return SftpTarget(**(values | changes))  # type: ignore[arg-type]  # the tests' own keywords


def make_key(path: Path, key_type: str = "ed25519") -> None:
    """A key pair without passphrase: ``path`` and ``path``.pub."""
    program = require_program("ssh-keygen", "openssh-client")
    if not path.exists():
        command = [program, "-q", "-t", key_type, "-N", "", "-C", "test", "-f", str(path)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _descendants(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    children = [int(word) for word in text.split()]
    return children + [deeper for child in children for deeper in _descendants(child)]


@contextmanager
def running_sshd(folder: str | os.PathLike[str], **options: Any) -> Iterator[Sshd]:
    """A started server, stopped at the end whatever happened."""
    server = Sshd(folder, **options)
    try:
        yield server.start()
    finally:
        server.stop()
