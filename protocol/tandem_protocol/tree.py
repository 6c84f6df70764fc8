"""Trees: directories as pages of entries. A page is a blob like any other, found by its content id.

A page is a msgpack map {"v": 1, "names": "posix", "e": entries, "u": [[uid, name], …], "g": [[gid, …], …]}.
An entry is a tuple, for speed; its items are in `Entry`. Pages are cut by content, so that one new name in
a directory of a million changes one page or two. Reading and writing file systems is not done here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import msgpack

from .envelope import MAX_ARRAY, UPGRADE, unpack
from .errors import Corrupt, Refused, Unsupported
from .fields import Fields
from .seal import ID_SIZE, Buffer

FILE, DIR, SYMLINK, FIFO, CHAR, BLOCK, SOCKET = range(7)

Entry = tuple[int, bytes, int, int, int, int, int, int, bytes, dict[str, Any] | None]
"""(kind, name, mode, uid, gid, mtime_s, mtime_ns, size, content, extras)

``mode`` holds the 12 permission bits. ``content``: of a file the ids of its blobs, concatenated; of a
directory the ids of its pages; of a symlink its target; else empty. Above 1,024 ids (`MAX_IDS`), ``content``
holds the ids of blobs that hold the ids, and extras["indirect"] is 1. Other extras, None without any:
"x" {name: value} extended attributes, all bytes; "l" [device, inode] of a file with several links;
"s" [[offset, length], …] the data of a sparse file, of which content holds nothing else; "r" [major, minor].
"""

VERSION = 1
NAMES = "posix"
MAX_IDS = 1024
MAX_NAME = 1024
MAX_TARGET = 1 << 16
MAX_EXTENTS = 1 << 16
MAX_ENTRY = 2 << 20
MAX_PAGE = 4 << 20
MAX_CONTAINERS = 1 << 20
TARGET_PAGE = 1 << 20
CUT_FROM = 64 << 10
CUT_MASK = 0x7FF
_FRONT = 128  # what surrounds the entries of a page, at most, without owners' names
_FIELDS = 10
_PAGE = "tree page"


@dataclass(frozen=True, slots=True)
class Page:
    """A decoded page: entries in ascending order of name, and the names that its owner numbers had."""

    entries: list[Entry]
    users: dict[int, str]
    groups: dict[int, str]


class PageBuilder:
    """Makes the pages of one directory from its entries, given in strictly ascending order of name.

    ``user_name`` and ``group_name`` give the name of a number, or None; they are asked once per page and
    number. Builders are cheap: one per directory.
    """

    def __init__(
        self, user_name: Callable[[int], str | None], group_name: Callable[[int], str | None]
    ) -> None:
        self._user_name = user_name
        self._group_name = group_name
        self._pack = msgpack.Packer(use_bin_type=True).pack
        self._rows: list[bytes] = []
        self._size = 0
        self._last = b""
        self._uids: set[int] = set()
        self._gids: set[int] = set()

    def add(self, entry: Entry) -> bytes | None:
        """Take an entry; gives a finished page when one is full (this entry in it, or else before it).

        Raises `Refused` for an entry above `MAX_ENTRY` (extended attributes without end) or with more than
        `MAX_EXTENTS`, which is then not taken, and ValueError for one out of order.
        """
        name = entry[1]
        if name <= self._last:
            raise ValueError("entries of a directory come in ascending order of name")
        row: bytes = self._pack(entry)
        size = len(row)
        if size > MAX_ENTRY:
            raise Refused(f"the metadata of one file takes {size} bytes, more than the {MAX_ENTRY} possible")
        extras = entry[9]
        if extras is not None and len(extras.get("s", ())) > MAX_EXTENTS:
            raise Refused(f"a sparse file has more than the {MAX_EXTENTS} pieces possible")
        self._last = name
        full = None
        if self._rows and (self._size + size > TARGET_PAGE - _FRONT or len(self._rows) == MAX_ARRAY):
            full = self.finish()
        self._rows.append(row)
        self._size += size
        self._uids.add(entry[3])
        self._gids.add(entry[4])
        if full is None and self._size >= CUT_FROM and crc32(name) & CUT_MASK == 0:
            return self.finish()
        return full

    @property
    def waiting(self) -> int:
        """How many entries were taken that are in no page yet."""
        return len(self._rows)

    def finish(self) -> bytes | None:
        """The page of what was added since the last one; None if that is nothing."""
        if not self._rows:
            return None
        pack = self._pack
        parts = [
            b"\x85",  # a map of 5
            pack("v") + pack(VERSION) + pack("names") + pack(NAMES) + pack("e"),
            _array_header(len(self._rows)),
            *self._rows,
            pack("u") + pack(_named(self._uids, self._user_name)),
            pack("g") + pack(_named(self._gids, self._group_name)),
        ]
        self._rows, self._size = [], 0
        self._uids, self._gids = set(), set()
        return b"".join(parts)


def _array_header(count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big")


def _named(numbers: set[int], lookup: Callable[[int], str | None]) -> list[tuple[int, str]]:
    """(number, name) for those that have a name which can be written down."""
    found = ((number, lookup(number)) for number in sorted(numbers))
    return [(number, name) for number, name in found if name and _writable(name)]


def _writable(name: str) -> bool:
    try:
        return len(name.encode("utf-8")) <= MAX_NAME
    except UnicodeEncodeError:
        return False


def decode_page(data: Buffer) -> Page:
    """The entries of a page, every field of them checked. Raises `Corrupt`, `Unsupported`."""
    value = unpack(data, MAX_PAGE, _PAGE, max_containers=MAX_CONTAINERS)
    fields = Fields(value, _PAGE)
    if (version := fields.int("v", 1)) > VERSION:
        raise Unsupported(f"a tree page has format version {version}, this program knows {VERSION}", UPGRADE)
    if (names := fields.str("names", 16)) != NAMES:
        raise Unsupported(
            f"a tree page holds names of kind {names!r}, which this program cannot read", UPGRADE
        )
    rows = fields.list("e", MAX_ARRAY)
    _check_entries(rows)
    return Page(list(map(tuple, rows)), _owners(fields, "u"), _owners(fields, "g"))


def _owners(fields: Fields, key: str) -> dict[int, str]:
    pairs = fields.list(key)
    for pair in pairs:
        match pair:
            case [int(number), str(name)] if 0 <= number < 2**32 and 0 < len(name) <= MAX_NAME:
                continue
        raise fields.bad(key)
    return dict(pairs)


_TYPES = (int, bytes, int, int, int, int, int, int, bytes)
_BOUNDS = {
    0: (FILE, SOCKET),
    2: (0, 0o7777),
    3: (0, 2**32 - 1),
    4: (0, 2**32 - 1),
    5: (-(2**63), 2**63 - 1),
    6: (0, 999_999_999),
    7: (0, 2**63 - 1),
}


def _check_entries(entries: list[Any]) -> None:
    """By columns where that is possible: a directory may have a million names."""
    if not entries:
        return
    if set(map(type, entries)) != {list} or set(map(len, entries)) != {_FIELDS}:
        raise Corrupt("a tree page with an entry that is not one")
    columns = list(zip(*entries, strict=True))
    for position, kind in enumerate(_TYPES):
        if set(map(type, columns[position])) != {kind}:
            raise Corrupt(f"a tree page with an entry whose item {position} is of the wrong type")
    for position, (low, high) in _BOUNDS.items():
        if min(columns[position]) < low or max(columns[position]) > high:
            raise Corrupt(f"a tree page with an entry whose item {position} is out of bounds")
    _check_names(columns[1])
    for entry in entries:
        kind, size, content, extras = entry[0], entry[7], entry[8], entry[9]
        if extras is not None:
            _check_extras(kind, size, content, extras)
        elif kind == FILE:
            if len(content) % ID_SIZE or len(content) > MAX_IDS * ID_SIZE or (size == 0) != (not content):
                raise Corrupt("a tree page with a file that has the wrong content")
        elif kind != DIR:
            _check_special(kind, content)
        elif len(content) % ID_SIZE or len(content) > MAX_IDS * ID_SIZE:
            raise Corrupt("a tree page with a directory that has the wrong content")


def _check_names(names: tuple[bytes, ...]) -> None:
    """No name may lead out of its directory, or be there twice."""
    together = b"/".join(names)
    if together.count(b"/") != len(names) - 1 or b"\0" in together:
        raise Corrupt("a tree page with a name that holds a slash or a zero byte")
    if min(map(len, names)) == 0 or max(map(len, names)) > MAX_NAME or not {b".", b".."}.isdisjoint(names):
        raise Corrupt("a tree page with a name that is empty, too long, or '.' or '..'")
    if not all(map(operator.lt, names, names[1:])):
        raise Corrupt("a tree page that is not in order of names")


def _check_special(kind: int, content: bytes) -> None:
    if kind == SYMLINK:
        if not 0 < len(content) <= MAX_TARGET or b"\0" in content:
            raise Corrupt("a tree page with a symlink that has the wrong target")
    elif content:
        raise Corrupt("a tree page with a special file that has content")


def _check_extras(kind: int, size: int, content: bytes, extras: object) -> None:
    if type(extras) is not dict or not extras or any(type(key) is not str for key in extras):
        raise Corrupt("a tree page with extras that are not a map")
    if kind in (FILE, DIR):
        wrong = len(content) % ID_SIZE or len(content) > MAX_IDS * ID_SIZE
        if "s" in extras:
            wrong = wrong or kind != FILE or (_extents_total(extras["s"], size) == 0) != (not content)
        elif kind == FILE:
            wrong = wrong or (size == 0) != (not content)
        if wrong or extras.get("indirect", 1) != 1:
            raise Corrupt("a tree page with a file or directory that has the wrong content")
    else:
        _check_special(kind, content)
    for key in ("l", "r"):
        if key in extras:
            _check_pair(extras[key])
    if "x" in extras:
        _check_attributes(extras["x"])


def _check_pair(value: object) -> None:
    match value:
        case [int(first), int(second)] if 0 <= first < 2**64 and 0 <= second < 2**64:
            return
    raise Corrupt("a tree page with a wrong device or inode number")


def _check_attributes(value: object) -> None:
    if type(value) is not dict or any(
        type(name) is not bytes or type(content) is not bytes or not name or b"\0" in name
        for name, content in value.items()
    ):
        raise Corrupt("a tree page with wrong extended attributes")


def _extents_total(value: object, size: int) -> int:
    """Bytes of data in a sparse file."""
    if type(value) is not list or len(value) > MAX_EXTENTS:
        raise Corrupt("a tree page with a wrong sparse file")
    total, free = 0, 0
    for extent in value:
        match extent:
            case [int(offset), int(length)] if offset >= free and length > 0 and offset + length <= size:
                free = offset + length
                total += length
            case _:
                raise Corrupt("a tree page with a wrong sparse file")
    return total
