"""One write operation, steps 1 to 8 of the tier protocol: look, intent, claim, look, objects, decide, record,
look, confirm.

A `Revision` is one number being written to its targets, each with a bounded queue of its own (`sending`). A target
that fails, or holds the others up for longer than its budget (`pace`), leaves and lags; the others go on. What was
decided can only be completed. It does not know what the objects are for: that is the use case's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

from tandem_agent.bases import base_details, list_objects, old_lists
from tandem_agent.progress import Progress
from tandem_agent.state import Intent, State
from tandem_agent.tiers.pace import Pace
from tandem_agent.tiers.patience import Patience, leave
from tandem_agent.tiers.sending import Parcel, Target
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.tierset import TierSet, refresh
from tandem_protocol import names
from tandem_protocol.errors import (
    Full,
    NoTierReachable,
    Refused,
    SecondInstallation,
    TandemError,
    Unavailable,
)
from tandem_protocol.history import Live, replay
from tandem_protocol.names import ObjectType, object_name, object_path
from tandem_protocol.pack import DEFAULT_CAPACITY
from tandem_protocol.planning import LIST_ENTRY_SIZE, SMALL_LIST, base_is_due
from tandem_protocol.replicate import in_parallel, sizes_of
from tandem_protocol.revision import (
    NO_FEATURES,
    Kind,
    ObjectRef,
    Record,
    RecordDraft,
    Removal,
    Requires,
    make_record,
)
from tandem_protocol.store import Buffer
from tandem_protocol.verdict import Case

SMALL = 64 * 1024
SMALL_AHEAD = 2 * DEFAULT_CAPACITY
"""What is no pack and has at most so many bytes (a short backup's segment and snapshot) does not wait for two packs."""


class Revision:
    """One number under way. Use `begin`, then `upload` any number of times, then `commit` or `abort`; as a context, it
    is aborted by whatever ends the block early."""

    def __init__(
        self, tiers: TierSet, intent: Intent, targets: Iterable[Tier], progress: Progress, pace: Pace
    ) -> None:
        self.number = intent.number
        self.added: list[ObjectRef] = []
        self._tiers = tiers
        self._state: State = tiers.state
        self._intent = intent
        self._targets = [Target(tier, progress.tier(tier.name), self._end) for tier in targets]
        self._pace = pace
        self._patience = Patience(pace, tiers.patience_s)
        self._stop: Exception | None = None
        """What ends the operation: a second installation, or a bug."""

    @classmethod
    async def begin(
        cls,
        tiers: TierSet,
        targets: Iterable[Tier],
        progress: Progress,
        backup: dict[str, Any] | None = None,
        pace: Pace | None = None,
    ) -> Revision:
        """Steps 2 and 4 on ``targets``, which a look just found fit, and the live keys that they lack. Without a
        ``pace`` no target leaves for being slow."""
        state = tiers.state
        state.requires().check_writable()
        await tiers.stop_levelling()
        # From here on none begins either, for it finds the intent.
        intent = tiers.new_intent(backup or {})
        state.set_intent(intent)
        revision = cls(tiers, intent, targets, progress, pace or Pace({}))
        await revision._each(revision._claim)
        try:
            revision._need_target()
        except TandemError as fault:
            tiers.abort_pending(str(fault))
            raise
        for target in revision._alive:
            target.start()
        try:
            await revision._send_keys()
        except BaseException:
            await revision.abort("interrupted")  # the caller has nothing yet that it could end
            raise
        return revision

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _kind: object, fault: BaseException | None, _trace: object) -> None:
        if fault is not None:
            await self.abort(str(fault) or type(fault).__name__)

    @property
    def _alive(self) -> list[Target]:
        return [target for target in self._targets if not target.failed]

    @property
    def begun_with(self) -> list[Tier]:
        """The tiers that it was begun on, also those that have left."""
        return [target.tier for target in self._targets]

    @property
    def targets(self) -> list[Tier]:
        """The tiers still in the operation."""
        return [target.tier for target in self._alive]

    # Objects

    async def upload(
        self, kind: ObjectType, name: bytes, data: Buffer, weight: int | None = None
    ) -> asyncio.Future[None]:
        """Hand an object to every target; waits while they are too far behind. Gives what is done when nobody looks at
        ``data`` any more; ``weight``: the bytes of memory that it keeps until then. Raises when no target is left.
        """
        size = memoryview(data).nbytes
        self.added.append(ObjectRef(kind, name, size))
        await self._paced(0 if kind is ObjectType.PACK or size > SMALL else SMALL_AHEAD)
        alive = self._alive
        parcel = Parcel(object_path(kind, name), data, weight or size, len(alive), _future())
        for target in alive:
            target.hand(parcel)
        return parcel.freed

    async def _paced(self, more: int) -> None:
        """Wait until no target is further behind than it may be and ``more``, or it has left: memory is bounded."""
        limits = {target: self._limit(target) + more for target in self._alive}
        if any(target.behind > limit for target, limit in limits.items()):
            await self._patience.wait(
                {asyncio.ensure_future(t.within(limit)): t for t, limit in limits.items()}
            )
        self._need_target()

    def _limit(self, target: Target) -> int:
        """Bytes that may be behind while the next object is handed over."""
        return max(self._pace.allowance(target.tier.id), (target.width - 1) * DEFAULT_CAPACITY)

    @property
    def packs_behind(self) -> int:
        """How many packs may be behind: where several are put at once, or one target waits for another."""
        alone = len(self._alive) < 2
        widest = max(target.width for target in self._alive)
        most = 0 if alone else max(self._limit(target) for target in self._alive)
        return max(widest - 1, -(-most // DEFAULT_CAPACITY))

    async def add(self, kind: ObjectType, data: bytes) -> bytes:
        """`upload` an object under the hash of its bytes; gives that name."""
        name = object_name(data)
        await self.upload(kind, name, data)
        return name

    async def _send_keys(self) -> None:
        """Every live key object that some target lacks, from the local copies, before anything else."""
        live = self._state.live_keys()
        for name, data in self._state.key_slots().items():
            if name not in live:
                continue
            for target in self._alive:
                if not target.tier.facts_about(live).holds_last(live[name]):
                    target.hand(Parcel(object_path(ObjectType.KEY, name), data, len(data), 1, _future()))

    # The end

    async def commit(
        self,
        kind: Kind,
        details: dict[str, Any],
        *,
        removed: Iterable[Removal] = (),
        backup: dict[str, Any] | None = None,
        tiers: Mapping[bytes, str] | None = None,
        within: Callable[[Record], None] | None = None,
        requires: Requires = NO_FEATURES,
    ) -> list[Tier]:
        """Steps 5 to 8. Gives the tiers confirmed to hold the revision; empty if it was decided and every
        target vanished before it could be confirmed (it is completed later). With ``tiers`` (names by id) it is a
        base that makes these the repository's tiers; ``within`` is done in the transaction that decides. ``requires``:
        what programs must know from now on, beside what they had to."""
        draft = RecordDraft(
            self.number,
            self._intent.nonce,
            kind,
            self._intent.parents,
            details,
            removed=tuple(removed),
            requires=self._state.requires() | requires,
        )
        draft = await self._as_base(draft, tiers, backup)
        record: list[Record] = []

        async def finish(target: Target) -> None:
            await target.finish()
            if target.failed:
                return
            await self._check_sizes(target)
            if not record and self._stop is None:
                # The first target has everything. No await between the test and the act.
                try:
                    record.append(self._decide(draft, backup, within))
                except TandemError as fault:
                    self._stop = fault  # the local state's, not this tier's
            if record:
                await self._write_record(target, record[0])

        await self._each(finish)
        await asyncio.gather(*(target.drain() for target in self._targets if target.failed))
        if self._stop is not None:
            raise self._stop
        if not record:
            self._tiers.abort_pending("every tier was lost before one had all of it")
            self._need_target()
        if len(self._alive) > 1:
            # One that was ready early has waited, perhaps for hours: is it all there still?
            await self._each(self._still_there)
            if self._stop is not None:
                raise self._stop
        confirmed = self.targets
        self._state.confirm([self.number], [tier.id for tier in confirmed], as_targets=True)
        self._state.end_intent()
        for tier in confirmed:
            refresh(tier)
        self._tiers.remember()
        return confirmed

    async def abort(self, reason: str) -> None:
        """Give the number up: what was sent becomes orphans, the record says so on every tier in time."""
        await asyncio.gather(*(target.cancel() for target in self._targets))
        intent = self._state.intent()
        if intent is not None and not intent.decided:
            self._tiers.abort_pending(reason)

    def _decide(
        self, draft: RecordDraft, backup: dict[str, Any] | None, within: Callable[[Record], None] | None
    ) -> Record:
        record = self._sign(replace(draft, added=tuple(self.added)))
        with self._state.together():
            self._state.decide(record, backup)
            self._state.note_targets(record.number, [tier.id for tier in self.targets])
            if within is not None:
                within(record)
        return record

    async def _as_base(
        self, draft: RecordDraft, tiers: Mapping[bytes, str] | None, backup: Mapping[str, Any] | None
    ) -> RecordDraft:
        """``draft`` as a base if it is one: with ``tiers`` it changes the set of tiers to these, or enough
        revisions have passed since the last. ``backup``: the one that this very record is of."""
        state = self._state
        bases = state.bases()
        since = state.count_since(bases[-1].number) if bases else 0
        if tiers is None:
            if not base_is_due(since, state.live_count(SMALL_LIST // LIST_ENTRY_SIZE + 1)):
                return draft
            tiers = {row.id: row.name for row in state.tiers()}
        backups = state.backups() + ([] if backup is None else [(draft.number, dict(backup))])
        details = {**draft.details, **base_details(tiers, backups)}
        lists: list[bytes] = []
        removed: tuple[Removal, ...] = ()
        if draft.kind is not Kind.INIT:
            for data in list_objects(self._live_after(draft), tiers):
                lists.append(await self.add(ObjectType.LIST, data))
            removed = old_lists(bases, lists)
        return replace(
            draft,
            details=details,
            removed=draft.removed + removed,
            lists=tuple(lists),
            tiers=tuple(sorted(tiers)),
        )

    def _live_after(self, draft: RecordDraft) -> Live:
        """What is live once ``draft`` is decided."""
        preview = replace(draft, details={}, added=tuple(self.added))
        return replay([self._sign(preview)], self._state.live())

    def _sign(self, draft: RecordDraft) -> Record:
        setup = self._state.setup()
        assert setup is not None
        return make_record(self._tiers.ring, setup.installation, setup.certificate, draft)

    # Targets

    async def _claim(self, target: Target) -> None:
        await target.tier.write_epoch()
        await target.tier.write_claim(self.number, self._intent.nonce, self._intent.parents)
        self._state.set_answered(target.tier.id)
        await self._look_and_sweep(target)

    async def _look_and_sweep(self, target: Target) -> None:
        """Look; then delete what killed runs left in ``tmp/``, which was listed meanwhile: our claim stands, so nobody
        else is writing. Parts of live objects stay: a synchronisation goes on with them."""
        store = target.tier.store
        left: list[str] = []

        async def find() -> None:
            async for entry in store.list(names.TMP):
                name = names.parse_object_name(entry.name)
                if not entry.is_folder and (name is None or self._state.live_object(name) is None):
                    left.append(f"{names.TMP}/{entry.name}")

        await in_parallel(target.tier.together, [partial(self._look, target), find])
        for path in left:
            await store.delete(path)

    async def _write_record(self, target: Target, record: Record) -> None:
        await target.tier.write_record(record)
        sizes: dict[bytes, int] = {}

        async def ask() -> None:
            sizes.update(await sizes_of(target.tier.store, self.added))

        await in_parallel(target.tier.together, [partial(self._still_there, target), ask])
        # Again: one rolled back to between claim and record has lost objects only.
        self._need_sizes(target, sizes)

    async def _still_there(self, target: Target) -> None:
        if reason := await target.tier.verify([self.number]):
            raise Unavailable(f"tier {target.tier.name}: {reason}")

    async def _look(self, target: Target) -> None:
        verdict = await target.tier.look()
        if verdict.case is not Case.LEVEL:
            raise Unavailable(f"tier {target.tier.name}: {verdict.reason}")

    async def _check_sizes(self, target: Target) -> None:
        """Every object added must be there with the size that was sent, whatever the server said."""
        self._need_sizes(target, await sizes_of(target.tier.store, self.added))

    def _need_sizes(self, target: Target, sizes: Mapping[bytes, int]) -> None:
        for ref in self.added:
            if sizes.get(ref.name) != ref.size:
                raise Unavailable(
                    f"tier {target.tier.name} lost {ref.type} {ref.name.hex()[:12]} after saying it has it",
                    "check the server's disk; the next synchronisation sends it again",
                )

    async def _each(self, step: Callable[[Target], Awaitable[None]]) -> None:
        """Run ``step`` for every target still in, side by side; one that fails leaves. A second installation
        and bugs end the operation, after the others have come to rest."""

        async def guarded(target: Target) -> None:
            try:
                await step(target)
            except SecondInstallation:
                raise
            except TandemError as fault:
                leave(target, fault)

        tasks: dict[asyncio.Future[Any], Target] = {
            asyncio.ensure_future(guarded(target)): target for target in self._alive
        }
        await self._patience.wait(tasks)
        for task, target in tasks.items():
            if not (task.cancelled() and target.failed):
                task.result()

    def _end(self, cause: Exception) -> None:
        self._stop = cause

    def _need_target(self) -> None:
        if self._stop is not None:
            raise self._stop
        if not self._alive:
            raise _all_lost(self._targets)


def _all_lost(targets: Sequence[Target]) -> TandemError:
    """What to say when no target is left: waiting helps only if one of them was merely out of reach."""
    reasons = "; ".join(f"{t.tier.name}: {t.tier.reason}" for t in targets)
    faults = [t.fault for t in targets]
    if all(isinstance(fault, Full) for fault in faults):
        return Full(f"no tier has space for it ({reasons})", "make room and run it again; nothing was lost")
    if all(isinstance(fault, Refused) for fault in faults):
        return Refused(f"no tier can be written to ({reasons})", "put that right and run it again")
    return NoTierReachable(f"every tier was lost while writing ({reasons})", "run it again when one is back")


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()
