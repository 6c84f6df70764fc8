"""The identity file of a tier: which repository and which tier this place is. Plain, small, never changed.

Written only by an explicit init, add or replace; a place without it is not a tier (not mounted, or wiped)
and is never made one by itself. A checksum tells damage from a foreign repository; it is no protection
against a hostile tier, which is why every key slot repeats the repository id and the root key under seal.
"""

from __future__ import annotations

from dataclasses import dataclass

from blake3 import blake3

from .envelope import HEADER_SIZE, DocType, decode, encode, pack_header, read_header
from .errors import Corrupt, Unsupported
from .fields import Fields

LAYOUT = 1
MAX_SIZE = 4096
_CHECKSUM = 32


@dataclass(frozen=True, slots=True)
class Identity:
    """``layout`` version, 16-byte ids of repository and tier, 32-byte Ed25519 root public key."""

    repository_id: bytes
    tier_id: bytes
    root_public: bytes
    layout: int = LAYOUT

    def encode(self) -> bytes:
        body = {
            "layout": self.layout,
            "repository": self.repository_id,
            "tier": self.tier_id,
            "root": self.root_public,
        }
        data = pack_header(DocType.IDENTITY) + encode(body)
        return data + blake3(data).digest()


def decode_identity(data: bytes) -> Identity:
    """`Corrupt` if damaged, `Unsupported` if the layout is newer than this program knows."""
    if len(data) > MAX_SIZE or len(data) < HEADER_SIZE + _CHECKSUM:
        raise Corrupt("the identity file has an impossible size")
    body, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
    if blake3(body).digest() != checksum:
        raise Corrupt("the identity file is damaged")
    read_header(data, {DocType.IDENTITY})
    fields = Fields(decode(body[HEADER_SIZE:], MAX_SIZE))
    layout = fields.int("layout", 1, 2**32)
    if layout > LAYOUT:
        raise Unsupported(
            f"the repository has layout {layout}, this program knows up to {LAYOUT}", "upgrade tandem"
        )
    return Identity(
        fields.bytes("repository", 16), fields.bytes("tier", 16), fields.bytes("root", 32), layout
    )
