"""Signed documents for tests of the pure protocol: one repository, one writer, and others who should not write."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.support.formats import make_ring

from tandem_protocol.certificates import Certificate, Installation
from tandem_protocol.identity import Identity
from tandem_protocol.keys import KeyRing
from tandem_protocol.names import ObjectType
from tandem_protocol.revision import Claim, Kind, ObjectRef, Record, RecordDraft, make_claim, make_record
from tandem_protocol.verdict import Believed, Known, Pending, Seen, SeenNumber

RING = make_ring(1)
TIER, OTHER_TIER = b"t" * 16, b"u" * 16


def nonce_of(number: int, salt: int = 0) -> bytes:
    return number.to_bytes(23, "big") + bytes([salt])


def ref(number: int, kind: ObjectType = ObjectType.PACK, size: int = 100) -> ObjectRef:
    return ObjectRef(kind, number.to_bytes(32, "big"), size)


class Writer:
    """An installation with its certificate. ``root`` another ring's: enrolled by somebody else, so forged."""

    def __init__(self, epoch: int = 1, ring: KeyRing = RING, root: KeyRing | None = None) -> None:
        self.ring = ring
        self.installation = Installation.generate()
        private = (root or ring).root_private
        assert private is not None
        self.certificate = Certificate.issue(private, ring.repository_id, self.installation, epoch)

    def claim(self, number: int, tier: bytes = TIER, nonce: bytes | None = None) -> Claim:
        nonce = nonce_of(number) if nonce is None else nonce
        return make_claim(
            self.ring, self.installation, self.certificate, tier, number, nonce, (), {"host": "here"}
        )

    def record(self, number: int, nonce: bytes | None = None, **more: Any) -> Record:
        nonce = nonce_of(number) if nonce is None else nonce
        draft = RecordDraft(
            number, nonce, more.pop("kind", Kind.CHECKPOINT), more.pop("parents", ()), {}, **more
        )
        return make_record(self.ring, self.installation, self.certificate, draft)


class Scene:
    """What a tier should look like after revisions 1 to ``head``, and what the installation believes of it."""

    def __init__(self, head: int = 3, writer: Writer | None = None) -> None:
        self.writer = writer or Writer()
        self.records = {n: self.writer.record(n) for n in range(1, head + 1)}
        self.numbers = {n: SeenNumber(self.writer.claim(n), record) for n, record in self.records.items()}
        certificate = self.writer.certificate
        self.epochs: dict[int, Any] = {certificate.epoch: certificate}
        self.names_tier: bool | None = None
        self.identity: Any = Identity(RING.repository_id, TIER, RING.root_public)
        self.believed = Believed(
            repository_id=RING.repository_id,
            tier_id=TIER,
            installation_id=self.writer.installation.id,
            epoch=certificate.epoch,
            certificate=certificate.data,
            journal={n: Known(record.nonce, record.hash) for n, record in self.records.items()},
            head=head,
            pending=None,
            start=1,
            highest_held=head,
            last_written=head,
            complete=True,
        )

    def believe(self, **changes: Any) -> Scene:
        self.believed = replace(self.believed, **changes)
        return self

    def intend(self, number: int, answered: bool = False) -> Scene:
        return self.believe(pending=Pending(number, nonce_of(number), answered))

    @property
    def seen(self) -> Seen:
        return Seen(self.identity, self.epochs, self.numbers, names_tier=self.names_tier)
