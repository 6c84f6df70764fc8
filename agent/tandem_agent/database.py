"""A SQLite file whose faults are Tandem's own: opening, reading, transactions. What is in it is the caller's.

Rows are read at once, so that damage and a full disk show themselves here and not in the middle of a loop
somewhere else. Every transaction is durable when it ends (WAL, synchronous=FULL).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tandem_protocol.errors import Corrupt, Full, Refused, TandemError

Row = tuple[Any, ...]

DAMAGED = "restoring still works with --from URL; see 'second installation' in the README for writing again"
"""What to do about a damaged file."""

NO_ROOM = "make room there and run it again; nothing that was acknowledged is lost"
"""What to do where the local state does not fit: at any time, also in the middle of a write to the tiers."""


class Database:
    """Open with `Database.open`. For one thread."""

    def __init__(self, db: sqlite3.Connection, path: str) -> None:
        self._db = db
        self.path = path

    @classmethod
    def open(cls, folder: str, file: str) -> Database:
        """Open or make ``file`` (0600) in ``folder`` (made 0700 if missing), so that its name is durable too."""
        path = os.path.join(folder, file)
        db: sqlite3.Connection | None = None
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            db = sqlite3.connect(path, isolation_level=None)
            os.chmod(path, 0o600)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            _sync_folder(folder)
        except (sqlite3.Error, OSError) as fault:
            if db is not None:
                db.close()
            raise _translated(fault, path) from fault
        return cls(db, path)

    def close(self) -> None:
        self._db.close()

    def rows(self, query: str, values: Sequence[object] = ()) -> list[Row]:
        """All rows of a query."""
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as fault:
            raise _translated(fault, self.path) from fault

    def row(self, query: str, values: Sequence[object] = ()) -> Row | None:
        """The first row, or None."""
        found = self.rows(query, values)
        return found[0] if found else None

    def value(self, query: str, values: Sequence[object] = ()) -> Any:
        """The first field of the only row."""
        return self.rows(query, values)[0][0]

    def change(self, query: str, values: Sequence[object] = ()) -> None:
        """One change, within `transaction`."""
        self._db.execute(query, values)

    def change_each(self, query: str, rows: Iterable[Sequence[object]]) -> int:
        """The same change with each of ``rows``; how many rows of the table it touched."""
        return self._db.executemany(query, rows).rowcount

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing, durable at its end. Within another one it is part of that."""
        if self._db.in_transaction:
            yield
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as fault:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(fault, sqlite3.Error):
                raise _translated(fault, self.path) from fault
            raise


def _sync_folder(folder: str) -> None:
    """The database's name must survive a power cut, and so must the folder's own in its parent."""
    for path in (folder, os.path.dirname(os.path.abspath(folder))):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _translated(fault: Exception, path: str) -> TandemError:
    text = str(fault)
    if "full" in text or getattr(fault, "errno", None) == 28 or ("I/O" in text and _no_room(path)):
        return Full(f"no space for the local state ({path})", NO_ROOM)
    if isinstance(fault, sqlite3.DatabaseError) and not isinstance(fault, sqlite3.OperationalError):
        return Corrupt(
            f"the local state {path} is damaged ({text})",
            DAMAGED,
        )
    return Refused(
        f"the local state {path} cannot be used ({text})", "check the folder's permissions and file system"
    )


def _no_room(path: str) -> bool:
    """SQLite calls a full disk an I/O error where its shared memory file cannot grow."""
    try:
        about = os.statvfs(os.path.dirname(path))
    except OSError:
        return False
    return about.f_bavail * about.f_frsize < 1 << 16
