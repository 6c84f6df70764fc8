"""The verdict on contact: what a tier is, judged by number from what was read there. Pure.

`judge` compares what stands on the tier (`Seen`) with what this installation knows (`Believed`) and returns
the first case of the table in the tier protocol that applies. It reads nothing and changes nothing; the
caller carries out what the verdict asks for (``repairs``) and writes down what it found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from .certificates import Certificate
from .identity import Identity
from .revision import Claim, Record

LACKS_REVISIONS = "lacks revisions"
LACKS_OBJECTS = "objects are damaged or missing there: tandem sync mends them"
"""Why a tier lags that is as the journal says."""


class Fault(Enum):
    """A document that is there and cannot be used, by what the protocol does about it."""

    DAMAGED = "damaged"
    FORGED = "forged"
    UNSUPPORTED = "of a newer format"


@dataclass(frozen=True, slots=True)
class SeenNumber:
    """What stands at one revision number."""

    claim: Claim | Fault | None = None
    record: Record | Fault | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a look read from one tier. ``numbers`` holds what a verdict needs to know of what stands at a
    number. ``claimed`` and ``recorded``: the numbers whose claim (record) is there and ours (`is_ours`); where both
    are, and nothing depends on it, the number need not be in ``numbers``. ``names_tier``, where the identity is
    damaged: whether the claims there, of whoever, are of this very tier; None if there are none."""

    identity: Identity | Fault | None
    epochs: Mapping[int, Certificate | Fault] = field(default_factory=dict)
    numbers: Mapping[int, SeenNumber] = field(default_factory=dict)
    claimed: Set[int] = frozenset()
    recorded: Set[int] = frozenset()
    names_tier: bool | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What the journal says stands at a number: the nonce of its claim and the hash of its record."""

    nonce: bytes
    record_hash: bytes


@dataclass(frozen=True, slots=True)
class Pending:
    """The stored intent. ``answered``: this tier confirmed our claim. A decided one is in the journal."""

    number: int
    nonce: bytes
    answered: bool


@dataclass(frozen=True, slots=True)
class Believed:
    """What this installation knows, for one tier. ``last_written`` and ``highest_held`` are 0 for none;
    ``start`` is the base that the tier started from: nothing below it is looked at. ``closed``: hashes of records
    that ended somebody else's numbers there, for a join that is not decided yet. ``fence``: number of the takeover
    or join that read this tier into the history, while the tier does not hold it: its claim stands there since before
    the reading; 0 for none. ``complete``: nothing is missing or lacking; ``holds_all``: no revision is missing, so that
    what is not ``complete`` lacks objects."""

    repository_id: bytes
    tier_id: bytes
    installation_id: bytes
    epoch: int
    certificate: bytes
    journal: Mapping[int, Known]
    head: int
    pending: Pending | None
    start: int
    highest_held: int
    last_written: int
    complete: bool
    imported: bool = True
    to_compare: bool = False
    closed: Mapping[int, bytes] = field(default_factory=dict)
    fence: int = 0
    holds_all: bool = False


class State(StrEnum):
    """The state of a tier, as shown to people."""

    ONLINE = "online"
    LAGGING = "lagging"
    SYNCING = "syncing"
    OFFLINE = "offline"
    BLOCKED = "blocked"


class Case(Enum):
    """Which line of the table applied."""

    NO_IDENTITY = "no identity"
    OTHER_TIER = "another tier of this repository"
    OTHER_REPOSITORY = "another repository"
    UNSUPPORTED = "newer format"
    FORGED = "forged"
    SECOND_INSTALLATION = "second installation"
    LATE_SIDE = "late side"
    ROLLED_BACK = "rolled back"
    LEVEL = "as the journal says"


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Something damaged of ours: moved aside and written again from local state. ``number`` is the epoch
    or revision; ``what`` is "identity", "epoch", "claim" or "record"."""

    what: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """``foreign``: the document that gave a second installation or late side away, for the error's text."""

    case: Case
    state: State
    reason: str = ""
    repairs: tuple[Rewrite, ...] = ()
    foreign: Claim | Record | Certificate | None = None
    is_clone: bool = False


def judge(seen: Seen, believed: Believed) -> Verdict:
    """The verdict on one tier: the first case that applies, in the order of the table."""
    verdict = _judge_identity(seen, believed)
    if verdict is not None:
        return verdict
    repairs: list[Rewrite] = []
    if seen.identity is Fault.DAMAGED:
        repairs.append(Rewrite("identity"))
    verdict = _judge_trouble(seen, believed) or _judge_second_installation(seen, believed)
    if verdict is not None:
        return verdict
    repairs += _damaged_epochs(seen, believed)
    late = _foreign(seen, believed, lower=True)
    if late is not None or not believed.imported:
        return Verdict(
            Case.LATE_SIDE,
            State.LAGGING,
            "holds revisions of an earlier installation that are not imported yet",
            tuple(repairs),
            late,
        )
    if not believed.to_compare and (lost := _lost(seen, believed)):
        return Verdict(Case.ROLLED_BACK, State.LAGGING, f"rolled back by its storage: {lost}", tuple(repairs))
    repairs += _damaged_numbers(seen, believed)
    if believed.to_compare:
        return Verdict(Case.LEVEL, State.LAGGING, "waits to be compared in full", tuple(repairs))
    if believed.complete:
        return Verdict(Case.LEVEL, State.ONLINE, "", tuple(repairs))
    reason = LACKS_OBJECTS if believed.holds_all else LACKS_REVISIONS
    return Verdict(Case.LEVEL, State.LAGGING, reason, tuple(repairs))


def _judge_identity(seen: Seen, believed: Believed) -> Verdict | None:
    identity = seen.identity
    if identity is None:
        return Verdict(Case.NO_IDENTITY, State.OFFLINE, "no repository there: not mounted, or wiped")
    if identity is Fault.UNSUPPORTED:
        return Verdict(
            Case.UNSUPPORTED, State.BLOCKED, "its layout is newer than this program knows: upgrade tandem"
        )
    if isinstance(identity, Fault):
        if not _anything_of_ours(seen, believed):
            return Verdict(
                Case.NO_IDENTITY, State.OFFLINE, "its identity file is damaged, and nothing there is ours"
            )
        return None
    if identity.repository_id != believed.repository_id:
        return Verdict(Case.OTHER_REPOSITORY, State.BLOCKED, "holds another repository")
    if identity.tier_id != believed.tier_id:
        return Verdict(Case.OTHER_TIER, State.OFFLINE, "another disk of this repository is there")
    return None


def _anything_of_ours(seen: Seen, believed: Believed) -> bool:
    """Whether a tier without a readable identity is the one that we mean all the same: by a claim, of whoever, for
    claims name the tier; where there is none yet, by a certificate of ours."""
    if seen.names_tier is not None:
        return seen.names_tier
    certificates = (found for found in seen.epochs.values() if isinstance(found, Certificate))
    return any(found.installation_id == believed.installation_id for found in certificates)


def _documents(seen: Seen) -> Iterator[tuple[int, Claim | Record | Fault]]:
    for number, found in sorted(seen.numbers.items()):
        for document in (found.claim, found.record):
            if document is not None:
                yield number, document


def _judge_trouble(seen: Seen, believed: Believed) -> Verdict | None:
    for number, document in _documents(seen):
        if document is Fault.FORGED:
            reason = f"revision {number} is signed by a key that this repository never enrolled"
            return Verdict(Case.FORGED, State.BLOCKED, reason)
    newer = [f"revision {number}" for number, document in _documents(seen) if document is Fault.UNSUPPORTED]
    newer += [
        f"epoch {epoch}"  # above ours it is a takeover, whoever can read it
        for epoch, found in sorted(seen.epochs.items())
        if found is Fault.UNSUPPORTED and epoch <= believed.epoch
    ]
    if newer:
        return Verdict(Case.UNSUPPORTED, State.BLOCKED, f"{newer[0]} needs a newer program: upgrade tandem")
    return None


def _judge_second_installation(seen: Seen, believed: Believed) -> Verdict | None:
    for epoch, certificate in sorted(seen.epochs.items()):
        if epoch > believed.epoch:
            return _second(certificate, believed, f"epoch {epoch} was taken by another installation")
        if (
            epoch == believed.epoch
            and isinstance(certificate, Certificate)
            and certificate.data != believed.certificate
        ):
            return _second(certificate, believed, f"epoch {epoch} belongs to another installation")
    foreign = _foreign(seen, believed, lower=False)
    if foreign is not None:
        return _second(foreign, believed, f"revision {foreign.number} is not ours")
    for number, found in sorted(seen.numbers.items()):
        if reason := _unexplained(number, found, believed):
            return _second(None, believed, reason)
    return None


def _unexplained(number: int, found: SeenNumber, believed: Believed) -> str:
    """Damage, or a record, at a number where this installation cannot have left it; "" if it can."""
    pending = believed.pending
    is_pending = pending is not None and number == pending.number
    if number in believed.journal or is_pending:
        return ""
    if found.claim is Fault.DAMAGED and number > believed.head:
        return f"an unreadable claim stands at revision {number}, which we never wrote"
    if found.record is Fault.DAMAGED and found.claim is None:
        return f"an unreadable record stands at revision {number}, which we never wrote"
    return ""


def _second(
    document: Claim | Record | Certificate | Fault | None, believed: Believed, reason: str
) -> Verdict:
    if isinstance(document, Fault):
        document = None
    holder = document.certificate if isinstance(document, (Claim, Record)) else document
    is_clone = holder is not None and holder.installation_id == believed.installation_id
    return Verdict(Case.SECOND_INSTALLATION, State.BLOCKED, reason, (), document, is_clone)


def _foreign(seen: Seen, believed: Believed, *, lower: bool) -> Claim | Record | None:
    """The first claim or record that is not what we know of its number: of a lower epoch than ours if
    ``lower``, else of ours or a higher one. Judged by number: a nonce once heard of proves nothing."""
    for number, document in _documents(seen):
        if isinstance(document, Fault) or is_ours(number, document, believed):
            continue
        if (document.certificate.epoch < believed.epoch) == lower:
            return document
    return None


def is_ours(number: int, document: Claim | Record, believed: Believed) -> bool:
    """Whether what stands at ``number`` is what the journal, or the pending intent, says of it."""
    known = believed.journal.get(number)
    if isinstance(document, Record):
        return document.hash in (
            known.record_hash if known is not None else None,
            believed.closed.get(number),
        )
    if known is not None:
        return document.nonce == known.nonce
    pending = believed.pending
    return pending is not None and number == pending.number and document.nonce == pending.nonce


def _damaged_epochs(seen: Seen, believed: Believed) -> list[Rewrite]:
    """Epoch files to write again: unreadable ones up to ours, and ours if it was there and is gone."""
    again = {epoch for epoch, found in seen.epochs.items() if isinstance(found, Fault)}
    if believed.last_written and believed.epoch not in seen.epochs:
        again.add(believed.epoch)
    return [Rewrite("epoch", epoch) for epoch in sorted(again)]


def _lost(seen: Seen, believed: Believed) -> str:
    """What this tier had and has no more; "" if nothing. Damage is not loss: it is written again."""
    nothing = SeenNumber()
    for number in sorted({believed.highest_held, believed.last_written} - {0}):
        found = seen.numbers.get(number, nothing)
        if found.record is None or found.claim is None:
            return f"revision {number} is gone"
    pending = believed.pending
    answered = {pending.number} if pending is not None and pending.answered else set()
    for number in sorted((answered | {believed.fence}) - {0}):
        if seen.numbers.get(number, nothing).claim is None:
            return f"the claim of revision {number} is gone"
    for number, found in sorted(seen.numbers.items()):
        if found.claim is None and found.record is not None:
            return f"the claim of revision {number} is gone"
    return ""


def _damaged_numbers(seen: Seen, believed: Believed) -> list[Rewrite]:
    found: list[Rewrite] = []
    for number, at in sorted(seen.numbers.items()):
        if number not in believed.journal:
            continue
        if at.claim is Fault.DAMAGED:
            found.append(Rewrite("claim", number))
        if at.record is Fault.DAMAGED:
            found.append(Rewrite("record", number))
    return found
