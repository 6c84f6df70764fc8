"""What is live after a row of revisions: pure bookkeeping over records, the same for agent and reader."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .lists import ListEntry
from .names import ObjectType
from .revision import Record


@dataclass(frozen=True, slots=True)
class LiveObject:
    """A live object: the last revision that added it, and the ids of the tiers where it is dead."""

    type: ObjectType
    name: bytes
    size: int
    added: int
    dead: frozenset[bytes] = frozenset()

    def live_on(self, tier_id: bytes) -> bool:
        return tier_id not in self.dead


Live = dict[bytes, LiveObject]


def live_from_lists(entries: Iterable[ListEntry], base: int) -> Live:
    """What a base says is live: all of it counts as added by the base itself."""
    return {e.name: LiveObject(e.type, e.name, e.size, base, frozenset(e.dead)) for e in entries}


def apply(live: Live, record: Record) -> None:
    """Carry ``live`` over ``record``. Removals act first: an object both removed and added is added again."""
    for removal in record.removed:
        found = live.get(removal.name)
        if found is None:
            continue
        if removal.tiers is None:
            del live[removal.name]
        else:
            live[removal.name] = replace(found, dead=found.dead | removal.tiers)
    for ref in record.added:
        live[ref.name] = LiveObject(ref.type, ref.name, ref.size, record.number)


def replay(records: Iterable[Record], live: Live | None = None) -> Live:
    """Live after ``records``, which must be in the order of their numbers."""
    result: Live = {} if live is None else dict(live)
    for record in records:
        apply(result, record)
    return result


def newest_base(records: Iterable[Record]) -> Record | None:
    """The base to start from: highest epoch, then highest number. Init is the base with no lists."""
    bases = [record for record in records if record.is_base]
    return max(bases, key=lambda record: (record.certificate.epoch, record.number), default=None)


def list_entries(live: Live, all_tiers: Iterable[bytes]) -> list[ListEntry]:
    """The content of a base's lists: everything live somewhere, but the lists themselves, by name."""
    tiers = frozenset(all_tiers)
    return [
        ListEntry(o.type, o.name, o.size, sorted(o.dead & tiers))
        for _, o in sorted(live.items())
        if o.type is not ObjectType.LIST and not o.dead >= tiers
    ]
