"""What synchronisation costs (issue 4, "Must show" 6, and "filling a new tier writes no old claims or records"):
questions to the tiers and work of the local database are counted, not timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.bigrepo import BigRepo
from tests.support.bigstore import BigStore

from tandem_agent.config import Config
from tandem_agent.progress import Progress
from tandem_agent.resync import sync
from tandem_agent.state import State
from tandem_agent.tiers import batching
from tandem_agent.tiers.status import tiers_status
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.tierset import TierSet
from tandem_agent.wiring import Agent
from tandem_protocol import names

BATCH = 3
"""Steps of the database engine are counted in so many at once."""


@contextmanager
def counted_work(state: State, work: Counter[str], what: str) -> Iterator[None]:
    """Add the steps that the database engine makes meanwhile to ``work``: the same for the same, on any machine."""

    def step() -> int:
        work[what] += BATCH
        return 0

    db = state._db._db
    db.set_progress_handler(step, BATCH)
    try:
        yield
    finally:
        db.set_progress_handler(None, BATCH)


def opened(repo: BigRepo, parallel: int = 4) -> tuple[Agent, dict[str, BigStore]]:
    stores = {plan.name: BigStore(repo, plan, parallel) for plan in repo.tiers}
    rows = {row.id: row for row in repo.state.tiers()}
    tiers = [
        Tier(rows[plan.identity.tier_id], "memory:", stores[plan.name], repo.state, repo.ring)
        for plan in repo.tiers
    ]
    agent = Agent(Config((), str(repo.folder)), repo.state, repo.ring, TierSet(tiers, repo.state, repo.ring))
    return agent, stores


async def costs_of_a_resync(folder: Path, objects: int) -> tuple[Counter[str], Counter[str]]:
    """Work of the database, and questions to both tiers, while one revision of 10 objects is brought over."""
    repo = BigRepo(folder, 300, objects, {"vault": None, "remote": 299})
    work: Counter[str] = Counter()
    try:
        agent, stores = opened(repo)
        with counted_work(repo.state, work, "contact"):
            await agent.tiers.contact()
        with counted_work(repo.state, work, "tiers"):
            await tiers_status(agent)
        with counted_work(repo.state, work, "sync"):
            result = await sync(agent, (), False, Progress())
        assert [(tier.revisions, tier.objects, tier.state) for tier in result.tiers] == [
            (0, 0, "online"),
            (1, 10, "online"),
        ]
        with counted_work(repo.state, work, "contact of level tiers"):
            await agent.tiers.contact()
        asked: Counter[str] = Counter()
        for store in stores.values():
            listed = {call for call in store.asked if call.startswith("list ")} - {f"list {names.EPOCHS}"}
            assert listed <= {f"list {names.number_folder(repo.state.head + 1)}"}, (
                "what stands above the head"
            )
            asked += store.verbs
        return work, asked
    finally:
        repo.state.close()


async def test_a_missed_revision_costs_the_same_however_much_is_live(memory_path: Path) -> None:
    few, asked_few = await costs_of_a_resync(memory_path / "few", 3_000)
    many, asked_many = await costs_of_a_resync(memory_path / "many", 60_000)
    assert asked_few == asked_many
    for what, work in many.items():
        assert work <= few[what] * 1.1 + 100, (what, few, many)


@pytest.mark.parametrize("revisions", [10, 1_000, 100_000])
async def test_filling_a_new_tier_writes_no_old_claims_or_records(memory_path: Path, revisions: int) -> None:
    """It starts at a base written for it: of the history it gets that one claim and that one record, and all that
    is live."""
    repo = BigRepo(memory_path, revisions, 120, {"vault": None}, ends_with_base=True)
    try:
        new = repo.add_new_tier("new")
        agent, stores = opened(repo)
        result = await sync(agent, ("new",), False, Progress())
        assert result.tiers[0].state == "online", result.tiers[0].reason
        live = repo.state.live()
        assert result.tiers[0].objects == len(live)
        written = [call for call in stores["new"].asked if call.startswith("create ")]
        assert written == [
            f"create {names.epoch_path(1)}",
            f"create {names.claim_path(new.start)}",
            f"create {names.record_path(new.start)}",
        ]
        assert stores["new"].verbs["read"] + stores["new"].verbs["list"] <= 40, stores["new"].asked
        assert stores["vault"].verbs["create"] == 0
    finally:
        repo.state.close()


async def test_after_a_rollback_what_is_there_is_looked_at_a_few_times_and_not_for_each_batch(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its storage took the last five of 200 revisions away; what stands there already fills no batch."""
    monkeypatch.setattr(batching, "BATCH_REVISIONS", 10)
    repo = BigRepo(memory_path, 200, 220, {"vault": None, "remote": None})
    try:
        repo.tiers[1] = replace(repo.tiers[1], level=195)
        agent, stores = opened(repo)
        await agent.tiers.contact()
        result = await sync(agent, ("remote",), False, Progress())
        gone = [found for found in repo.state.live().values() if found.added > 195]
        assert (result.tiers[0].state, result.tiers[0].objects) == ("online", len(gone)), result.tiers[
            0
        ].reason
        assert stores["remote"].verbs["create"] <= 2 * 5 + 2, stores["remote"].verbs
        assert stores["remote"].verbs["read"] <= 12 * 200, stores["remote"].verbs
    finally:
        repo.state.close()
