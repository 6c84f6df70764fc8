"""What each tier is and lacks, as `tandem tiers` shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tandem_agent.state import State, TierRow
from tandem_agent.wiring import Agent
from tandem_protocol.history import Live
from tandem_protocol.planning import TierFacts, lacks
from tandem_protocol.verdict import State as TierState


@dataclass(frozen=True, slots=True)
class TierStatus:
    """One tier. ``revision``: the highest number up to which it holds everything; ``missing_*``: what it lacks
    up to the head, sizes in bytes; ``since``: UTC, when it entered its state; ``power_safe`` is None where no tier
    was asked."""

    name: str
    url: str
    state: str
    revision: int
    missing_revisions: int
    missing_objects: int
    missing_bytes: int
    reason: str
    since: str
    power_safe: bool | None


@dataclass(frozen=True, slots=True)
class TiersStatus:
    """``head`` is the newest revision of the repository; 0 before the first."""

    head: int
    tiers: list[TierStatus] = field(default_factory=list)


async def tiers_status(agent: Agent) -> TiersStatus:
    """Contact every tier and tell its state. Raises `SecondInstallation`."""
    await agent.tiers.contact(deadline=agent.tiers.soon(), join=False)
    live = agent.state.live()
    rows = [
        _status(
            agent.state,
            tier.row,
            tier.url,
            tier.facts(),
            live,
            tier.state.value,
            tier.reason,
            tier.store.power_safe,
        )
        for tier in agent.tiers.tiers
    ]
    return TiersStatus(agent.state.head, rows)


def remembered_status(state: State, urls: Mapping[str, str]) -> TiersStatus:
    """As local state has it, asking no tier: while another process is at work. ``urls`` by tier name."""
    live = state.live()
    rows = []
    for row in state.tiers():
        missing, lacking = frozenset(state.missing(row.id)), frozenset(state.lacking(row.id))
        facts = TierFacts(row.id, TierState.LAGGING, row.to_compare, missing, lacking, row.floor)
        rows.append(_status(state, row, urls.get(row.name, ""), facts, live, row.state, row.reason, None))
    return TiersStatus(state.head, rows)


def _status(
    state: State,
    row: TierRow,
    url: str,
    facts: TierFacts,
    live: Live,
    word: str,
    reason: str,
    power_safe: bool | None,
) -> TierStatus:
    missing = lacks(facts, live)
    return TierStatus(
        name=row.name,
        url=url,
        state=word,
        revision=state.tier_revision(row.id),
        missing_revisions=len(facts.missing),
        missing_objects=len(missing),
        missing_bytes=sum(found.size for found in missing),
        reason=reason,
        since=row.since,
        power_safe=power_safe,
    )
