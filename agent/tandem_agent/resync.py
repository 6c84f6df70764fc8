"""Synchronisation as the user asks for it: bring lagging tiers level with the head, and tell what became of each.

What levelling a tier means is in ``tiers.levelling``; this is which tiers, in which order, and the result.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tandem_agent.progress import Progress
from tandem_agent.repairing import give_up_lost
from tandem_agent.tiers.levelling import announce, level_tier
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.tierset import TierSet
from tandem_agent.wiring import Agent
from tandem_protocol.errors import Usage
from tandem_protocol.replicate import Outcome


@dataclass(frozen=True, slots=True)
class TierSyncResult:
    """What one tier got: counts of revisions and objects, bytes sent, seconds; ``reason`` if it still lags.
    ``stopped``: a write that began in this process stopped it."""

    name: str
    state: str
    revisions: int
    objects: int
    bytes: int
    seconds: float
    reason: str
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class SyncResult:
    """``lost``: how many objects were good on no tier and were given up; ``damaged``: the names of the backups that
    need them."""

    tiers: list[TierSyncResult] = field(default_factory=list)
    lost: int = 0
    damaged: list[str] = field(default_factory=list)


async def sync(
    agent: Agent, only: Sequence[str], full: bool, progress: Progress, patience_s: float | None = None
) -> SyncResult:
    """Synchronise the tiers named (all without names) once. A tier that cannot be levelled now is told so
    in the result; raises `SecondInstallation`. A write that begins in this process stops it, and so does its
    cancellation, within a second: what was sent is kept, and the next one goes on there."""
    tiers = agent.tiers
    unknown = set(only) - {tier.name for tier in tiers.tiers}
    if unknown:
        known = ", ".join(tier.name for tier in tiers.tiers)
        raise Usage(f"no tier is called {min(unknown)}", f"this repository has {known}")
    tiers.state.requires().check_writable()
    progress.phase = "contacting tiers"
    await tiers.contact(patience_s, None if patience_s is not None else tiers.soon())
    chosen = [tier for tier in tiers.tiers if not only or tier.name in only]
    announce(tiers, [tier for tier in chosen if tier.reachable], progress)
    results: list[TierSyncResult] = []
    for tier in chosen:
        results.append(await _sync_one(tiers, tier, full, progress))
        if results[-1].stopped:
            return SyncResult(results)
    loss = None if only else await give_up_lost(agent, progress)
    if loss is None:
        return SyncResult(results)
    again = [await _sync_one(tiers, tier, False, progress) for tier in chosen]
    both = [_sum(*pair) for pair in zip(results, again, strict=True)]
    return SyncResult(both, loss.objects, loss.backups)


def _sum(first: TierSyncResult, then: TierSyncResult) -> TierSyncResult:
    """Two synchronisations of one tier as one."""
    return replace(
        then,
        revisions=first.revisions + then.revisions,
        objects=first.objects + then.objects,
        bytes=first.bytes + then.bytes,
        seconds=round(first.seconds + then.seconds, 3),
    )


async def _sync_one(tiers: TierSet, tier: Tier, full: bool, progress: Progress) -> TierSyncResult:
    started = time.monotonic()
    before = tiers.state.missing(tier.id)
    outcome = Outcome()
    if tier.reachable and (full or not tier.is_complete):
        outcome = await level_tier(tiers, tier, full, progress)
    tier.remember()
    done = len(before) - len(tiers.state.missing(tier.id))
    seconds = time.monotonic() - started
    return TierSyncResult(
        tier.name,
        tier.state.value,
        done,
        len(outcome.copied),
        outcome.size,
        round(seconds, 3),
        tier.reason,
        outcome.stopped,
    )
