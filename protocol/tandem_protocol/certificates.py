"""Who may write: installations, and the certificates by which the root enrols each for an epoch.

Pure: bytes to dataclasses and back. A certificate that does not decode is `Corrupt` (damaged); one that the root did
not sign is `Forged`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from . import envelope
from .envelope import DocType
from .errors import Corrupt
from .fields import Fields
from .names import MAX_NUMBER

MAX_CERTIFICATE = 4096


class Forged(Corrupt):
    """A good signature by a key that the root never enrolled: a security event, not damage."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """An installation (16-byte random id, 32-byte Ed25519 key) enrolled by the root for one epoch."""

    repository_id: bytes
    installation_id: bytes
    public_key: bytes
    epoch: int
    data: bytes = field(repr=False)

    @classmethod
    def issue(
        cls, root_seed: bytes, repository_id: bytes, installation: Installation, epoch: int
    ) -> Certificate:
        public = installation.public_key
        body = {"repository": repository_id, "installation": installation.id, "key": public, "epoch": epoch}
        root = Ed25519PrivateKey.from_private_bytes(root_seed)
        data = envelope.sign(DocType.CERTIFICATE, body, root)
        return cls(repository_id, installation.id, public, epoch, data)


@dataclass(frozen=True, slots=True)
class Installation:
    """The one agent that may write: a random id and a private key, both kept in its local state only."""

    id: bytes
    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> Installation:
        return cls(os.urandom(16), os.urandom(32))

    @property
    def key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes_raw()


def parse_certificate(data: bytes, repository_id: bytes, root_public: bytes | None) -> Certificate:
    """Decode a certificate. With ``root_public``: `Forged` if decodable but not signed by the root."""
    if len(data) > MAX_CERTIFICATE:
        raise Corrupt("a certificate is too long")
    fields = Fields(envelope.unverified_body(data, DocType.CERTIFICATE))
    certificate = Certificate(
        fields.bytes("repository", 16),
        fields.bytes("installation", 16),
        fields.bytes("key", 32),
        fields.int("epoch", 1, MAX_NUMBER),
        bytes(data),
    )
    if certificate.repository_id != repository_id:
        raise Corrupt("a certificate is for another repository")
    if root_public is not None:
        try:
            envelope.verify(data, DocType.CERTIFICATE, root_public)
        except Corrupt as fault:
            raise Forged("a certificate is not signed by the repository's root key") from fault
    return certificate


def parse_epoch_file(data: bytes, repository_id: bytes, root_public: bytes, epoch: int) -> Certificate:
    """The certificate in ``epochs/<epoch>``. Nothing but the root's signature can make it good: damaged
    otherwise, never forged."""
    try:
        certificate = parse_certificate(data, repository_id, root_public)
    except Forged as fault:
        raise Corrupt("an epoch file is damaged") from fault
    if certificate.epoch != epoch:
        raise Corrupt("an epoch file is for another epoch")
    return certificate
