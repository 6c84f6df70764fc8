"""What a search carries along: the rules in force, the budgets' meaning, and remembered answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.model.rules import Rules
from tests.model.world import Run, State

BUDGET = (
    "crash", "cut", "lost", "backup", "long", "prune", "prune_one", "sync", "full", "collect", "purge", "check",
    "repair", "read", "snap", "roll", "roll_away", "wipe", "replace", "damage", "damage_epoch", "damage_identity",
    "rot", "vanish", "clone", "fresh", "takeover", "wait",
)  # fmt: skip
(
    CRASH, CUT, LOST, BACKUP, LONG, PRUNE, PRUNE_ONE, SYNC, FULL, COLLECT, PURGE, CHECK,
    REPAIR, READ, SNAP, ROLL, ROLL_AWAY, WIPE, REPLACE, DAMAGE, DAMAGE_EPOCH, DAMAGE_IDENTITY,
    ROT, VANISH, CLONE, FRESH, TAKEOVER, WAIT,
) = range(len(BUDGET))  # fmt: skip


def _not_there(*_: object) -> State:
    raise AssertionError("see agent.make_context")


class Context:
    """``tiers``: how many; ``rules``: those in force. The rest remembers answers of pure functions."""

    def __init__(self, tiers: int, rules: Rules) -> None:
        self.tiers = tiers
        self.rules = rules
        self.looks: dict[Any, Any] = {}
        self.plans: dict[Any, Any] = {}
        self.quiet: set[int] = set()
        self.ends: dict[tuple[int, int], Any] = {}
        # The steps that other modules of the model add; set when they are put together, in `agent`.
        self.join: Callable[[Context, State, int, Run, int], State] = _not_there
        self.serve: Callable[[Context, State, int, Run], State] = _not_there
        self.serve_on: Callable[[Context, State, int, Run], State] = _not_there


def spend(budget: tuple[int, ...], what: int, count: int = 1) -> tuple[int, ...]:
    return (*budget[:what], budget[what] - count, *budget[what + 1 :])
