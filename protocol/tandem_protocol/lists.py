"""List objects: plain lists of what is live, named by base records, so that a reader need not start at 1.

    header (12, suite 0) | msgpack map {entries: [[type, name, size, [tier ids where it is dead]], …]}

A list is trusted because a signed record names it by the hash of its bytes; that check is the caller's.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from .envelope import HEADER_SIZE, SUITE_PLAIN, DocType, encode, pack_header, read_header, unpack
from .errors import Corrupt
from .fields import Fields
from .names import ObjectType
from .seal import Buffer

MAX_ENTRIES = 100_000
MAX_LIST = 32 << 20
MAX_DEAD = 256
NAME_SIZE = 32
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
    body = memoryview(data)[HEADER_SIZE:]
    fields = Fields(unpack(body, MAX_LIST, "list", MAX_ENTRIES, 2 * MAX_ENTRIES + 2), "list")
    rows = fields.list("entries", MAX_ENTRIES)
    if not rows:
        return []
    if set(map(type, rows)) != {list} or set(map(len, rows)) != {4}:
        raise Corrupt("a list with an entry that is not one")
    kinds, names, sizes, dead = zip(*rows, strict=True)
    _check_columns(kinds, names, sizes, dead)
    return list(map(ListEntry, map(_TYPES.__getitem__, kinds), names, sizes, dead))


def _check_columns(
    kinds: tuple[object, ...], names: tuple[Any, ...], sizes: tuple[Any, ...], dead: tuple[object, ...]
) -> None:
    """By columns: a repository may have a hundred thousand packs."""
    if set(map(type, kinds)) != {str} or not _TYPES.keys() >= set(kinds):
        raise Corrupt("a list with an object of unknown type")
    if set(map(type, names)) != {bytes} or set(map(len, names)) != {NAME_SIZE}:
        raise Corrupt("a list with a wrong name")
    if set(map(type, sizes)) != {int} or min(sizes) < 0 or max(sizes) >= 2**63:
        raise Corrupt("a list with a wrong size")
    if not all(map(operator.lt, names, names[1:])):
        raise Corrupt("a list is not in order")
    if not all(map(_tier_ids, dead)):
        raise Corrupt("a list with a wrong tier id")


def _tier_ids(value: object) -> bool:
    return type(value) is list and (
        not value
        or (len(value) <= MAX_DEAD and all(type(tier) is bytes and len(tier) == 16 for tier in value))
    )
