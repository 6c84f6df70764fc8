"""What the local state knows of the history: the journal with the bytes of every record, the intent, the backups.

The part of `State` that is about revisions, in the same file and transactions. It decides nothing: rules are in
``tandem_protocol``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tandem_agent.database import DAMAGED, Database
from tandem_agent.livebook import LiveBook
from tandem_protocol.errors import Corrupt
from tandem_protocol.history import Live, LiveObject, apply
from tandem_protocol.revision import NEWEST, Kind, Record, Requires, parse_record
from tandem_protocol.verdict import Known


@dataclass(frozen=True, slots=True)
class Intent:
    """The write under way: its number is used up, whatever becomes of it. ``backup`` is what an aborted
    record has to tell of it (id and name of the backup, or empty)."""

    number: int
    nonce: bytes
    parents: tuple[bytes, ...]
    decided: bool = False
    backup: Mapping[str, Any] = field(default_factory=dict)


class JournalView(Mapping[int, Known]):
    """The journal by number, read as asked for: a look must not cost in proportion to the history."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def __getitem__(self, number: int) -> Known:
        if number > 2**63 - 1:
            raise KeyError(number)
        row = self._db.row("SELECT nonce, hash FROM journal WHERE n = ?", (number,))
        if row is None:
            raise KeyError(number)
        return Known(*row)

    def __iter__(self) -> Iterator[int]:
        return (n for (n,) in self._db.rows("SELECT n FROM journal ORDER BY n"))

    def __len__(self) -> int:
        return int(self._db.value("SELECT count(*) FROM journal"))


class JournalBook(LiveBook):
    """The part of `State` that is about revisions. What one adds and removes is live, or not, with it."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.journal = JournalView(db)

    @property
    def head(self) -> int:
        """The highest number in the journal; 0 before the first."""
        return int(self._db.value("SELECT coalesce(max(n), 0) FROM journal"))

    def record(self, number: int) -> Record:
        """The record of ``number``, from the journal's own bytes."""
        row = self._db.row("SELECT record FROM journal WHERE n = ?", (number,))
        if row is None:
            raise KeyError(number)
        try:
            return parse_record(row[0], self._repository_id(), None, number)
        except Corrupt as fault:
            raise Corrupt(
                f"the local state {self._db.path} is damaged (revision {number}: {fault.what})",
                DAMAGED,
            ) from fault

    def requires(self) -> Requires:
        """What the head requires of programs, and so has every revision after it; of a repository that is made just
        now, what is written today."""
        head = self.head
        return self.record(head).requires if head else Requires(NEWEST, NEWEST)

    def kind_of(self, number: int) -> Kind | None:
        """What revision ``number`` did; None if the journal does not have it."""
        row = self._db.row("SELECT kind FROM journal WHERE n = ?", (number,))
        return None if row is None else Kind(row[0])

    def has_kind(self, kind: Kind) -> bool:
        """Whether the journal has a revision of this kind."""
        found = self._db.row("SELECT 1 FROM journal WHERE kind = ? LIMIT 1", (kind.value,))
        return found is not None

    def last_of_kinds(self, kinds: Iterable[Kind]) -> int:
        """The highest revision of one of these kinds; 0 if there is none."""
        wanted = [kind.value for kind in kinds]
        marks = ", ".join("?" * len(wanted))
        query = f"SELECT coalesce(max(n), 0) FROM journal WHERE kind IN ({marks})"  # noqa: S608 (question marks only)
        return int(self._db.value(query, wanted))

    def first_of_kind(self, kind: Kind) -> int:
        """The lowest revision of that kind in the journal; 0 if there is none."""
        return int(self._db.value("SELECT coalesce(min(n), 0) FROM journal WHERE kind = ?", (kind.value,)))

    def bases(self) -> list[Record]:
        """The bases in the journal, oldest first."""
        marked = self._db.row("SELECT value FROM setup WHERE key = 'bases'")
        return [self.record(n) for n in json.loads(marked[0])] if marked else []

    def check_due(self) -> int:
        """The revision after which the index is to be checked and was not yet; 0 if there is none."""
        row = self._db.row("SELECT value FROM setup WHERE key = 'check'")
        return int(row[0]) if row else 0

    def set_check_due(self, number: int) -> None:
        """The index is to be checked after revision ``number``; 0: it has been."""
        with self._transaction():
            self._db.change("DELETE FROM setup WHERE key = 'check'")
            if number:
                self._db.change("INSERT INTO setup VALUES ('check', ?)", (number,))

    def count_since(self, number: int) -> int:
        """How many revisions the journal has above ``number``."""
        return int(self._db.value("SELECT count(*) FROM journal WHERE n > ?", (number,)))

    def intent(self) -> Intent | None:
        row = self._db.row("SELECT n, nonce, parents, decided, backup FROM intent")
        if row is None:
            return None
        parents = tuple(row[2][i : i + 32] for i in range(0, len(row[2]), 32))
        return Intent(row[0], row[1], parents, bool(row[3]), json.loads(row[4]))

    def set_intent(self, intent: Intent) -> None:
        """Use up the number. Refuses while another intent is open: that one has to be ended first."""
        with self._transaction():
            self._db.change("DELETE FROM answered")
            self._db.change(
                "INSERT INTO intent VALUES (1, ?, ?, ?, 0, ?)",
                (intent.number, intent.nonce, b"".join(intent.parents), json.dumps(dict(intent.backup))),
            )

    def set_answered(self, tier: bytes) -> None:
        """``tier`` confirmed our claim of the intent: from now on its absence there means a rollback."""
        with self._transaction():
            self._db.change("INSERT OR IGNORE INTO answered VALUES (?)", (tier,))

    def answered(self, tier: bytes) -> bool:
        return self._db.row("SELECT 1 FROM answered WHERE tier = ?", (tier,)) is not None

    def decide(
        self, record: Record, backup: Mapping[str, Any] | None = None, revived: Iterable[LiveObject] = ()
    ) -> None:
        """``record`` is revision n for ever: into the journal, live, and missing on every tier until confirmed.
        ``backup`` (id hex, name, …) is what `backups` lists of it; ``revived`` is what a base makes live that
        was not, beside what its record adds."""
        with self._transaction():
            self._db.change(
                "INSERT INTO journal VALUES (?, ?, ?, ?, ?)",
                (record.number, record.kind.value, record.nonce, record.hash, record.data),
            )
            self._db.change("UPDATE intent SET decided = 1")
            self._db.change("INSERT INTO missing SELECT id, ? FROM tiers", (record.number,))
            self._set_live(revived)
            self._apply(record)
            if record.is_base:
                numbers = [base.number for base in self.bases()] + [record.number]
                value = json.dumps(numbers[-8:]).encode()
                self._db.change("INSERT OR REPLACE INTO setup VALUES ('bases', ?)", (value,))
            if backup is not None:
                self.list_backup(record.number, backup)

    def list_backup(self, number: int, backup: Mapping[str, Any]) -> None:
        """Have `backups` list ``backup`` (id hex, name, …) as written by revision ``number``."""
        with self._transaction():
            self._db.change(
                "INSERT OR REPLACE INTO backups VALUES (?, ?, ?, ?)",
                (bytes.fromhex(backup["id"]), number, backup["name"], json.dumps(dict(backup))),
            )

    def _apply(self, record: Record) -> None:
        touched = [r.name for r in record.removed] + [ref.name for ref in record.added]
        before = {name: found for name in touched if (found := self.live_object(name)) is not None}
        after: Live = dict(before)
        apply(after, record)
        for name in before.keys() - after.keys():
            self._db.change("DELETE FROM live WHERE name = ?", (name,))
            self._db.change("DELETE FROM lacking WHERE name = ?", (name,))
        self._set_live(after.values())

    def end_intent(self) -> None:
        """Forget the intent: it is decided (or was closed by an aborted record) and dealt with."""
        with self._transaction():
            self._db.change("DELETE FROM intent WHERE decided = 1")
            self._db.change("DELETE FROM answered")

    # Backups

    # Backups and key slots

    def backups(self) -> list[tuple[int, dict[str, Any]]]:
        """All backups, also failed ones: revision and what `decide` was told, oldest first."""
        rows = self._db.rows("SELECT n, info FROM backups ORDER BY n, name, id")
        return [(n, json.loads(info)) for n, info in rows]

    def is_listed(self, backup: str) -> bool:
        """Whether a backup of this id (hex) is listed, also as failed."""
        return self._db.row("SELECT 1 FROM backups WHERE id = ?", (bytes.fromhex(backup),)) is not None

    def backup_names(self, start: str) -> list[str]:
        """The names of all backups that begin with ``start``."""
        rows = self._db.rows("SELECT name FROM backups WHERE substr(name, 1, ?) = ?", (len(start), start))
        return [name for (name,) in rows]

    def _repository_id(self) -> bytes:
        return bytes(self._db.value("SELECT value FROM setup WHERE key = 'repository'"))
