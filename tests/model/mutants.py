"""For each rule, what may happen in the search that finds the run which breaks without it."""

from __future__ import annotations

from tests.model.configurations import Configuration, configuration

BUDGETS: dict[str, dict[str, int]] = {
    "intent": {"backup": 1, "crash": 1},
    "lagging": {"backup": 2, "cut": 2},
    "decide_first": {"backup": 2, "cut": 1, "lost": 1},
    "decide_alone": {"backup": 1, "crash": 1},
    "every_case": {"backup": 1, "crash": 1},
    "past_gaps": {"backup": 3, "clone": 1, "cut": 2},
    "epochs_always": {"backup": 1, "fresh": 1, "takeover": 1, "cut": 2},
    "look_after": {"backup": 1, "snap": 1, "roll": 1},
    "last_written": {"backup": 2, "cut": 2, "snap": 1, "roll": 1},
    "new_session": {"backup": 1, "snap": 1, "roll_away": 1},
    "net_effect": {"backup": 2, "prune": 1, "cut": 1, "collect": 1, "purge": 1},
    "dedup_live": {"backup": 2, "prune": 1, "cut": 1, "collect": 1, "purge": 1},
    "record_then_remove": {"backup": 1, "prune": 1, "crash": 1},
    "quarantine": {"backup": 2, "prune": 1, "collect": 1, "fresh": 1, "takeover": 1},
    "orphans_named": {"backup": 2, "check": 1, "damage": 1},
    "mend": {"backup": 1, "damage": 1},
    "repair": {"backup": 1, "wipe": 1, "cut": 1},
    "fence_first": {"backup": 1, "fresh": 1, "takeover": 1, "cut": 1},
    "late_side": {"fresh": 1, "takeover": 1, "cut": 1},
    "keep_unnamed": {"backup": 1, "fresh": 1, "takeover": 1, "damage": 2},
    "imported_decided": {"backup": 1, "fresh": 1, "takeover": 1, "cut": 2},
    "rolled_back_late": {"backup": 2, "fresh": 1, "takeover": 1, "kept": 1, "roll": 1},
    "by_number": {"backup": 1, "cut": 6, "fresh": 1, "takeover": 1, "kept": 1, "roll": 1, "in_turn": 1},
    "claims_too": {"backup": 1, "cut": 1, "fresh": 1, "takeover": 1, "kept": 1, "roll": 1},
    "bytes": {"backup": 1, "clone": 1, "crash": 1},
    "last_on_checkpointed": {"long": 1, "cut": 1},
    "on_needs_before": {"backup": 2, "cut": 2, "vanish": 1},
    "dedup_good": {"backup": 2, "vanish": 1, "read": 1},
    "dedup_index": {"backup": 2, "vanish": 1, "read": 1},
    "dedup_last_added": {"backup": 3, "prune": 1, "cut": 3, "collect": 1},
    "announce_once": {"backup": 1, "snap": 1, "roll": 1},
    "dedup_per_tier": {"backup": 2, "prune_one": 1, "cut": 1, "collect": 1, "purge": 1},
    "base_lacking": {"backup": 1, "fresh": 1, "takeover": 1, "cut": 1},
    "no_mirror": {"backup": 1, "fresh": 1, "takeover": 1, "cut": 2, "full": 1},
    "exclusive": {"backup": 1, "clone": 1},
    "numbers_once": {"backup": 2, "crash": 1, "cut": 1},
    "join_voids": {"backup": 2, "prune": 1, "fresh": 1, "takeover": 1, "cut": 3, "in_turn": 1},
    "rollback_own": {"backup": 1, "snap": 1, "roll": 1},
    "foreign_own": {"backup": 1, "clone": 1},
    "holds_durable": {"backup": 1, "snap": 1, "roll": 1, "crash": 1},
    "dedup_all": {"backup": 2, "prune_one": 1, "collect": 1, "purge": 1},
    "purge_look": {"backup": 2, "prune": 1, "collect": 1, "purge": 1, "fresh": 1, "takeover": 1},
    "repair_all": {"backup": 1, "repair": 1, "cut": 2},
    "close_foreign": {"fresh": 1, "takeover": 1, "crash": 1, "lost": 1},
    "dedup_everywhere": {"backup": 2, "prune_one": 1, "cut": 1, "collect": 1, "purge": 1},
    "fence_stays": {"backup": 1, "cut": 1, "fresh": 1, "takeover": 1, "snap": 1, "roll": 1},
    "list_again": {"backup": 1, "fresh": 1, "takeover": 1, "snap": 1, "roll": 1},
    "sync_sizes": {"backup": 1, "cut": 1, "snap": 1, "roll": 1},
    "mark": {"backup": 1, "vanish": 1, "read": 1, "snap": 1, "roll": 1},
    "lacking_first": {"backup": 1, "vanish": 1, "cut": 2, "snap": 1, "roll": 1},
    "closings_ours": {"backup": 2, "cut": 5, "crash": 1, "fresh": 1, "takeover": 1, "in_turn": 1},
    "mark_sizes": {"backup": 1, "vanish": 1, "snap": 1, "roll": 1},
    "claim_bytes": {"backup": 2, "clone": 1, "crash": 1, "kept": 1, "roll": 1, "in_turn": 1},
    "list_above": {"backup": 2, "prune": 1, "cut": 1, "clone": 1, "collect": 1, "in_turn": 1},
    "whole_lines": {"backup": 2, "prune": 1, "cut": 2, "fresh": 1, "takeover": 1, "collect": 1, "in_turn": 1},
    "index_again": {"backup": 1, "vanish": 1, "cut": 1},
    "raise_after_loss": {"backup": 1, "fresh": 1, "takeover": 1},
}


SLOW = ("past_gaps", "by_number", "fence_stays", "closings_ours", "whole_lines", "join_voids")
"""Found only after tens of thousands of states: for the long form."""


def configuration_for(rule: str) -> Configuration:
    """Small enough that the shortest run is found soon."""
    return configuration(f"without {rule}", **{"tiers": 2, **BUDGETS[rule]})  # type: ignore[arg-type]  # counts, and a flag or two
