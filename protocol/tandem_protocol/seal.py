"""Sealing, content ids, nonces and compression: the cryptography of everything that is written.

XAES-256-GCM (C2SP) over `cryptography`'s AES-GCM, keyed BLAKE3, Zstandard. Which key seals what is for
keys and pack to say; nothing here stores or prints a key. Ciphers may be shared between threads.
"""

from __future__ import annotations

import os
import struct
import threading

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher as _Cipher
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .envelope import SUITE_SEALED, DocType
from .errors import Corrupt, Unsupported

Buffer = bytes | bytearray | memoryview

ID_SIZE = 32
NONCE_SIZE = 24
TAG_SIZE = 16
OVERHEAD = NONCE_SIZE + TAG_SIZE
MAX_FRAME = 8 << 20
CODEC_RAW = 0
CODEC_ZSTD = 1

_NONCE_CONTEXT = "tandem 2026 nonce key 1"
_FRAME_AAD = struct.Struct(">16s16sBBIQ32s")
_OBJECT_AAD = struct.Struct(">16s16sBBI")
_LENGTH = struct.Struct(">I")
_PREFIXES = (b"\x00\x01X\x00", b"\x00\x02X\x00")


class Cipher:
    """XAES-256-GCM under one 32-byte key. What it seals is nonce (24), ciphertext, tag (16)."""

    __slots__ = ("_block", "_lock", "_nonce_key", "_subkey")

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError("a key has 32 bytes")
        # ECB of single derivation blocks is what the construction asks for; no data goes through it.
        self._block = _Cipher(algorithms.AES(key), modes.ECB()).encryptor()
        self._lock = threading.Lock()
        self._nonce_key = blake3(key, derive_key_context=_NONCE_CONTEXT).digest()
        doubled = int.from_bytes(self._block.update(bytes(16)), "big") << 1
        subkey = (doubled ^ (0x87 if doubled >> 128 else 0)) & (2**128 - 1)
        self._subkey = subkey << 128 | subkey  # once for each of the two derivation blocks

    def _aead(self, nonce: bytes) -> AESGCM:
        half = nonce[:12]
        blocks = int.from_bytes(_PREFIXES[0] + half + _PREFIXES[1] + half, "big") ^ self._subkey
        with self._lock:
            return AESGCM(self._block.update(blocks.to_bytes(32, "big")))

    def fresh_nonce(self, *parts: Buffer) -> bytes:
        """24 bytes that do not come twice, even from a machine resumed twice with the same randomness,
        unless ``parts`` are the same too: then the plaintext must be."""
        return fresh_nonce(self._nonce_key, *parts)

    def seal_into(self, buffer: memoryview, offset: int, plaintext: Buffer, nonce: bytes, aad: bytes) -> int:
        """Write nonce, ciphertext and tag into ``buffer`` from ``offset``; gives the bytes written,
        ``len(plaintext) + OVERHEAD``. No copy is made in between."""
        end = offset + OVERHEAD + len(plaintext)
        buffer[offset : offset + NONCE_SIZE] = nonce
        self._aead(nonce).encrypt_into(nonce[12:], plaintext, aad, buffer[offset + NONCE_SIZE : end])
        return end - offset

    def seal(self, plaintext: Buffer, nonce: bytes, aad: bytes) -> bytes:
        """Nonce, ciphertext and tag in one."""
        return nonce + self._aead(nonce).encrypt(nonce[12:], plaintext, aad)

    def open(self, sealed: Buffer, aad: bytes) -> bytes:
        """The plaintext. Raises `Corrupt` if a bit of it, of the nonce or of ``aad`` is not as sealed."""
        if len(sealed) < OVERHEAD:
            raise Corrupt("sealed bytes are cut short")
        view = memoryview(sealed)
        nonce = bytes(view[:NONCE_SIZE])
        try:
            return self._aead(nonce).decrypt(nonce[12:], view[NONCE_SIZE:], aad)
        except InvalidTag as error:
            raise Corrupt("sealed bytes do not verify") from error

    def open_into(self, buffer: memoryview, sealed: Buffer, aad: bytes) -> None:
        """The plaintext into ``buffer``, which has its length: no memory is made ready for it and no copy made. Raises
        like `open`; what ``buffer`` holds then means nothing."""
        view = memoryview(sealed)
        nonce = bytes(view[:NONCE_SIZE])
        try:
            self._aead(nonce).decrypt_into(nonce[12:], view[NONCE_SIZE:], aad, buffer)
        except InvalidTag as error:
            raise Corrupt("sealed bytes do not verify") from error


def content_id(key: bytes, data: Buffer) -> bytes:
    """The 32-byte id of a blob: BLAKE3 keyed with the content-id key, so that no one else can ask for it."""
    return blake3(data, key=key).digest()


def fresh_nonce(key: bytes, *parts: Buffer) -> bytes:
    """Keyed BLAKE3 of 32 random bytes and ``parts``, 24 bytes long."""
    hasher = blake3(os.urandom(32), key=key)
    for part in parts:
        hasher.update(part)
    return hasher.digest(length=NONCE_SIZE)


def frame_aad(
    repository_id: bytes, doc_type: DocType, frame_id: bytes, codec: int, dictionary: int, raw_length: int
) -> bytes:
    """Associated data of a frame. It holds no position and no pack, so that prune can move sealed frames."""
    return _FRAME_AAD.pack(
        b"tandem frame 1", repository_id, doc_type, codec, dictionary, raw_length, frame_id
    )


def object_aad(repository_id: bytes, doc_type: DocType, suite: int, key_number: int, *extra: Buffer) -> bytes:
    """Associated data of a sealed object or part; each of ``extra`` follows with its length in front."""
    fixed = _OBJECT_AAD.pack(b"tandem object 1", repository_id, doc_type, suite, key_number)
    return fixed + b"".join(_LENGTH.pack(len(part)) + bytes(part) for part in extra)


def seal_part(
    cipher: Cipher,
    repository_id: bytes,
    doc_type: DocType,
    key_number: int,
    plaintext: Buffer,
    *extra: Buffer,
) -> bytes:
    """Seal a whole object's payload or a document's sealed part; the nonce takes the plaintext's hash."""
    aad = object_aad(repository_id, doc_type, SUITE_SEALED, key_number, *extra)
    return cipher.seal(plaintext, cipher.fresh_nonce(aad, plaintext), aad)


def open_part(
    cipher: Cipher, repository_id: bytes, doc_type: DocType, key_number: int, sealed: Buffer, *extra: Buffer
) -> bytes:
    """The plaintext of `seal_part`. Raises `Corrupt`."""
    return cipher.open(sealed, object_aad(repository_id, doc_type, SUITE_SEALED, key_number, *extra))


class _Local(threading.local):
    """Compressors of this thread: contexts are costly to make and not to be shared."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()


_local = _Local()
_PROBE_FROM = 64 << 10
_PROBE_SLICES = 8
_PROBE_SLICE = 2 << 10


def _compressor(level: int) -> zstandard.ZstdCompressor:
    found = _local.compressors.get(level)
    if found is None:
        found = _local.compressors[level] = zstandard.ZstdCompressor(level=level)
    return found


def _incompressible(data: Buffer, compressor: zstandard.ZstdCompressor) -> bool:
    """Whether a sample from all over ``data`` does not shrink."""
    view = memoryview(data)
    step = (len(view) - _PROBE_SLICE) // (_PROBE_SLICES - 1)
    sample = b"".join(view[i * step : i * step + _PROBE_SLICE] for i in range(_PROBE_SLICES))
    return len(compressor.compress(sample)) > len(sample) * 31 // 32


def compress(data: Buffer, level: int = 1) -> tuple[int, Buffer]:
    """(codec, payload): Zstandard, or ``data`` itself where a sample or the result saves too little."""
    size = len(data)
    compressor = _compressor(level)
    if size >= _PROBE_FROM and _incompressible(data, compressor):
        return CODEC_RAW, data
    payload = compressor.compress(data)
    return (CODEC_ZSTD, payload) if len(payload) < size - size // 64 else (CODEC_RAW, data)


def compress_always(data: Buffer, level: int) -> bytes:
    """``data`` as a payload of codec zstd, whether that is smaller or not."""
    return _compressor(level).compress(data)


def decompress(codec: int, payload: Buffer, raw_length: int) -> bytes:
    """The ``raw_length`` bytes that ``payload`` stands for; never more memory than that is asked for.

    The frame header's own size is compared first, because the library believes it. `Corrupt` if the bytes
    are anything else than exactly one frame of that size; `Unsupported` for an unknown codec.
    """
    if not 0 <= raw_length <= MAX_FRAME:
        raise Corrupt(f"a frame of {raw_length} bytes, more than the {MAX_FRAME} that are possible")
    if codec == CODEC_RAW:
        if len(payload) != raw_length:
            raise Corrupt("a frame has another length than its entry says")
        return bytes(payload)
    if codec != CODEC_ZSTD:
        raise Unsupported(f"a frame is compressed with unknown codec {codec}", "upgrade tandem")
    try:
        if zstandard.get_frame_parameters(payload).content_size != raw_length:
            raise Corrupt("a compressed frame has another length than its entry says")
        data = _local.decompressor.decompress(payload, max_output_size=raw_length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Corrupt("a compressed frame does not decode") from error
    if len(data) != raw_length:
        raise Corrupt("a compressed frame has another length than its entry says")
    return data
