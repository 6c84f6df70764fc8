"""What the last backup saw of each folder, so that unchanged files are not read and unchanged pages not made.

One row per page of a folder, in a SQLite file of its own. A row holds a digest of the names and stat
fields that the page was made from; its detail, loaded only where something changed, holds them one by one
with the page itself. The file may be deleted or damaged at any time: it is then just empty. Every row and
detail carries a checksum, so no fsync is asked for. Whether a row may be believed is for the scanner:
matching digests, and content that every target of the backup holds.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgpack
from blake3 import blake3

from tandem_agent.engine.seen import STAT_FIELDS, pack_stats
from tandem_protocol.tree import Entry

T = TypeVar("T")

_SCHEMA = 1
_SUM = 16
_WRITE_AT_ONCE = 256
_FAULTS = (sqlite3.Error, OSError, ValueError, TypeError, OverflowError)
"""What a damaged file makes the library raise: it also decodes names and messages that it finds there."""
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (owner BLOB NOT NULL, version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS runs (run INTEGER PRIMARY KEY, revision INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS pages (
  path BLOB NOT NULL, part INTEGER NOT NULL, run INTEGER NOT NULL, first BLOB NOT NULL,
  digest BLOB NOT NULL, page BLOB NOT NULL, children BLOB NOT NULL, detail INTEGER NOT NULL,
  checksum BLOB NOT NULL, PRIMARY KEY (path, part)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS details (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
"""


class CacheDamaged(Exception):
    """Damage that shows only after the run has relied on the cache: the run is to be begun again without it.
    Never leaves the engine."""


@dataclass(frozen=True, slots=True)
class Row:
    """One page of a folder. ``first`` is the first name it may hold (the first page's: empty).

    ``digest`` is of everything in it, see `stats_digest`. ``children`` is `children_digest` of its
    subfolders' contents.
    """

    part: int
    run: int
    first: bytes
    digest: bytes
    page: bytes
    children: bytes
    detail: int


@dataclass(frozen=True, slots=True)
class NewRow:
    """A page just made; ``stats`` has `STAT_FIELDS` numbers for each of its entries, in order."""

    first: bytes
    digest: bytes
    page: bytes
    children: bytes
    stats: Sequence[int]
    data: bytes


@dataclass(frozen=True, slots=True)
class Detail:
    """The entries of a page and their stat fields (see `STAT_FIELDS`), in the same order."""

    entries: tuple[Entry, ...]
    stats: list[int]

    def by_name(self) -> dict[bytes, tuple[list[int], Entry]]:
        width = STAT_FIELDS
        return {e[1]: (self.stats[i * width : i * width + width], e) for i, e in enumerate(self.entries)}


def children_digest(contents: Sequence[bytes]) -> bytes:
    """Of the contents (page ids) of a page's subfolders, in order."""
    return blake3(b"".join(b"%d:" % len(content) + content for content in contents)).digest(length=_SUM)


class FilesCache:
    """For one backup and one thread at a time. A folder's rows are read before they are replaced.

    What is written becomes durable with `commit` and is dropped by `discard`. No method raises for a
    damaged file: from the first damage that is met it reads as empty, and it is made anew at the next open.
    """

    def __init__(self, path: str, owner: bytes) -> None:
        """``owner`` is any bytes that change when rows must not be reused (repository and key numbers)."""
        self._path = path
        self._owner = owner
        self._broken = False
        self._connection: sqlite3.Connection | None = None
        self._new_pages: list[tuple[Any, ...]] = []
        self._new_details: list[tuple[int, bytes]] = []
        self._revisions: dict[int, int] = {}
        self._run = secrets.randbits(62)
        self._next_detail = 0
        self._existed = False
        self._asked = self._missed = 0
        for attempt in range(2):
            try:
                self._open()
                break
            except _FAULTS:
                self.close()
                self._broken = attempt > 0
                self._remove()

    def _open(self) -> None:
        self._existed = os.path.exists(self._path)
        # It moves between threads, but only one uses it at a time.
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._connection = connection
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.executescript(_TABLES)
        found = connection.execute("SELECT owner, version FROM meta").fetchall()
        if not found:
            connection.execute("INSERT INTO meta VALUES (?, ?)", (self._owner, _SCHEMA))
        elif found != [(self._owner, _SCHEMA)]:
            raise sqlite3.DatabaseError("a cache of another repository or form")
        self._revisions = dict(connection.execute("SELECT run, revision FROM runs"))
        self._next_detail = (connection.execute("SELECT max(id) FROM details").fetchone()[0] or 0) + 1
        connection.execute("BEGIN IMMEDIATE")

    def _sql(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.ProgrammingError("the cache is closed")
        return self._connection

    def _remove(self) -> None:
        for end in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(OSError):
                os.unlink(self._path + end)

    def _try(self, action: Callable[[], T], otherwise: T) -> T:
        if self._broken:
            return otherwise
        try:
            return action()
        except _FAULTS:
            self._broken = True
            return otherwise

    def revision(self, run: int) -> int | None:
        """The revision that the run's backup became, None if it never did."""
        return self._revisions.get(run)

    def rows(self, path: bytes) -> list[Row]:
        """The pages of a folder as they were before this backup, in order; none if any of them is damaged."""
        return self._try(lambda: self._rows(path), [])

    def _rows(self, path: bytes) -> list[Row]:
        found = self._sql().execute(
            "SELECT part, run, first, digest, page, children, detail, checksum FROM pages"
            " WHERE path = ? ORDER BY part",
            (path,),
        )
        rows: list[Row] = []
        for *fields, checksum in found.fetchall():
            if checksum != _row_sum(path, fields) or fields[0] != len(rows):
                raise sqlite3.DatabaseError("a damaged row")
            rows.append(Row(*fields))
        self._asked += 1
        self._missed += not rows
        return rows

    def detail(self, row: Row) -> Detail | None:
        """What the row's page was made from, None if it is not there or damaged."""
        return self._try(lambda: self._detail(row), None)

    def _detail(self, row: Row) -> Detail | None:
        found = self._sql().execute("SELECT data FROM details WHERE id = ?", (row.detail,)).fetchone()
        if found is None:
            raise sqlite3.DatabaseError("a row without its detail")
        return _decode_detail(row, found[0])

    def put(self, path: bytes, part: int, row: Row | NewRow) -> None:
        """Page ``part`` of the folder from now on: a new one, or one of the last backup's."""
        self._try(lambda: self._put(path, part, row), None)

    def _put(self, path: bytes, part: int, row: Row | NewRow) -> None:
        if isinstance(row, Row):
            fields: list[Any] = [part, row.run, row.first, row.digest, row.page, row.children, row.detail]
        else:
            number = self._next_detail
            self._next_detail += 1
            self._new_details.append((number, _encode_detail(row)))
            fields = [part, self._run, row.first, row.digest, row.page, row.children, number]
        self._new_pages.append((path, *fields, _row_sum(path, fields)))
        if len(self._new_pages) >= _WRITE_AT_ONCE:
            self._write()

    def finish(self, path: bytes, parts: int, before: int, details: Sequence[int]) -> None:
        """The folder has ``parts`` pages now; it had ``before``, and their ``details`` are of no more use."""
        self._try(lambda: self._finish(path, parts, before, details), None)

    def _finish(self, path: bytes, parts: int, before: int, details: Sequence[int]) -> None:
        self._drop_details([(number,) for number in details])
        if parts < before:
            self._sql().execute("DELETE FROM pages WHERE path = ? AND part >= ?", (path, parts))

    def _write(self) -> None:
        connection = self._sql()
        connection.executemany("INSERT INTO details VALUES (?, ?)", self._new_details)
        connection.executemany(
            "INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", self._new_pages
        )
        self._new_details, self._new_pages = [], []

    def forget(self, path: bytes) -> None:
        """Drop the folder ``path`` and everything below it: it is gone."""
        self._try(lambda: self._forget(path), None)

    def _forget(self, path: bytes) -> None:
        below = (path, path + b"/", path + b"0")  # "0" is the byte after "/"
        old = self._sql().execute(
            "SELECT detail FROM pages WHERE path = ? OR (path >= ? AND path < ?)", below
        )
        self._drop_details(old.fetchall())
        self._sql().execute("DELETE FROM pages WHERE path = ? OR (path >= ? AND path < ?)", below)

    def _drop_details(self, numbers: Sequence[tuple[int]]) -> None:
        if numbers:
            self._sql().executemany("DELETE FROM details WHERE id = ?", numbers)

    def commit(self, revision: int) -> None:
        """The backup was acknowledged as ``revision``: keep what it wrote, and be ready for the next."""
        self._try(lambda: self._commit(revision), None)
        if self._broken:
            self._start_afresh()

    def _commit(self, revision: int) -> None:
        self._write()
        connection = self._sql()
        # Damage can hide rows without a word. Looking costs a pass over the file: only where many were missed.
        suspicious = self._existed and self._missed * 10 > self._asked
        if suspicious and connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("a damaged file")
        self._existed, self._asked, self._missed = True, 0, 0
        connection.execute("INSERT INTO runs VALUES (?, ?)", (self._run, revision))
        connection.execute("DELETE FROM runs WHERE run NOT IN (SELECT run FROM pages)")
        connection.execute("COMMIT")
        self._revisions = dict(connection.execute("SELECT run, revision FROM runs"))
        self._run = secrets.randbits(62)
        connection.execute("BEGIN IMMEDIATE")

    def discard(self) -> None:
        """The backup did not become one: forget what it wrote."""
        self._try(self._discard, None)
        if self._broken:
            self._start_afresh()

    def _start_afresh(self) -> None:
        self.close()
        self._remove()

    def _discard(self) -> None:
        self._new_details, self._new_pages = [], []
        self._sql().execute("ROLLBACK")
        self._sql().execute("BEGIN IMMEDIATE")

    def close(self) -> None:
        """Release the file; what was not committed is dropped. Never raises."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None
        self._broken = True


def _row_sum(path: bytes, fields: Sequence[Any]) -> bytes:
    return blake3(msgpack.packb([path, *fields])).digest(length=_SUM)


def _encode_detail(row: NewRow) -> bytes:
    stats = pack_stats(row.stats)
    body = len(stats).to_bytes(4, "little") + stats + row.data
    return blake3(row.page + body).digest(length=_SUM) + body


def _decode_detail(row: Row, data: bytes) -> Detail:
    body = memoryview(data)[_SUM:]
    if len(body) < 4 or blake3(row.page).update(body).digest(length=_SUM) != data[:_SUM]:
        raise sqlite3.DatabaseError("a damaged detail")
    end = 4 + int.from_bytes(body[:4], "little")
    numbers = array("q", body[4:end].tobytes())
    page = msgpack.unpackb(body[end:], use_list=False, strict_map_key=False)
    return Detail(page["e"], numbers.tolist())
