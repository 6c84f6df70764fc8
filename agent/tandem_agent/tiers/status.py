"""What each tier is and lacks, as `tandem tiers` shows it."""

from __future__ import annotations

from dataclasses import dataclass, field

from tandem_agent.wiring import Agent
from tandem_protocol.planning import lacks


@dataclass(frozen=True, slots=True)
class TierStatus:
    """One tier. ``revision``: the highest number up to which it holds everything; ``missing_*``: what it lacks
    up to the head, sizes in bytes; ``since``: UTC, when it entered its state."""

    name: str
    url: str
    state: str
    revision: int
    missing_revisions: int
    missing_objects: int
    missing_bytes: int
    reason: str
    since: str
    power_safe: bool


@dataclass(frozen=True, slots=True)
class TiersStatus:
    """``head`` is the newest revision of the repository; 0 before the first."""

    head: int
    tiers: list[TierStatus] = field(default_factory=list)


async def tiers_status(agent: Agent) -> TiersStatus:
    """Contact every tier and tell its state. Raises `SecondInstallation`."""
    await agent.tiers.contact()
    live = agent.state.live()
    rows = []
    for tier in agent.tiers.tiers:
        facts = tier.facts()
        missing = lacks(facts, live)
        rows.append(
            TierStatus(
                name=tier.name,
                url=tier.url,
                state=tier.state.value,
                revision=agent.state.tier_revision(tier.id),
                missing_revisions=len(facts.missing),
                missing_objects=len(missing),
                missing_bytes=sum(found.size for found in missing),
                reason=tier.reason,
                since=tier.row.since,
                power_safe=tier.store.power_safe,
            )
        )
    return TiersStatus(agent.state.head, rows)
