"""Pinned host keys of SSH servers: reading the pins, comparing, and asking a server what it offers.

Nothing is trusted on first use: what `fetch_host_keys` returns is shown to a person, who compares it with
what the server's keeper says, and becomes a pin only then.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..errors import Refused, Unavailable, Usage

if TYPE_CHECKING:
    import paramiko

_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}=?")
_KEY_TYPES = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}
"""Key types known here, best first, with the signature algorithms that ask for each (none with SHA-1)."""

CHANGED = (
    "if the server was really set up anew, compare the new fingerprint with what its keeper says and pin it; "
    "otherwise somebody may be reading along: do not connect"
)
_NO_ANSWER = "check the address, and that an SSH server runs there"
UNKNOWN = "compare the fingerprint with what the server's keeper says, then pin it in the configuration"


def fingerprint(blob: bytes) -> str:
    """``SHA256:…`` of a public key in its wire form, as OpenSSH prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


class OfferedKey(NamedTuple):
    """A key that a server showed: its type, its fingerprint, and the line that pins it."""

    type: str
    fingerprint: str
    line: str


@dataclass(frozen=True)
class Pins:
    """What a tier's server may show: whole keys, or fingerprints."""

    keys: tuple[tuple[str, bytes], ...] = ()
    fingerprints: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.fingerprints)

    def algorithms(self) -> list[str]:
        """Signature algorithms to ask a server for, so that it shows a key of a pinned type."""
        types = [key_type for key_type, _ in self.keys] or list(_KEY_TYPES)
        return [name for known, names in _KEY_TYPES.items() if known in types for name in names]

    def check(self, key_type: str, blob: bytes, place: str) -> None:
        """`Refused` unless the key that the server at ``place`` showed is pinned."""
        shown = fingerprint(blob)
        if shown not in self.fingerprints:
            raise self.refusal(f"{shown} ({key_type})", place)

    def refusal(self, shown: str, place: str) -> Refused:
        """What to say about a server that showed ``shown``."""
        if not self:
            return Refused(f"the host key of {place} is not known; it offers {shown}", UNKNOWN)
        pinned = ", ".join(sorted(self.fingerprints))
        return Refused(
            f"the host key of {place} is not the pinned one: pinned {pinned}, offered {shown}", CHANGED
        )

    def known_hosts(self, alias: str) -> str:
        """The keys as a known_hosts file for the one host ``alias``."""
        return "".join(f"{alias} {kind} {base64.b64encode(blob).decode()}\n" for kind, blob in self.keys)


def read_pins(lines: Iterable[str]) -> Pins:
    """Pins from lines of a known_hosts file (the host's name in them is not looked at: they are given for
    one tier), from bare ``type base64`` keys, and from fingerprints. `Usage` for anything else."""
    keys: list[tuple[str, bytes]] = []
    prints: set[str] = set()
    for line in lines:
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) == 1 and _FINGERPRINT.fullmatch(words[0]):
            prints.add(words[0].rstrip("="))
            continue
        at = next((i for i, word in enumerate(words[:2]) if word in _KEY_TYPES), None)
        blob = _decode(words[at + 1]) if at is not None and len(words) > at + 1 else None
        if at is None or blob is None:
            raise Usage(
                f"{line[:100]!r} is not a host key",
                "give a line of known_hosts (type and key of one server) or a fingerprint SHA256:…",
            )
        keys.append((words[at], blob))
        prints.add(fingerprint(blob))
    return Pins(tuple(keys), frozenset(prints))


def _decode(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None


def host_line(host: str, port: int, key_type: str, blob: bytes) -> str:
    """A line as known_hosts has it."""
    name = host if port == 22 else f"[{host}]:{port}"
    return f"{name} {key_type} {base64.b64encode(blob).decode()}"


async def fetch_host_keys(host: str, port: int = 22, timeout_s: float = 20) -> list[OfferedKey]:
    """The host keys that a server shows to anybody, best type first; no login. `Unavailable` if none."""
    return await asyncio.to_thread(offered_keys, host, port, timeout_s)


def offered_keys(host: str, port: int, timeout_s: float = 20) -> list[OfferedKey]:
    """As `fetch_host_keys`, blocking. One connection per type: a server shows one key in each."""
    import paramiko

    found: list[OfferedKey] = []
    trouble: Exception | None = None
    for names in _KEY_TYPES.values():
        try:
            key = _shown_key(host, port, names, timeout_s)
        except paramiko.SSHException as error:
            trouble = error  # it has no key of this type
        except (OSError, EOFError) as error:
            reason = error.strerror or str(error) if isinstance(error, OSError) else "the server hung up"
            raise Unavailable(f"cannot reach {host}, port {port}: {reason}", _NO_ANSWER) from error
        else:
            blob = key.asbytes()
            found.append(
                OfferedKey(key.get_name(), fingerprint(blob), host_line(host, port, key.get_name(), blob))
            )
    if not found:
        raise Unavailable(f"{host}, port {port}, shows no host key of a known type: {trouble}", _NO_ANSWER)
    return found


def _shown_key(host: str, port: int, names: tuple[str, ...], timeout_s: float) -> paramiko.PKey:
    import paramiko

    with socket.create_connection((host, port), timeout_s) as sock:
        transport = paramiko.Transport(sock)
        try:
            transport.banner_timeout = transport.handshake_timeout = timeout_s
            transport.get_security_options().key_types = names
            transport.start_client(timeout=timeout_s)
            return transport.get_remote_server_key()
        finally:
            transport.close()
