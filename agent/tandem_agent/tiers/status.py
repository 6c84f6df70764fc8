"""What each tier is and lacks, as `tandem tiers` shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tandem_agent.state import State, TierRow
from tandem_agent.wiring import Agent

NOT_CONFIGURED = "not in the configuration here; tandem tier add brings it back, tandem tier retire ends it"


@dataclass(frozen=True, slots=True)
class TierStatus:
    """One tier. ``revision``: the highest number up to which it holds everything; ``missing_*``: what it lacks
    up to the head, sizes in bytes; ``trouble``: what blocks it, or did before, where it is not online again since;
    ``since``: UTC, when it entered its state; ``power_safe`` is None where no tier was asked; ``tier_id``: 32 hex
    digits, as the configuration takes them."""

    name: str
    url: str
    state: str
    revision: int
    missing_revisions: int
    missing_objects: int
    missing_bytes: int
    reason: str
    trouble: str
    since: str
    power_safe: bool | None
    tier_id: str


@dataclass(frozen=True, slots=True)
class TiersStatus:
    """``head`` is the newest revision of the repository; 0 before the first."""

    head: int
    tiers: list[TierStatus] = field(default_factory=list)


async def tiers_status(agent: Agent) -> TiersStatus:
    """Contact every tier and tell its state. Raises `SecondInstallation`."""
    await agent.tiers.contact(deadline=agent.tiers.soon(), join=False)
    rows = [
        _status(agent.state, tier.row, tier.url, tier.state.value, tier.reason, tier.store.power_safe)
        for tier in agent.tiers.tiers
    ]
    here = {tier.id for tier in agent.tiers.tiers}
    rows += [
        _status(agent.state, row, "", "offline", NOT_CONFIGURED, None)
        for row in agent.state.tiers()
        if row.id not in here
    ]
    return TiersStatus(agent.state.head, rows)


def remembered_status(state: State, urls: Mapping[str, str]) -> TiersStatus:
    """As local state has it, asking no tier: while another process is at work. ``urls`` by tier name."""
    rows = [_status(state, row, urls.get(row.name, ""), row.state, row.reason, None) for row in state.tiers()]
    return TiersStatus(state.head, rows)


def _status(
    state: State, row: TierRow, url: str, word: str, reason: str, power_safe: bool | None
) -> TierStatus:
    objects, size = state.lacked_total(row.id)
    return TierStatus(
        name=row.name,
        url=url,
        state=word,
        revision=state.tier_revision(row.id),
        missing_revisions=len(state.missing(row.id)),
        missing_objects=objects,
        missing_bytes=size,
        reason=reason,
        trouble=row.trouble,
        since=row.since,
        power_safe=power_safe,
        tier_id=row.id.hex(),
    )
