"""The first 12 bytes of everything that Tandem writes, capped decoding of msgpack, and signed documents.

Bytes in, values out. A decoder here is told how large its input may be before it allocates anything, and
raises `Corrupt` (not what it should be) or `Unsupported` (from a newer program), nothing else. What a
document's fields mean is said where the document is (identity, revision, …); no keys are kept here.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgpack
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .errors import Corrupt, Unsupported

Buffer = bytes | bytearray | memoryview

MAGIC = b"TNDM"
VERSION = 1
SUITE_PLAIN = 0
SUITE_SEALED = 1  # XAES-256-GCM, keyed BLAKE3, Zstandard
_HEADER = struct.Struct(">4sBBBxI")
HEADER_SIZE = _HEADER.size
SIGNATURE_SIZE = 64
MAX_DOCUMENT = 8 << 20
MAX_DEPTH = 12
MAX_ARRAY = 1 << 16
MAX_CONTAINERS = 1 << 18
UPGRADE = "upgrade tandem"


class DocType(IntEnum):
    """What a file or document is; the second field of its header."""

    IDENTITY = 1
    CERTIFICATE = 2
    CLAIM = 3
    RECORD = 4
    LIST = 5
    KEY_SLOT = 6
    DATA_PACK = 7
    TREE_PACK = 8
    INDEX_SEGMENT = 9
    SNAPSHOT = 10


def label(doc_type: DocType) -> str:
    """The type as people read it: ``key slot``."""
    return doc_type.name.lower().replace("_", " ")


@dataclass(frozen=True, slots=True)
class Header:
    """Suite 0 is plain, 1 sealed; the key number says which data or metadata key (0: none)."""

    type: DocType
    version: int
    suite: int
    key_number: int


def pack_header(
    doc_type: DocType, version: int = VERSION, suite: int = SUITE_PLAIN, key_number: int = 0
) -> bytes:
    """The 12 bytes in front of an object or document."""
    return _HEADER.pack(MAGIC, doc_type, version, suite, key_number)


def read_header(
    data: Buffer, expect: Collection[DocType], suite: int | None = None, newest: int = VERSION
) -> Header:
    """The header of ``data``, which must be one of the ``expect``ed types (and of ``suite``, if given), in a version
    up to ``newest``.

    Raises `Unsupported` for a newer version or suite, `Corrupt` for everything else.
    """
    what = " or ".join(label(t) for t in expect)
    if len(data) < HEADER_SIZE:
        raise Corrupt(f"{what} is cut short: {len(data)} bytes")
    magic, number, version, found_suite, key_number = _HEADER.unpack_from(data)
    if magic != MAGIC or data[7] != 0 or version == 0:
        raise Corrupt(f"{what} does not begin with a header of Tandem")
    if number not in expect:
        raise Corrupt(f"found an object of type {number} where {what} should be")
    if version > newest:
        raise Unsupported(f"{what} has format version {version}, this program knows {newest}", UPGRADE)
    if found_suite > SUITE_SEALED:
        raise Unsupported(f"{what} is sealed with unknown suite {found_suite}", UPGRADE)
    if suite is not None and found_suite != suite:
        raise Corrupt(f"{what} has suite {found_suite} where {suite} should be")
    return Header(DocType(number), version, found_suite, key_number)


def encode(value: object) -> bytes:
    """``value`` as msgpack, maps in the order given. Raises ValueError or TypeError for what cannot be."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


class _Containers:
    """Counts maps and arrays while they are decoded, so that a few bytes cannot become gigabytes."""

    def __init__(self, most: int) -> None:
        self.left = most

    def array(self, value: list[object]) -> list[object]:
        self.left -= 1
        if self.left < 0:
            raise ValueError("too many containers")
        return value

    def map(self, pairs: list[tuple[object, object]]) -> dict[object, object]:
        self.left -= 1
        found = dict(pairs)
        if self.left < 0 or len(found) != len(pairs):
            raise ValueError("too many containers, or a key that comes twice")
        return found


def _no_extension(code: int, data: bytes) -> object:
    raise ValueError(f"extension type {code} of {len(data)} bytes")


def unpack(
    data: Buffer,
    max_size: int,
    what: str,
    max_array: int = MAX_ARRAY,
    max_containers: int = MAX_CONTAINERS,
) -> object:
    """One msgpack value, with every length and the number of containers capped before they are allocated.

    For decoders that check the shape of everything themselves (pages, lists); the others use `decode`.
    Map keys are strings or bytes, none twice. Raises `Corrupt`.
    """
    size = len(data)
    if size > max_size:
        raise Corrupt(f"{what} has {size} bytes, more than the {max_size} that are possible")
    containers = _Containers(max_containers)
    try:
        value: object = msgpack.unpackb(
            data,
            raw=False,
            list_hook=containers.array,
            object_pairs_hook=containers.map,
            ext_hook=_no_extension,
            max_str_len=size,
            max_bin_len=size,
            max_array_len=min(max_array, size),
            max_map_len=min(max_array, size),
            max_ext_len=0,
        )
    except Exception as error:  # msgpack raises a dozen kinds, down to plain Exception; all mean this
        raise Corrupt(f"{what} does not decode ({type(error).__name__})") from error
    return value


_SCALARS = (int, str, bytes, bool, type(None))


def _check_shape(value: object, max_depth: int, what: str) -> None:
    level = [value]
    for _ in range(max_depth + 1):
        below: list[object] = []
        for item in level:
            if isinstance(item, list):
                below.extend(item)
            elif isinstance(item, dict):
                if any(type(key) is not str for key in item):
                    raise Corrupt(f"{what} holds a key that is not a string")
                below.extend(item.values())
            elif not isinstance(item, _SCALARS):
                raise Corrupt(f"{what} holds a value of type {type(item).__name__}")
        if not below:
            return
        level = below
    raise Corrupt(f"{what} is nested more than {max_depth} deep")


def decode(data: Buffer, max_size: int, max_depth: int = MAX_DEPTH, what: str = "document") -> object:
    """One msgpack value of ints, strings, bytes, booleans, nil, arrays and maps with string keys.

    Raises `Corrupt` for bytes left over, keys that come twice, floats, extensions, and above the caps.
    """
    value = unpack(data, max_size, what)
    _check_shape(value, max_depth, what)
    return value


def decode_map(
    data: Buffer, max_size: int, max_depth: int = MAX_DEPTH, what: str = "document"
) -> dict[str, Any]:
    """Like `decode`, of a map."""
    value = decode(data, max_size, max_depth, what)
    if not isinstance(value, dict):
        raise Corrupt(f"{what} is not a map")
    return value


def _context(doc_type: DocType) -> bytes:
    return f"tandem {label(doc_type)} signature 1\0".encode("ascii")


def sign(doc_type: DocType, body: dict[str, Any], key: Ed25519PrivateKey) -> bytes:
    """A signed document: header, msgpack of ``body``, 64 bytes of Ed25519 signature.

    What is signed is a context string of the type, then header and body, so that a signature on one type
    is none on another.
    """
    message = pack_header(doc_type) + encode(body)
    if len(message) + SIGNATURE_SIZE > MAX_DOCUMENT:
        raise ValueError(f"{label(doc_type)} of {len(message)} bytes is too large")
    return message + key.sign(_context(doc_type) + message)


def _check_document(data: Buffer, doc_type: DocType) -> None:
    """Size and type only: whether a version is from a newer program or a flipped bit, the signature tells."""
    if not HEADER_SIZE + SIGNATURE_SIZE < len(data) <= MAX_DOCUMENT:
        raise Corrupt(f"{label(doc_type)} of {len(data)} bytes")
    if data[:4] != MAGIC or data[4] != doc_type:
        raise Corrupt(f"{label(doc_type)} does not begin with its header")


def unverified_body(data: Buffer, doc_type: DocType) -> dict[str, Any]:
    """The body of a signed document, its signature not looked at: to find the key that verifies it."""
    _check_document(data, doc_type)
    body = memoryview(data)[HEADER_SIZE:-SIGNATURE_SIZE]
    return decode_map(body, MAX_DOCUMENT, what=label(doc_type))


def verify(data: Buffer, doc_type: DocType, public: bytes) -> dict[str, Any]:
    """The body of a document signed by ``public`` (32 bytes). Raises `Corrupt` if it is not, `Unsupported`
    for one of a newer version that is: the shape around a body stays the same in all versions."""
    _check_document(data, doc_type)
    message, signature = bytes(data[:-SIGNATURE_SIZE]), bytes(data[-SIGNATURE_SIZE:])
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _context(doc_type) + message)
    except (InvalidSignature, ValueError) as error:
        raise Corrupt(f"the signature of the {label(doc_type)} is wrong") from error
    read_header(data, (doc_type,), SUITE_PLAIN)
    return unverified_body(data, doc_type)
