"""Looking at a tier: what `contact.read_tier` reads, judged by the real `verdict.judge`, written down and mended.

Mirrors `Tier.look`: reading, the verdict, forgetting the holds of a tier that was rolled back, and the repairs are
one step here; what can happen between them happens before or after it as well. The verdict is remembered by what
was seen and believed, because the number of distinct situations is small.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from tests.model import things
from tests.model.context import Context
from tests.model.things import DAMAGED, NUMBERS, REPOSITORY, claim, tier_id
from tests.model.world import (
    EPOCHS,
    IDENTITY_DAMAGED,
    Disk,
    Inst,
    Row,
    head_of,
    highest_held,
    put,
    revision_of,
    with_row,
)

from tandem_protocol.identity import Identity
from tandem_protocol.revision import Claim, Kind
from tandem_protocol.verdict import Believed, Case, Fault, Known, Pending, Seen, SeenNumber, judge
from tandem_protocol.verdict import State as TierState


class Look(NamedTuple):
    """What came of it. ``top``: the highest number seen; ``repairs``: what was damaged and ours."""

    case: Case
    state: TierState
    top: int
    repairs: tuple[tuple[str, int], ...]


ALARM = Case.SECOND_INSTALLATION


def epoch_of(inst: Inst) -> int:
    return things.real_certificate(inst.cert).epoch


def glance(ctx: Context, disk: Disk, inst: Inst, t: int, *, first: bool = False) -> Look:
    """The verdict alone. ``first``: at the start of an operation (only a mutant asks)."""
    key = (disk[:4], inst.cert, inst.journal, inst.intent, inst.rows[t], t, first, inst.heard)
    found = ctx.looks.get(key)
    if found is None:
        found = ctx.looks[key] = _judged(ctx, disk, inst, t, first)
    return found


def look(
    ctx: Context, disk: Disk, inst: Inst, t: int, *, first: bool = False
) -> tuple[Disk, Inst, Look, str]:
    """Look, note, mend. The last value is a broken promise: "" if none. An alarm changes nothing here."""
    seen = glance(ctx, disk, inst, t, first=first)
    if seen.case is ALARM:
        return disk, inst, seen, ""
    broken = ""
    if seen.case is Case.ROLLED_BACK:
        if not inst.unannounced >> t & 1:
            broken = f"P2: tier {t} announced as rolled back, and it is not, or it was said before"
        inst = _forgotten(ctx, inst, t)
    if seen.repairs and ctx.rules.mend:
        disk = _mended(disk, inst, t, seen.repairs)
        row = inst.rows[t]
        claims = tuple(
            (n, disk.claims[n] if ("claim", n) in seen.repairs else code) for n, code in row.claims
        )
        inst = with_row(inst, t, row._replace(claims=claims))
    return disk, inst, seen, broken


def _forgotten(ctx: Context, inst: Inst, t: int) -> Inst:
    """As `State.forget_holds`; after a takeover the tier counts as not imported."""
    inst = inst._replace(unannounced=inst.unannounced & ~(1 << t))
    if not ctx.rules.announce_once:
        return inst
    row = inst.rows[t]
    missing = sum(1 << n for n in range(row.start, NUMBERS) if inst.journal[n])
    late = epoch_of(inst) > 1 and ctx.rules.rolled_back_late
    return with_row(
        inst,
        t,
        row._replace(
            missing=missing,
            confirmed=0,
            written=0,
            claims=(),
            last=0,
            compare=1,
            imported=0 if late else row.imported,
        ),
    )


def _mended(disk: Disk, inst: Inst, t: int, repairs: tuple[tuple[str, int], ...]) -> Disk:
    for what, number in repairs:
        if what == "identity":
            disk = disk._replace(ident=inst.rows[t].generation)
        elif what == "epoch":
            ours = inst.cert if number == epoch_of(inst) else 0
            disk = disk._replace(epochs=put(disk.epochs, number, ours))
        elif what == "claim":
            nonce = things.docs[inst.journal[number]].nonce
            disk = disk._replace(
                claims=put(disk.claims, number, claim(inst.cert, nonce, number, inst.writer, disk.era))
            )
        else:
            disk = disk._replace(records=put(disk.records, number, inst.journal[number]))
    return disk


def _judged(ctx: Context, disk: Disk, inst: Inst, t: int, first: bool) -> Look:
    seen, believed = _seen(ctx, disk, inst, t, first), _believed(ctx, inst, t)
    verdict = judge(seen, believed)
    case, state = verdict.case, verdict.state
    if case is Case.LATE_SIDE and not ctx.rules.late_side:
        case = ALARM
    if case is Case.ROLLED_BACK and not ctx.rules.rollback_own:
        case = ALARM
    if case is ALARM and not ctx.rules.foreign_own:
        case, state = Case.ROLLED_BACK, TierState.LAGGING
    if case is Case.LEVEL and ctx.rules.claim_bytes and _is_copied(disk, inst.rows[t]):
        case, state = ALARM, TierState.BLOCKED
    top = max((n for n, at in seen.numbers.items() if at.claim or at.record), default=0)
    return Look(case, state, top, tuple((r.what, r.number) for r in verdict.repairs))


def _is_copied(disk: Disk, row: Row) -> bool:
    """Whether a claim with our nonce is not the one that stood there when its record was confirmed."""
    return any(disk.claims[n] > DAMAGED and disk.claims[n] != code for n, code in row.claims)


def _believed(ctx: Context, inst: Inst, t: int) -> Believed:
    rules, row, journal = ctx.rules, inst.rows[t], inst.journal
    real = things.real_certificate(inst.cert)
    pending = None
    if inst.intent is not None:
        answered = bool(inst.intent.answered >> t & 1) and rules.claims_too
        if inst.intent.answered >> t & 1 or rules.every_case:
            pending = Pending(inst.intent.number, inst.intent.nonce.to_bytes(24, "big"), answered)
    high = highest_held(journal, row) if rules.lagging else row.last
    known = {n: things.real_record(code) for n, code in enumerate(journal) if code}
    return Believed(
        repository_id=REPOSITORY,
        tier_id=tier_id(t, row.generation),
        installation_id=real.installation_id,
        epoch=real.epoch,
        certificate=real.data,
        journal={n: Known(record.nonce, record.hash) for n, record in known.items()},
        head=head_of(journal),
        pending=pending,
        start=row.start,
        highest_held=high,
        last_written=row.last if rules.last_written else high,
        complete=not row.missing and not row.lacking,
        imported=bool(row.imported),
        to_compare=bool(row.compare),
        closed={n: things.real_record(code).hash for n, code in row.closed},
        fence=fence_of(inst, row) if rules.fence_stays and rules.claims_too else 0,
    )


def fence_of(inst: Inst, row: Row) -> int:
    """The number of the takeover or join whose claim stands on an imported tier before it holds the base; 0: none."""
    start = row.start
    fenced = start > 1 and row.imported and not row.floor and row.missing >> start & 1
    if not fenced or not inst.journal[start]:
        return 0
    return start if things.docs[inst.journal[start]].kind in (Kind.TAKEOVER, Kind.JOIN) else 0


def numbers_read(ctx: Context, disk: Disk, inst: Inst, row: Row) -> set[int]:
    """The numbers that a look reads, as `contact.read_tier`."""
    journal = inst.journal
    top = max(head_of(journal), inst.intent.number if inst.intent is not None else 0)
    low = max(revision_of(journal, row) + 1, row.start, 1)
    wanted = {highest_held(journal, row), row.last, fence_of(inst, row)} - {0}
    if ctx.rules.past_gaps:
        wanted |= {n for n in range(low, top + 1) if not journal[n] or row.missing >> n & 1}
        climb = top + 1
        if ctx.rules.list_above and ctx.rules.epochs_always:  # either would do for a fence
            wanted |= {n for n in range(climb, NUMBERS) if disk.claims[n] or disk.records[n]}
    else:
        wanted |= {inst.intent.number} if inst.intent is not None else set()
        climb = low
    while climb < NUMBERS and (disk.claims[climb] or disk.records[climb]):
        wanted.add(climb)
        climb += 1
    return wanted


def _seen(ctx: Context, disk: Disk, inst: Inst, t: int, first: bool) -> Seen:
    if disk.ident == 0:
        return Seen(None)
    identity: Identity | Fault = Fault.DAMAGED
    if disk.ident != IDENTITY_DAMAGED:
        identity = Identity(REPOSITORY, tier_id(t, disk.ident), b"")
    highest = EPOCHS if first or ctx.rules.epochs_always else epoch_of(inst) + 1
    epochs = {
        e: Fault.DAMAGED if code == DAMAGED else things.real_certificate(code)
        for e, code in enumerate(disk.epochs)
        if code and e < highest
    }
    wanted = numbers_read(ctx, disk, inst, inst.rows[t])
    numbers = {n: _seen_number(ctx, disk, inst, n, t) for n in wanted}
    names_tier = True if any(isinstance(at.claim, Claim) for at in numbers.values()) else None
    return Seen(identity, epochs, numbers, names_tier=names_tier)


def _seen_number(ctx: Context, disk: Disk, inst: Inst, n: int, t: int) -> SeenNumber:
    claimed, written, ours = disk.claims[n], disk.records[n], inst.journal[n]
    if written > DAMAGED and not ctx.rules.bytes and ours and _same_nonce(written, ours):
        written = ours
    at = SeenNumber(
        Fault.DAMAGED if claimed == DAMAGED else _claim_on(claimed, inst, t) if claimed else None,
        Fault.DAMAGED if written == DAMAGED else things.real_record(written) if written else None,
    )
    if not ctx.rules.claims_too and at.claim is None and ours and written:
        at = replace(at, claim=things.real_claim(claim(inst.cert, things.docs[ours].nonce, n, inst.writer)))
    if not ctx.rules.by_number:
        at = _as_heard(at, claimed, written, inst, n)
    return at


def _claim_on(claimed: int, inst: Inst, t: int) -> Claim:
    """A claim names the tier that it is on."""
    return replace(things.real_claim(claimed), tier_id=tier_id(t, inst.rows[t].generation))


def _as_heard(at: SeenNumber, claimed: int, written: int, inst: Inst, n: int) -> SeenNumber:
    """A mutant: what was once heard of is taken for what ought to stand there."""
    ours = inst.journal[n]
    right_claim = (
        things.real_claim(claim(inst.cert, things.docs[ours].nonce, n, inst.writer)) if ours else None
    )
    right_record = things.real_record(ours) if ours else None
    if claimed > DAMAGED and things.real_claim(claimed).nonce in inst.heard:
        at = replace(at, claim=right_claim)
    if written > DAMAGED and things.real_record(written).nonce in inst.heard:
        at = replace(at, record=right_record)
    return at


def _same_nonce(a: int, b: int) -> bool:
    return things.docs[a].nonce == things.docs[b].nonce
