"""What reading found missing or damaged on a tier is noted in local state, so that the next synchronisation mends it.

Only what the tier was believed to have good counts: a tier that lags is asked too, and is no worse for not having
what it never got. Nothing is written to a tier here.
"""

from __future__ import annotations

from collections.abc import Iterable

from tandem_agent.config import Config
from tandem_agent.engine.fetch import Damage
from tandem_agent.state import State, TierRow
from tandem_agent.tiers.tierset import TierSet, refresh
from tandem_agent.wiring import open_state, process_lock
from tandem_protocol.errors import TandemError


def note_damage(config: Config, damage: Iterable[Damage]) -> list[str]:
    """Have ``damage`` count as lacking where it was found; a line for people for each tier that has more of it than
    was known. Another process at work, or local state that cannot be written, keeps it from that: reading is not to
    fail for it, and whoever meets the damage next notes it."""
    by_tier: dict[str, set[bytes]] = {}
    for found in damage:
        by_tier.setdefault(found.tier, set()).add(found.name)
    if not by_tier:
        return []
    try:
        with process_lock(config), open_state(config) as state:
            return [
                f"objects damaged or missing on tier {row.name}: {count}; tandem sync mends them from the others"
                for row in state.tiers()
                if (count := note_on_tier(state, row, by_tier.get(row.name, set())))
            ]
    except TandemError:
        return []


def note_found(tiers: TierSet, damage: Iterable[Damage]) -> None:
    """Have what an operation of this process found bad count as lacking."""
    by_tier: dict[str, set[bytes]] = {}
    for found in damage:
        by_tier.setdefault(found.tier, set()).add(found.name)
    for tier in tiers.tiers:
        if tier.name in by_tier and note_on_tier(tiers.state, tier.row, by_tier[tier.name]):
            refresh(tier)


def note_on_tier(state: State, row: TierRow, names: set[bytes]) -> int:
    """Have those of ``names`` count as lacking that were believed to be good on the tier until now; how many."""
    live = state.live_among(names)
    facts = state.facts(row.id)
    worse = [name for name, found in live.items() if facts.holds_last(found)]
    state.add_lacking(row.id, worse)
    return len(worse)
