"""Decisions of a write and of a synchronisation, as pure functions of what is known. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from .history import Live, LiveObject
from .names import ObjectType
from .revision import Record
from .verdict import State

BASE_EVERY = 1024
BASE_OFTEN = 256
SMALL_LIST = 1024 * 1024
LIST_ENTRY_SIZE = 64
"""Bytes that one live object takes in a list, about."""


@dataclass(frozen=True, slots=True)
class TierFacts:
    """One tier as a write or a synchronisation sees it: ``missing`` are the revisions of the journal that it
    does not hold, ``lacking`` the live objects known not to be good there. ``floor``: it is new, and until the base
    of that number is confirmed there nothing that was added below counts as held; 0 for none. One that is not
    ``imported`` holds somebody else's revisions: nothing is written there until they are joined."""

    tier_id: bytes
    state: State
    to_compare: bool
    missing: frozenset[int]
    lacking: frozenset[bytes]
    floor: int = 0
    imported: bool = True

    @property
    def reachable(self) -> bool:
        return self.imported and self.state in (State.ONLINE, State.LAGGING)

    @property
    def complete(self) -> bool:
        return not self.missing and not self.lacking and not self.to_compare

    def holds_last(self, found: LiveObject) -> bool:
        """Whether ``found`` is live there, added by a revision that the tier holds, and not known as bad."""
        return (
            found.live_on(self.tier_id)
            and found.added >= self.floor
            and found.added not in self.missing
            and found.name not in self.lacking
            and not self.to_compare
        )


def lacks(facts: TierFacts, live: Live) -> list[LiveObject]:
    """What is live for a tier at the head and not known to be good there: the net effect of all that it
    missed, not a replay of each step."""
    return [found for found in live.values() if found.live_on(facts.tier_id) and not facts.holds_last(found)]


def choose_targets(tiers: Iterable[TierFacts], live: Live) -> list[bytes]:
    """The tiers a write goes to: those online and complete; if there are none, the reachable one that lacks
    the fewest bytes (the first configured wins a tie) with every other that lacks exactly the same."""
    tiers = list(tiers)
    complete = [t.tier_id for t in tiers if t.imported and t.state is State.ONLINE and t.complete]
    if complete:
        return complete
    lagging = [t for t in tiers if t.reachable and not t.to_compare]
    if not lagging:
        return []
    lists = {t.tier_id: lacks(t, live) for t in lagging}
    best = min(lagging, key=lambda t: sum(found.size for found in lists[t.tier_id]))
    same = {found.name for found in lists[best.tier_id]}
    return [
        t.tier_id
        for t in lagging
        if {found.name for found in lists[t.tier_id]} == same and t.missing == best.missing
    ]


def next_number(head: int, seen: Iterable[int]) -> int:
    """A number above the journal and above everything seen on any tier, so that none is ever used again."""
    return max([head, *seen], default=0) + 1


def usable_packs(
    live: Live, targets: Iterable[TierFacts], naming: Mapping[bytes, Collection[bytes]]
) -> set[bytes]:
    """The packs that deduplication may refer to: good on every target, as is a live index segment naming
    them. ``naming``: pack name to the names of the segments that name it."""
    targets = list(targets)

    def good(name: bytes, kind: ObjectType) -> bool:
        found = live.get(name)
        # Dead on a tier that is no target: what refers to it would come there without it, so it is stored again.
        usable = found is not None and found.type is kind and not found.dead
        return usable and found is not None and all(target.holds_last(found) for target in targets)

    segments = {name for names in naming.values() for name in names}
    named_by = {name for name in segments if good(name, ObjectType.INDEX)}
    return {
        pack
        for pack, names in naming.items()
        if not named_by.isdisjoint(names) and good(pack, ObjectType.PACK)
    }


def trusted_up_to(targets: Iterable[TierFacts], head: int) -> int:
    """The highest revision up to which every target holds everything with nothing lacking; 0 if none."""
    lowest = head
    for target in targets:
        if target.lacking or target.to_compare or target.floor:
            return 0
        if target.missing:
            lowest = min(lowest, min(target.missing) - 1)
    return lowest


def base_is_due(since_base: int, live_count: int) -> bool:
    """Whether the next record becomes a base: ``since_base`` revisions after the last one."""
    small = live_count * LIST_ENTRY_SIZE < SMALL_LIST
    return since_base >= BASE_EVERY or (since_base >= BASE_OFTEN and small)


def writable_now(
    missing: Iterable[Record], present: Mapping[bytes, int], tier_id: bytes, live: Live, floor: int = 0
) -> list[int]:
    """The missing revisions all of whose objects that are live for the tier are there with the right size.
    ``present``: name to size, as found on the tier. The base ``floor`` that a new tier starts from stands for all
    that is below it: it needs all that was added up to it."""

    def is_there(record: Record) -> bool:
        names = [ref.name for ref in record.added]
        if record.number == floor:
            names += [name for name, found in live.items() if found.added < floor]
        for name in names:
            found = live.get(name)
            if found is not None and found.live_on(tier_id) and present.get(name) != found.size:
                return False
        return True

    return [record.number for record in missing if is_there(record)]
