"""Finding the tiers that a write goes to: waiting until one can be reached, the choice, and for a revision that
was decided but confirmed nowhere, waiting until it is on one.

Writes no objects: `Revision` does. A rolled-back tier is compared here only when there is no other to write to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from tandem_agent.progress import Progress
from tandem_agent.tiers.levelling import level_tier
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.tierset import TierSet
from tandem_protocol.errors import NoTierReachable, Refused
from tandem_protocol.history import Live
from tandem_protocol.planning import choose_targets
from tandem_protocol.verdict import State as TierState

POLL_S = 5.0
"""How often a write without any reachable tier looks for one."""


async def reachable_targets(
    tiers: TierSet,
    wait_s: float | None,
    only: Iterable[bytes] | None = None,
    progress: Progress | None = None,
) -> list[Tier]:
    """Step 1, and the choice of targets: contact until at least one tier can be written to, for ever or for
    ``wait_s`` seconds; then `NoTierReachable`. ``only`` bounds the choice (the last revision of a backup). Raises
    `Unsupported` where the repository needs a newer program."""
    clock = asyncio.get_running_loop().time
    deadline = None if wait_s is None else clock() + wait_s
    tiers.state.requires().check_writable()  # a contact writes, too
    await tiers.stop_levelling()
    while True:
        await tiers.contact(deadline=tiers.at_least_patience(deadline))
        targets = await _chosen(tiers, only, progress or Progress())
        if targets:
            return targets
        reasons = "; ".join(f"{t.name}: {t.reason or t.state}" for t in tiers.tiers)
        if all(tier.state is TierState.BLOCKED for tier in tiers.tiers):
            # Waiting helps none of them.
            raise Refused(f"no tier can be written to ({reasons})", "put that right and run it again")
        if progress is not None:
            progress.phase = "waiting for a tier"
        await asyncio.sleep(POLL_S if deadline is None else min(POLL_S, max(0.0, deadline - clock())))
        if deadline is not None and clock() >= deadline:
            raise NoTierReachable(f"no tier can be written to ({reasons})", "bring one back and run it again")


async def _chosen(tiers: TierSet, only: Iterable[bytes] | None, progress: Progress) -> list[Tier]:
    """The targets among the tiers that can be reached now. One that waits to be compared is none, but where there
    is no other, its comparison comes first: a backup must not wait for ever for a tier that is there."""
    allowed = tiers.tiers if only is None else tiers.by_id(only)

    def choose() -> list[Tier]:
        facts = [tier.facts() for tier in tiers.tiers]
        lacked: Live = {}
        if not any(known.complete and known.state is TierState.ONLINE for known in facts):
            # What each lacks decides, and nothing else that is live: it is the same for all of them.
            for known in facts:
                if known.reachable:
                    lacked |= tiers.state.lacked(known.tier_id)
        chosen = choose_targets(facts, lacked)
        return [tier for tier in tiers.by_id(chosen) if tier in allowed]

    targets = choose()
    to_compare = [tier for tier in allowed if tier.reachable and tier.row.to_compare]
    if targets or not to_compare:
        return targets
    for tier in to_compare:
        await level_tier(tiers, tier, True, progress)
    return choose()


async def wait_until_held(
    tiers: TierSet,
    number: int,
    targets: Iterable[Tier],
    wait_s: float | None,
    progress: Progress | None = None,
    *,
    others: bool = False,
) -> list[Tier]:
    """The tiers that the decided revision ``number`` is on, once there is one; empty after ``wait_s`` seconds.
    ``targets`` are those it was written to: it is completed where all its objects already are. With ``others`` it is
    empty too as soon as another tier can be written to."""
    clock = asyncio.get_running_loop().time
    deadline = None if wait_s is None else clock() + wait_s
    state = tiers.state
    before = {target.id: (state.lacking(target.id), set(state.missing(target.id))) for target in targets}
    while True:
        for tier in tiers.by_id(before):
            done = tier.reachable and await tiers.complete(tier, number)
            lacking, missing = before[tier.id]
            # Nothing that it refers to has gone meanwhile, known object by object or by whole revisions.
            as_before = state.lacking(tier.id) <= lacking and set(state.missing(tier.id)) <= missing
            if done and as_before:
                state.confirm([number], [tier.id], as_targets=True)
        holders = [tier for tier in tiers.tiers if state.is_on(number, tier.id)]
        if holders or (deadline is not None and clock() >= deadline):
            return holders
        if others and await _chosen(tiers, None, progress or Progress()):
            return []
        if progress is not None:
            progress.phase = "waiting for a tier"
        await asyncio.sleep(POLL_S if deadline is None else min(POLL_S, max(0.0, deadline - clock())))
        await tiers.contact(deadline=tiers.at_least_patience(deadline))
