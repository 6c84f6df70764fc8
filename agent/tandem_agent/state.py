"""The local state of an installation: what must never be lost or rolled back. One SQLite file, fsynced.

Holds the installation and its key, the journal with the bytes of every record, the intent, the key slots, and
for each tier what it lacks. Every public method that changes something is one transaction, durable when it
returns (synchronous=FULL). Caches live elsewhere and may be deleted; this file may not. It decides nothing:
rules are in ``tandem_protocol``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tandem_agent.database import DAMAGED, Database
from tandem_protocol.errors import Corrupt, Unsupported
from tandem_protocol.history import Live, LiveObject, apply
from tandem_protocol.identity import Identity, decode_identity
from tandem_protocol.names import ObjectType
from tandem_protocol.revision import Certificate, Installation, Kind, Record, parse_certificate, parse_record
from tandem_protocol.verdict import Known

SCHEMA = 1
FILE = "state.sqlite"

_TABLES = """
CREATE TABLE setup (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE journal (n INTEGER PRIMARY KEY, kind TEXT NOT NULL, nonce BLOB NOT NULL, hash BLOB NOT NULL,
                      record BLOB NOT NULL);
CREATE TABLE intent (one INTEGER PRIMARY KEY CHECK (one = 1), n INTEGER NOT NULL, nonce BLOB NOT NULL,
                     parents BLOB NOT NULL, decided INTEGER NOT NULL, backup TEXT NOT NULL);
CREATE TABLE answered (tier BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE live (name BLOB PRIMARY KEY, type TEXT NOT NULL, size INTEGER NOT NULL, added INTEGER NOT NULL,
                   dead BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE keyslots (name BLOB PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE tiers (id BLOB PRIMARY KEY, name TEXT NOT NULL UNIQUE, position INTEGER NOT NULL,
                    identity BLOB NOT NULL, start INTEGER NOT NULL, last_written INTEGER NOT NULL,
                    to_compare INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, since TEXT NOT NULL)
                    WITHOUT ROWID;
CREATE TABLE missing (tier BLOB NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (tier, n)) WITHOUT ROWID;
CREATE TABLE lacking (tier BLOB NOT NULL, name BLOB NOT NULL, PRIMARY KEY (tier, name)) WITHOUT ROWID;
CREATE TABLE confirmed (n INTEGER NOT NULL, tier BLOB NOT NULL, PRIMARY KEY (n, tier)) WITHOUT ROWID;
CREATE TABLE backups (n INTEGER PRIMARY KEY, id BLOB NOT NULL, name TEXT NOT NULL, info TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Intent:
    """The write under way: its number is used up, whatever becomes of it. ``backup`` is what an aborted
    record has to tell of it (id and name of the backup, or empty)."""

    number: int
    nonce: bytes
    parents: tuple[bytes, ...]
    decided: bool = False
    backup: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TierRow:
    """What is remembered of a tier. ``since``: UTC, ISO 8601, for people only."""

    id: bytes
    name: str
    identity: Identity
    start: int
    last_written: int
    to_compare: bool
    state: str
    reason: str
    since: str


@dataclass(frozen=True, slots=True)
class Setup:
    """Who this installation is, in which repository."""

    repository_id: bytes
    root_public: bytes
    installation: Installation
    certificate: Certificate


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


class State:
    """Open with `State.open`; one process at a time (the caller holds the lock file)."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._transaction = db.transaction
        self.journal = JournalView(db)

    @classmethod
    def open(cls, folder: str) -> State:
        """Open or make the file in ``folder`` (made 0700 if missing)."""
        db = Database.open(folder, FILE)
        try:
            state = cls(db)
            state._prepare()
        except BaseException:
            db.close()
            raise
        return state

    def close(self) -> None:
        self._db.close()

    def _prepare(self) -> None:
        version = self._db.value("PRAGMA user_version")
        if version > SCHEMA:
            raise Unsupported(
                f"the local state {self._db.path} was written by a newer program", "upgrade tandem"
            )
        if version == 0:
            with self._transaction():
                for statement in _TABLES.split(";"):
                    self._db.change(statement)
                self._db.change(f"PRAGMA user_version = {SCHEMA}")

    # Who we are

    def setup(self) -> Setup | None:
        """This installation, or None before init."""
        rows: dict[str, bytes] = dict(self._db.rows("SELECT key, value FROM setup"))
        if "certificate" not in rows:
            return None
        certificate = parse_certificate(rows["certificate"], rows["repository"], rows["root"])
        installation = Installation(rows["installation"], rows["seed"])
        return Setup(rows["repository"], rows["root"], installation, certificate)

    def found(
        self, setup: Setup, tiers: Iterable[tuple[str, Identity]], slots: Mapping[bytes, bytes]
    ) -> None:
        """Fix all ids and keys of a new repository, before anything is written on any tier."""
        values = {
            "repository": setup.repository_id,
            "root": setup.root_public,
            "installation": setup.installation.id,
            "seed": setup.installation.seed,
            "certificate": setup.certificate.data,
        }
        with self._transaction():
            self._db.change_each("INSERT INTO setup VALUES (?, ?)", values.items())
            for position, (name, identity) in enumerate(tiers):
                self._db.change(
                    "INSERT INTO tiers VALUES (?, ?, ?, ?, 1, 0, 0, 'offline', 'not written yet', ?)",
                    (identity.tier_id, name, position, identity.encode(), now_text()),
                )
            self._db.change_each("INSERT INTO keyslots VALUES (?, ?)", slots.items())

    # The journal and the intent

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

    def bases(self) -> list[Record]:
        """The bases in the journal, oldest first."""
        marked = self._db.row("SELECT value FROM setup WHERE key = 'bases'")
        return [self.record(n) for n in json.loads(marked[0])] if marked else []

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

    def decide(self, record: Record, backup: Mapping[str, Any] | None = None) -> None:
        """``record`` is revision n for ever: into the journal, live, and missing on every tier until confirmed.
        ``backup`` (id hex, name, …) is what `backups` lists of it."""
        with self._transaction():
            self._db.change(
                "INSERT INTO journal VALUES (?, ?, ?, ?, ?)",
                (record.number, record.kind.value, record.nonce, record.hash, record.data),
            )
            self._db.change("UPDATE intent SET decided = 1")
            self._db.change("INSERT INTO missing SELECT id, ? FROM tiers", (record.number,))
            self._apply(record)
            if record.is_base:
                numbers = [base.number for base in self.bases()] + [record.number]
                value = json.dumps(numbers[-8:]).encode()
                self._db.change("INSERT OR REPLACE INTO setup VALUES ('bases', ?)", (value,))
            if backup is not None:
                self._db.change(
                    "INSERT INTO backups VALUES (?, ?, ?, ?)",
                    (record.number, bytes.fromhex(backup["id"]), backup["name"], json.dumps(dict(backup))),
                )

    def _apply(self, record: Record) -> None:
        touched = [r.name for r in record.removed] + [ref.name for ref in record.added]
        before = {name: found for name in touched if (found := self.live_object(name)) is not None}
        after: Live = dict(before)
        apply(after, record)
        for name in before.keys() - after.keys():
            self._db.change("DELETE FROM live WHERE name = ?", (name,))
            self._db.change("DELETE FROM lacking WHERE name = ?", (name,))
        self._db.change_each(
            "INSERT OR REPLACE INTO live VALUES (?, ?, ?, ?, ?)",
            [(o.name, o.type.value, o.size, o.added, b"".join(sorted(o.dead))) for o in after.values()],
        )

    def end_intent(self) -> None:
        """Forget the intent: it is decided (or was closed by an aborted record) and dealt with."""
        with self._transaction():
            self._db.change("DELETE FROM intent WHERE decided = 1")
            self._db.change("DELETE FROM answered")

    def confirm(self, numbers: Iterable[int], tiers: Iterable[bytes], *, as_targets: bool = False) -> None:
        """These tiers hold these revisions, in the order in which the records were created there. With
        ``as_targets`` they were written by the operation itself: what it refers to is there too."""
        numbers = list(numbers)
        with self._transaction():
            for tier in tiers:
                rows = [(tier, n) for n in numbers]
                self._db.change_each("DELETE FROM missing WHERE tier = ? AND n = ?", rows)
                if as_targets:
                    self._db.change_each("INSERT OR IGNORE INTO confirmed VALUES (?2, ?1)", rows)
                if numbers:
                    self._db.change("UPDATE tiers SET last_written = ? WHERE id = ?", (numbers[-1], tier))

    # What is live

    def live(self) -> Live:
        """Everything live after the head, by name."""
        rows = self._db.rows("SELECT name, type, size, added, dead FROM live")
        return {row[0]: _live_object(*row) for row in rows}

    def live_of(self, kind: ObjectType) -> Live:
        rows = self._db.rows("SELECT name, type, size, added, dead FROM live WHERE type = ?", (kind.value,))
        return {row[0]: _live_object(*row) for row in rows}

    def live_object(self, name: bytes) -> LiveObject | None:
        row = self._db.row("SELECT name, type, size, added, dead FROM live WHERE name = ?", (name,))
        return None if row is None else _live_object(*row)

    # Tiers

    def tiers(self) -> list[TierRow]:
        """All tiers not retired, in configured order."""
        rows = self._db.rows(
            "SELECT id, name, identity, start, last_written, to_compare, state, reason, since"
            " FROM tiers ORDER BY position"
        )
        return [_tier_row(*row) for row in rows]

    def tier(self, tier: bytes) -> TierRow:
        return next(row for row in self.tiers() if row.id == tier)

    def set_tier_state(self, tier: bytes, state: str, reason: str) -> None:
        """Remember what a tier is; ``since`` moves only when the state changes."""
        row = self.tier(tier)
        if (row.state, row.reason) == (state, reason):
            return
        since = row.since if row.state == state else now_text()
        with self._transaction():
            self._db.change(
                "UPDATE tiers SET state = ?, reason = ?, since = ? WHERE id = ?", (state, reason, since, tier)
            )

    def missing(self, tier: bytes) -> list[int]:
        """Revisions of the journal, from the tier's start on, that it does not hold; ascending."""
        rows = self._db.rows("SELECT n FROM missing WHERE tier = ? ORDER BY n", (tier,))
        return [n for (n,) in rows]

    def lacking(self, tier: bytes) -> set[bytes]:
        """Names of live objects known not to be good there, though it holds the revisions that added them."""
        return {name for (name,) in self._db.rows("SELECT name FROM lacking WHERE tier = ?", (tier,))}

    def add_lacking(self, tier: bytes, names: Iterable[bytes]) -> None:
        """These are not good there. What was confirmed before may need them, so it counts no more as such."""
        with self._transaction():
            added = self._db.change_each(
                "INSERT OR IGNORE INTO lacking VALUES (?, ?)", [(tier, n) for n in names]
            )
            if added > 0:
                self._db.change("DELETE FROM confirmed WHERE tier = ?", (tier,))

    def remove_lacking(self, tier: bytes, names: Iterable[bytes]) -> None:
        with self._transaction():
            self._db.change_each(
                "DELETE FROM lacking WHERE tier = ? AND name = ?", [(tier, n) for n in names]
            )

    def highest_held(self, tier: bytes) -> int:
        """The highest revision that the tier holds; 0 for none."""
        row = self._db.row(
            "SELECT n FROM journal WHERE n >= (SELECT start FROM tiers WHERE id = ?1) AND NOT EXISTS"
            " (SELECT 1 FROM missing WHERE missing.tier = ?1 AND missing.n = journal.n) ORDER BY n DESC LIMIT 1",
            (tier,),
        )
        return int(row[0]) if row else 0

    def tier_revision(self, tier: bytes) -> int:
        """The highest number up to which the tier holds every revision from its start on."""
        return int(
            self._db.value(
                "SELECT coalesce(max(n), 0) FROM journal WHERE n <"
                " (SELECT coalesce(min(n), 9223372036854775807) FROM missing WHERE tier = ?)",
                (tier,),
            )
        )

    def forget_holds(self, tier: bytes) -> None:
        """The tier was rolled back by its storage: nothing is known of it until it is compared in full."""
        with self._transaction():
            self._db.change(
                "INSERT OR IGNORE INTO missing SELECT ?1, n FROM journal"
                " WHERE n >= (SELECT start FROM tiers WHERE id = ?1)",
                (tier,),
            )
            self._db.change("DELETE FROM confirmed WHERE tier = ?", (tier,))
            self._db.change("UPDATE tiers SET last_written = 0, to_compare = 1 WHERE id = ?", (tier,))

    def set_compared(self, tier: bytes) -> None:
        with self._transaction():
            self._db.change("UPDATE tiers SET to_compare = 0 WHERE id = ?", (tier,))

    # Backups and key slots

    def backups(self) -> list[tuple[int, dict[str, Any]]]:
        """All backups, also failed ones: revision and what `decide` was told, oldest first."""
        rows = self._db.rows("SELECT n, info FROM backups ORDER BY n")
        return [(n, json.loads(info)) for n, info in rows]

    def is_on(self, number: int, tier: bytes) -> bool:
        """Whether backup ``number`` is on ``tier``: confirmed as a target of it, or everything up to it is held
        with nothing lacking. Holding the number alone is not enough: it refers to what came before."""
        row = self._db.row("SELECT 1 FROM confirmed WHERE n = ? AND tier = ?", (number, tier))
        return row is not None or (self.tier_revision(tier) >= number and not self.lacking(tier))

    def key_slots(self) -> dict[bytes, bytes]:
        """This installation's copy of every live key slot, by object name; before init, of those to come."""
        slots: dict[bytes, bytes] = dict(self._db.rows("SELECT name, data FROM keyslots"))
        live = self.live_of(ObjectType.KEY)
        return {name: data for name, data in slots.items() if name in live or not live}

    def put_key_slot(self, name: bytes, data: bytes) -> None:
        with self._transaction():
            self._db.change("INSERT OR REPLACE INTO keyslots VALUES (?, ?)", (name, data))

    def drop_key_slot(self, name: bytes) -> None:
        with self._transaction():
            self._db.change("DELETE FROM keyslots WHERE name = ?", (name,))

    def _repository_id(self) -> bytes:
        return bytes(self._db.value("SELECT value FROM setup WHERE key = 'repository'"))


def now_text() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _live_object(name: bytes, kind: str, size: int, added: int, dead: bytes) -> LiveObject:
    tiers = frozenset(dead[i : i + 16] for i in range(0, len(dead), 16))
    return LiveObject(ObjectType(kind), name, size, added, tiers)


def _tier_row(
    id: bytes, name: str, identity: bytes, start: int, last: int, compare: int, *rest: str
) -> TierRow:
    return TierRow(id, name, decode_identity(identity), start, last, bool(compare), *rest)
