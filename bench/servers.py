"""OpenSSH's own server on loopback, for the duration of a measurement."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

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
            identity_file=os.fspath(server.client_key),
            known_hosts_line=server.known_hosts_line,
            path=folder,
            folder=folder,
        )
