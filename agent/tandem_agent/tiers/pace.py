"""How far a tier may fall behind the others in one backup, and for how long it may hold them up.

Bookkeeping only: who waits, measures and has a tier leave is `writing`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT_BYTES = 32 * 1024 * 1024
DEFAULT_SECONDS = 3600.0
SHORTEST_S = 0.001


@dataclass(frozen=True, slots=True)
class LagBudget:
    """``bytes``: what may wait for a tier in memory while the others go on. ``seconds``: for how long, in all, one
    backup waits for it beyond that; then the tier leaves the backup, and synchronisation brings it level. 0: the
    backup never waits for it."""

    bytes: int = DEFAULT_BYTES
    seconds: float = DEFAULT_SECONDS


class Pace:
    """One backup's account, over all its checkpoints: for how long each tier has held the others up."""

    def __init__(self, budgets: Mapping[bytes, LagBudget]) -> None:
        self._budgets = dict(budgets)
        self._held_up: defaultdict[bytes, float] = defaultdict(float)

    def allowance(self, tier: bytes) -> int:
        """Bytes that may wait for the tier without holding anybody up."""
        return self._budgets[tier].bytes if tier in self._budgets else DEFAULT_BYTES

    def charge(self, tier: bytes, seconds: float) -> None:
        """The others have waited for the tier."""
        self._held_up[tier] += seconds

    def held_up(self, tier: bytes) -> float:
        """Seconds that the others have waited for the tier so far."""
        return self._held_up[tier]

    def left(self, tier: bytes) -> float:
        """Seconds that they would still wait; infinite for a tier without a budget. Never so few that a clock, which
        counts to a last binary place, might not move by them."""
        if tier not in self._budgets:
            return float("inf")
        left = self._budgets[tier].seconds - self._held_up[tier]
        return left if left > SHORTEST_S else 0.0
