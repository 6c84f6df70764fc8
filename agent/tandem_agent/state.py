"""The local state of an installation: what must never be lost or rolled back. One SQLite file, fsynced.

Holds the installation and its key, the journal with the bytes of every record, the intent, the key slots, and
for each tier what it lacks. Every public method that changes something is one transaction, durable when it
returns (synchronous=FULL). Caches live elsewhere and may be deleted; this file may not. It decides nothing:
rules are in ``tandem_protocol``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tandem_agent.database import Database
from tandem_agent.journalbook import Intent, JournalBook
from tandem_agent.schema import SCHEMA, TABLES, UPGRADES
from tandem_agent.tierbook import TierBook, TierRow, TierStart, now_text
from tandem_protocol.certificates import Certificate, Installation, parse_certificate
from tandem_protocol.errors import Unsupported
from tandem_protocol.history import LiveObject
from tandem_protocol.identity import Identity
from tandem_protocol.revision import Record

FILE = "state.sqlite"

__all__ = ["Intent", "Setup", "State", "Takeover", "TierRow", "TierStart", "now_text"]


@dataclass(frozen=True, slots=True)
class Setup:
    """Who this installation is, in which repository."""

    repository_id: bytes
    root_public: bytes
    installation: Installation
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Takeover:
    """A takeover under way: who we are to be, and the number and nonce of its revision."""

    setup: Setup
    number: int
    nonce: bytes


class State(JournalBook, TierBook):
    """Open with `State.open`; one process at a time (the caller holds the lock file)."""

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
                    "INSERT INTO tiers VALUES (?, ?, ?, ?, 1, 0, 0, 'offline', 'not written yet', ?, 0, 1, '')",
                    (identity.tier_id, name, position, identity.encode(), now_text()),
                )
            self._db.change_each("INSERT INTO keyslots VALUES (?, ?)", slots.items())

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
        hashes of the records that were read for it with all that is below them."""
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
        """Hashes of the records that our history descends from: those that were read with all that is below them."""
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

    # Key slots

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
