"""OpenSSH's own server on loopback, and a line to it that is long or narrow, for the duration of a measurement."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from bench.tools import Remote


@contextmanager
def openssh(folder: str) -> Iterator[Remote]:
    """An sshd through which `folder` can be written; its own keys and settings are beside that folder."""
    from tests.support.sshd import running_sshd

    with running_sshd(folder + "-sshd") as server:
        yield Remote(
            host=server.host,
            port=server.port,
            user=server.user,
            identity_file=str(server.client_key),
            known_hosts_line=server.known_hosts_line,
            path=folder,
            folder=folder,
        )


@contextmanager
def line(remote: Remote, round_trip_ms: int = 0, rate: int = 0) -> Iterator[Remote]:
    """The same server over a line (`bench.link`): so many milliseconds away, `rate` bytes a second (0: any)."""
    command = [sys.executable, "-m", "bench.link", str(remote.port), str(round_trip_ms), str(rate)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdin is not None and proxy.stdout is not None
        try:
            port = int(proxy.stdout.readline())
            key = remote.known_hosts_line.split(" ", 1)[1]
            yield replace(remote, port=port, known_hosts_line=f"[{remote.host}]:{port} {key}")
        finally:
            proxy.stdin.close()
            proxy.wait()
