"""One tier: a named store with what this installation believes of it; looked at, judged and mended.

A look here is the whole step: read, judge, write down what was found, mend what is damaged and ours. It never
removes anything: what is damaged is moved aside. Publishing a claim or record is here too, with the reading
back that a lost reply needs.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from tandem_agent.state import State, TierRow, now_text
from tandem_agent.tiers.contact import read_tier
from tandem_agent.tiers.slots import bad_keys, held_slots
from tandem_protocol import names
from tandem_protocol.errors import (
    Corrupt,
    Exists,
    Missing,
    Refused,
    SecondInstallation,
    TandemError,
    Unavailable,
)
from tandem_protocol.history import Live
from tandem_protocol.keys import KeyRing
from tandem_protocol.names import ObjectType
from tandem_protocol.planning import TierFacts
from tandem_protocol.replicate import in_parallel, move_aside
from tandem_protocol.revision import MAX_RECORD, UNITING, Claim, Record, make_claim, open_details, parse_claim
from tandem_protocol.store import Store
from tandem_protocol.verdict import (
    LACKS_OBJECTS,
    LACKS_REVISIONS,
    Believed,
    Case,
    Pending,
    Rewrite,
    Seen,
    Verdict,
    judge,
)
from tandem_protocol.verdict import State as TierState

log = logging.getLogger(__name__)

AUDITS = 3
"""How often what an audit mends is looked at again: a server may drop what it says it has."""


class Tier:
    """``store`` should be a retrying one whose ``on_session`` is this tier's `on_session`."""

    def __init__(self, row: TierRow, url: str, store: Store, state: State, ring: KeyRing) -> None:
        self.id = row.id
        self.name = row.name
        self.url = url
        self.store = store
        self.state = TierState.OFFLINE
        self.reason = "not contacted yet"
        self.seen: Seen | None = None
        self.is_late = False
        """Somebody else's revisions are there: nothing may be written before they are joined."""
        self.bad_keys: dict[bytes, bytes] = {}
        """The key slots that the last contact found damaged or gone there, as they should be."""
        self._state = state
        self._ring = ring
        self._installed = state.setup()

    @property
    def row(self) -> TierRow:
        return self._state.tier(self.id)

    @property
    def last_fault(self) -> str:
        """What the latest attempt at its link said; for a tier that is still being retried."""
        return str(getattr(self.store, "last_fault", ""))

    @property
    def trouble(self) -> str:
        """What blocks it; or what did before, where it is not online again since."""
        return self.reason if self.state is TierState.BLOCKED else self.row.trouble

    @property
    def troubled_s(self) -> float:
        """For how many seconds its link has failed and got nothing forward; 0 while all is well."""
        since: float | None = getattr(self.store, "troubled_since", None)
        return 0.0 if since is None else asyncio.get_running_loop().time() - since

    @property
    def connected(self) -> bool:
        """Whether the last look at it was answered."""
        return self.state in (TierState.ONLINE, TierState.LAGGING)

    @property
    def reachable(self) -> bool:
        """Whether it may be written to, or levelled."""
        return self.connected and not self.is_late

    @property
    def fence(self) -> int:
        """The takeover or join that read this tier, until the tier holds it; else 0. Its claim was put up before the
        reading, and is never written again: without it nothing is known of what was read."""
        row = self.row
        if not row.imported or row.floor or not self._state.is_missing(self.id, row.start):
            return 0
        return row.start if self._state.kind_of(row.start) in UNITING else 0

    def facts(self) -> TierFacts:
        """What planning needs to know of this tier, as of now."""
        return self._state.facts(self.id, self.state)

    def facts_about(self, live: Live) -> TierFacts:
        """The same as far as it concerns ``live``, a few objects: see `TierBook.facts_about`."""
        return self._state.facts_about(self.id, live, self.state)

    @property
    def is_complete(self) -> bool:
        """Whether it is known to hold everything; `TierFacts.complete` without reading what it misses."""
        return not self.row.to_compare and self._state.is_complete(self.id)

    @property
    def lags_because(self) -> str:
        """Why it lags, as a look would say now; what else was said of it stays."""
        if self.reason not in ("", LACKS_REVISIONS, LACKS_OBJECTS):
            return self.reason
        return LACKS_OBJECTS if self._state.holds_all(self.id) else LACKS_REVISIONS

    def believed(self) -> Believed:
        """What this installation knows of this tier, for the verdict."""
        if self._installed is None:
            raise Refused("this installation has no repository yet", "run tandem init")
        intent = self._state.intent()
        row = self.row
        return Believed(
            repository_id=self._installed.repository_id,
            tier_id=self.id,
            installation_id=self._installed.installation.id,
            epoch=self._installed.certificate.epoch,
            certificate=self._installed.certificate.data,
            journal=self._state.journal,
            head=self._state.head,
            pending=Pending(intent.number, intent.nonce, self._state.answered(self.id)) if intent else None,
            start=row.start,
            highest_held=self._state.highest_held(self.id) if self._state.head else 0,
            last_written=row.last_written,
            complete=self._state.is_complete(self.id),
            imported=row.imported,
            to_compare=row.to_compare,
            closed=self._state.closed(self.id),
            fence=self.fence,
            holds_all=self._state.holds_all(self.id),
        )

    # Sessions and looks

    async def meet(self) -> None:
        """Look, in the session that it has or in a new one, and read its key slots meanwhile. What fails becomes the
        tier's state; only a second installation raises."""
        self.bad_keys = {}
        try:
            if not self.reachable:
                await self.store.open()
            await in_parallel(self.together, [self.look, self._read_keys])
        except SecondInstallation:
            raise
        except TandemError as fault:
            self.fail(fault)

    @property
    def together(self) -> int:
        """How many steps that do not need each other may be taken at once, each with several verbs."""
        return 2 if self.store.parallel > 1 else 1

    async def _read_keys(self) -> None:
        self.bad_keys = await bad_keys(self.store, held_slots(self._state, self.facts_about))

    async def on_session(self, fresh: Store) -> None:
        """A reconnect inside an operation: look again before anything is written in the new session."""
        was_late = self.is_late
        verdict = await self._judge(fresh)
        if verdict.case is Case.LATE_SIDE and was_late:
            return  # it is being joined
        if verdict.case is not Case.LEVEL:
            raise Refused(f"tier {self.name} changed while it was away: {verdict.reason}", "see tandem tiers")

    async def look(self) -> Verdict:
        """Read, judge, mend. Raises `SecondInstallation`; any other verdict becomes the tier's state."""
        verdict = await self._judge(self.store)
        for repair in verdict.repairs:
            await self._rewrite(repair)
        self.set_state(verdict.state, verdict.reason)
        return verdict

    async def audit(self) -> None:
        """As `look`, but at every claim and record that should be there, however old: no other look reads those again.
        What is damaged is moved aside, and it and what is gone is written again, until it is seen to stand there."""
        held = set(self._state.journal) - set(self._state.missing(self.id))
        mended: set[int] = set()
        for _ in range(AUDITS):
            verdict = await self._judge(self.store, whole=True)
            if verdict.case is not Case.LEVEL:
                raise Refused(f"tier {self.name}: {verdict.reason}", "see tandem tiers")
            damaged = {(repair.what, repair.number) for repair in verdict.repairs}
            gone = self._gone(held) - damaged
            if not damaged and not gone:
                self._state.confirm(sorted(mended), [self.id], last=0)
                return
            # Until then it is missing: if all ends here, the next synchronisation brings it.
            mended |= {number for what, number in damaged | gone if what in ("claim", "record")} & held
            self._state.add_missing(self.id, mended)
            for repair in verdict.repairs:
                await self._rewrite(repair)
            for what, number in sorted(gone):
                await self._rewrite(Rewrite(what, number))
                log.warning(
                    "tier %s: the %s of revision %d was gone and is there again", self.name, what, number
                )
        raise Unavailable(
            f"tier {self.name} does not keep what is written there", "check the server and its disk"
        )

    def _gone(self, held: Collection[int]) -> set[tuple[str, int]]:
        """What the last look did not find of the revisions ``held``."""
        assert self.seen is not None
        wanted = [number for number in held if number >= self.row.start]
        claims = {("claim", number) for number in wanted if number not in self.seen.claimed}
        return claims | {("record", number) for number in wanted if number not in self.seen.recorded}

    async def verify(self, numbers: Iterable[int]) -> str:
        """Look, after the records ``numbers`` were written: "" if claim and record of each stand there as the
        journal says, else why they must not be counted as held. A server may say done and forget it."""
        verdict = await self.look()
        if verdict.case is not Case.LEVEL:
            return verdict.reason
        assert self.seen is not None
        for number in numbers:
            if number not in self.seen.claimed or number not in self.seen.recorded:
                return f"revision {number} was written there and is not to be found"
        return ""

    async def _judge(self, store: Store, whole: bool = False) -> Verdict:
        """``whole``: read all numbers, and judge as one does while comparing, when what is gone is no event."""
        believed = self.believed()
        assert self._installed is not None
        revision = self._state.tier_revision(self.id) if self._state.head and not whole else 0
        believed = replace(believed, to_compare=True) if whole else believed
        # Held above a gap: looked at when it was confirmed, and not again at each look, as what is below it.
        counts = believed.highest_held > revision and not whole
        held = self._state.held_above(self.id, revision) if counts else ()
        self.seen = await read_tier(store, believed, self._installed.root_public, revision, held)
        verdict = judge(self.seen, believed)
        if verdict.case is Case.SECOND_INSTALLATION:
            self.set_state(verdict.state, verdict.reason)
            raise self._second_installation(verdict)
        if verdict.case is Case.ROLLED_BACK:
            self._state.forget_holds(self.id)
        self.is_late = verdict.case is Case.LATE_SIDE or not self.row.imported
        if self.is_late and believed.imported:
            self._state.set_late(self.id)
        return verdict

    def set_state(self, state: TierState, reason: str) -> None:
        """What the tier is from now on, in this process; `remember` keeps it."""
        self.state, self.reason = state, reason

    def remember(self) -> None:
        """Keep the state for people to see, at the end of an operation: what it is between steps is not news."""
        self._state.set_tier_state(self.id, self.state.value, self.reason)

    def fail(self, fault: TandemError) -> None:
        """The tier left: offline after a transient fault, blocked after one that retrying cannot mend."""
        gone = isinstance(fault, (Unavailable, Missing))
        self.set_state(TierState.OFFLINE if gone else TierState.BLOCKED, str(fault))

    def _second_installation(self, verdict: Verdict) -> SecondInstallation:
        foreign = verdict.foreign
        ours = self._installed.installation.id.hex()[:8] if self._installed else "?"
        who = "unknown"
        where = ""
        if foreign is not None:
            certificate = foreign.certificate if isinstance(foreign, (Claim, Record)) else foreign
            who = certificate.installation_id.hex()[:8]
            where = self._origin(foreign) if isinstance(foreign, (Claim, Record)) else ""
        kind = "another installation"
        told = f"{verdict.reason}; it is {who}{where}, we are {ours}"
        if verdict.is_clone:
            kind = "a clone or a restored image of this installation"
            told = f"{verdict.reason}{where}"
        return SecondInstallation(
            f"tier {self.name}: {kind} writes to this repository ({told})",
            "nothing was written; to go on from here: tandem takeover; only to read: restore --from URL; "
            "for a repository of its own: tandem init with other folders",
        )

    def _origin(self, foreign: Claim | Record) -> str:
        try:
            details = open_details(self._ring, foreign)
        except Corrupt:
            return f", revision {foreign.number}"
        return f" on {details.get('host', '?')}, revision {foreign.number}, {details.get('time', '?')}"

    async def mend_keys(self) -> None:
        """Put the key slots that were found damaged or gone here again, from the local copy: without them nothing
        opens."""
        bad, self.bad_keys = self.bad_keys, {}
        for slot in held_slots(self._state, self.facts_about):  # the look may have found that it holds less
            if slot in bad:
                path = names.object_path(ObjectType.KEY, slot)
                await self.move_aside(path)
                await self.store.put(path, bad[slot])
                log.warning("tier %s: a key slot was damaged there and is written again", self.name)

    # Publishing, with the reading back that a lost reply needs

    async def write_epoch(self) -> None:
        """Make sure that our certificate stands on the tier, before our first claim there."""
        assert self._installed is not None
        certificate = self._installed.certificate
        if self.seen is not None and certificate.epoch in self.seen.epochs:
            return
        path = names.epoch_path(certificate.epoch)
        await self._create(path, certificate.data, lambda found: found == certificate.data)

    async def write_claim(
        self, number: int, nonce: bytes, parents: tuple[bytes, ...], mending: bool = False
    ) -> None:
        """Claim ``number``; one of ours that is there already is ours. A fence is not put up again (see `fence`)."""
        if number == self.fence and not mending:
            return
        assert self._installed is not None
        details = {"host": socket.gethostname(), "time": now_text()}
        setup = self._installed
        claim = make_claim(
            self._ring, setup.installation, setup.certificate, self.id, number, nonce, parents, details
        )

        def is_ours(found: bytes) -> bool:
            try:
                parsed = parse_claim(found, setup.repository_id, setup.root_public, self.id, number)
            except Corrupt:
                return False
            return parsed.nonce == nonce

        await self._create(names.claim_path(number), claim.data, is_ours, mending)

    async def write_record(self, record: Record) -> bool:
        """Write a record of the journal; a damaged one in its place is moved aside first. Gives whether it was
        written now, and not there before."""
        path = names.record_path(record.number)
        return await self._create(path, record.data, lambda found: found == record.data)

    async def _create(
        self, path: str, data: bytes, is_ours: Callable[[bytes], bool], mending: bool = False
    ) -> bool:
        """Publish once; whether it was not there before. ``mending``: from within a look, which must not start
        another one."""
        try:
            await self.store.create(path, data)
            return True
        except Exists:
            if is_ours(await self._read(path)):
                return False
            if not mending:
                # Foreign or damaged: the look tells which, mends what is ours, and raises if it is not.
                await self.look()
            if mending or not is_ours(await self._read(path)):
                raise Refused(
                    f"tier {self.name}: {path} is damaged or not ours", "see tandem tiers"
                ) from None
            return False

    async def _read(self, path: str) -> bytes:
        return await self.store.read(path, 0, MAX_RECORD + 1)

    async def _rewrite(self, repair: Rewrite) -> None:
        """Move something damaged of ours aside and write it again."""
        assert self._installed is not None
        certificate = self._installed.certificate
        if repair.what == "identity":
            await self._replace(names.IDENTITY, self.row.identity.encode())
        elif repair.what == "epoch":
            ours = certificate.data if repair.number == certificate.epoch else None
            await self._replace(names.epoch_path(repair.number), ours)
        elif repair.what == "claim":
            record = self._state.record(repair.number)
            await self.move_aside(names.claim_path(repair.number))
            await self.write_claim(repair.number, record.nonce, record.claim_parents, mending=True)
        else:
            await self._replace(names.record_path(repair.number), self._state.record(repair.number).data)

    async def _replace(self, path: str, data: bytes | None) -> None:
        await self.move_aside(path)
        if data is not None:
            await self._create(path, data, lambda found: found == data, mending=True)

    async def move_aside(self, path: str) -> None:
        """Move something damaged to quarantine; see `replicate.move_aside`."""
        await move_aside(self.store, path)
