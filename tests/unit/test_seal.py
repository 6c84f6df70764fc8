"""XAES-256-GCM against the vectors of C2SP, nonces, content ids, compression without bombs (trust.md 21)."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import tracemalloc

import pytest
import zstandard
from blake3 import blake3

from tandem_protocol import seal
from tandem_protocol.envelope import DocType
from tandem_protocol.errors import Corrupt, Unsupported
from tandem_protocol.seal import Cipher

NONCE = b"ABCDEFGHIJKLMNOPQRSTUVWX"
PLAIN = b"XAES-256-GCM"


@pytest.mark.parametrize(
    ("key", "aad", "ciphertext"),
    [
        (1, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (3, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ],
)
def test_vectors_of_c2sp(key: int, aad: bytes, ciphertext: str) -> None:
    """The two vectors of the specification: the derivation subkey without and with reduction."""
    cipher = Cipher(bytes([key]) * 32)
    assert cipher.seal(PLAIN, NONCE, aad).hex() == NONCE.hex() + ciphertext
    assert cipher.open(NONCE + bytes.fromhex(ciphertext), aad) == PLAIN


@pytest.mark.parametrize(
    ("iterations", "digest"),
    [(10_000, "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939")],
)
def test_accumulated_vectors_of_c2sp(iterations: int, digest: str) -> None:
    """Random keys, nonces, texts and associated data drawn from SHAKE-128, as the specification does it."""
    need = iterations * (32 + 24 + 1 + 1 + 256 + 256)
    stream = memoryview(hashlib.shake_128(b"").digest(need))
    accumulated = hashlib.shake_128()
    position = 0

    def take(count: int) -> bytes:
        nonlocal position
        position += count
        return bytes(stream[position - count : position])

    for _ in range(iterations):
        key, nonce = take(32), take(24)
        plain = take(take(1)[0])
        aad = take(take(1)[0])
        sealed = Cipher(key).seal(plain, nonce, aad)
        accumulated.update(sealed[24:])
        assert Cipher(key).open(sealed, aad) == plain
    assert accumulated.hexdigest(32) == digest


def test_sealing_into_a_buffer_gives_the_same_bytes() -> None:
    cipher = Cipher(bytes(range(32)))
    plain, aad = random.Random(3).randbytes(5000), b"aad"
    whole = cipher.seal(plain, NONCE, aad)
    buffer = bytearray(b"." * 6000)
    assert (
        cipher.seal_into(memoryview(buffer), 100, memoryview(plain), NONCE, aad) == len(plain) + seal.OVERHEAD
    )
    assert buffer == b"." * 100 + whole + b"." * (6000 - 100 - len(whole))


def test_opening_notices_everything() -> None:
    cipher = Cipher(bytes(32))
    sealed = cipher.seal(b"secret", NONCE, b"aad")
    wrong = [b"", sealed[:39], sealed[:-1], sealed + b"\0"]
    wrong += [sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :] for i in range(len(sealed))]
    for bad in wrong:
        with pytest.raises(Corrupt):
            cipher.open(bad, b"aad")
    with pytest.raises(Corrupt):
        cipher.open(sealed, b"other")


def test_threads_share_a_cipher() -> None:
    cipher = Cipher(bytes(32))
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        source = random.Random(seed)
        try:
            for _ in range(300):
                plain = source.randbytes(source.randrange(4000))
                nonce = cipher.fresh_nonce(plain)
                assert cipher.open(cipher.seal(plain, nonce, b""), b"") == plain
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_no_key_in_a_repr() -> None:
    key = bytes(range(32))
    assert key.hex() not in repr(Cipher(key)) and repr(key)[2:-1] not in repr(Cipher(key))


def test_nonces_differ_though_the_randomness_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine image resumed twice: the same random bytes, but not the same nonce for another content."""
    cipher = Cipher(bytes(32))
    monkeypatch.setattr(os, "urandom", bytes)
    assert cipher.fresh_nonce(b"a", b"b") == cipher.fresh_nonce(b"ab")
    assert cipher.fresh_nonce(b"a") != cipher.fresh_nonce(b"b")
    aad = seal.object_aad(bytes(16), DocType.SNAPSHOT, 1, 1)
    first = seal.seal_part(cipher, bytes(16), DocType.SNAPSHOT, 1, b"one")
    second = seal.seal_part(cipher, bytes(16), DocType.SNAPSHOT, 1, b"two")
    assert first[:24] != second[:24]
    assert cipher.open(first, aad) == b"one"
    monkeypatch.undo()
    assert cipher.fresh_nonce(b"a") != cipher.fresh_nonce(b"a")
    assert len(seal.fresh_nonce(bytes(32))) == 24


def test_content_ids_are_keyed_blake3() -> None:
    assert seal.content_id(bytes(32), b"x") == blake3(b"x", key=bytes(32)).digest()


def test_associated_data_tells_everything_apart() -> None:
    frame = (bytes(16), DocType.DATA_PACK, bytes(32), 1, 0, 100)
    whole = seal.frame_aad(*frame)
    others = [
        (b"\1" * 16, *frame[1:]),
        (frame[0], DocType.TREE_PACK, *frame[2:]),
        (*frame[:2], b"\1" * 32, *frame[3:]),
        (*frame[:3], 0, 0, 100),
        (*frame[:3], 1, 1, 100),
        (*frame[:5], 101),
    ]
    assert len({whole, *(seal.frame_aad(*other) for other in others)}) == len(others) + 1
    assert seal.object_aad(bytes(16), DocType.CLAIM, 1, 1, b"ab", b"c") != seal.object_aad(
        bytes(16), DocType.CLAIM, 1, 1, b"a", b"bc"
    )


def test_parts_open_only_where_they_were_sealed() -> None:
    cipher, repository = Cipher(bytes(32)), bytes(16)
    sealed = seal.seal_part(cipher, repository, DocType.CLAIM, 3, b"host", b"n", b"nonce")
    assert seal.open_part(cipher, repository, DocType.CLAIM, 3, sealed, b"n", b"nonce") == b"host"
    for place in (
        (b"\1" * 16, DocType.CLAIM, 3, sealed, b"n", b"nonce"),
        (repository, DocType.RECORD, 3, sealed, b"n", b"nonce"),
        (repository, DocType.CLAIM, 4, sealed, b"n", b"nonce"),
        (repository, DocType.CLAIM, 3, sealed, b"m", b"nonce"),
        (repository, DocType.CLAIM, 3, sealed, b"n"),
    ):
        with pytest.raises(Corrupt):
            seal.open_part(cipher, *place)


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 65_535, 65_536, 1 << 20, seal.MAX_FRAME])
@pytest.mark.parametrize("kind", ["text", "noise", "zeros"])
def test_compression_comes_back(size: int, kind: str) -> None:
    text = b"It was a bright cold day in April, and the clocks were striking thirteen. "
    data = {"text": (text * (size // len(text) + 1))[:size], "zeros": bytes(size)}.get(kind)
    if data is None:
        data = random.Random(size).randbytes(size)
    codec, payload = seal.compress(data)
    assert len(payload) <= size
    assert seal.decompress(codec, payload, size) == data
    if size >= 4096:
        assert codec == (seal.CODEC_RAW if kind == "noise" else seal.CODEC_ZSTD)


def test_what_does_not_shrink_is_stored_without_a_copy() -> None:
    noise = random.Random(4).randbytes(1 << 20)
    assert seal.compress(noise)[1] is noise


def test_the_probe_does_not_miss_a_compressible_half() -> None:
    data = random.Random(5).randbytes(1 << 19) + bytes(1 << 19)
    codec, payload = seal.compress(data)
    assert (codec, len(payload) < 3 << 18) == (seal.CODEC_ZSTD, True)


def test_a_zstd_bomb_is_never_unfolded() -> None:
    """8 KB that state their own 256 MiB, and others that state nothing or lie."""
    huge = zstandard.ZstdCompressor(level=19).compress(bytes(256 << 20))
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 << 20))
    stream = zstandard.ZstdCompressor().compressobj()
    streamed = stream.compress(bytes(64 << 20)) + stream.flush()
    small = zstandard.ZstdCompressor().compress(bytes(1000))
    assert zstandard.get_frame_parameters(huge).content_size == 256 << 20
    tracemalloc.start()
    try:
        for payload in (huge, silent, streamed, small + small, small + b"\0", small[:-1], b"", b"\0" * 50):
            for raw_length in (0, 1, 999, 1001, 1 << 20, seal.MAX_FRAME):
                with pytest.raises(Corrupt):
                    seal.decompress(seal.CODEC_ZSTD, payload, raw_length)
        for payload in (small + small, small + b"\0", small + b"x" * 100):
            with pytest.raises(Corrupt):
                seal.decompress(seal.CODEC_ZSTD, payload, 1000)
        for raw_length in (256 << 20, seal.MAX_FRAME + 1, -1, 2**32 - 1):
            with pytest.raises(Corrupt):
                seal.decompress(seal.CODEC_ZSTD, huge, raw_length)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * seal.MAX_FRAME


def test_a_header_that_lies_about_its_size() -> None:
    """The stated size fits, the content does not: too much of it, and too little."""
    for real in (900, 1100):
        payload = bytearray(zstandard.ZstdCompressor().compress(random.Random(6).randbytes(real)))
        size_field = payload.index((real - 256).to_bytes(2, "little"))
        payload[size_field : size_field + 2] = (1000 - 256).to_bytes(2, "little")
        assert zstandard.get_frame_parameters(bytes(payload)).content_size == 1000
        with pytest.raises(Corrupt):
            seal.decompress(seal.CODEC_ZSTD, bytes(payload), 1000)


def test_unknown_codec_says_to_upgrade() -> None:
    with pytest.raises(Unsupported) as caught:
        seal.decompress(2, b"x", 1)
    assert caught.value.remedy == "upgrade tandem"
    with pytest.raises(Corrupt):
        seal.decompress(seal.CODEC_RAW, b"xy", 1)
