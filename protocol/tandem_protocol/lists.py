"""List objects: plain lists of what is live, named by base records, so that a reader need not start at 1.

    header (12, suite 0) | msgpack map {entries: [[type, name, size, [tier ids where it is dead]], …]}

A list is trusted because a signed record names it by the hash of its bytes; that check is the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from .envelope import HEADER_SIZE, SUITE_PLAIN, DocType, encode, pack_header, read_header, unpack
from .errors import Corrupt
from .fields import Fields
from .names import ObjectType
from .seal import Buffer

MAX_ENTRIES = 100_000
MAX_LIST = 32 << 20
MAX_DEAD = 256
_TYPES = {str(kind): kind for kind in ObjectType}


@dataclass(frozen=True, slots=True)
class ListEntry:
    """One live object: type, name (32 bytes), size in bytes, ids (16 bytes) of tiers where it is dead."""

    type: ObjectType
    name: bytes
    size: int
    dead: list[bytes] = field(default_factory=list)


def split_list(entries: Sequence[ListEntry]) -> list[Sequence[ListEntry]]:
    """``entries`` in pieces that fit a list object each; none for none."""
    return [entries[start : start + MAX_ENTRIES] for start in range(0, len(entries), MAX_ENTRIES)]


def encode_list(entries: Sequence[ListEntry]) -> bytes:
    """The object's bytes. At most `MAX_ENTRIES`, in strictly ascending order of name."""
    if len(entries) > MAX_ENTRIES:
        raise ValueError("too many entries for one list")
    if any(a.name >= b.name for a, b in pairwise(entries)):
        raise ValueError("a list is in ascending order of names")
    rows = [[str(entry.type), entry.name, entry.size, entry.dead] for entry in entries]
    return pack_header(DocType.LIST, suite=SUITE_PLAIN) + encode({"entries": rows})


def decode_list(data: Buffer) -> list[ListEntry]:
    """The entries. Raises `Corrupt`, `Unsupported`."""
    read_header(data, (DocType.LIST,), SUITE_PLAIN)
    fields = Fields(unpack(memoryview(data)[HEADER_SIZE:], MAX_LIST, "list"), "list")
    entries = [_entry(row) for row in fields.list("entries", MAX_ENTRIES)]
    if any(a.name >= b.name for a, b in pairwise(entries)):
        raise Corrupt("a list is not in order")
    return entries


def _entry(row: object) -> ListEntry:
    match row:
        case [str(kind), bytes(name), int(size), list(dead)] if (
            kind in _TYPES
            and len(name) == 32
            and 0 <= size < 2**63
            and size is not True
            and len(dead) <= MAX_DEAD
            and all(type(tier) is bytes and len(tier) == 16 for tier in dead)
        ):
            return ListEntry(_TYPES[kind], name, size, dead)
    raise Corrupt("a list with an entry that is not one")
