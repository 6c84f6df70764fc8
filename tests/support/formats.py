"""One small sample of every kind of object, made by the code under test, with what reads it again.

Keys and contents come from a seed, so that a failure can be looked at; nonces are random as always.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tandem_protocol import envelope, frames, index, keys, lists, pack, snapshot, tree
from tandem_protocol.envelope import DocType
from tandem_protocol.errors import Corrupt
from tandem_protocol.keys import KeyRing
from tandem_protocol.names import ObjectType
from tandem_protocol.seal import Buffer, content_id, seal_part

PHRASE = "correct horse battery staple"
AGENT_KEY = bytes(range(32))
CHEAP = {"memory_kib": 8, "passes": 1, "lanes": 1}
"""Argon2id at its least: the cost is not what is tested."""


def make_ring(seed: int = 1, keys_each: int = 1) -> KeyRing:
    """A key ring that is the same every time."""
    source = random.Random(seed)
    private = Ed25519PrivateKey.from_private_bytes(source.randbytes(32))
    return KeyRing(
        repository_id=source.randbytes(16),
        root_public=private.public_key().public_bytes_raw(),
        root_private=private.private_bytes_raw(),
        content_id_key=(1, source.randbytes(32)),
        gear_key=(1, source.randbytes(32)),
        data={number: source.randbytes(32) for number in range(1, keys_each + 1)},
        metadata={number: source.randbytes(32) for number in range(1, keys_each + 1)},
        current_data=keys_each,
        current_metadata=keys_each,
    )


def ids_of(ring: KeyRing, blobs: list[bytes]) -> bytes:
    return b"".join(content_id(ring.content_id_key[1], blob) for blob in blobs)


def make_pack(ring: KeyRing, kind: DocType = DocType.DATA_PACK, seed: int = 2) -> pack.SealedPack:
    """Two frames: three compressible blobs in one, one that is not in the other."""
    source = random.Random(seed)
    builder = pack.PackBuilder(ring, ring.repository_id, kind, capacity=16 << 10)
    texts = [b"all work and no play " * count for count in (1, 5, 9)]
    builder.add_frame(texts, ids_of(ring, texts), [len(text) for text in texts])
    noise = source.randbytes(300)
    builder.add_frame(noise, ids_of(ring, [noise]), [len(noise)])
    return builder.finish()


def old_trailer(ring: KeyRing, made: pack.SealedPack) -> bytes:
    """The pack with a trailer of form 1, as older programs wrote it."""
    header = envelope.pack_header(made.kind, 1, envelope.SUITE_SEALED, made.key_number)
    listing = envelope.encode({"content_id_key": ring.content_id_key[0], **frames.encode_frames(made.frames)})
    place = (ring.cipher(made.kind, made.key_number), ring.repository_id, made.kind, made.key_number)
    trailer = header + seal_part(*place, listing, b"trailer")
    front = bytes(made.data)[12 : made.frames[-1].offset + made.frames[-1].sealed_length]
    return header + front + trailer + len(trailer).to_bytes(4, "big")


def sample_entries() -> list[tree.Entry]:
    """One entry of every kind and with every extra."""
    one, two = b"\x01" * 32, b"\x02" * 64
    return [
        (tree.BLOCK, b"block", 0o660, 0, 6, 0, 0, 0, b"", {"r": [8, 1]}),
        (tree.CHAR, b"char", 0o666, 0, 0, 0, 0, 0, b"", {"r": [1, 3]}),
        (tree.DIR, b"dir", 0o755, 1000, 1000, 1_700_000_000, 1, 4096, two, None),
        (tree.FILE, b"empty", 0o644, 0, 0, -1, 999_999_999, 0, b"", None),
        (tree.FIFO, b"fifo", 0o600, 0, 0, 0, 0, 0, b"", None),
        (tree.FILE, b"file", 0o4755, 0, 0, 5, 6, 7, one, {"x": {b"user.a": b"\0b"}, "l": [2049, 77]}),
        (tree.FILE, b"huge", 0o644, 0, 0, 5, 6, 1 << 40, two, {"indirect": 1}),
        (tree.SYMLINK, b"link", 0o777, 0, 0, 5, 6, 6, b"target", None),
        (tree.SOCKET, b"socket", 0o755, 0, 0, 5, 6, 0, b"", None),
        (tree.FILE, b"sparse", 0o644, 0, 0, 5, 6, 1 << 30, one, {"s": [[4096, 4096], [1 << 20, 1]]}),
        (tree.FILE, b"\xff\xfe not UTF-8\n\x1b[2J", 0o644, 0, 0, 5, 6, 1, one, None),
    ]


def make_page(entries: list[tree.Entry] | None = None) -> bytes:
    builder = tree.PageBuilder({0: "root", 1000: "anna"}.get, {0: "root", 6: "disk"}.get)
    for entry in sample_entries() if entries is None else entries:
        assert builder.add(entry) is None
    page = builder.finish()
    assert page is not None
    return page


def make_snapshot() -> snapshot.Snapshot:
    return snapshot.Snapshot(
        backup_id=b"\x07" * 16,
        root=b"\x08" * 64,
        host="office",
        host_id="0123456789abcdef",
        sources=[b"/srv/data", b"/home/\xff"],
        started_ns=1_700_000_000_123_456_789,
        ended_ns=1_700_000_060_000_000_000,
        utc_offset_s=-12_600,
        zone="America/St_Johns",
        point_in_time=True,
        stats={"files": 3, "bytes": 1 << 50},
        program="tandem 0.1.0",
    )


def make_list_entries() -> list[lists.ListEntry]:
    return [
        lists.ListEntry(ObjectType.PACK, b"\x01" * 32, 1 << 25),
        lists.ListEntry(ObjectType.KEY, b"\x02" * 32, 400, [b"\x0a" * 16, b"\x0b" * 16]),
        lists.ListEntry(ObjectType.SNAPSHOT, b"\x03" * 32, 900),
    ]


def verify_pack(ring: KeyRing, whole: Buffer) -> pack.Trailer:
    """Read a whole pack: its trailer, every frame, every blob. `Corrupt` if something is not what it is said to be,
    or if there is anything but zeros between the frames."""
    data = bytes(whole)
    trailer = pack.read_trailer(ring, data, len(data))
    span = pack.trailer_span(data[-4:], len(data))
    header = data[-span:][: envelope.HEADER_SIZE]
    if not data.startswith(header):
        raise Corrupt("a pack's header and trailer differ")
    free = len(header)
    for frame in trailer.frames:
        end = frame.offset + frame.sealed_length
        raw = pack.open_frame(ring, trailer.kind, trailer.key_number, frame, data[frame.offset : end])
        ends = list(itertools.accumulate(frame.lengths))
        blobs = [raw[end - length : end] for end, length in zip(ends, frame.lengths, strict=True)]
        if ids_of(ring, blobs) != frame.ids or any(data[free : frame.offset]):
            raise Corrupt("a frame is not what the trailer says")
        free = end
    if any(data[free : len(data) - span]):
        raise Corrupt("a pack with something between its frames and its trailer")
    return trailer


@dataclass(frozen=True)
class Sample:
    """``tight``: every bit of it is under a signature or a seal, so that no flip may go unnoticed."""

    name: str
    data: bytes
    read: Callable[[bytes], object]
    tight: bool = True


def samples() -> list[Sample]:
    """Every object and document of the formats, once."""
    ring = make_ring()
    data_pack = make_pack(ring)
    tree_pack = make_pack(ring, DocType.TREE_PACK)
    slot = keys.passphrase_slot(ring, PHRASE, "desk", **CHEAP)
    agent = keys.agent_slot(ring, AGENT_KEY, "agent")
    entries = [index.entry_of(data_pack, 5), index.entry_of(tree_pack, 6)]
    signed = envelope.sign(DocType.RECORD, {"n": 1, "added": [["pack", b"\x01" * 32, 9]]}, ring.root_key())
    return [
        Sample("passphrase slot", slot, lambda d: keys.open_slot_with_passphrase(d, PHRASE)),
        Sample("agent slot", agent, lambda d: keys.open_slot_with_agent_key(d, AGENT_KEY)),
        Sample("data pack", bytes(data_pack.data), lambda d: verify_pack(ring, d)),
        Sample("tree pack", bytes(tree_pack.data), lambda d: verify_pack(ring, d)),
        Sample("old pack", old_trailer(ring, data_pack), lambda d: verify_pack(ring, d)),
        Sample("index", index.encode_segment(ring, entries), lambda d: index.decode_segment(ring, d)),
        Sample("old index", index.encode_segment(ring, entries, 1), lambda d: index.decode_segment(ring, d)),
        Sample(
            "snapshot",
            snapshot.encode_snapshot(ring, make_snapshot()),
            lambda d: snapshot.decode_snapshot(ring, d),
        ),
        Sample("signed", signed, lambda d: envelope.verify(d, DocType.RECORD, ring.root_public)),
        Sample("list", lists.encode_list(make_list_entries()), lists.decode_list, tight=False),
        Sample("page", make_page(), tree.decode_page, tight=False),
    ]
