"""The reachable tiers as places to read from: what restore, index building and synchronisation read through."""

from __future__ import annotations

from tandem_agent.engine.fetch import NamedStore
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.tierset import TierSet


def readers(tiers: TierSet, only: str | None = None) -> list[NamedStore]:
    """In configured order, so that the first (the vault) answers when it can. ``only``: one tier's name."""
    live = tiers.state.live()

    def make(tier: Tier) -> NamedStore:
        facts = tier.facts()
        return NamedStore(tier.name, tier.store, lambda name: name in live and facts.holds_last(live[name]))

    return [make(tier) for tier in tiers.reachable if only in (None, tier.name)]
