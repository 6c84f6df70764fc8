"""The reachable tiers as places to read from: what restore, index building and synchronisation read through."""

from __future__ import annotations

from tandem_agent.engine.fetch import NamedStore
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.tierset import TierSet


def readers(tiers: TierSet, only: str | None = None) -> list[NamedStore]:
    """In configured order, so that the first (the vault) answers when it can. ``only``: one tier's name."""
    state = tiers.state

    def make(tier: Tier) -> NamedStore:
        facts = tier.facts()

        def holds(name: bytes) -> bool:
            found = state.live_object(name)
            return found is not None and facts.holds_last(found)

        return NamedStore(tier.name, tier.store, holds)

    return [make(tier) for tier in tiers.reachable if only in (None, tier.name)]
