"""The keys of a repository (`KeyRing`) and the slots that wrap them: by passphrase or by agent key file.

A slot is a key object: header, a readable map (kind, label, how to derive), the sealed key ring. Only a
passphrase slot wraps the root's private half: a stolen agent file must not be able to enrol.
Where slots are kept, and asking for passphrases, is not done here.
"""

from __future__ import annotations

import os
import struct
import unicodedata
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from .envelope import HEADER_SIZE, SUITE_SEALED, DocType, decode_map, encode, pack_header, read_header
from .errors import Corrupt, Refused
from .fields import Fields
from .seal import Cipher

MAX_SLOT = 1 << 20
MAX_MEMORY_KIB = 1 << 20
MAX_PASSES = 64
MAX_WORK_KIB = 4 << 20  # memory times passes: about as many seconds as GiB, whatever a tier hands out
MAX_LANES = 16
MAX_KEYS = 4096

_LENGTH = struct.Struct(">I")
_SLOT_CONTEXT = b"tandem key slot 1\0"
_AGENT_CONTEXT = "tandem 2026 agent slot key 1"
_GEAR_CONTEXT = "tandem 2026 gear seed 1"


class SlotKind(StrEnum):
    """What opens a slot; the value is what the slot says of itself."""

    BY_PHRASE = "passphrase"
    BY_AGENT_KEY = "agent"


def _no_ciphers() -> dict[bytes, Cipher]:
    return {}


@dataclass(frozen=True)
class KeyRing:
    """All keys of a repository. ``content_id_key`` and ``gear_key`` are (number, 32 bytes); ``data`` and
    ``metadata`` map numbers to 32 bytes. ``root_private`` is the Ed25519 seed, None if the slot has none."""

    repository_id: bytes
    root_public: bytes
    root_private: bytes | None = field(repr=False)
    content_id_key: tuple[int, bytes] = field(repr=False)
    gear_key: tuple[int, bytes] = field(repr=False)
    data: dict[int, bytes] = field(repr=False)
    metadata: dict[int, bytes] = field(repr=False)
    current_data: int
    current_metadata: int
    _ciphers: dict[bytes, Cipher] = field(init=False, repr=False, compare=False, default_factory=_no_ciphers)

    @classmethod
    def generate(cls, repository_id: bytes) -> KeyRing:
        """A new ring of random keys, all numbered 1."""
        private = Ed25519PrivateKey.generate()
        return cls(
            repository_id=repository_id,
            root_public=private.public_key().public_bytes_raw(),
            root_private=private.private_bytes_raw(),
            content_id_key=(1, os.urandom(32)),
            gear_key=(1, os.urandom(32)),
            data={1: os.urandom(32)},
            metadata={1: os.urandom(32)},
            current_data=1,
            current_metadata=1,
        )

    def without_root(self) -> KeyRing:
        """The same ring, unable to enrol."""
        return replace(self, root_private=None)

    def root_key(self) -> Ed25519PrivateKey:
        """The root's private half. Raises `Refused` if this ring came from a slot without it."""
        if self.root_private is None:
            raise Refused("this needs the repository's passphrase; the agent key cannot enrol")
        return Ed25519PrivateKey.from_private_bytes(self.root_private)

    def gear_seed(self) -> int:
        """The 64-bit seed of FastCDC's gear table."""
        return int.from_bytes(blake3(self.gear_key[1], derive_key_context=_GEAR_CONTEXT).digest(8), "big")

    def cipher(self, doc_type: DocType, key_number: int) -> Cipher:
        """The cipher for an object of this type: data packs use data keys, all others metadata keys.

        Raises `Corrupt` for a number that this ring does not have.
        """
        keys = self.data if doc_type is DocType.DATA_PACK else self.metadata
        key = keys.get(key_number)
        if key is None:
            raise Corrupt(f"sealed with key {key_number}, which no key slot in use here holds")
        found = self._ciphers.get(key)
        if found is None:
            found = self._ciphers[key] = Cipher(key)
        return found

    def current_key(self, doc_type: DocType) -> int:
        """The number of the key that new objects of this type are sealed with."""
        return self.current_data if doc_type is DocType.DATA_PACK else self.current_metadata


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """What can be read of a slot without a key. ``created`` is in Unix seconds, 0 if not said."""

    kind: str
    label: str
    created: int


def _encode_ring(ring: KeyRing) -> bytes:
    body: dict[str, Any] = {
        "repository": ring.repository_id,
        "root_public": ring.root_public,
        "content_id": list(ring.content_id_key),
        "gear": list(ring.gear_key),
        "data": [list(pair) for pair in sorted(ring.data.items())],
        "metadata": [list(pair) for pair in sorted(ring.metadata.items())],
        "current_data": ring.current_data,
        "current_metadata": ring.current_metadata,
    }
    if ring.root_private is not None:
        body["root_private"] = ring.root_private
    return encode(body)


def _numbered(value: object) -> tuple[int, bytes]:
    match value:
        case [int(number), bytes(key)] if 0 < number < 2**32 and len(key) == 32:
            return number, key
    raise Corrupt("the key slot holds a key that is not one")


def _decode_ring(data: bytes) -> KeyRing:
    fields = Fields(decode_map(data, MAX_SLOT, what="key slot"), "key slot")
    private = fields.bytes("root_private", 32) if fields.has("root_private") else None
    public = fields.bytes("root_public", 32)
    ring = KeyRing(
        repository_id=fields.bytes("repository", 16),
        root_public=public,
        root_private=private,
        content_id_key=_numbered(fields.list("content_id", 2)),
        gear_key=_numbered(fields.list("gear", 2)),
        data=dict(_numbered(item) for item in fields.list("data", MAX_KEYS)),
        metadata=dict(_numbered(item) for item in fields.list("metadata", MAX_KEYS)),
        current_data=fields.int("current_data", 1),
        current_metadata=fields.int("current_metadata", 1),
    )
    if ring.current_data not in ring.data or ring.current_metadata not in ring.metadata:
        raise Corrupt("the key slot lacks the key it calls current")
    if private is not None and ring.root_key().public_key().public_bytes_raw() != public:
        raise Corrupt("the two halves of the root key do not belong together")
    return ring


def _passphrase_key(passphrase: str, salt: bytes, memory_kib: int, passes: int, lanes: int) -> bytes:
    text = unicodedata.normalize("NFC", passphrase).encode("utf-8", "surrogateescape")
    kdf = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory_kib)
    try:
        return kdf.derive(text)
    except MemoryError as error:
        raise Refused(
            f"the passphrase needs {memory_kib >> 10} MiB of memory to be checked", "close other programs"
        ) from error


def _agent_slot_key(agent_key: bytes) -> bytes:
    if len(agent_key) != 32:
        raise Corrupt(f"an agent key has 32 bytes, not {len(agent_key)}")
    return blake3(agent_key, derive_key_context=_AGENT_CONTEXT).digest()


def _write_slot(ring: KeyRing, key: bytes, readable: dict[str, Any]) -> bytes:
    described = encode(readable)
    front = pack_header(DocType.KEY_SLOT, suite=SUITE_SEALED) + _LENGTH.pack(len(described)) + described
    cipher = Cipher(key)
    plaintext = _encode_ring(ring)
    aad = _SLOT_CONTEXT + front
    return front + cipher.seal(plaintext, cipher.fresh_nonce(aad, plaintext), aad)


def _read_slot(data: bytes) -> tuple[Fields, bytes, bytes]:
    """(readable fields, everything in front of the sealed ring, the sealed ring)"""
    read_header(data, (DocType.KEY_SLOT,), SUITE_SEALED)
    if not HEADER_SIZE + 4 <= len(data) <= MAX_SLOT:
        raise Corrupt(f"key slot of {len(data)} bytes")
    end = HEADER_SIZE + 4 + _LENGTH.unpack_from(data, HEADER_SIZE)[0]
    if end > len(data):
        raise Corrupt("key slot is cut short")
    described = decode_map(data[HEADER_SIZE + 4 : end], MAX_SLOT, what="key slot")
    return Fields(described, "key slot"), data[:end], data[end:]


def passphrase_slot(
    ring: KeyRing,
    passphrase: str,
    label: str = "",
    memory_kib: int = 65536,
    passes: int = 3,
    lanes: int = 1,
    created: int = 0,
) -> bytes:
    """A key object that the passphrase opens. ``created`` is in Unix seconds. The cost is Argon2id's."""
    salt = os.urandom(16)
    key = _passphrase_key(passphrase, salt, memory_kib, passes, lanes)
    readable = {
        "kind": SlotKind.BY_PHRASE.value,
        "label": label,
        "created": created,
        "salt": salt,
        "memory_kib": memory_kib,
        "passes": passes,
        "lanes": lanes,
    }
    return _write_slot(ring, key, readable)


def agent_slot(ring: KeyRing, agent_key: bytes, label: str = "", created: int = 0) -> bytes:
    """A key object that the agent's key file (32 random bytes) opens; the root's private half is left out."""
    readable = {"kind": SlotKind.BY_AGENT_KEY.value, "label": label, "created": created}
    return _write_slot(ring.without_root(), _agent_slot_key(agent_key), readable)


def slot_info(data: bytes) -> SlotInfo:
    """Kind and label of a slot. Nothing of it is verified: only opening does that."""
    fields, _, _ = _read_slot(data)
    return SlotInfo(fields.str("kind", 64), fields.str("label", 1024, ""), fields.int("created", default=0))


def open_slot_with_passphrase(data: bytes, passphrase: str) -> KeyRing:
    """Raises `Refused` for a wrong passphrase (or a slot damaged where only the tag can tell)."""
    fields, front, sealed = _read_slot(data)
    if fields.str("kind", 64) != SlotKind.BY_PHRASE:
        raise Refused("this key slot is not opened by a passphrase")
    salt = fields.bytes("salt", max=64)
    lanes = fields.int("lanes", 1, MAX_LANES)
    memory_kib = fields.int("memory_kib", 8 * lanes, MAX_MEMORY_KIB)
    passes = fields.int("passes", 1, MAX_PASSES)
    if len(salt) < 8:
        raise fields.bad("salt")
    if memory_kib * passes > MAX_WORK_KIB:
        raise fields.bad("passes")
    key = _passphrase_key(passphrase, salt, memory_kib, passes, lanes)
    remedy = "mind the keyboard layout, or try another passphrase of this repository"
    return _open(key, front, sealed, Refused("wrong passphrase", remedy))


def open_slot_with_agent_key(data: bytes, agent_key: bytes) -> KeyRing:
    """Raises `Refused` if the slot belongs to another agent key."""
    fields, front, sealed = _read_slot(data)
    if fields.str("kind", 64) != SlotKind.BY_AGENT_KEY:
        raise Refused("this key slot is not opened by an agent key")
    wrong = Refused("the agent key does not open this key slot", "use the passphrase")
    return _open(_agent_slot_key(agent_key), front, sealed, wrong)


def _open(key: bytes, front: bytes, sealed: bytes, wrong: Refused) -> KeyRing:
    try:
        plaintext = Cipher(key).open(sealed, _SLOT_CONTEXT + front)
    except Corrupt:
        raise wrong from None
    return _decode_ring(plaintext)


def check_ring_matches(ring: KeyRing, repository_id: bytes, root_public: bytes) -> None:
    """Raises `Corrupt` if a tier's identity names another repository or root than the slot does."""
    if ring.repository_id != repository_id or ring.root_public != root_public:
        raise Corrupt(
            "the identity on this tier is not the one its keys were made for",
            "the tier was tampered with or mixed up: restore from another tier",
        )
