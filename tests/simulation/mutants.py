"""Rules of the protocol taken out of the agent, one at a time: the simulation has to find each of them.

A mutant is a patch on the real code, and the kinds of fault among which it shows soon.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from tandem_agent import backup_writer
from tandem_agent.state import State
from tandem_agent.tiers import joining as joining_late
from tandem_agent.tiers import levelling, targets
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.tierset import TierSet
from tandem_agent.tiers.writing import Revision
from tandem_protocol import joining, planning, verdict


@dataclass(frozen=True)
class Mutant:
    """``make`` gives the patch, a context; ``faults`` are `Scenario`'s; ``first`` is the seed to begin with: one that
    found it when this was written."""

    name: str
    first: int
    faults: tuple[str, ...]
    make: Callable[[], Any]


MUTANTS: list[Mutant] = []


def mutant(first: int, *faults: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def add(make: Callable[[], Any]) -> Callable[[], Any]:
        MUTANTS.append(Mutant(make.__name__.replace("_", " "), first, faults, make))
        return make

    return add


async def _nothing(*_: Any, **__: Any) -> str:
    return ""


@mutant(0, "dropped")
def acknowledge_before_the_look() -> Any:
    return patch.object(Tier, "verify", _nothing)


@mutant(0, "dropped")
def sizes_are_not_checked() -> Any:
    return patch.object(Revision, "_need_sizes", lambda *_: None)


@mutant(4, "away")
def a_lagging_tier_counts_as_holding() -> Any:
    return patch.object(State, "is_on", lambda self, number, tier: self.highest_held(tier) >= number)


@mutant(0, "away", "flip object")
def what_is_lacking_is_forgotten() -> Any:
    return patch.object(State, "add_lacking", lambda *_: None)


@mutant(44, "away")
def deduplication_against_what_targets_lack() -> Any:
    real = planning.usable_packs
    return patch.object(backup_writer, "usable_packs", lambda live, _, naming: real(live, (), naming))


@mutant(103, "away", "roll back")
def lagging_tiers_are_targets_too() -> Any:
    def choose(tiers: Any, *_: Any) -> list[bytes]:
        return [tier.tier_id for tier in tiers if tier.reachable]

    return patch.object(targets, "choose_targets", choose)


@mutant(1, "crash")
def numbers_are_used_again() -> Any:
    def forget(self: TierSet, _reason: str) -> None:
        with self.state.together():
            self.state._db.change("DELETE FROM intent")
            self.state._db.change("DELETE FROM answered")

    return patch.object(TierSet, "abort_pending", forget)


@mutant(1, "crash")
def the_intent_is_not_durable() -> Any:
    def end(self: TierSet) -> None:
        with self.state.together():
            self.state._db.change("DELETE FROM intent")

    return patch.object(TierSet, "_end_pending", end)


@mutant(1, "clone", "away")
def a_foreign_claim_is_no_matter() -> Any:
    return patch.object(verdict, "_judge_second_installation", lambda *_: None)


@mutant(0, "roll back")
def rollback_is_not_noticed() -> Any:
    return patch.object(verdict, "_lost", lambda *_: "")


@mutant(0, "crash")
def our_own_pending_claim_is_foreign() -> Any:
    real = verdict.is_ours
    return patch.object(verdict, "is_ours", lambda n, d, known: real(n, d, replace(known, pending=None)))


@mutant(9, "away")
def records_before_objects() -> Any:
    return patch.object(levelling, "writable_now", lambda records, *_: [record.number for record in records])


@mutant(1, "takeover", "away")
def late_sides_are_not_joined() -> Any:
    return patch.object(joining_late, "join_late", _nothing)


@mutant(2, "takeover", "away")
def one_branch_is_kept() -> Any:
    real = joining.heads
    return patch.object(joining, "heads", lambda records, known=(): real(records, known)[-1:])
