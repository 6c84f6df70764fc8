"""The local state of an installation: what must never be lost or rolled back. One SQLite file, fsynced.

Holds the installation and its key, the journal with the bytes of every record, the intent, the key slots, and
for each tier what it lacks. Every public method that changes something is one transaction, durable when it
returns (synchronous=FULL). Caches live elsewhere and may be deleted; this file may not. It decides nothing:
rules are in ``tandem_protocol``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tandem_agent.database import DAMAGED, Database
from tandem_agent.livebook import LiveBook
from tandem_agent.schema import SCHEMA, TABLES, UPGRADES
from tandem_agent.tierbook import TierBook, TierRow, TierStart, now_text
from tandem_protocol.errors import Corrupt, Unsupported
from tandem_protocol.history import Live, LiveObject, apply
from tandem_protocol.identity import Identity
from tandem_protocol.revision import Certificate, Installation, Kind, Record, parse_certificate, parse_record
from tandem_protocol.verdict import Known

FILE = "state.sqlite"

__all__ = ["Intent", "Setup", "State", "Takeover", "TierRow", "TierStart", "now_text"]


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


@dataclass(frozen=True, slots=True)
class Takeover:
    """A takeover under way: who we are to be, and the number and nonce of its revision."""

    setup: Setup
    number: int
    nonce: bytes


class State(TierBook, LiveBook):
    """Open with `State.open`; one process at a time (the caller holds the lock file)."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        self.journal = JournalView(db)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make what is changed within one transaction: all of it durable at the end, or nothing."""
        with self._transaction():
            yield

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
        while version < SCHEMA:
            statements, version = (TABLES, SCHEMA) if version == 0 else (UPGRADES[version], version + 1)
            with self._transaction():
                for statement in statements.split(";"):
                    self._db.change(statement)
                self._db.change(f"PRAGMA user_version = {version}")

    # Who we are

    def setup(self) -> Setup | None:
        """This installation, or None before init."""
        rows: dict[str, bytes] = dict(self._db.rows("SELECT key, value FROM setup"))
        if "certificate" not in rows:
            return None
        certificate = parse_certificate(rows["certificate"], rows["repository"], rows["root"])
        installation = Installation(rows["installation"], rows["seed"])
        return Setup(rows["repository"], rows["root"], installation, certificate)

    def _set_setup(self, setup: Setup) -> None:
        values = {
            "repository": setup.repository_id,
            "root": setup.root_public,
            "installation": setup.installation.id,
            "seed": setup.installation.seed,
            "certificate": setup.certificate.data,
        }
        self._db.change_each("INSERT INTO setup VALUES (?, ?)", values.items())

    def found(
        self, setup: Setup, tiers: Iterable[tuple[str, Identity]], slots: Mapping[bytes, bytes]
    ) -> None:
        """Fix all ids and keys of a new repository, before anything is written on any tier."""
        with self._transaction():
            self._set_setup(setup)
            for position, (name, identity) in enumerate(tiers):
                self._db.change(
                    "INSERT INTO tiers VALUES (?, ?, ?, ?, 1, 0, 0, 'offline', 'not written yet', ?, 0, 1)",
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

    # Takeover

    def takeover(self) -> Takeover | None:
        """The takeover that was begun here and not decided, or None."""
        row = self._db.row("SELECT * FROM takeover")
        if row is None:
            return None
        _, repository, root, installation, seed, certificate, number, nonce = row
        known = parse_certificate(certificate, repository, root)
        return Takeover(Setup(repository, root, Installation(installation, seed), known), number, nonce)

    def set_takeover(self, takeover: Takeover) -> None:
        """Use up the epoch and the number of a takeover; in place of an earlier one that lost to somebody."""
        setup = takeover.setup
        with self._transaction():
            self._db.change("DELETE FROM takeover")
            self._db.change(
                "INSERT INTO takeover VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
                (
                    setup.repository_id,
                    setup.root_public,
                    setup.installation.id,
                    setup.installation.seed,
                    setup.certificate.data,
                    takeover.number,
                    takeover.nonce,
                ),
            )

    def take_over(
        self,
        record: Record,
        live: Iterable[LiveObject],
        tiers: Iterable[TierStart],
        slots: Mapping[bytes, bytes],
        backups: Iterable[tuple[int, Mapping[str, Any]]],
        ancestors: Iterable[bytes],
    ) -> None:
        """Decide the takeover under way: all that was known here gives way to what ``record`` says. ``ancestors``:
        hashes of all records that were read for it."""
        takeover = self.takeover()
        assert takeover is not None
        with self._transaction():
            for table in _HISTORY:
                self._db.change(f"DELETE FROM {table}")  # noqa: S608 (the names are below)
            self._set_setup(takeover.setup)
            self._db.change_each("INSERT INTO keyslots VALUES (?, ?)", slots.items())
            self.decide(record, revived=live)
            for start in tiers:
                self.start_tier(start, record.number)
            self._list_united(record, backups)
            self._add_ancestors(ancestors)

    def join(
        self,
        record: Record,
        revived: Sequence[LiveObject],
        starts: Iterable[TierStart],
        backups: Iterable[tuple[int, Mapping[str, Any]]],
        ancestors: Iterable[bytes],
        slots: Mapping[bytes, bytes],
    ) -> None:
        """Decide a join: the late sides in ``starts`` start anew at ``record``, what they had beside our history is
        live again (``revived``; ``slots``: the key slots in it), and no other tier is known to have it."""
        with self._transaction():
            self.decide(record, revived=revived)
            late = {start.identity.tier_id for start in starts}
            for row in self.tiers():
                if row.id not in late:
                    self._db.change_each(
                        "INSERT OR IGNORE INTO lacking VALUES (?, ?)",
                        [(row.id, found.name) for found in revived],
                    )
            for start in starts:
                self.start_tier(start, record.number)
            self._list_united(record, backups)
            self._db.change_each("INSERT OR REPLACE INTO keyslots VALUES (?, ?)", slots.items())
            self._add_ancestors(ancestors)
            self.end_intent()

    def _list_united(self, base: Record, backups: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Their numbers are those of another history, and may be ours of something else: what says where they are
        is ``base``, which brought them in."""
        for number, about in backups:
            self.list_backup(number, {**about, "united": base.number})

    def ancestors(self) -> set[bytes]:
        """Hashes of all records that our history descends from, as far as they were ever read."""
        rows = self._db.rows("SELECT hash FROM journal UNION SELECT hash FROM ancestors")
        return {found for (found,) in rows}

    def _add_ancestors(self, hashes: Iterable[bytes]) -> None:
        self._db.change_each("INSERT OR IGNORE INTO ancestors VALUES (?)", [(found,) for found in hashes])

    def names_told(self) -> set[bytes]:
        """Every object that a record of the journal has ever named, and what is live."""
        names = set(self.live())
        for number in self.journal:
            record = self.record(number)
            names |= {ref.name for ref in record.added} | {removal.name for removal in record.removed}
        return names

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

    def key_slots(self) -> dict[bytes, bytes]:
        """This installation's copy of every live key slot, by object name; before init, of those to come."""
        slots: dict[bytes, bytes] = dict(self._db.rows("SELECT name, data FROM keyslots"))
        live = self.live_keys()
        return {name: data for name, data in slots.items() if name in live or not live}

    def put_key_slot(self, name: bytes, data: bytes) -> None:
        with self._transaction():
            self._db.change("INSERT OR REPLACE INTO keyslots VALUES (?, ?)", (name, data))

    def drop_key_slot(self, name: bytes) -> None:
        with self._transaction():
            self._db.change("DELETE FROM keyslots WHERE name = ?", (name,))

    def _repository_id(self) -> bytes:
        return bytes(self._db.value("SELECT value FROM setup WHERE key = 'repository'"))


_HISTORY = (
    "setup",
    "journal",
    "intent",
    "answered",
    "live",
    "keyslots",
    "tiers",
    "missing",
    "lacking",
    "confirmed",
    "written_to",
    "backups",
    "closed",
    "ancestors",
    "takeover",
)
"""The tables that a takeover begins anew."""
