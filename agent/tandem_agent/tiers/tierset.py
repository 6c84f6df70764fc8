"""All tiers of a repository together: contact, what was left open, and what can be levelled at once.

A tier that fails never holds up or fails another: each contact is a task of its own with an outcome. The only
thing that stops all of them is a second installation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any

from tandem_agent.state import Intent, State, now_text
from tandem_agent.tiers.comparing import compare
from tandem_agent.tiers.tier import Tier
from tandem_protocol.errors import SecondInstallation, TandemError
from tandem_protocol.history import Live, LiveObject
from tandem_protocol.keys import KeyRing
from tandem_protocol.planning import next_number, writable_now
from tandem_protocol.replicate import sizes_of
from tandem_protocol.revision import MAX_OBJECTS, Kind, Record, RecordDraft, fresh_nonce, make_record
from tandem_protocol.verdict import State as TierState

log = logging.getLogger(__name__)

PRESENCE_CHECKS = 256
"""Most objects whose presence is asked for when levelling before a write; more is for synchronisation."""


class TierSet:
    """``patience_s``: how long a contact waits for the slower tiers once one is online."""

    def __init__(self, tiers: Iterable[Tier], state: State, ring: KeyRing, patience_s: float = 15.0) -> None:
        self.tiers = list(tiers)
        self.state = state
        self.ring = ring
        self.patience_s = patience_s
        self._levelling: set[asyncio.Future[None]] = set()
        self._settled = asyncio.Event()

    async def close(self) -> None:
        await asyncio.gather(*(tier.store.close() for tier in self.tiers))

    async def drop(self, ids: Iterable[bytes]) -> None:
        """Have no more to do with these tiers: they are being retired."""
        gone = self.by_id(ids)
        self.tiers = [tier for tier in self.tiers if tier not in gone]
        await asyncio.gather(*(tier.store.close() for tier in gone))

    def by_id(self, ids: Iterable[bytes]) -> list[Tier]:
        wanted = set(ids)
        return [tier for tier in self.tiers if tier.id in wanted]

    @property
    def reachable(self) -> list[Tier]:
        return [tier for tier in self.tiers if tier.reachable]

    @contextmanager
    def levelling(self, work: asyncio.Future[None]) -> Iterator[None]:
        """While ``work``, which synchronises a tier, is under way: a write may stop it."""
        self._levelling.add(work)
        try:
            yield
        finally:
            self._levelling.discard(work)
            self._settled.set()

    async def stop_levelling(self) -> None:
        """Step 1 of a write: synchronisations of this process end, in the middle of an object. What they sent is
        kept, and they go on there when they are started again."""
        for work in self._levelling:
            work.cancel()
        while self._levelling:
            self._settled.clear()
            await self._settled.wait()

    def soon(self) -> float:
        """The deadline (of the loop's clock) of a contact that somebody waits for: the patience from now."""
        return asyncio.get_running_loop().time() + self.patience_s

    def at_least_patience(self, deadline: float | None) -> float | None:
        """``deadline`` (of the loop's clock), but not before the tiers had time to answer at all: who does not
        want to wait for a tier still wants those that are there."""
        return None if deadline is None else max(deadline, self.soon())

    async def contact(
        self, patience_s: float | None = None, deadline: float | None = None, *, join: bool = True
    ) -> None:
        """Connect to every tier that is not reachable now, look at all, then end what was left open, and ``join``
        what an earlier installation left on tiers that were away at the takeover.

        Tiers whose links are still being retried ``patience_s`` after another is online, or at ``deadline``
        (of the loop's clock), are left offline: they lag, and catch up later. Raises `SecondInstallation`.
        """
        await self._meet_all(self.tiers, self.patience_s if patience_s is None else patience_s, deadline)
        self._end_pending()
        late = [tier for tier in self.tiers if tier.is_late and tier.connected]
        if join and late:
            from tandem_agent.tiers.joining import join_late  # rare, and reads backups: not at every start

            await join_late(self, late)
        for tier in self.reachable:
            await self._level_now(tier)
        self.remember()

    async def look_at(self, tiers: Iterable[Tier]) -> None:
        """Step 1 of a further write of the same operation, for those of ``tiers`` that are connected. Raises
        `SecondInstallation`."""
        await self._meet_all([tier for tier in tiers if tier.connected], self.patience_s, self.soon())

    async def _meet_all(self, tiers: Iterable[Tier], patience_s: float, deadline: float | None) -> None:
        tasks = {asyncio.create_task(tier.meet(), name=f"contact {tier.name}"): tier for tier in tiers}
        try:
            await self._settle(tasks, patience_s, deadline)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def remember(self) -> None:
        """Keep every tier's state, for people to see."""
        for tier in self.tiers:
            tier.remember()

    async def _settle(
        self, tasks: dict[asyncio.Task[None], Tier], patience_s: float, deadline: float | None
    ) -> None:
        """Wait for all contacts, or for the patience after the first that succeeded, or for the deadline."""
        waiting = set(tasks)
        clock = asyncio.get_running_loop().time
        patient = True
        while waiting:
            left = None if deadline is None else max(0.0, deadline - clock())
            done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if not done:
                break
            if patient and any(tier.state is TierState.ONLINE for tier in tasks.values()):
                patient = False
                enough = clock() + patience_s
                deadline = enough if deadline is None else min(deadline, enough)
        for tier in (tasks[task] for task in waiting):
            # Also one that could be reached before: without a finished look it is no target.
            said = tier.last_fault or "no answer"
            tier.set_state(TierState.OFFLINE, f"not reachable so far ({said})")

    def _end_pending(self) -> None:
        """End what an earlier run left open: not decided, it is aborted; decided, it only wants completing."""
        intent = self.state.intent()
        if intent is None:
            return
        if not intent.decided:
            self.abort_pending("interrupted")
        self.state.end_intent()

    def new_intent(self, backup: Mapping[str, Any], above: int = 0) -> Intent:
        """An intent with a number above the journal, ``above``, and all that was seen on any tier."""
        seen = [n for tier in self.tiers if tier.seen is not None for n in tier.seen.numbers]
        head = self.state.head
        parents = (self.state.record(head).hash,) if head else ()
        return Intent(next_number(head, [above, *seen]), fresh_nonce(), parents, False, backup)

    def list_failed(self, backup: Mapping[str, Any], reason: str) -> None:
        """Have a failed backup listed that has no revision open by which it would be: by a number of its own."""
        if not self.state.is_listed(backup["id"]) and self.state.intent() is None:
            self.state.set_intent(self.new_intent(backup))
            self.abort_pending(reason)

    def abort_pending(self, reason: str) -> None:
        """Close the intent by an aborted record: fixed and stored here first, written on tiers like any other."""
        intent = self.state.intent()
        setup = self.state.setup()
        assert intent is not None and not intent.decided and setup is not None
        backup = dict(intent.backup)
        if backup:
            backup |= {"status": "failed", "error": reason, "ended": now_text()}
        details = {"reason": reason, "backup": backup}
        draft = RecordDraft(
            intent.number,
            intent.nonce,
            Kind.ABORTED,
            intent.parents,
            details,
            requires=self.state.requires(),
        )
        record = make_record(self.ring, setup.installation, setup.certificate, draft)
        self.state.decide(record, backup or None)
        self.state.end_intent()

    async def _level_now(self, tier: Tier) -> None:
        """Mend its keys, and give a tier the missing records all of whose objects it has."""
        try:
            await tier.mend_keys()
        except SecondInstallation:
            raise
        except TandemError as fault:
            tier.fail(fault)
        claimed = tier.seen.claimed if tier.seen is not None else frozenset()
        begun = {number for number in claimed if self.state.is_missing(tier.id, number)}
        first = self.state.missing(tier.id, PRESENCE_CHECKS)
        await self._level(tier, sorted(begun.union(first)), PRESENCE_CHECKS)

    async def complete(self, tier: Tier, number: int) -> bool:
        """Finish the decided revision ``number`` on one of its targets, if everything it added is there."""
        if self.state.is_missing(tier.id, number):
            await self._level(tier, [number], MAX_OBJECTS)
        return tier.reachable and not self.state.is_missing(tier.id, number)

    async def _level(self, tier: Tier, missing: list[int], most: int) -> None:
        if not missing or not tier.reachable or self.state.tier(tier.id).to_compare:
            return
        try:
            await write_revisions(tier, self.state, await self._writable(tier, missing, most))
        except SecondInstallation:
            raise
        except TandemError as fault:
            tier.fail(fault)

    async def _writable(self, tier: Tier, missing: list[int], most: int) -> list[int]:
        """Those of ``missing`` all of whose objects are there. Nothing of a revision is sent before its claim, so
        those are asked about whose claim the look found; of the others the first, and so on while they are there:
        a tier that lacks a later one as well is for synchronisation, however many it lacks."""
        claimed = tier.seen.claimed if tier.seen is not None else frozenset()
        floor = tier.row.floor
        missing = [number for number in missing if number != floor]
        ready = await self._ready(tier, [number for number in missing if number in claimed], most)
        for number in [number for number in missing if number not in claimed][:most]:
            found = await self._ready(tier, [number], most)
            if not found:
                break
            ready += found
        return sorted(ready)

    async def _ready(self, tier: Tier, numbers: list[int], most: int) -> list[int]:
        """Those of ``numbers`` that can be written, as far as ``most`` questions tell. The base that a new tier starts
        at is never among them: it stands for all that is below, which is synchronisation's to bring."""
        records: list[Record] = []
        wanted: list[LiveObject] = []
        live: Live = {}
        for number in numbers:
            record = self.state.record(number)
            there = self.state.live_among(ref.name for ref in record.added)
            needed = [found for found in there.values() if found.live_on(tier.id)]
            if len(wanted) + len(needed) > most:
                continue
            records.append(record)
            wanted += needed
            live |= there
        if len(numbers) == 1 and wanted and not await sizes_of(tier.store, wanted[:1]):
            return []  # most often nothing of it is there: one question tells
        return writable_now(records, await sizes_of(tier.store, wanted), tier.id, live)


async def write_revisions(tier: Tier, state: State, numbers: list[int]) -> None:
    """Claim, record, look, confirm: put the records ``numbers`` on a tier that has their objects. The highest
    is written last, after all others are answered, and is from then on the last written one."""
    if not numbers:
        return
    await tier.write_epoch()
    for number in numbers:
        record = state.record(number)
        await tier.write_claim(number, record.nonce, record.claim_parents)
    created = [number for number in numbers if await tier.write_record(state.record(number))]
    stood = created[-1:] != numbers[-1:]
    if stood and (len(numbers) > 1 or numbers[-1] < state.highest_held(tier.id)):
        return  # what came after them cannot be told: synchronisation has a record written after them
    reason = await tier.verify(numbers)
    if reason:
        log.warning("tier %s: not confirmed, %s", tier.name, reason)
        return
    await confirm(tier, state, numbers, 0 if stood and tier.row.last_written else numbers[-1])
    refresh(tier)


async def confirm(tier: Tier, state: State, numbers: list[int], last: int) -> None:
    """From now on these revisions, whose records stand there, are held; the record of ``last`` was created last (0:
    none was). What a takeover or join read is listed again now that its record is there: a roll-back since the
    reading cannot have gone unnoticed after it."""
    lost: list[bytes] = []
    if tier.fence in numbers:
        async with aclosing(compare(tier.store, state.live_named, tier.id)) as pieces:
            async for piece in pieces:
                lost += [one.found.name for one in piece if one.found.added <= tier.fence]
    with state.together():
        state.add_lacking(tier.id, lost)
        state.confirm(numbers, [tier.id], last=last)


def refresh(tier: Tier) -> None:
    """State again from what is now known to be held: online when nothing is missing."""
    if tier.reachable:
        complete = tier.is_complete
        tier.set_state(
            TierState.ONLINE if complete else TierState.LAGGING, "" if complete else tier.lags_because
        )
