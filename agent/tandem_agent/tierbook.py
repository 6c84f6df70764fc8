"""What the local state knows of each tier: the revisions it holds, what it lacks, where it started.

The tier's side of `State`, in the same file and transactions. It decides nothing: rules are in
``tandem_protocol``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from tandem_agent.database import Database
from tandem_protocol.history import Live
from tandem_protocol.identity import Identity, decode_identity
from tandem_protocol.planning import TierFacts
from tandem_protocol.verdict import State as TierState


@dataclass(frozen=True, slots=True)
class TierRow:
    """What is remembered of a tier. ``start``: the base that it started from, below which nothing is looked at;
    ``floor``: nothing added below it counts as held there, until that base is confirmed; ``imported``: what it
    holds of other installations is in our history. ``since``: UTC, ISO 8601, for people only; so is ``trouble``: what
    blocked it last, kept until it is online again: one that can be reached and lags may still have no room."""

    id: bytes
    name: str
    identity: Identity
    start: int
    last_written: int
    to_compare: bool
    state: str
    reason: str
    since: str
    floor: int
    imported: bool
    trouble: str


@dataclass(frozen=True, slots=True)
class TierStart:
    """How a tier enters a history at a base (takeover, join): its id, name and identity, whether it was read
    into that base, and the names of live objects that its listing did not show."""

    identity: Identity
    name: str
    imported: bool
    lacking: frozenset[bytes] = frozenset()


class TierBook:
    """The part of `State` that is about tiers."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._transaction = db.transaction

    def tiers(self) -> list[TierRow]:
        """All tiers not retired, in configured order."""
        rows = self._db.rows(
            "SELECT id, name, identity, start, last_written, to_compare, state, reason, since, floor, imported, trouble"
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
        after = {str(TierState.BLOCKED): reason, str(TierState.ONLINE): ""}
        trouble = after.get(state, row.trouble)
        with self._transaction():
            self._db.change(
                "UPDATE tiers SET state = ?, reason = ?, since = ?, trouble = ? WHERE id = ?",
                (state, reason, since, trouble, tier),
            )

    def missing(self, tier: bytes, most: int = -1) -> list[int]:
        """Revisions of the journal, from the tier's start on, that it does not hold; ascending, the first ``most``."""
        rows = self._db.rows("SELECT n FROM missing WHERE tier = ? ORDER BY n LIMIT ?", (tier, most))
        return [n for (n,) in rows]

    def add_missing(self, tier: bytes, numbers: Iterable[int]) -> None:
        """The tier was believed to hold these revisions, and does not have them as they should be."""
        with self._transaction():
            self._db.change_each("INSERT OR IGNORE INTO missing VALUES (?, ?)", [(tier, n) for n in numbers])

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
                self._db.change("DELETE FROM written_to WHERE tier = ?", (tier,))

    def remove_lacking(self, tier: bytes, names: Iterable[bytes]) -> None:
        with self._transaction():
            self._db.change_each(
                "DELETE FROM lacking WHERE tier = ? AND name = ?", [(tier, n) for n in names]
            )

    def is_missing(self, tier: bytes, number: int) -> bool:
        """Whether the tier does not hold this revision."""
        return self._db.row("SELECT 1 FROM missing WHERE tier = ? AND n = ?", (tier, number)) is not None

    def is_lacking(self, tier: bytes, name: bytes) -> bool:
        return self._db.row("SELECT 1 FROM lacking WHERE tier = ? AND name = ?", (tier, name)) is not None

    def lacks_something(self, tier: bytes) -> bool:
        """Whether something is known not to be good there, though it holds the revisions that added it."""
        return self._db.row("SELECT 1 FROM lacking WHERE tier = ? LIMIT 1", (tier,)) is not None

    def holds_all(self, tier: bytes) -> bool:
        """Whether the tier holds every revision; objects may be lacking."""
        return self._db.row("SELECT 1 FROM missing WHERE tier = ? LIMIT 1", (tier,)) is None

    def is_complete(self, tier: bytes) -> bool:
        """Whether the tier holds every revision with nothing lacking."""
        return self.holds_all(tier) and not self.lacks_something(tier)

    def facts(self, tier: bytes, state: TierState = TierState.LAGGING) -> TierFacts:
        """What planning needs to know of a tier that is ``state`` now."""
        return self._facts(tier, state, self.missing(tier), self.lacking(tier))

    def facts_about(self, tier: bytes, live: Live, state: TierState) -> TierFacts:
        """The same as far as it concerns ``live``, a few objects: at a cost that does not grow with all that the
        tier misses. Says nothing of what else it lacks."""
        missing = {o.added for o in live.values() if self.is_missing(tier, o.added)}
        return self._facts(tier, state, missing, {name for name in live if self.is_lacking(tier, name)})

    def _facts(
        self, tier: bytes, state: TierState, missing: Iterable[int], lacking: Iterable[bytes]
    ) -> TierFacts:
        row = self.tier(tier)
        return TierFacts(
            tier, state, row.to_compare, frozenset(missing), frozenset(lacking), row.floor, row.imported
        )

    def highest_held(self, tier: bytes) -> int:
        """The highest revision that the tier holds; 0 for none."""
        first, count, head = self._db.rows(
            "SELECT min(n), count(*), (SELECT max(n) FROM journal) FROM missing WHERE tier = ?", (tier,)
        )[0]
        if count and head - first + 1 == count:
            return self.tier_revision(tier)  # it misses every number from there on: no need to look at each
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
                "SELECT coalesce(max(n), 0) FROM journal WHERE n >= (SELECT start FROM tiers WHERE id = ?1)"
                " AND n < (SELECT coalesce(min(n), 9223372036854775807) FROM missing WHERE tier = ?1)",
                (tier,),
            )
        )

    def held_above(self, tier: bytes, number: int) -> list[int]:
        """The revisions of the journal above ``number`` that the tier holds; ascending."""
        rows = self._db.rows(
            "SELECT n FROM journal WHERE n > ?2 AND NOT EXISTS"
            " (SELECT 1 FROM missing WHERE missing.tier = ?1 AND missing.n = journal.n) ORDER BY n",
            (tier, number),
        )
        return [n for (n,) in rows]

    def forget_holds(self, tier: bytes) -> None:
        """The tier was rolled back by its storage: nothing is known of it until it is compared in full. After a
        takeover it has to be imported again: the roll-back may have undone the fence against the old one."""
        with self._transaction():
            self._db.change(
                "INSERT OR IGNORE INTO missing SELECT ?1, n FROM journal"
                " WHERE n >= (SELECT start FROM tiers WHERE id = ?1)",
                (tier,),
            )
            self._db.change("DELETE FROM confirmed WHERE tier = ?", (tier,))
            self._db.change("DELETE FROM written_to WHERE tier = ?", (tier,))
            self._db.change(
                "UPDATE tiers SET last_written = 0, to_compare = 1, imported = NOT EXISTS"
                " (SELECT 1 FROM journal WHERE kind = 'takeover') WHERE id = ?",
                (tier,),
            )

    def set_closed(self, tier: bytes, number: int, record_hash: bytes) -> None:
        """A record of ours is about to end a number there that somebody else has left open, for a join."""
        with self._transaction():
            self._db.change("INSERT OR REPLACE INTO closed VALUES (?, ?, ?)", (tier, number, record_hash))

    def closed(self, tier: bytes) -> dict[int, bytes]:
        """Hashes of the records that ended somebody else's numbers there, by number."""
        return dict(self._db.rows("SELECT n, hash FROM closed WHERE tier = ?", (tier,)))

    def set_late(self, tier: bytes) -> None:
        """Something of an earlier installation is there that is not in our history: it has to be joined first."""
        with self._transaction():
            self._db.change("UPDATE tiers SET imported = 0 WHERE id = ?", (tier,))

    def set_compared(self, tier: bytes) -> None:
        with self._transaction():
            self._db.change("UPDATE tiers SET to_compare = 0 WHERE id = ?", (tier,))

    def confirm(
        self,
        numbers: Iterable[int],
        tiers: Iterable[bytes],
        *,
        as_targets: bool = False,
        last: int | None = None,
    ) -> None:
        """These tiers hold these revisions. ``last``: the one whose record was created there last of all, by default
        the last of ``numbers``; 0 if all stood there before. With ``as_targets`` they were written by the operation
        itself: what it refers to is there too. So it is where they were noted as targets (`note_targets`), and
        nothing was found to be bad there since."""
        numbers = list(numbers)
        if last is None:
            last = numbers[-1] if numbers else 0
        with self._transaction():
            for tier in tiers:
                rows = [(tier, n) for n in numbers]
                self._db.change_each("DELETE FROM missing WHERE tier = ? AND n = ?", rows)
                self._db.change_each(
                    "INSERT OR IGNORE INTO confirmed SELECT n, tier FROM written_to WHERE tier = ? AND n = ?",
                    rows,
                )
                self._db.change_each("DELETE FROM written_to WHERE tier = ? AND n = ?", rows)
                if as_targets:
                    self._db.change_each("INSERT OR IGNORE INTO confirmed VALUES (?2, ?1)", rows)
                if last:
                    self._db.change("UPDATE tiers SET last_written = ? WHERE id = ?", (last, tier))
                self._db.change_each("UPDATE tiers SET floor = 0 WHERE id = ? AND floor = ?", rows)

    def note_targets(self, number: int, tiers: Iterable[bytes]) -> None:
        """Revision ``number`` was written so that, once they hold it, it is on these tiers: what it refers to is
        there. To be remembered until it is confirmed, since the process may end before."""
        with self._transaction():
            self._db.change_each("INSERT INTO written_to VALUES (?, ?)", [(number, tier) for tier in tiers])

    def is_on(self, number: int, tier: bytes) -> bool:
        """Whether backup ``number`` is on ``tier``: confirmed as a target of it, or everything up to it is held
        with nothing lacking. Holding the number alone is not enough: it refers to what came before."""
        row = self._db.row("SELECT 1 FROM confirmed WHERE n = ? AND tier = ?", (number, tier))
        return row is not None or (self.tier_revision(tier) >= number and not self.lacks_something(tier))

    def start_tier(self, start: TierStart, number: int) -> None:
        """A tier enters the history at base ``number``: a new one, or one that starts anew. A new one has to get
        all that is live (`floor`); of one that was listed the lacking set says what it has not."""
        id = start.identity.tier_id
        with self._transaction():
            self._forget(id)
            position = self._db.value("SELECT coalesce(max(position), -1) + 1 FROM tiers")
            reason = "waits for what the other tiers have"
            self._db.change(
                "INSERT INTO tiers VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, 'lagging', ?6, ?7, 0, ?8, '')"
                " ON CONFLICT (id) DO UPDATE SET name = ?2, start = ?5, last_written = 0, to_compare = 0,"
                " floor = 0, imported = ?8",
                (
                    id,
                    start.name,
                    position,
                    start.identity.encode(),
                    number,
                    reason,
                    now_text(),
                    start.imported,
                ),
            )
            self._db.change("INSERT INTO missing SELECT ?, n FROM journal WHERE n >= ?", (id, number))
            self._db.change_each("INSERT INTO lacking VALUES (?, ?)", [(id, n) for n in start.lacking])

    def start_empty(self, start: TierStart, number: int) -> None:
        """A tier that has nothing yet enters at base ``number``."""
        with self._transaction():
            self.start_tier(start, number)
            self._db.change("UPDATE tiers SET floor = start WHERE id = ?", (start.identity.tier_id,))

    def drop_tier(self, tier: bytes) -> None:
        """The tier is retired: nothing is remembered of it."""
        with self._transaction():
            self._forget(tier)
            self._db.change("DELETE FROM tiers WHERE id = ?", (tier,))

    def _forget(self, tier: bytes) -> None:
        for table in ("missing", "lacking", "confirmed", "written_to", "closed"):
            self._db.change(f"DELETE FROM {table} WHERE tier = ?", (tier,))  # noqa: S608 (names from above)


def now_text() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _tier_row(
    id: bytes,
    name: str,
    identity: bytes,
    start: int,
    last: int,
    compare: int,
    state: str,
    reason: str,
    since: str,
    floor: int,
    imported: int,
    trouble: str,
) -> TierRow:
    decoded = decode_identity(identity)
    return TierRow(
        id, name, decoded, start, last, bool(compare), state, reason, since, floor, bool(imported), trouble
    )
