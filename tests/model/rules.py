"""The rules of the tier protocol that can be taken out, one switch each: all are in force by default.

The first block is the table at the end of the tier protocol, line by line; the second is the list below it. A
mutant is `Rules(without=name)`. Where a rule lives in a real pure function, the step that calls it spoils its
input or output instead.
"""

from __future__ import annotations

TABLE = {
    "intent": "claim and record, two steps with intent",
    "lagging": "a tier raised but not written is lagging",
    "decide_first": "decide before the first record",
    "decide_alone": "deciding alone, not waiting for every tier before aborting",
    "every_case": "a verdict for every case",
    "past_gaps": "reading past gaps in a look",
    "epochs_always": "epochs seen in every look",
    "look_after": "look after the record, with sizes",
    "last_written": "checking what was last written, not only the highest",
    "new_session": "starting again in a new session",
    "net_effect": "net effect",
    "dedup_live": "deduplication only against held and live",
    "record_then_remove": "removal after the record",
    "quarantine": "quarantine",
    "orphans_named": "orphans only by a record",
    "mend": "writing damaged records again",
    "repair": "repair naming what is lost everywhere",
    "fence_first": "the fence before the import",
    "late_side": "late side",
    "keep_unnamed": "keeping unnamed complete snapshots at takeover",
    "imported_decided": "imported only by the decision",
    "rolled_back_late": "a rolled-back tier counts as not imported",
    "by_number": "judging by number, not by 'have I heard of this nonce'",
    "claims_too": "looking at claims too, after writing and synchronising",
    "bytes": "comparing bytes (and looking after)",
}

LIST = {
    "last_on_checkpointed": "the last revision goes only to tiers that have every checkpoint",
    "on_needs_before": "a backup is on a tier only with all revisions before it",
    "dedup_good": "no deduplication against an object known to be damaged",
    "dedup_index": "no deduplication against an object whose only index is elsewhere",
    "dedup_last_added": "deduplication needs the last revision that added it",
    "announce_once": "a rolled-back tier is announced once",
    "dedup_per_tier": "no deduplication across a removal for one tier only",
    "base_lacking": "a base's lacking set counts against a backup",
    "no_mirror": "synchronising is not mirroring",
    "exclusive": "a claim is created exclusively",
    "numbers_once": "a number is never used again",
    "join_voids": "a join voids removals that are not shared",
    "rollback_own": "a rollback is not taken for foreign",
    "foreign_own": "what is foreign is not taken for a rollback",
    "holds_durable": "holds are durable",
    "dedup_all": "deduplication needs the object on every target",
    "purge_look": "a purge only right after a clean look",
    "repair_all": "repair only with every tier looked at",
}

FOUND = {
    "close_foreign": "a join closes only numbers that are not in our journal",
    "dedup_everywhere": "deduplication needs the object live on every tier, not only on the targets",
    "fence_stays": "the claim of a takeover counts as answered until its base is confirmed",
    "list_again": "an imported tier is listed again when its base stands there",
    "sync_sizes": "sizes after the record in a synchronisation too",
    "mark": "objects that came without a record count only when something created after them stands there",
    "lacking_first": "what is copied where its record stands already is lacking first",
    "closings_ours": "what a join closed is known as ours when it was stopped half-way",
    "mark_sizes": "what a mark stands for is looked for once more when it stands",
    "claim_bytes": "a claim that is not the one that stood there when its record was confirmed is a clone's",
    "list_above": "what stands above the head is listed, not only climbed to",
    "whole_lines": "a record counts as an ancestor only if all below it was read",
    "index_again": "a repair writes index segments again that were lost alone",
    "raise_after_loss": "a takeover that lost its number goes on with a higher one",
}
"""Rules that this search found to be missing."""

NAMES = {**TABLE, **LIST, **FOUND}


class Rules:
    """One attribute for each name in `NAMES`: True while the rule is in force."""

    intent = lagging = decide_first = decide_alone = every_case = past_gaps = epochs_always = True
    look_after = last_written = new_session = net_effect = dedup_live = record_then_remove = True
    quarantine = orphans_named = mend = repair = fence_first = late_side = keep_unnamed = True
    imported_decided = rolled_back_late = by_number = claims_too = bytes = True
    last_on_checkpointed = on_needs_before = dedup_good = dedup_index = dedup_last_added = True
    announce_once = dedup_per_tier = base_lacking = no_mirror = exclusive = numbers_once = True
    join_voids = rollback_own = foreign_own = holds_durable = dedup_all = purge_look = repair_all = True
    list_above = mark_sizes = close_foreign = fence_stays = list_again = sync_sizes = True
    mark = lacking_first = closings_ours = dedup_everywhere = raise_after_loss = whole_lines = True
    index_again = True
    claim_bytes = (
        False  # proposed: set it to see that it closes the case left open; the agent does not have it
    )

    def __init__(self, without: str = "") -> None:
        if without:
            if without not in NAMES:
                raise ValueError(f"there is no rule called {without}")
            setattr(self, without, False)
        self.without = without
