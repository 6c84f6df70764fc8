"""Joining late sides: tiers that hold what an earlier installation wrote and that was not there at the takeover, or
that were rolled back since. A revision of kind join, a base, makes what they have part of our history.

The same steps as a takeover, with the certificate that we have: number used up, fence, reading whole, closing, one
decision. It happens by itself, before the next write.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tandem_agent.bases import base_details, list_objects, old_lists, told_names
from tandem_agent.catalog import Listed
from tandem_agent.state import Intent, Setup, TierStart, now_text
from tandem_agent.tiers.importing import (
    Reading,
    close_open,
    highest_listed,
    read_keys,
    read_lists,
    read_numbers,
    read_side,
)
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.uniting import found_backups
from tandem_protocol.errors import SecondInstallation, TandemError, Unavailable
from tandem_protocol.history import Live, LiveObject
from tandem_protocol.identity import Identity
from tandem_protocol.joining import Side, Union, highest_number, lacking, records_of, unite, whole
from tandem_protocol.names import ObjectType, object_name, object_path
from tandem_protocol.revision import (
    UNITING,
    Kind,
    ObjectRef,
    Record,
    RecordDraft,
    Requires,
    fresh_nonce,
    make_record,
    required_by,
)

if TYPE_CHECKING:
    from tandem_agent.tiers.tierset import TierSet

log = logging.getLogger(__name__)

_NAMING = (Kind.INIT, Kind.TIERS, *UNITING)
"""Kinds of revisions that may change which tiers the repository has."""


async def join_late(tiers: TierSet, late: Sequence[Tier]) -> None:
    """Join what the tiers ``late`` have, which a look just found so; no intent may be open. Each by a revision of its
    own: one that fails is left for the next time, and holds up no other. Raises `SecondInstallation`."""
    for tier in late:
        try:
            await _join_one(tiers, tier)
        except SecondInstallation:
            raise
        except TandemError as fault:
            log.warning("tier %s: not joined now: %s", tier.name, fault)
            tier.fail(fault)


async def _join_one(tiers: TierSet, late: Tier) -> None:
    reading = _reading(tiers, late)
    # One that cannot be read, or goes on with what this program cannot write, uses up no number.
    _, documents = await read_numbers(reading)
    records = (document for document in documents.values() if isinstance(document, Record))
    (tiers.state.requires() | required_by(records)).check_writable()
    intent = tiers.new_intent({}, above=await highest_listed(reading))
    tiers.state.set_intent(intent)
    try:
        await _Join(tiers, intent, late).run()
    finally:
        left = tiers.state.intent()
        if left is not None and not left.decided:
            tiers.abort_pending("the join could not be completed")


def _reading(tiers: TierSet, tier: Tier) -> Reading:
    setup = _setup(tiers)
    return Reading(tier.store, tier.name, tier.id, setup.repository_id, setup.root_public)


def _setup(tiers: TierSet) -> Setup:
    setup = tiers.state.setup()
    assert setup is not None
    return setup


class _Join:
    """One join of the tier ``late``."""

    def __init__(self, tiers: TierSet, intent: Intent, late: Tier) -> None:
        self._tiers = tiers
        self._state = tiers.state
        self._intent = intent
        self._late = late

    async def run(self) -> None:
        late, ring = self._late, self._tiers.ring
        await late.write_epoch()
        await late.write_claim(self._intent.number, self._intent.nonce, ())
        side = await self._import()
        known = self._state.ancestors()
        lists = await read_lists([side], {late.id: late.store}, known)
        union = unite([side], lists, known, self._state.names_told())
        records = records_of([side])
        others = self._tiers.reachable
        by_name = {tier.name: tier.store for tier in [late, *others]}
        found = await found_backups(ring, records.values(), union, self._state.live(), by_name)
        for notice in found.notices:
            log.warning("join: %s", notice)
        only_told = self._only_told(union, records)
        new = _new_backups(self._state.backups(), found.listed)
        requires = self._state.requires() | required_by(records.values())
        segments = found.segments(ring, self._intent.number, requires.index_form)
        record, revived = await self._prepare(union, new, segments, [late, *others], only_told, requires)
        live = self._state.live() | {o.name: o for o in revived}
        setup = _setup(self._tiers)
        starts = [TierStart(late.row.identity, late.name, True, _lacking(side, live))]
        starts += [
            TierStart(Identity(setup.repository_id, id, setup.root_public), name, False)
            for id, name in only_told.items()
        ]
        keys = await read_keys(revived, [late.store])
        self._state.join(record, revived, starts, new, whole(records, lists, known), keys)
        await late.look()

    def _only_told(self, union: Union, records: Mapping[bytes, Record]) -> dict[bytes, str]:
        """Names by id of the tiers that only the late side knows: they are tiers of the repository, not read yet. Those
        that our own history has named and names no more are retired."""
        named = [n for n in self._state.journal if self._state.kind_of(n) in _NAMING]
        ours = {id for number in named for id in self._state.record(number).tiers or ()}
        taken = {row.name for row in self._state.tiers()}
        told = told_names(self._tiers.ring, records.values())
        only_told: dict[bytes, str] = {}
        for id in sorted(union.tiers - ours - {row.id for row in self._state.tiers()}):
            name = told.get(id, id.hex()[:8])
            only_told[id] = name if name not in taken else f"{name}-{id.hex()[:4]}"
            taken.add(only_told[id])
        return only_told

    async def _import(self) -> Side:
        tier = self._late
        reading = _reading(self._tiers, tier)
        number = self._intent.number

        def aborted(number: int, nonce: bytes | None, parents: tuple[bytes, ...]) -> Record:
            details = {**_about(), "reason": "closed by a join", "backup": {}}
            requires = self._state.requires()
            draft = RecordDraft(
                number, nonce or fresh_nonce(), Kind.ABORTED, parents, details, requires=requires
            )
            record = self._sign(draft)
            # Known before it is written: if all ends here, the next look must not take it for somebody else's.
            self._state.set_closed(tier.id, number, record.hash)
            return record

        side = await close_open(reading, await read_side(reading), number, aborted, self._state.journal)
        if highest_number([side]) > self._intent.number:
            raise Unavailable(f"tier {tier.name}: another installation has written there meanwhile")
        return side

    def _sign(self, draft: RecordDraft) -> Record:
        setup = _setup(self._tiers)
        return make_record(self._tiers.ring, setup.installation, setup.certificate, draft)

    async def _prepare(
        self,
        union: Union,
        new: Sequence[Listed],
        segments: Sequence[bytes],
        to: Sequence[Tier],
        only_told: Mapping[bytes, str],
        requires: Requires,
    ) -> tuple[Record, list[LiveObject]]:
        """The record, its ``segments`` and lists put on every tier ``to``, and what it revives."""
        number = self._intent.number
        ours = self._state.live()
        revived = _revived(ours, union.live, number)
        rows = {row.id: row.name for row in self._state.tiers()} | dict(only_told)
        indexes = [(ObjectRef(ObjectType.INDEX, object_name(data), len(data)), data) for data in segments]
        added = [LiveObject(ref.type, ref.name, ref.size, number) for ref, _ in indexes]
        after = ours | {o.name: o for o in [*revived, *added]}
        lists = [
            (ObjectRef(ObjectType.LIST, object_name(data), len(data)), data)
            for data in list_objects(after, rows)
        ]
        for tier in to:
            await _put_all(tier, [*indexes, *lists])
        names = tuple(ref.name for ref, _ in lists)
        replaced = {about["id"] for _, about in new}
        backups = [pair for pair in self._state.backups() if pair[1]["id"] not in replaced]
        draft = RecordDraft(
            number,
            self._intent.nonce,
            Kind.JOIN,
            self._intent.parents + union.heads,
            {**_about(), **base_details(rows, [*backups, *new])},
            tuple(ref for ref, _ in [*indexes, *lists]),
            old_lists(self._state.bases(), names),
            names,
            tuple(sorted(rows)),
            tuple(union.unread),
            requires,
        )
        return self._sign(draft), revived


async def _put_all(tier: Tier, objects: Iterable[tuple[ObjectRef, bytes]]) -> None:
    """A late side has to get them; any other tier that fails has them brought by synchronisation."""
    try:
        for ref, data in objects:
            await tier.store.put(object_path(ref.type, ref.name), data)
    except SecondInstallation:
        raise
    except TandemError as fault:
        if tier.is_late:
            raise
        tier.fail(fault)


def _about() -> dict[str, str]:
    return {"host": socket.gethostname(), "time": now_text()}


def _revived(ours: Live, theirs: Mapping[bytes, LiveObject], number: int) -> list[LiveObject]:
    """What they have live and we have not, at all or for some tier: a removal that is not shared is void."""
    found = []
    for name, other in theirs.items():
        known = ours.get(name)
        if known is None:
            found.append(replace(other, added=number))
        elif known.dead - other.dead:
            found.append(replace(known, dead=known.dead & other.dead, added=number))
    return found


def _new_backups(ours: Sequence[Listed], found: Sequence[Listed]) -> list[Listed]:
    """Those of ``found`` that are not listed here, or only as failed: a later attempt came through on the late side."""
    snapshots = {about["id"]: about.get("snapshot") for _, about in ours}
    return [
        (number, about)
        for number, about in found
        if about["id"] not in snapshots or (about.get("snapshot") and not snapshots[about["id"]])
    ]


def _lacking(side: Side, live: Live) -> frozenset[bytes]:
    return lacking(side, {name: o for name, o in live.items() if o.type is not ObjectType.LIST})
