"""A second reader of what Tandem writes, made from docs/format.md alone: nothing of Tandem is imported here.

It reads one tier in a folder with the passphrase and nothing else, all of it in memory, and trusts nothing that
the document says is to be checked. It is meant to be read beside the document, in the same order.
"""

from __future__ import annotations

import struct
import unicodedata
from pathlib import Path
from typing import Any

import msgpack
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

Ring = dict[str, Any]
Place = tuple[int, int, int, tuple[int, ...], bytes]  # see `places`

# The header


def header(data: bytes, types: set[int], suite: int, version: int = 1) -> tuple[int, int]:
    """(type, key number)"""
    magic, kind, said, found, zero, number = struct.unpack(">4sBBBBI", data[:12])
    assert (magic, said, found, zero) == (b"TNDM", version, suite, 0) and kind in types
    return kind, number


# Cryptography


def aes(key: bytes, block: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)


def unseal(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    nonce = sealed[:24]
    whole = aes(key, bytes(16))
    shifted = bytearray(((int.from_bytes(whole, "big") << 1) % 2**128).to_bytes(16, "big"))
    if whole[0] & 0x80:
        shifted[15] ^= 0x87
    derived = b""
    for number in (1, 2):
        block = bytes([0, number, 0x58, 0]) + nonce[:12]
        derived += aes(key, bytes(a ^ b for a, b in zip(shifted, block, strict=True)))
    return AESGCM(derived).decrypt(nonce[12:], sealed[24:], associated)


def frame_data(repository: bytes, kind: int, codec: int, dictionary: int, raw: int, frame_id: bytes) -> bytes:
    front = b"tandem frame 1".ljust(16, b"\0") + repository
    return front + struct.pack(">BBIQ", kind, codec, dictionary, raw) + frame_id


def part_data(repository: bytes, kind: int, number: int, *extras: bytes) -> bytes:
    front = b"tandem object 1".ljust(16, b"\0") + repository + struct.pack(">BBI", kind, 1, number)
    return front + b"".join(struct.pack(">I", len(extra)) + extra for extra in extras)


def key_of(ring: Ring, kind: int, number: int) -> bytes:
    return dict(map(tuple, ring["data" if kind == 7 else "metadata"]))[number]


def sealed_map(ring: Ring, kind: int, number: int, sealed: bytes, *extras: bytes) -> Any:
    associated = part_data(ring["repository"], kind, number, *extras)
    return msgpack.unpackb(unseal(key_of(ring, kind, number), sealed, associated))


# Key slots


def open_slot(data: bytes, passphrase: str) -> Ring | None:
    """None for a slot of another kind."""
    assert header(data, {6}, 1) == (6, 0)
    end = 16 + struct.unpack(">I", data[12:16])[0]
    about = msgpack.unpackb(data[16:end])
    if about["kind"] != "passphrase":
        return None
    assert about["memory_kib"] <= 1 << 20 and about["passes"] <= 64 and about["lanes"] <= 16
    kdf = Argon2id(
        salt=about["salt"],
        length=32,
        iterations=about["passes"],
        lanes=about["lanes"],
        memory_cost=about["memory_kib"],
    )
    key = kdf.derive(unicodedata.normalize("NFC", passphrase).encode())
    ring: Ring = msgpack.unpackb(unseal(key, data[end:], b"tandem key slot 1\0" + data[:end]))
    return ring


# Packs and index segments


def column(data: bytes, count: int, width: int) -> tuple[list[int], bytes]:
    """The first column of ``data``, and what follows it."""
    rows = [data[row * count : (row + 1) * count] for row in range(width)]
    return [int.from_bytes(bytes(digits), "big") for digits in zip(*rows, strict=True)], data[count * width :]


def records(table: dict[str, Any], counts: list[int] | None, data: bytes) -> list[dict[str, Any]]:
    """For each pack the columns of form 1, made from those of form 2 in ``data``."""
    frames, blobs = table["frames"], table["blobs"]
    gaps, data = column(data, frames, 4)
    saved, data = column(data, frames, 4)
    codecs, data = column(data, frames, 1)
    dictionaries, data = column(data, frames, 4)
    in_frame, data = column(data, frames, 4)
    own, data = column(data, frames, 1)
    lengths, data = column(data, blobs, 4)
    assert not data
    packs, frame, blob, own_id = [], 0, 0, 0
    for count in [frames] if counts is None else counts:
        end, first, made = 12, blob, b""
        for i in range(frame, frame + count):
            raw = sum(lengths[blob : blob + in_frame[i]])
            sealed = (raw + 40 - saved[i]) % 2**32
            if own[i]:
                frame_id = table["frame_ids"][32 * own_id : 32 * own_id + 32]
                own_id += 1
            else:
                frame_id = table["ids"][32 * blob : 32 * blob + 32]
            numbers = (end + gaps[i], sealed, raw, codecs[i], dictionaries[i], in_frame[i])
            made += struct.pack(">IIIB3xII32s", *numbers, frame_id)
            end += gaps[i] + sealed
            blob += in_frame[i]
        frame += count
        packed = struct.pack(f">{blob - first}I", *lengths[first:blob])
        packs.append({"frames": made, "ids": table["ids"][32 * first : 32 * blob], "lengths": packed})
    assert (frame, blob, 32 * own_id) == (frames, blobs, len(table["frame_ids"]))
    return packs


def unfold(table: dict[str, Any], packs: int = 0) -> bytes:
    size = packs * 21 + table["frames"] * 18 + table["blobs"] * 4
    assert zstandard.get_frame_parameters(table["columns"]).content_size == size
    return zstandard.ZstdDecompressor().decompress(table["columns"])


def places(kind: int, number: int, columns: dict[str, Any]) -> list[tuple[bytes, Place]]:
    """(content id, place) of every blob; a place is (pack type, key number, position in frame, record, …id)."""
    found = []
    ids = [columns["ids"][at : at + 32] for at in range(0, len(columns["ids"]), 32)]
    lengths = [length for (length,) in struct.iter_unpack(">I", columns["lengths"])]
    blob = 0
    for record in struct.iter_unpack(">IIIB3xII32s", columns["frames"]):
        *numbers, count, frame_id = record
        start = 0
        for _ in range(count):
            found.append((ids[blob], (kind, number, start, (*numbers, lengths[blob]), frame_id)))
            start += lengths[blob]
            blob += 1
        assert start == record[2]
    assert blob == len(ids) == len(lengths)
    return found


def read_trailer(ring: Ring, pack: bytes) -> list[tuple[bytes, Place]]:
    length = struct.unpack(">I", pack[-4:])[0]
    trailer = pack[-4 - length : -4]
    form = trailer[5]
    kind, number = header(trailer, {7, 8}, 1, 1 if form == 1 else 2)
    assert trailer[:12] == pack[:12]
    body = sealed_map(ring, kind, number, trailer[12:], b"trailer")
    return places(kind, number, body if form == 1 else records(body, None, unfold(body))[0])


def read_segment(ring: Ring, data: bytes) -> list[tuple[bytes, bytes, Place]]:
    """(content id, pack name, place) of every blob."""
    kind, number = header(data, {9}, 1, 1 if data[5] == 1 else 2)
    body = sealed_map(ring, kind, number, data[12:])
    assert body["content_id_key"] == ring["content_id"][0]
    packs = body["packs"] if data[5] == 1 else packs_of(body)
    return [
        (content_id, pack["name"], place)
        for pack in packs
        for content_id, place in places(pack["kind"], pack["key_number"], pack)
    ]


def packs_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The packs of a segment of form 2 as those of form 1 have them."""
    count, names = body["packs"], body["names"]
    data = unfold(body, count)
    _sizes, data = column(data, count, 4)
    _revisions, data = column(data, count, 8)
    kinds, data = column(data, count, 1)
    key_numbers, data = column(data, count, 4)
    frames, data = column(data, count, 4)
    return [
        {"name": names[32 * i : 32 * i + 32], "kind": kinds[i], "key_number": key_numbers[i], **columns}
        for i, columns in enumerate(records(body, frames, data))
    ]


def read_blob(ring: Ring, pack: bytes, content_id: bytes, place: Place) -> bytes:
    kind, number, start, (offset, sealed_length, raw_length, codec, dictionary, length), frame_id = place
    associated = frame_data(ring["repository"], kind, codec, dictionary, raw_length, frame_id)
    payload = unseal(key_of(ring, kind, number), pack[offset : offset + sealed_length], associated)
    assert dictionary == 0 and codec in (0, 1) and raw_length <= 8 << 20
    if codec == 1:
        assert zstandard.get_frame_parameters(payload).content_size == raw_length
        payload = zstandard.ZstdDecompressor().decompress(payload)
    assert len(payload) == raw_length
    blob = payload[start : start + length]
    assert blake3(blob, key=ring["content_id"][1]).digest() == content_id
    return blob


# Trees and snapshots


def read_page(data: bytes) -> list[list[Any]]:
    page = msgpack.unpackb(data, strict_map_key=False)
    assert page["v"] == 1 and page["names"] == "posix"
    names = [entry[1] for entry in page["e"]]
    assert names == sorted(set(names))
    assert not any(b"/" in name or b"\0" in name or name in (b"", b".", b"..") for name in names)
    entries: list[list[Any]] = page["e"]
    return entries


def read_snapshot(ring: Ring, data: bytes) -> dict[str, Any]:
    kind, number = header(data, {10}, 1)
    found: dict[str, Any] = sealed_map(ring, kind, number, data[12:])
    return found


# Lists, signed documents, identity


def read_list(data: bytes) -> list[list[Any]]:
    assert header(data, {5}, 0) == (5, 0)
    rows: list[list[Any]] = msgpack.unpackb(data[12:])["entries"]
    assert [row[1] for row in rows] == sorted({row[1] for row in rows})
    return rows


def read_signed(data: bytes, kind: int, public: bytes) -> dict[str, Any]:
    assert header(data, {kind}, 0) == (kind, 0)
    word = {2: b"certificate", 3: b"claim", 4: b"record"}[kind]
    Ed25519PublicKey.from_public_bytes(public).verify(
        data[-64:], b"tandem " + word + b" signature 1\0" + data[:-64]
    )
    body: dict[str, Any] = msgpack.unpackb(data[12:-64])
    return body


def read_by_certificate(data: bytes, kind: int, root: bytes) -> dict[str, Any]:
    """A claim or record, verified up to the root; its certificate decoded in ``"by"``."""
    certificate = msgpack.unpackb(data[12:-64])["certificate"]
    by = read_signed(certificate, 2, root)
    return {**read_signed(data, kind, by["key"]), "by": by}


def read_details(ring: Ring, kind: int, body: dict[str, Any]) -> dict[str, Any]:
    """The sealed map of a claim (3) or record (4)."""
    number = struct.unpack(">I", body["sealed"][:4])[0]
    extras = (struct.pack(">Q", body["n"]), body["nonce"])
    found: dict[str, Any] = sealed_map(ring, kind, number, body["sealed"][4:], *extras)
    return found


def read_identity(data: bytes) -> dict[str, Any]:
    assert header(data, {1}, 0) == (1, 0) and blake3(data[:-32]).digest() == data[-32:]
    body: dict[str, Any] = msgpack.unpackb(data[12:-32])
    assert body["layout"] == 1
    return body


# Reading a backup


class Tier:
    """One tier in a folder, opened with the passphrase."""

    def __init__(self, folder: Path, passphrase: str) -> None:
        self.folder = folder
        self.identity = read_identity((folder / "tandem").read_bytes())
        slots = [open_slot(self.named("keys", path.name), passphrase) for path in (folder / "keys").iterdir()]
        self.ring: Ring = next(ring for ring in slots if ring is not None)
        assert self.ring["repository"] == self.identity["repository"]
        assert self.ring["root_public"] == self.identity["root"]
        root = self.identity["root"]
        found = [
            read_by_certificate(path.read_bytes(), 4, root) for path in folder.glob("revisions/*/*/*.record")
        ]
        self.records = sorted(found, key=lambda record: record["n"])
        self.live = self._live()
        self.index: dict[bytes, tuple[bytes, Place]] = {}

    def named(self, folder: str, name: str) -> bytes:
        data = (self.folder / folder / name).read_bytes()
        assert blake3(data).hexdigest() == name
        return data

    def sharded(self, folder: str, name: bytes) -> bytes:
        return self.named(f"{folder}/{name.hex()[:2]}", name.hex())

    def _live(self) -> dict[bytes, str]:
        bases = [record for record in self.records if "lists" in record]
        base = max(bases, key=lambda record: (record["by"]["epoch"], record["n"]), default=None)
        live = {}
        for name in base["lists"] if base else []:
            live |= {row[1]: row[0] for row in read_list(self.named("lists", name.hex()))}
        for record in self.records:
            if base and (record["n"] < base["n"] or record["by"]["epoch"] < base["by"]["epoch"]):
                continue
            mine = self.identity["tier"]
            for _, name, tiers in record["removed"]:
                if tiers is None or mine in tiers:
                    live.pop(name, None)
            live |= {name: kind for kind, name, _ in record["added"]}
        return live

    def backups(self) -> list[dict[str, Any]]:
        """What the records of kind backup have under seal."""
        return [
            read_details(self.ring, 4, record)["backup"]
            for record in self.records
            if record["kind"] == "backup"
        ]

    def restore(self, snapshot: str, from_trailers: bool = False) -> dict[bytes, tuple[list[Any], bytes]]:
        """(entry, content) by path, for everything in a snapshot; of a sparse file with its holes."""
        for name, kind in self.live.items():
            if kind == "index" and not from_trailers:
                for content_id, pack, place in read_segment(self.ring, self.sharded("index", name)):
                    self.index[content_id] = (pack, place)
            elif kind == "pack" and from_trailers:
                for content_id, place in read_trailer(self.ring, self.sharded("packs", name)):
                    self.index[content_id] = (name, place)
        found: dict[bytes, tuple[list[Any], bytes]] = {}
        manifest = read_snapshot(self.ring, self.sharded("snapshots", bytes.fromhex(snapshot)))
        self._walk(manifest["root"], b"", found)
        return found

    def _walk(self, pages: bytes, path: bytes, found: dict[bytes, tuple[list[Any], bytes]]) -> None:
        for page in self.blobs(pages):
            for entry in read_page(page):
                extras = entry[9] or {}
                content = b"".join(self.blobs(entry[8])) if extras.get("indirect") else entry[8]
                here = path + b"/" + entry[1]
                if entry[0] == 1:
                    found[here] = (entry, b"")
                    self._walk(content, here, found)
                elif entry[0] == 0:
                    found[here] = (entry, self._file(entry[7], extras, b"".join(self.blobs(content))))
                else:
                    found[here] = (entry, content)

    def _file(self, size: int, extras: dict[str, Any], data: bytes) -> bytes:
        whole, at = bytearray(size), 0
        for offset, length in extras.get("s", [[0, size]]):
            whole[offset : offset + length] = data[at : at + length]
            at += length
        assert at == len(data) and len(whole) == size
        return bytes(whole)

    def blobs(self, ids: bytes) -> list[bytes]:
        found = []
        for at in range(0, len(ids), 32):
            content_id = ids[at : at + 32]
            pack, place = self.index[content_id]
            found.append(read_blob(self.ring, self.sharded("packs", pack), content_id, place))
        return found
