"""Real servers as tiers of a lab, mostly behind a fault proxy of their own: OpenSSH, vsftpd (plain and TLS), and
the embedded server. What a lab's configuration says then names the proxy; their folders are on this machine.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.embedded import embedded_server
from tests.support.faultproxy import FaultProxy, running_proxy
from tests.support.ftpservers import PASSWORD, USER, FtpServer, running_ftp
from tests.support.lab import Place
from tests.support.sshd import running_sshd

KINDS = ("openssh", "vsftpd", "vsftpd-tls", "embedded")
DATA_PORTS = 48
FAST = {"attempts": 10, "first_delay_seconds": 0.01, "max_delay_seconds": 0.05}
"""Retries as a test wants them: as many as ever, and at once."""


@dataclass(frozen=True)
class Proxied:
    """A server, started and to be reached through ``proxy`` alone, and the tier that it is."""

    proxy: FaultProxy
    place: Place
    server: Any


@contextmanager
def proxied(kind: str, name: str, folder: str, retries: dict[str, float] | None = None) -> Iterator[Proxied]:
    """A tier called ``name`` on a server of ``kind``, with an empty folder. ``folder`` is made, for its files."""
    os.makedirs(folder)
    more: dict[str, Any] = {"retries": FAST if retries is None else retries}
    if kind.startswith("vsftpd"):
        with running_proxy(DATA_PORTS) as proxy:
            ports = proxy.data_ports
            extra = f"pasv_min_port={ports.start}\npasv_max_port={ports.stop - 1}\naccept_timeout=5\n"
            with running_ftp("vsftpd", "explicit" if kind == "vsftpd-tls" else "none", extra) as server:
                proxy.point_at(server.host, server.port)
                yield Proxied(proxy, ftp_place(server, name, folder, proxy, more), server)
        return
    with running_proxy() as proxy:
        if kind == "openssh":
            with running_sshd(folder) as sshd:
                proxy.point_at(sshd.host, sshd.port)
                yield Proxied(proxy, ssh_place(sshd, name, str(sshd.root), proxy, more), sshd)
        else:
            with embedded_server(folder) as embedded:
                proxy.point_at(embedded.host, embedded.port)
                root = str(embedded.root / "tandem")
                yield Proxied(proxy, ssh_place(embedded, name, root, proxy, more, "tandem"), embedded)


def ssh_place(
    server: Any,
    name: str,
    folder: str,
    proxy: FaultProxy | None = None,
    more: dict[str, Any] | None = None,
    path: str | None = None,
) -> Place:
    """The tier on an SFTP server, by way of ``proxy`` if there is one. ``path``: how the server calls ``folder``,
    if not as this machine does."""
    host, port = (server.host, server.port) if proxy is None else (proxy.host, proxy.port)
    key = os.fspath(server.client_key)
    return Place(
        name,
        f"sftp://{server.user}@{host}:{port}/{path or folder}",
        folder,
        {"identity_file": key, "host_keys": [server.known_hosts_line], **(more or {})},
        ("--identity-file", key, "--accept-host-key", fingerprint(server.known_hosts_line)),
    )


def ftp_place(
    server: FtpServer,
    name: str,
    secrets: str,
    proxy: FaultProxy | None = None,
    more: dict[str, Any] | None = None,
) -> Place:
    """The tier on an FTP server, in a new folder, by way of ``proxy`` if there is one. ``secrets``: a folder for the
    file with the password."""
    host, port = (server.host, server.port) if proxy is None else (proxy.host, proxy.port)
    password = Path(secrets) / "password"
    password.write_text(f"{PASSWORD}\n")
    login = ["--password-file", str(password)]
    settings: dict[str, Any] = {"password_file": str(password), **(more or {})}
    if server.tls == "none":
        settings["insecure"] = True
        login += ["--insecure"]
    else:
        settings["certificate_fingerprint"] = f"SHA256:{server.fingerprint}"
        login += ["--certificate-fingerprint", f"SHA256:{server.fingerprint}"]
    scheme = "ftp" if server.tls == "none" else "ftpes"
    return Place(
        name, f"{scheme}://{USER}@{host}:{port}/tandem", str(server.folder_for("tandem")), settings, login
    )


def fingerprint(known_hosts_line: str) -> str:
    """The SHA256:… form of a host key, as `ssh-keygen -l` shows it."""
    digest = hashlib.sha256(base64.b64decode(known_hosts_line.split()[2])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
