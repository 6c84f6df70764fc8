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

PORTS = {"sftp": 22, "ftp": 21, "ftpes": 21, "ftps": 990}
INSECURE = (
    "use ftpes:// or ftps://; if the server has no TLS and the network is yours alone, set insecure = true"
)
_FINGERPRINT = re.compile(r"(?:sha-?256[:=\s])?((?:[0-9a-f]{2}:?){31}[0-9a-f]{2})", re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True)
class Place:
    """A parsed tier URL. ``scheme`` is "file" or one of `PORTS`; the last three fields are not set for file.

    ``path`` is absolute for file. Else it is relative to the login folder, or absolute (as the server
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
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{quote(self.user, safe='')}@{host}{port}/{quote(os.fsencode(self.path))}"


def parse_place(url: str, base: str) -> Place:
    """The place of ``url``: ``file:///folder``, a plain folder (relative ones from ``base``), or
    ``sftp://[user@]host[:port]/folder`` (from the login folder; ``//folder`` is absolute), the same with
    ftpes, ftps or ftp. Anything else raises `Usage`."""
    found = _SCHEME.match(url)
    if found is None:
        return _folder(os.path.join(base, os.path.expanduser(url)), url)
    scheme = found.group(1).lower()
    if scheme == "file":
        return _file_url(url)
    if scheme in PORTS:
        return _server_url(url, scheme)
    raise Usage(
        f"unknown kind of tier {scheme}://",
        "use file:///FOLDER, or USER@HOST:PORT/FOLDER after sftp://, ftpes:// or ftps://",
    )


def read_fingerprint(text: str) -> str:
    """64 lowercase hex digits of a certificate's SHA-256 as people and openssl write it; else `Usage`."""
    found = _FINGERPRINT.fullmatch(text.strip())
    if found is None:
        raise Usage(f"{text[:100]!r} is not a SHA-256 fingerprint", "write SHA256: and 64 hex digits")
    return found.group(1).replace(":", "").lower()


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


def _server_url(url: str, scheme: str) -> Place:
    form = f"{scheme}://USER@HOST:PORT/FOLDER"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise Usage(f"a URL {scheme}:// with a bad host or port", f"write {form}") from None
    if parts.password is not None:
        raise Usage(
            f"a password in the URL of {host or 'a tier'}",
            "take it out, and name a password_command or password_file (for sftp:// also identity_file) instead",
        )
    if not host or parts.query or parts.fragment:
        raise Usage(f"not a place: {url}", f"write {form}")
    user = unquote(parts.username) if parts.username else getpass.getuser()
    path = os.path.normpath(os.fsdecode(unquote_to_bytes(parts.path[1:].removeprefix("~/"))))
    path = "/" + path.lstrip("/") if path.startswith("/") else path
    if path in (".", "/") or path.split("/")[0] == "..":
        raise Usage(f"no folder in {url}", f"name one: {form}")
    if "\0" in path or host.startswith("-") or user.startswith("-"):
        raise Usage(f"a URL {scheme}:// with a bad host, user or folder", f"write {form}")
    return Place(scheme, path, host, port or PORTS[scheme], user)
