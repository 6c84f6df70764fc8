"""Picks a store by its address: a path, ``file:///path`` or ``sftp://user@host:port/path``.

It knows what an address means and nothing else; the SSH library is imported only when an address asks
for it. A password in an address is accepted, and never shown again: print ``redact_url(url)``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import Usage
from ..store import Store
from .directory import DirectoryStore

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# Up to the last "@" before the path: a password may hold any other character, even unescaped.
_SECRET = re.compile(r"(://[^/:@]*):[^/]*@")


@dataclass(frozen=True)
class StoreOptions:
    """What an address does not say. ``known_hosts``: pinned lines of a known_hosts file, or fingerprints
    ``SHA256:…``. ``use_system_ssh``: None picks the system's ``ssh`` where it can serve."""

    make_root: bool = False
    identity_file: str | None = None
    password: str | None = None
    known_hosts: tuple[str, ...] = ()
    use_system_ssh: bool | None = None
    deadline_s: float = 60.0


def redact_url(url: str) -> str:
    """``url`` without its password, for any output."""
    return _SECRET.sub(r"\1:***@", url)


def store_from_url(url: str, options: StoreOptions | None = None) -> Store:
    """An unopened store for ``url``, or `Usage` if it is no address that this program knows.

    ``sftp://host/path`` is absolute, ``sftp://host/~/path`` is below the login folder. A password in the
    address stands behind one in the options.
    """
    options = options or StoreOptions()
    if not _SCHEME.match(url):
        return DirectoryStore(_local(url), options.make_root)
    try:
        parts = urlsplit(url)
        port = parts.port or 22
    except ValueError as error:
        raise Usage(
            f"{redact_url(url)} is not an address", "write it as sftp://user@host:port/path"
        ) from error
    if parts.query or parts.fragment:
        raise Usage(f"{redact_url(url)}: an address has no ? or #", "write them as %3F and %23")
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise Usage(f"{redact_url(url)} names a host", "file addresses look like file:///path")
        return DirectoryStore(_local(unquote(parts.path)), options.make_root)
    if parts.scheme != "sftp":
        raise Usage(f"{redact_url(url)}: {parts.scheme} is not known here", "use a path, file:// or sftp://")
    return _sftp(url, parts, port, options)


def _sftp(url: str, parts: SplitResult, port: int, options: StoreOptions) -> Store:
    from .sftp import SftpStore
    from .sftp_transport import SftpTarget

    if not parts.hostname:
        raise Usage(f"{redact_url(url)} names no host", "write it as sftp://user@host:port/path")
    path = unquote(parts.path)
    if path == "/~" or path.startswith("/~/"):
        path = path[3:].strip("/")
    elif not path:
        raise Usage(f"{redact_url(url)} names no folder", "add /path, or /~/path below the login folder")
    if any(part == ".." for part in path.split("/")) or "\0" in path:
        raise Usage(f"{redact_url(url)}: a path goes straight down", "leave out ..")
    password = options.password
    if password is None and parts.password is not None:
        password = unquote(parts.password)
    target = SftpTarget(
        host=parts.hostname,
        port=port,
        user=unquote(parts.username) if parts.username else None,
        path=path,
        identity_file=options.identity_file,
        password=password,
        known_hosts=options.known_hosts,
        use_system_ssh=options.use_system_ssh,
        deadline_s=options.deadline_s,
    )
    return SftpStore(target, options.make_root)


def _local(path: str) -> str:
    if not path or "\0" in path:
        raise Usage(f"{path!r} is not a folder's path")
    return os.path.abspath(os.path.expanduser(path))
