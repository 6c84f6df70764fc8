"""The embedded SFTP server as a real process on a free port of loopback, for tests.

`EmbeddedServer` is made in a folder of the test's own and may be stopped, killed and started again on the
same port. It is not a fake: what runs is ``tandem-server run``.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import asyncssh

_PATIENCE_S = 30


class EmbeddedServer:
    """A server with one client key. Files: ``root/`` is what is served, ``client_key`` logs in."""

    host = "127.0.0.1"
    user = "backup"

    def __init__(self, folder: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(folder)
        self.root = Path(root) if root is not None else self.folder / "root"
        self.client_key = self.folder / "client_key"
        self.authorized_keys = self.folder / "authorized_keys"
        self.host_key = self.folder / "host_key"
        self.port = 0
        self.process: subprocess.Popen[str] | None = None
        self.root.mkdir(parents=True, exist_ok=True)
        if not self.client_key.exists():
            key = asyncssh.generate_private_key("ssh-ed25519", comment="test client")
            self.client_key.write_bytes(key.export_private_key())
            self.client_key.chmod(0o600)
            self.authorized_keys.write_bytes(key.export_public_key())

    @property
    def known_hosts_line(self) -> str:
        """The host key as a line of known_hosts."""
        public = asyncssh.read_private_key(str(self.host_key)).export_public_key().decode().split()
        return f"[{self.host}]:{self.port} {public[0]} {public[1]}"

    @property
    def fingerprint(self) -> str:
        """The host key's SHA256:… fingerprint."""
        return asyncssh.read_private_key(str(self.host_key)).get_fingerprint()

    def url(self, path: str = "/") -> str:
        return f"sftp://{self.user}@{self.host}:{self.port}{path}"

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "tandem_server", "run"),
            *("--root", str(self.root)),
            *("--listen", f"{self.host}:{self.port}"),
            *("--authorized-keys", str(self.authorized_keys)),
            *("--host-key", str(self.host_key)),
        ]

    def start(self) -> Self:
        """Start and wait until it listens; a second start takes the port of the first."""
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.fullmatch(r"listening on .*:(\d+)\n", line):
                self.port = int(found[1])
                return self
        self.kill()
        raise AssertionError(f"the server did not start: {(self.folder / 'server.log').read_text()}")

    def stop(self) -> int | None:
        """SIGTERM; returns the exit code (None if it was not running)."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int | None:
        process, self.process = self.process, None
        if process is None:
            return None
        process.send_signal(number)
        try:
            return process.wait(_PATIENCE_S)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def known_hosts(self) -> Path:
        """A known_hosts file with this server in it, for real clients."""
        path = self.folder / "known_hosts"
        path.write_text(self.known_hosts_line + "\n")
        return path

    def client_options(self) -> list[str]:
        """Options with which OpenSSH's clients talk to this server and to nothing else of the machine."""
        options = {
            "IdentityFile": str(self.client_key),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": str(self.known_hosts()),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "Port": str(self.port),
        }
        return ["-F", "/dev/null", *(f"-o{name}={value}" for name, value in options.items())]

    def options(self) -> dict[str, object]:
        """Keyword arguments for `asyncssh.connect`."""
        return {
            "host": self.host,
            "port": self.port,
            "username": self.user,
            "client_keys": [str(self.client_key)],
            "known_hosts": asyncssh.import_known_hosts(self.known_hosts_line),
            "agent_path": None,
            "config": None,
        }


@contextmanager
def embedded_server(
    folder: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> Iterator[EmbeddedServer]:
    """A started server, stopped at the end whatever happened."""
    server = EmbeddedServer(folder, root)
    try:
        yield server.start()
    finally:
        server.stop()
