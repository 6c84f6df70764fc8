"""`tandem takeover`: a new installation takes the repository's writing over from whoever had it, and unites what
the tiers hold of it.

The order is the safety: nothing is begun where a reachable tier says that it takes a newer program; the number and the
epoch are used up here first, durably; then epoch and claim go on every reachable tier, as a fence; only then each is
read whole and what was left open there is closed; then all is decided in one local transaction. What is decided is
completed by every later contact. Stopped anywhere before, it is run again. The rules of the union are in
``tandem_protocol.joining``.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from tandem_agent.agent_key import slot_if_needed
from tandem_agent.bases import base_details, list_objects, told_names
from tandem_agent.config import Config
from tandem_agent.outlook import Outlook, Place, TierOutlook, check_one_repository, identify, writer_of
from tandem_agent.pinning import Confirm, pin_host_key
from tandem_agent.progress import Progress
from tandem_agent.state import Setup, State, Takeover, TierStart, now_text
from tandem_agent.tiers.importing import (
    clear_epochs,
    close_open,
    fence,
    highest_epoch_there,
    highest_listed,
    is_free,
    read_keys,
    read_lists,
    read_side,
    required_there,
)
from tandem_agent.tiers.uniting import found_backups
from tandem_agent.wiring import make_retrying, make_tiers, open_any_slot, process_lock
from tandem_protocol.browse import read_slots
from tandem_protocol.certificates import Certificate, Installation
from tandem_protocol.errors import NoTierReachable, Refused, TandemError, Unsupported, Usage
from tandem_protocol.history import Live, LiveObject
from tandem_protocol.identity import Identity
from tandem_protocol.joining import (
    Side,
    Union,
    highest_epoch,
    highest_number,
    lacking,
    records_of,
    unite,
    whole,
)
from tandem_protocol.keys import KeyRing, check_ring_matches
from tandem_protocol.names import ObjectType, object_name, object_path
from tandem_protocol.revision import (
    Kind,
    ObjectRef,
    Record,
    RecordDraft,
    Requires,
    fresh_nonce,
    make_claim,
    make_record,
    required_by,
)
from tandem_protocol.store import Store

ATTEMPTS = 3
"""Somebody is watching: say soon which tier cannot be reached."""

TRIES = 5
"""Times that somebody else may be faster before it is given up."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TakenTier:
    """``imported``: what it holds is in the history now; otherwise it is joined when it is back."""

    name: str
    state: str
    imported: bool
    reason: str


@dataclass(frozen=True, slots=True)
class TakeoverResult:
    """``backups``: how many are known now; ``recovered``: of these, found by their snapshots alone."""

    revision: int
    epoch: int
    backups: int
    recovered: int
    tiers: list[TakenTier]
    notices: list[str] = field(default_factory=list)


async def take_over(
    config: Config,
    passphrase: Callable[[], str],
    confirm_host_key: Confirm,
    agree: Callable[[Outlook], bool],
    progress: Progress,
) -> TakeoverResult:
    """Become the installation that may write. ``agree`` is asked before anything is written anywhere. Raises
    `NoTierReachable`, `Refused` where the tiers are not one repository, and `Unsupported` where it needs a newer
    program."""
    with process_lock(config):
        for tier in config.tiers:
            await pin_host_key(config, tier, confirm_host_key)
        state = State.open(config.state_dir)
        run = _Run(config, state, progress)
        try:
            await run.connect()
            ring = await run.unlock(passphrase)
            if not agree(await run.outlook(ring)):
                raise Usage("nothing was taken over", "run it again when you are sure")
            return await run.go(ring)
        finally:
            await run.close()
            state.close()


class _LostRaceError(Exception):
    """Somebody else wrote meanwhile: the fence has to be higher."""


class _Run:
    """One takeover. ``places`` are the tiers still in it, ``away`` why others are not."""

    def __init__(self, config: Config, state: State, progress: Progress) -> None:
        self._config = config
        self._state = state
        self._progress = progress
        self._places: list[Place] = []
        self._away: dict[str, str] = {}
        self._slots: dict[bytes, bytes] = {}
        self._notices: list[str] = []

    async def close(self) -> None:
        await asyncio.gather(*(place.store.close() for place in self._places))

    # Before anything is written

    async def connect(self) -> None:
        """Reach every configured tier that can be, and see that all are of one repository. Raises `Unsupported`."""
        self._progress.phase = "contacting tiers"
        stores = [make_retrying(self._config, tier, attempts=ATTEMPTS) for tier in self._config.tiers]
        found = await asyncio.gather(
            *(identify(tier, store) for tier, store in zip(self._config.tiers, stores, strict=True))
        )
        for tier, store, identity in zip(self._config.tiers, stores, found, strict=True):
            if isinstance(identity, Identity):
                self._places.append(Place(tier, store, identity))
            else:
                self._away[tier.name] = str(identity)
                await store.close()
        for fault in found:
            if isinstance(fault, Unsupported):
                raise fault
        self._need_place()
        check_one_repository(self._places, self._state.setup())

    def _need_place(self) -> None:
        if not self._places:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self._away.items())
            raise NoTierReachable(f"no tier can be reached ({reasons})", "bring one back and run it again")

    async def unlock(self, passphrase: Callable[[], str]) -> KeyRing:
        """The keys with the root's private half, from what the tiers themselves hold."""
        for place in self._places:
            self._slots |= await read_slots(place.store, self._notices)
        ring = await asyncio.to_thread(open_any_slot, list(self._slots.values()), passphrase())
        for place in self._places:
            check_ring_matches(ring, place.identity.repository_id, place.identity.root_public)
        return ring

    async def outlook(self, ring: KeyRing) -> Outlook:
        """What a person should know before."""
        last, writer = 0, ""
        for place in self._places:
            reading = place.reading
            number = await highest_listed(reading)
            if number > last:
                last, writer = number, await writer_of(ring, reading, number)
        tiers = [TierOutlook(tier.name, self._away.get(tier.name, "")) for tier in self._config.tiers]
        return Outlook(ring.repository_id, tiers, last, writer)

    # The takeover

    async def go(self, ring: KeyRing) -> TakeoverResult:
        """The whole of it, again with a higher fence when somebody else was faster."""
        for _ in range(TRIES):
            await self._check_program()
            takeover = await self._intend(ring)
            try:
                sides = await self._import(ring, takeover)
            except _LostRaceError as lost:
                self._notices.append(f"begun again: {lost}")
                continue
            return await self._decide(ring, takeover, sides)
        raise Refused(
            "another installation goes on writing while this one takes over", "end it and run takeover again"
        )

    async def _check_program(self) -> None:
        """`Unsupported` where any tier says that this program cannot read or write the repository: a fence would stop
        who can. One that cannot be read now may say so too: it is out of it, and gets no fence."""

        async def check(place: Place) -> None:
            (await required_there(place.reading)).check_writable()

        self._progress.phase = "reading what the tiers hold"
        await self._each(check)

    async def _intend(self, ring: KeyRing) -> Takeover:
        """Use up an epoch and a number above all that was seen, durably, before they are sent. One begun here
        before is gone on with if nobody has gone higher."""
        epochs = [await highest_epoch_there(place.reading) for place in self._places]
        numbers = [await highest_listed(place.reading) for place in self._places]
        begun, setup, intent = self._state.takeover(), self._state.setup(), self._state.intent()
        same = begun is not None and begun.setup.repository_id == ring.repository_id
        if same and begun is not None:
            highest = begun.setup.certificate.epoch >= max(epochs) and begun.number >= max(numbers)
            if highest and all([await is_free(place.reading, begun) for place in self._places]):
                return begun
            epochs.append(begun.setup.certificate.epoch)
            numbers.append(begun.number)
        if setup is not None:
            epochs.append(setup.certificate.epoch)
            numbers += [self._state.head, intent.number if intent is not None else 0]
        assert ring.root_private is not None
        installation = Installation.generate()
        epoch = max(epochs) + 1
        certificate = Certificate.issue(ring.root_private, ring.repository_id, installation, epoch)
        root = self._places[0].identity.root_public
        takeover = Takeover(
            Setup(ring.repository_id, root, installation, certificate), max(numbers) + 1, fresh_nonce()
        )
        self._state.set_takeover(takeover)
        return takeover

    async def _import(self, ring: KeyRing, takeover: Takeover) -> list[Side]:
        """Fence every reachable tier, then read each whole and close what is open there."""
        self._progress.phase = "fencing"
        about = {"host": socket.gethostname(), "time": now_text()}
        setup, number = takeover.setup, takeover.number

        async def put_up(place: Place) -> None:
            claim = make_claim(
                ring,
                setup.installation,
                setup.certificate,
                place.identity.tier_id,
                number,
                takeover.nonce,
                (),
                about,
            )
            if lost := await fence(place.reading, setup.certificate, claim):
                raise _LostRaceError(f"tier {place.config.name}: {lost}")
            await clear_epochs(place.reading, setup.certificate.epoch)

        def aborted(number: int, nonce: bytes | None, parents: tuple[bytes, ...]) -> Record:
            details = {**about, "reason": "closed by a takeover", "backup": {}}
            draft = RecordDraft(number, nonce or fresh_nonce(), Kind.ABORTED, parents, details)
            return make_record(ring, setup.installation, setup.certificate, draft)

        async def read(place: Place) -> Side:
            side = await read_side(place.reading)
            return await close_open(place.reading, side, number, aborted)

        await self._each(put_up)
        self._progress.phase = "reading what the tiers hold"
        sides = await self._each(read)
        if highest_number(sides) > number or highest_epoch(sides) > setup.certificate.epoch:
            raise _LostRaceError("another installation has written meanwhile")
        return sides

    async def _each(self, work: Callable[[Place], Awaitable[T]]) -> list[T]:
        """Do ``work`` on every tier side by side; one that fails is out of it, at least one has to remain. That one
        needs a newer program counts for the repository, and ends it."""
        places = self._places
        results = await asyncio.gather(*(work(place) for place in places), return_exceptions=True)
        self._places = []
        done: list[T] = []
        for place, result in zip(places, results, strict=True):
            if isinstance(result, TandemError) and not isinstance(result, Unsupported):
                self._away[place.config.name] = str(result)
                await place.store.close()
            elif isinstance(result, BaseException):
                self._places = places
                raise result
            else:
                self._places.append(place)
                done.append(result)
        self._need_place()
        return done

    async def _decide(self, ring: KeyRing, takeover: Takeover, sides: Sequence[Side]) -> TakeoverResult:
        """One record, a base, with all heads as parents; then everything here is what it says."""
        self._progress.phase = "uniting"
        by_id = {place.identity.tier_id: place.store for place in self._places}
        by_name = {place.config.name: place.store for place in self._places}
        records = records_of(sides)
        lists = await read_lists(sides, by_id, set())
        union = unite(sides, lists)
        found = await found_backups(ring, records.values(), union, {}, by_name)
        self._notices += found.notices
        tiers = self._tier_names(told_names(ring, records.values()), union)
        slots = {name: data for name, data in self._slots.items() if name in union.live}
        # Also what was added since they were read, to find one that the passphrase opens.
        others = [found for name, found in union.live.items() if name not in slots]
        slots |= await read_keys(others, list(by_id.values()))
        slot = slot_if_needed(self._config, ring, slots.values())
        requires = required_by(records.values())
        segments = found.segments(ring, takeover.number, requires.index_form)
        pieces = _new_objects(union.live, tiers, slot, segments)
        await self._each(lambda place: _put_all(place.store, pieces))
        details = base_details(tiers, found.listed)
        record = _record(ring, takeover, union, pieces, tiers, details, requires)
        here = {place.identity.tier_id for place in self._places}
        imported = {side.tier_id: lacking(side, union.live) for side in sides if side.tier_id in here}
        starts = [
            TierStart(
                Identity(ring.repository_id, id, takeover.setup.root_public),
                name,
                id in imported,
                imported.get(id, frozenset()),
            )
            for id, name in tiers.items()
        ]
        live = [replace(o, added=record.number) for o in union.live.values()]
        slots |= {} if slot is None else {object_name(slot): slot}
        self._state.take_over(record, live, starts, slots, found.listed, whole(records, lists))
        taken = await self._complete(ring, here)
        configured = {tier.name for tier in self._config.tiers}
        self._notices += [
            f"tier {name} of this repository is not in the configuration: tandem tier add {name} URL brings it in"
            for name in tiers.values()
            if name not in configured
        ]
        epoch = takeover.setup.certificate.epoch
        return TakeoverResult(record.number, epoch, len(found.listed), found.recovered, taken, self._notices)

    def _tier_names(self, told: Mapping[bytes, str], union: Union) -> dict[bytes, str]:
        """Ids and names of all tiers of the repository: as configured here where they answered, else as the
        history calls them (``told``)."""
        tiers = {place.identity.tier_id: place.config.name for place in self._places}
        for id in sorted(union.tiers - tiers.keys()):
            name = told.get(id, id.hex()[:8])
            tiers[id] = name if name not in tiers.values() else f"{name}-{id.hex()[:4]}"
        for place in self._places:
            if union.tiers and place.identity.tier_id not in union.tiers:
                raise Refused(
                    f"tier {place.config.name} was retired from this repository",
                    "leave it out and run it again; what it holds can be read with --from URL",
                )
        unknown = [tier.name for tier in self._config.tiers if tier.name not in tiers.values()]
        if unknown:
            raise Refused(
                f"tier {unknown[0]} cannot be reached ({self._away[unknown[0]]}), and no tier is known by that name",
                "correct its name or URL, or take it out of the configuration, and run it again",
            )
        return tiers

    async def _complete(self, ring: KeyRing, imported: Container[bytes]) -> list[TakenTier]:
        """Write the record on every tier that can be reached now: what any contact does."""
        await self.close()
        self._progress.phase = "contacting tiers"
        tiers = make_tiers(self._config, self._state, ring)
        try:
            await tiers.contact(deadline=tiers.soon())
            return [TakenTier(t.name, t.state.value, t.id in imported, t.reason) for t in tiers.tiers]
        finally:
            await tiers.close()


def _new_objects(
    live: Live, tiers: Iterable[bytes], slot: bytes | None, segments: Sequence[bytes]
) -> list[tuple[ObjectType, bytes]]:
    """What the base adds: the slot for this agent's key if it needs one, index segments, and the lists of all that is
    live."""
    new = [(ObjectType.INDEX, data) for data in segments]
    if slot is not None:
        new.insert(0, (ObjectType.KEY, slot))
    added = {name: LiveObject(kind, name, len(data), 0) for kind, data in new for name in [object_name(data)]}
    return new + [(ObjectType.LIST, data) for data in list_objects({**live, **added}, tiers)]


def _record(
    ring: KeyRing,
    takeover: Takeover,
    union: Union,
    pieces: Iterable[tuple[ObjectType, bytes]],
    tiers: Iterable[bytes],
    details: Mapping[str, Any],
    requires: Requires,
) -> Record:
    refs = tuple(ObjectRef(kind, object_name(data), len(data)) for kind, data in pieces)
    draft = RecordDraft(
        takeover.number,
        takeover.nonce,
        Kind.TAKEOVER,
        union.heads,
        {"host": socket.gethostname(), "time": now_text(), **details},
        refs,
        lists=tuple(ref.name for ref in refs if ref.type is ObjectType.LIST),
        tiers=tuple(sorted(tiers)),
        unread=tuple(union.unread),
        requires=requires,
    )
    return make_record(ring, takeover.setup.installation, takeover.setup.certificate, draft)


async def _put_all(store: Store, pieces: Iterable[tuple[ObjectType, bytes]]) -> None:
    for kind, data in pieces:
        await store.put(object_path(kind, object_name(data)), data)
