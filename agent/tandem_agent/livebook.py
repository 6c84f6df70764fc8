"""What the local state knows of every live object: one row each, of which there may be millions.

The part of `State` that is about objects, in the same file and transactions. Only `live` reads them all; whoever
asks in the course of an ordinary contact, write or synchronisation uses a method whose cost is that of its answer.
It decides nothing: rules are in ``tandem_protocol``.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from tandem_agent.database import Database
from tandem_protocol.history import Live, LiveObject
from tandem_protocol.names import ObjectType

_AT_ONCE = 500
"""Names in one query."""


class LiveBook:
    """The part of `State` that is about live objects."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._transaction = db.transaction

    def live(self) -> Live:
        """Everything live after the head, by name. Takes seconds and hundreds of MB for a million objects."""
        return self._live("FROM live")

    def live_of(self, kind: ObjectType) -> Live:
        """Everything live of one type; looks at every row."""
        return self._live("FROM live WHERE type = ?", kind.value)

    def live_keys(self) -> Live:
        """The live key slots, by an index of their own: they are asked for at every start."""
        return self._live("FROM live WHERE type = 'key'")

    def live_object(self, name: bytes) -> LiveObject | None:
        return self._live("FROM live WHERE name = ?", name).get(name)

    def live_among(self, names: Iterable[bytes]) -> Live:
        """Those of ``names`` that are live."""
        found: Live = {}
        left = iter(names)
        while some := list(islice(left, _AT_ONCE)):
            found |= self._live(f"FROM live WHERE name IN ({', '.join('?' * len(some))})", *some)
        return found

    def live_named(self, first: int) -> list[LiveObject]:
        """The live objects whose names begin with the byte ``first``, in order of their names: those that share
        folders on a tier, a 256th of all."""
        low, high = bytes([first]), bytes([first + 1]) if first < 255 else b"\xff" * 33
        return list(self._live("FROM live WHERE name >= ? AND name < ? ORDER BY name", low, high).values())

    def live_count(self, most: int) -> int:
        """How many objects are live; counts no further than to ``most``."""
        return int(self._db.value("SELECT count(*) FROM (SELECT 1 FROM live LIMIT ?)", (most,)))

    def lacked(self, tier: bytes) -> Live:
        """All that is live and that ``tier``, unless it waits to be compared, may not have good: what was added by
        revisions that it misses, what it is known to lack, and what is below its floor. Some of it may be dead
        there. Everything else it holds, so for what a tier lacks this is as good as all that is live."""
        return (
            self._live("FROM missing CROSS JOIN live ON live.added = missing.n WHERE tier = ?", tier)
            | self._live("FROM lacking CROSS JOIN live USING (name) WHERE tier = ?", tier)
            | self._live("FROM live WHERE added < (SELECT floor FROM tiers WHERE id = ?)", tier)
        )

    def lacked_total(self, tier: bytes) -> tuple[int, int]:
        """How many objects, and bytes, are live for ``tier`` and not known to be good there."""
        # An id that straddles two others in ``dead`` would be 16 random bytes that happen to be equal.
        if self._db.value("SELECT to_compare FROM tiers WHERE id = ?", (tier,)):
            query = "SELECT count(*), coalesce(sum(size), 0) FROM live WHERE instr(dead, ?1) = 0"
        else:
            query = (
                "SELECT count(*), coalesce(sum(size), 0) FROM ("
                " SELECT size, dead FROM missing CROSS JOIN live ON live.added = missing.n"
                "  WHERE tier = ?1 AND live.added >= (SELECT floor FROM tiers WHERE id = ?1)"
                " UNION ALL SELECT size, dead FROM lacking CROSS JOIN live USING (name) WHERE tier = ?1"
                "  AND live.added >= (SELECT floor FROM tiers WHERE id = ?1)"
                "  AND NOT EXISTS (SELECT 1 FROM missing WHERE tier = ?1 AND n = live.added)"
                " UNION ALL SELECT size, dead FROM live WHERE added < (SELECT floor FROM tiers WHERE id = ?1)"
                ") WHERE instr(dead, ?1) = 0"
            )
        objects, size = self._db.rows(query, (tier,))[0]
        return int(objects), int(size)

    def _live(self, where: str, *values: object) -> Live:
        """The rows of a query (a text of this module), in its order."""
        rows = self._db.rows(f"SELECT name, type, size, added, dead {where}", values)
        return {row[0]: _live_object(*row) for row in rows}

    def _set_live(self, objects: Iterable[LiveObject]) -> None:
        self._db.change_each(
            "INSERT OR REPLACE INTO live VALUES (?, ?, ?, ?, ?)",
            [(o.name, o.type.value, o.size, o.added, b"".join(sorted(o.dead))) for o in objects],
        )


def _live_object(name: bytes, kind: str, size: int, added: int, dead: bytes) -> LiveObject:
    tiers = frozenset(dead[i : i + 16] for i in range(0, len(dead), 16)) if dead else _NOWHERE
    return LiveObject(_TYPES[kind], name, size, added, tiers)


_NOWHERE: frozenset[bytes] = frozenset()
_TYPES = {kind.value: kind for kind in ObjectType}
