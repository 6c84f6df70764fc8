"""Where a tier is: its URL, parsed and checked.

Knows the shape of URLs, nothing of sessions or stores (wiring.py builds those). A password in a URL is
refused: URLs reach screens, logs and process lists.
"""

from __future__ import annotations

import getpass
import os
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

from tandem_protocol.errors import Usage

SFTP_PORT = 22
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LATER = {"ftp", "ftps", "ftpes"}


@dataclass(frozen=True)
class Place:
    """A parsed tier URL. ``scheme`` is "file" or "sftp"; the last three fields are set for sftp alone.

    ``path`` is absolute for file. For sftp it is relative to the login folder, or absolute (as the server
    shows it) where the URL has two slashes after the host.
    """

    scheme: str
    path: str
    host: str = ""
    port: int = 0
    user: str = ""

    @property
    def url(self) -> str:
        """The URL in its normal form; two places are the same if these are equal."""
        if self.scheme == "file":
            return "file://" + quote(os.fsencode(self.path))
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == SFTP_PORT else f":{self.port}"
        return f"sftp://{quote(self.user, safe='')}@{host}{port}/{quote(os.fsencode(self.path))}"


def parse_place(url: str, base: str) -> Place:
    """The place of ``url``: ``file:///folder``, a plain folder (relative ones from ``base``), or
    ``sftp://[user@]host[:port]/folder`` (from the login folder; ``//folder`` is absolute). Anything else
    raises `Usage`."""
    found = _SCHEME.match(url)
    if found is None:
        return _folder(os.path.join(base, os.path.expanduser(url)), url)
    scheme = found.group(1).lower()
    if scheme == "file":
        return _file_url(url)
    if scheme == "sftp":
        return _sftp_url(url)
    if scheme in _LATER:
        raise Usage(f"tiers of kind {scheme}:// are not in this version", "use file:// or sftp://")
    raise Usage(f"unknown kind of tier {scheme}://", "use file:///FOLDER or sftp://USER@HOST:PORT/FOLDER")


def _folder(path: str, shown: str) -> Place:
    if not shown or "\0" in path:
        raise Usage(f"not a folder name: {shown!r}", "use file:///FOLDER")
    return Place("file", os.path.normpath(path))


def _file_url(url: str) -> Place:
    rest = url[len("file://") :]
    if rest.startswith("localhost/"):
        rest = rest[len("localhost") :]
    if not rest.startswith("/"):
        raise Usage(f"not an absolute folder: {url}", "write it with three slashes: file:///mnt/nas/tandem")
    return _folder(os.fsdecode(unquote_to_bytes(rest)), rest)


def _sftp_url(url: str) -> Place:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise Usage("an sftp:// URL with a bad host or port", "write sftp://USER@HOST:PORT/FOLDER") from None
    if parts.password is not None:
        raise Usage(
            f"a password in the URL of {host or 'a tier'}",
            "take it out, and name a password_command, password_file or identity_file instead",
        )
    if not host or parts.query or parts.fragment:
        raise Usage(f"not a place: {url}", "write sftp://USER@HOST:PORT/FOLDER")
    user = unquote(parts.username) if parts.username else getpass.getuser()
    path = os.path.normpath(os.fsdecode(unquote_to_bytes(parts.path[1:].removeprefix("~/"))))
    path = "/" + path.lstrip("/") if path.startswith("/") else path
    if path in (".", "/") or path.split("/")[0] == "..":
        raise Usage(f"no folder in {url}", "name one: sftp://USER@HOST:PORT/FOLDER")
    if "\0" in path or host.startswith("-") or user.startswith("-"):
        raise Usage("an sftp:// URL with a bad host, user or folder", "write sftp://USER@HOST:PORT/FOLDER")
    return Place("sftp", path, host, port or SFTP_PORT, user)
