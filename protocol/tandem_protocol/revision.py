"""Claims and records: the signed documents that say what is being written and what was written.

Pure: bytes to dataclasses and back. A document that does not decode or verify is `Corrupt` (damaged); only
a good signature under a certificate that the root did not sign is `Forged`. The rules that follow from
what is read are in ``verdict`` and ``planning``, not here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from blake3 import blake3

from . import envelope
from .certificates import Certificate, Installation, parse_certificate
from .envelope import DocType
from .errors import Corrupt, Unsupported
from .fields import Fields
from .keys import KeyRing
from .names import MAX_NUMBER, ObjectType
from .seal import open_part, seal_part

MAX_OBJECTS = 16_384
"""Most objects (added and removed together) that one record may name."""

MAX_CLAIM = 64 * 1024
MAX_RECORD = 8 * 1024 * 1024
NONCE_SIZE = 24
INDEX_2 = "index-2"
"""Index segments and pack trailers may be of form 2."""
KNOWN_FEATURES: frozenset[str] = frozenset({INDEX_2})
"""Feature names that this program can read and write."""
NEWEST = (INDEX_2,)
"""What a new repository requires, for reading and for writing: the features of what is written today."""


class Kind(StrEnum):
    """What a revision did."""

    INIT = "init"
    TIERS = "tiers"
    CHECKPOINT = "checkpoint"
    BACKUP = "backup"
    PRUNE = "prune"
    CHECK = "check"
    REPAIR = "repair"
    KEY = "key"
    UPGRADE = "upgrade"
    TAKEOVER = "takeover"
    JOIN = "join"
    ABORTED = "aborted"


UNITING = (Kind.TAKEOVER, Kind.JOIN)
"""Kinds of revisions that bring several histories together: their parents are the heads that were found."""


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """An object that a revision added: its type, 32-byte name and size in bytes."""

    type: ObjectType
    name: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Removal:
    """An object that a revision removed: from the tiers named by id, or from all (None)."""

    type: ObjectType
    name: bytes
    tiers: frozenset[bytes] | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """Revision ``number`` is being written here. ``sealed``: host name and time, for people."""

    repository_id: bytes
    tier_id: bytes
    number: int
    certificate: Certificate
    nonce: bytes
    parents: tuple[bytes, ...]
    sealed: bytes = field(repr=False)
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Record:
    """All of revision ``number`` is here. The same bytes on every tier; ``lists`` is None but in a base. ``unread``:
    hashes of records below that a takeover or join could not read: it does not count for what they say."""

    repository_id: bytes
    number: int
    certificate: Certificate
    nonce: bytes
    kind: Kind
    parents: tuple[bytes, ...]
    added: tuple[ObjectRef, ...]
    removed: tuple[Removal, ...]
    lists: tuple[bytes, ...] | None
    tiers: tuple[bytes, ...] | None
    unread: tuple[bytes, ...]
    read_requires: tuple[str, ...]
    write_requires: tuple[str, ...]
    sealed: bytes = field(repr=False)
    data: bytes = field(repr=False)

    @property
    def hash(self) -> bytes:
        """What a child names as its parent: the BLAKE3 of the whole record file."""
        return blake3(self.data).digest()

    @property
    def claim_parents(self) -> tuple[bytes, ...]:
        """What its claim names as parents: a takeover's and a join's are known only once they are decided."""
        return () if self.kind in UNITING else self.parents

    @property
    def is_base(self) -> bool:
        return self.lists is not None

    @property
    def requires(self) -> Requires:
        return Requires(self.read_requires, self.write_requires)


@dataclass(frozen=True, slots=True)
class Requires:
    """Names of the features that a program must know to read, and to write. They add up over the records: each carries
    those of all before it."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()

    def __or__(self, other: Requires) -> Requires:
        return Requires(_either(self.read, other.read), _either(self.write, other.write))

    @property
    def index_form(self) -> int:
        """The form of index segments that may be written."""
        return 2 if INDEX_2 in self.read else 1

    def check_writable(self) -> None:
        """Raises `Unsupported` if this program may not write."""
        unknown = set(self.write) - KNOWN_FEATURES
        if unknown:
            raise Unsupported(
                f"the repository needs the feature {min(unknown)} to be written", "upgrade tandem"
            )


NO_FEATURES = Requires()


def required_by(records: Iterable[Record]) -> Requires:
    """What ``records`` require together: of one history, or of several that become one."""
    found = NO_FEATURES
    for record in records:
        found |= record.requires
    return found


def _either(some: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    return some if some == others else tuple(sorted({*some, *others}))


@dataclass(frozen=True, slots=True)
class RecordDraft:
    """The content of a record before it is sealed and signed; see `Record` for the meaning."""

    number: int
    nonce: bytes
    kind: Kind
    parents: tuple[bytes, ...]
    details: dict[str, Any]
    added: tuple[ObjectRef, ...] = ()
    removed: tuple[Removal, ...] = ()
    lists: tuple[bytes, ...] | None = None
    tiers: tuple[bytes, ...] | None = None
    unread: tuple[bytes, ...] = ()
    requires: Requires = NO_FEATURES


def fresh_nonce() -> bytes:
    """The 192 random bits that tell our claim of a number from anyone else's."""
    return os.urandom(NONCE_SIZE)


def seal_details(ring: KeyRing, doc: DocType, number: int, nonce: bytes, details: dict[str, Any]) -> bytes:
    """Seal what only the owner may read of a claim or record. Layout: u32 key number, nonce, ciphertext."""
    key_number = ring.current_key(doc)
    bound = (number.to_bytes(8, "big"), nonce)
    plain = envelope.encode(details)
    sealed = seal_part(ring.cipher(doc, key_number), ring.repository_id, doc, key_number, plain, *bound)
    return key_number.to_bytes(4, "big") + sealed


def open_details(ring: KeyRing, document: Claim | Record) -> dict[str, Any]:
    """The sealed part of a claim or record as a map; `Corrupt` if it does not open."""
    doc = DocType.CLAIM if isinstance(document, Claim) else DocType.RECORD
    key_number = int.from_bytes(document.sealed[:4], "big")
    bound = (document.number.to_bytes(8, "big"), document.nonce)
    cipher = ring.cipher(doc, key_number)
    plain = open_part(cipher, ring.repository_id, doc, key_number, document.sealed[4:], *bound)
    return envelope.decode_map(plain, MAX_RECORD, what=f"sealed part of revision {document.number}")


def make_claim(
    ring: KeyRing,
    installation: Installation,
    certificate: Certificate,
    tier_id: bytes,
    number: int,
    nonce: bytes,
    parents: tuple[bytes, ...],
    details: dict[str, Any],
) -> Claim:
    """Seal and sign a claim for one tier."""
    sealed = seal_details(ring, DocType.CLAIM, number, nonce, details)
    body = {
        "repository": ring.repository_id,
        "tier": tier_id,
        "n": number,
        "certificate": certificate.data,
        "nonce": nonce,
        "parents": list(parents),
        "sealed": sealed,
    }
    data = envelope.sign(DocType.CLAIM, body, installation.key)
    return Claim(ring.repository_id, tier_id, number, certificate, nonce, parents, sealed, data)


def make_record(
    ring: KeyRing, installation: Installation, certificate: Certificate, draft: RecordDraft
) -> Record:
    """Seal and sign a record. Refuses drafts over the caps: the writer must have split them."""
    if len(draft.added) + len(draft.removed) > MAX_OBJECTS:
        raise ValueError(f"a record names at most {MAX_OBJECTS} objects")
    sealed = seal_details(ring, DocType.RECORD, draft.number, draft.nonce, draft.details)
    body: dict[str, Any] = {
        "repository": ring.repository_id,
        "n": draft.number,
        "certificate": certificate.data,
        "nonce": draft.nonce,
        "kind": draft.kind.value,
        "parents": list(draft.parents),
        "stream": 0,
        "added": [[ref.type.value, ref.name, ref.size] for ref in draft.added],
        "removed": [
            [r.type.value, r.name, None if r.tiers is None else sorted(r.tiers)] for r in draft.removed
        ],
        "read_requires": list(draft.requires.read),
        "write_requires": list(draft.requires.write),
        "sealed": sealed,
    }
    if draft.lists is not None:
        body["lists"] = list(draft.lists)
    if draft.tiers is not None:
        body["tiers"] = sorted(draft.tiers)
    if draft.unread:
        body["unread"] = sorted(draft.unread)
    return parse_record(envelope.sign(DocType.RECORD, body, installation.key), ring.repository_id, None)


def parse_claim(
    data: bytes, repository_id: bytes, root_public: bytes | None, tier_id: bytes, number: int
) -> Claim:
    """Decode and verify the claim found at ``number`` of tier ``tier_id``. Without the root: shape only."""
    certificate, fields = _signed(data, DocType.CLAIM, MAX_CLAIM, repository_id, root_public)
    claim = Claim(
        fields.bytes("repository", 16),
        fields.bytes("tier", 16),
        fields.int("n", 1, MAX_NUMBER),
        certificate,
        fields.bytes("nonce", NONCE_SIZE),
        _parents(fields),
        fields.bytes("sealed"),
        bytes(data),
    )
    if (claim.repository_id, claim.tier_id, claim.number) != (repository_id, tier_id, number):
        raise Corrupt(f"the claim of revision {number} belongs elsewhere")
    return claim


def parse_record(
    data: bytes, repository_id: bytes, root_public: bytes | None, number: int | None = None
) -> Record:
    """Decode and verify a record (found at ``number``, if given). Without the root: from local state only."""
    certificate, fields = _signed(data, DocType.RECORD, MAX_RECORD, repository_id, root_public)
    record = Record(
        repository_id=fields.bytes("repository", 16),
        number=fields.int("n", 1, MAX_NUMBER),
        certificate=certificate,
        nonce=fields.bytes("nonce", NONCE_SIZE),
        kind=_kind(fields.str("kind", 32)),
        parents=_parents(fields),
        added=tuple(_refs(fields.list("added", MAX_OBJECTS))),
        removed=tuple(_removals(fields.list("removed", MAX_OBJECTS))),
        lists=_ids(fields, "lists", 32) if fields.has("lists") else None,
        tiers=_ids(fields, "tiers", 16) if fields.has("tiers") else None,
        unread=_ids(fields, "unread", 32) if fields.has("unread") else (),
        read_requires=_features(fields, "read_requires"),
        write_requires=_features(fields, "write_requires"),
        sealed=fields.bytes("sealed"),
        data=bytes(data),
    )
    if record.repository_id != repository_id or number not in (None, record.number):
        raise Corrupt(f"the record of revision {number} belongs elsewhere")
    if len(record.added) + len(record.removed) > MAX_OBJECTS:
        raise Corrupt(f"the record of revision {record.number} names too many objects")
    unknown = set(record.read_requires) - KNOWN_FEATURES
    if unknown:
        raise Unsupported(f"the repository needs the feature {min(unknown)} to be read", "upgrade tandem")
    return record


def _signed(
    data: bytes, doc: DocType, limit: int, repository_id: bytes, root_public: bytes | None
) -> tuple[Certificate, Fields]:
    """Verify the installation's signature first, then its certificate: see `Forged`."""
    if len(data) > limit:
        raise Corrupt(f"a {doc.name.lower()} is too long")
    raw = Fields(envelope.unverified_body(data, doc)).bytes("certificate")
    certificate = parse_certificate(raw, repository_id, None)
    body = envelope.verify(data, doc, certificate.public_key)
    if root_public is not None:
        parse_certificate(raw, repository_id, root_public)
    return certificate, Fields(body)


def _kind(text: str) -> Kind:
    try:
        return Kind(text)
    except ValueError:
        raise Unsupported(f"a revision of unknown kind {text!r}", "upgrade tandem") from None


def _parents(fields: Fields) -> tuple[bytes, ...]:
    return _ids(fields, "parents", 32)


def _ids(fields: Fields, name: str, length: int) -> tuple[bytes, ...]:
    values = fields.list(name, MAX_OBJECTS)
    if not all(isinstance(value, bytes) and len(value) == length for value in values):
        raise Corrupt(f"a list of ids ({name}) holds something else")
    return tuple(values)


def _features(fields: Fields, name: str) -> tuple[str, ...]:
    values = fields.list(name, 1024)
    if not all(isinstance(value, str) and len(value) <= 64 for value in values):
        raise Corrupt(f"a list of features ({name}) holds something else")
    return tuple(values)


def _refs(values: Iterable[Any]) -> Iterable[ObjectRef]:
    for value in values:
        match value:
            case [str(kind), bytes(name), int(size)] if len(name) == 32 and 0 <= size <= MAX_NUMBER:
                yield ObjectRef(_object_type(kind), name, size)
            case _:
                raise Corrupt("a record names an added object in an unknown way")


def _removals(values: Iterable[Any]) -> Iterable[Removal]:
    for value in values:
        match value:
            case [str(kind), bytes(name), None] if len(name) == 32:
                yield Removal(_object_type(kind), name)
            case [str(kind), bytes(name), list(tiers)] if len(name) == 32 and all(
                isinstance(tier, bytes) and len(tier) == 16 for tier in tiers
            ):
                yield Removal(_object_type(kind), name, frozenset(tiers))
            case _:
                raise Corrupt("a record names a removed object in an unknown way")


def _object_type(text: str) -> ObjectType:
    try:
        return ObjectType(text)
    except ValueError:
        raise Unsupported(f"an object of unknown type {text!r}", "upgrade tandem") from None
