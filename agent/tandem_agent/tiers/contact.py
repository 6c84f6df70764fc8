"""Reading what a look needs from one tier: identity, epochs, and claims and records by number.

Reads only, and judges nothing. Damage becomes a `Fault` value, so that the verdict sees all of it at once.
The cost does not grow with the history: what is known to be held is not read again, a few unknown numbers are
probed, and of many only those that stand in a listing are read. All that is known to be needed is asked for
together; only what that shows takes a second step. Neither does memory grow: of what stands as the journal says
only the number is kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TypeVar

from tandem_agent.tiers.gaps import claims_that_stand, gaps_between, numbers_above, numbers_that_stand
from tandem_protocol import names
from tandem_protocol.certificates import MAX_CERTIFICATE, Certificate, Forged, parse_epoch_file
from tandem_protocol.errors import Corrupt, Missing, Unsupported
from tandem_protocol.identity import MAX_SIZE, Identity, decode_identity
from tandem_protocol.replicate import in_parallel
from tandem_protocol.revision import MAX_CLAIM, MAX_RECORD, Claim, Record, parse_claim, parse_record
from tandem_protocol.store import Store
from tandem_protocol.verdict import Believed, Fault, Seen, SeenNumber, is_ours

_T = TypeVar("_T")

PROBE_UP_TO = 8
"""More unknown numbers than this are looked for in listings: most of them are not there."""

MAX_CLIMB = 4096
"""Most numbers above everything known that one look reads; what is higher is found by the next look."""

CLIMB_AT_ONCE = 64
"""Most of them that are asked for together."""

MAX_UNREADABLE = 16
"""Claims that are read for one that says which tier this is."""

MAX_ABOVE = 16
"""Epoch files above ours that are read, the highest: one says it all, however many somebody has put there."""


async def read_tier(
    store: Store, believed: Believed, root_public: bytes, revision: int, held: Collection[int] = ()
) -> Seen:
    """Look at a tier whose revision is ``revision`` (the highest number up to which it holds all). ``held``: the
    numbers above it that it is known to hold as well; they were looked at when they were confirmed."""
    reading = _Reading(store, believed, root_public)
    pending = believed.pending.number if believed.pending is not None else 0
    top = max(believed.head, pending)
    gaps = gaps_between(max(revision + 1, believed.start, 1), top, held)
    few = sum(len(gap) for gap in gaps) <= PROBE_UP_TO
    known = {believed.highest_held, believed.last_written, *chain(*(gaps if few else ()))} - {0}
    above: set[int] = set()
    unknown: set[int] = set()

    async def find_above() -> None:
        above.update(await numbers_above(store, top))

    async def find_unknown() -> None:
        unknown.update(await numbers_that_stand(store, gaps))

    finding = [reading.identify, reading.list_epochs, find_above] + ([] if few else [find_unknown])
    await in_parallel(store.parallel, [*finding, *reading.parts({believed.epoch}, known)])
    if not reading.is_our_repository:
        return Seen(reading.identity)
    if reading.identity is Fault.DAMAGED:
        await reading.read_whose_claims()
    epochs = set(reading.listed_epochs) - {believed.epoch}
    await in_parallel(store.parallel, reading.parts(epochs, above.union(unknown) - known))
    if above:
        await reading.climb(max(above))
    return reading.seen()


class _Reading:
    """One look under way, and what it has found so far."""

    def __init__(self, store: Store, believed: Believed, root_public: bytes) -> None:
        self.identity: Identity | Fault | None = None
        self._store = store
        self._believed = believed
        self._root_public = root_public
        self._names_tier: bool | None = None
        self.listed_epochs: list[int] = []
        self._epochs: dict[int, Certificate | Fault] = {}
        self._claims: dict[int, Claim | Fault | None] = {}
        self._records: dict[int, Record | Fault | None] = {}
        self._numbers: dict[int, SeenNumber] = {}
        self._whole: dict[str, tuple[int, SeenNumber]] = {}
        self._claimed: set[int] = set()
        self._recorded: set[int] = set()
        self._certificates: dict[bytes, Certificate] = {}

    @property
    def is_our_repository(self) -> bool:
        """Also where the identity is damaged: epochs and records tell whose it is."""
        if isinstance(self.identity, Identity):
            return self.identity.repository_id == self._believed.repository_id
        return self.identity is not None

    def seen(self) -> Seen:
        numbers = self._numbers | dict(self._whole.values())
        return Seen(
            self.identity,
            self._epochs,
            numbers,
            frozenset(self._claimed),
            frozenset(self._recorded),
            self._names_tier,
        )

    # Identity and epochs

    async def identify(self) -> None:
        self.identity = await _read_identity(self._store)

    async def list_epochs(self) -> None:
        listed = [names.parse_epoch(entry.name) async for entry in self._store.list(names.EPOCHS)]
        found = sorted(epoch for epoch in listed if epoch is not None)
        up_to_ours = bisect_right(found, self._believed.epoch)
        self.listed_epochs = found[:up_to_ours] + found[up_to_ours:][-MAX_ABOVE:]

    async def _read_epoch(self, epoch: int) -> None:
        repository = self._believed.repository_id
        found = await read_document(
            self._store,
            names.epoch_path(epoch),
            MAX_CERTIFICATE,
            lambda data: parse_epoch_file(data, repository, self._root_public, epoch),
        )
        if found is not None:
            self._epochs[epoch] = found

    async def read_whose_claims(self) -> None:
        """Without an identity only claims say which tier this is: the first that can be read, of a few."""
        left = MAX_UNREADABLE
        async with aclosing(claims_that_stand(self._store)) as numbers:
            async for number in numbers:
                self._names_tier = False
                await self._read_claim(number)
                if isinstance(self._claims.pop(number, None), Claim):
                    self._names_tier = True
                    return
                left -= 1
                if not left:
                    return

    # Claims and records

    async def climb(self, highest: int) -> None:
        """Go on above ``highest``, which has been read, until nothing stands somewhere."""
        end = min(highest + MAX_CLIMB, names.MAX_NUMBER + 1)
        block = range(highest, highest + 1)
        while block and all(number in self._numbers for number in block):
            width = min(2 * len(block), CLIMB_AT_ONCE)
            block = range(block.stop, min(block.stop + width, end))
            await in_parallel(self._store.parallel, self.parts((), block))

    def parts(self, epochs: Iterable[int], numbers: Iterable[int]) -> list[Callable[[], Awaitable[None]]]:
        """What reads the files of ``epochs``, and claim and record of each of ``numbers``: a job for each file, for
        none waits for another."""
        jobs: list[Callable[[], Awaitable[None]]] = [partial(self._read_epoch, n) for n in sorted(epochs)]
        both = (self._read_claim, self._read_record)
        return jobs + [partial(read, n) for n in sorted(numbers) for read in both]

    async def _read_claim(self, number: int) -> None:
        believed, root = self._believed, self._root_public
        self._claims[number] = await read_document(
            self._store,
            names.claim_path(number),
            MAX_CLAIM,
            lambda data: parse_claim(data, believed.repository_id, root, believed.tier_id, number),
        )
        self._take_if_both(number)

    async def _read_record(self, number: int) -> None:
        believed, root = self._believed, self._root_public
        self._records[number] = await read_document(
            self._store,
            names.record_path(number),
            MAX_RECORD,
            lambda data: parse_record(data, believed.repository_id, root, number),
        )
        self._take_if_both(number)

    def _take_if_both(self, number: int) -> None:
        if number in self._claims and number in self._records:
            self._take(number, SeenNumber(self._claims.pop(number), self._records.pop(number)))

    # What is kept of them

    def _take(self, number: int, found: SeenNumber) -> None:
        """Keep what the verdict needs. A record may take megabytes, and a gap may have thousands: of each kind of
        trouble the lowest number is kept whole (the one that a verdict names), of others no record."""
        if isinstance(found.claim, Claim) and is_ours(number, found.claim, self._believed):
            self._claimed.add(number)
        if isinstance(found.record, Record) and is_ours(number, found.record, self._believed):
            self._recorded.add(number)
        if number in self._asked_for():
            self._numbers[number] = found
            return
        kinds = list(self._kinds_of_trouble(number, found))
        if not kinds:
            return
        self._numbers[number] = self._without_bulk(found)
        for kind in kinds:
            if kind not in self._whole or number < self._whole[kind][0]:
                self._whole[kind] = number, found

    def _asked_for(self) -> tuple[int, ...]:
        """The numbers of which a verdict asks whether claim and record are still there."""
        believed = self._believed
        pending = believed.pending.number if believed.pending is not None else 0
        return believed.highest_held, believed.last_written, pending, believed.fence

    def _kinds_of_trouble(self, number: int, found: SeenNumber) -> Iterator[str]:
        """Nothing for a number where nothing stands, or only what is ours."""
        if found.claim is None and found.record is not None:
            yield "record without claim"
        for document in (found.claim, found.record):
            if isinstance(document, Fault):
                yield document.value
            elif document is not None and not is_ours(number, document, self._believed):
                yield "late" if document.certificate.epoch < self._believed.epoch else "foreign"

    def _without_bulk(self, found: SeenNumber) -> SeenNumber:
        """The same for a verdict that has a lower number to name. That a claim stands there still counts."""
        claim = found.claim
        if isinstance(claim, Claim):
            certificate = self._certificates.setdefault(claim.certificate.data, claim.certificate)
            claim = replace(claim, certificate=certificate, parents=(), sealed=b"", data=b"")
        return SeenNumber(claim, found.record if isinstance(found.record, Fault) else None)


async def _read_identity(store: Store) -> Identity | Fault | None:
    try:
        return _decoded(decode_identity, await store.read(names.IDENTITY, 0, MAX_SIZE + 1))
    except Missing:
        # One that was moved aside and not yet written again when the agent or its link died is still damage.
        async for entry in store.list(names.DAMAGED):
            if entry.name.startswith(f"{names.IDENTITY}."):
                return Fault.DAMAGED
        return None


async def read_document(
    store: Store, path: str, limit: int, parse: Callable[[bytes], _T]
) -> _T | Fault | None:
    try:
        return _decoded(parse, await store.read(path, 0, limit + 1))
    except Missing:
        return None


def _decoded(parse: Callable[[bytes], _T], data: bytes) -> _T | Fault:
    try:
        return parse(data)
    except Forged:
        return Fault.FORGED
    except Unsupported:
        return Fault.UNSUPPORTED
    except Corrupt:
        return Fault.DAMAGED
