"""What is brought level together: the missing revisions and lacking objects of one tier, in batches of bounded size.

Reads local state only; copying, writing and confirming is ``levelling``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tandem_agent.state import State
from tandem_agent.tiers.tier import Tier
from tandem_protocol.history import Live, LiveObject
from tandem_protocol.names import ObjectType
from tandem_protocol.planning import TierFacts
from tandem_protocol.revision import Kind, Record

BATCH_REVISIONS = 1024
"""Revisions that are claimed, copied and confirmed together: a tier never has more claims left open."""

BATCH_BYTES = 1 << 30
"""Bytes to copy after which a batch is closed, so that what was done counts also if the run is stopped."""

BATCH_OBJECTS = 100_000
BATCH_RECORDS = 32 << 20
"""Objects, and bytes of records, that a batch takes in any case: for memory. What is there already (a tier that was
rolled back has nearly all) counts for nothing else, since each batch ends with a look at all that is not confirmed."""

ORDER = [ObjectType.KEY, ObjectType.LIST, ObjectType.PACK, ObjectType.INDEX, ObjectType.SNAPSHOT]
"""Keys first, names of things last: a reader that finds a snapshot finds what it needs."""


@dataclass(slots=True)
class Batch:
    """What is brought level together: ``records`` in ascending order, ``live`` what they added that is live for the
    tier at the head, and of that ``wanted``: what is not known to be good there. Then how many claims are to be
    written, and bytes to be copied, and what the records take."""

    records: list[Record] = field(default_factory=list)
    live: Live = field(default_factory=dict)
    wanted: list[LiveObject] = field(default_factory=list)
    claims: int = 0
    size: int = 0
    weight: int = 0

    def add(self, record: Record, is_claimed: bool) -> None:
        self.records.append(record)
        self.claims += not is_claimed
        self.weight += len(record.data)

    def want(self, found: LiveObject, is_there: bool) -> None:
        self.live[found.name] = found
        self.wanted.append(found)
        self.size += 0 if is_there else found.size

    def sort(self) -> None:
        """Bring what is wanted into the order in which it is copied."""
        self.wanted.sort(key=lambda o: (ORDER.index(o.type), o.added, o.name))

    @property
    def is_full(self) -> bool:
        return (
            self.claims >= BATCH_REVISIONS
            or self.size >= BATCH_BYTES
            or self.weight >= BATCH_RECORDS
            or len(self.wanted) >= BATCH_OBJECTS
        )


class Batches:
    """Those of one synchronisation of one tier, each made when it is asked for: what the one before has brought is not
    in it. ``different``: what a comparison with all that is live found not to be there (None), or of another size;
    None without one."""

    def __init__(self, state: State, tier: Tier, different: dict[bytes, int | None] | None) -> None:
        self._state = state
        self._tier = tier
        self._different = different

    def __iter__(self) -> Iterator[Batch]:
        """The base that the tier starts from with all that it stands for, then what is lacking, then the missing
        revisions; each as of when it is asked for."""
        tier, state = self._tier, self._state
        missing = state.missing(tier.id)
        start = tier.row.start
        if start in missing:
            missing.remove(start)
            yield self._start(start)
        yield from self._lacking(missing)
        batch = Batch()
        facts = tier.facts()
        for number in missing:
            self._add(batch, number, facts)
            if batch.is_full:
                yield batch
                batch, facts = Batch(), tier.facts()
        yield batch

    def _start(self, start: int) -> Batch:
        """A base counts as holding what is below it: it needs all that was added up to it."""
        batch = Batch([self._state.record(start)])
        for found in self._state.live().values():
            if found.added <= start and found.live_on(self._tier.id):
                batch.want(found, self._is_there(found))
        return batch

    def _lacking(self, missing: Sequence[int]) -> Iterator[Batch]:
        """What is known to be bad or gone, though the tier holds the revision that added it; and every live key,
        without which nothing opens, whatever revision added it."""
        tier, state = self._tier, self._state
        facts = tier.facts()
        batch = Batch()
        for found in state.live_keys().values():
            if found.live_on(tier.id) and not facts.holds_last(found):
                batch.want(found, self._is_there(found))
        later = set(missing)
        for name in sorted(facts.lacking - batch.live.keys()):
            found_there = state.live_object(name)
            if found_there is None or not found_there.live_on(tier.id):
                continue
            if found_there.added in later and self._names(found_there.added, name):
                continue
            batch.want(found_there, self._is_there(found_there))
            if batch.is_full:
                yield batch
                batch = Batch()
        yield batch

    def _names(self, number: int, name: bytes) -> bool:
        """Whether the record of ``number`` names what it added: a join does not name what it made live again."""
        record = self._state.record(number)
        return record.kind is not Kind.JOIN or any(ref.name == name for ref in record.added)

    def _add(self, batch: Batch, number: int, facts: TierFacts) -> None:
        record = self._state.record(number)
        seen = self._tier.seen
        batch.add(record, seen is not None and number in seen.claimed)
        for ref in record.added:
            found = self._state.live_object(ref.name)
            if found is None or not found.live_on(self._tier.id) or found.name in batch.live:
                continue
            if facts.holds_last(found):
                batch.live[found.name] = found
            else:
                batch.want(found, self._is_there(found))

    def _is_there(self, found: LiveObject) -> bool:
        return self._different is not None and found.name not in self._different
