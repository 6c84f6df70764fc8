"""What contact costs however long the history (issue 4, "constant number of round trips"): counted, not timed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.bigrepo import BigRepo, BigTier
from tests.support.bigstore import BigStore
from tests.support.documents import nonce_of

from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.tierset import TierSet
from tandem_protocol import names
from tandem_protocol.errors import SecondInstallation
from tandem_protocol.verdict import State


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture(scope="module", params=[10, 1_000, 100_000])
def history(request: pytest.FixtureRequest) -> Iterator[BigRepo]:
    """One repository of each length, with a level tier, one that misses the last revision, one that misses nine
    tenths, and a new one. At least one object in each revision, as of backups. Contact changes none of it."""
    length: int = request.param
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="tandem-test-", dir=base) as folder:
        levels = {"level": None, "behind": length - 1, "far": length // 10}
        repo = BigRepo(Path(folder), length, length + 20, levels)
        repo.add_new_tier("new")
        yield repo
        repo.state.close()


def tier_of(repo: BigRepo, plan: BigTier, parallel: int = 1024) -> tuple[Tier, BigStore]:
    store = BigStore(repo, plan, parallel)
    row = repo.state.tier(plan.identity.tier_id)
    return Tier(row, "memory:", store, repo.state, repo.ring), store


def made(stack: ExitStack, path: Path, revisions: int, level: int | None) -> BigRepo:
    repo = BigRepo(path, revisions, revisions + 20, {"vault": None, "remote": level})
    stack.callback(repo.state.close)
    return repo


async def looked_at(history: BigRepo, name: str) -> tuple[Tier, BigStore]:
    plan = next(plan for plan in history.tiers if plan.name == name)
    tier, store = tier_of(history, plan)
    await tier.meet()
    assert tier.state is (State.ONLINE if name == "level" else State.LAGGING), tier.reason
    return tier, store


async def test_a_look_costs_the_same_however_long_the_history(history: BigRepo) -> None:
    """Identity, epochs, what stands above, our epoch, claim and record of the last one, a key slot; in one step."""
    _, store = await looked_at(history, "level")
    assert (store.verbs, store.steps) == ({"read": 5, "list": 2}, 1), store.asked
    _, store = await looked_at(history, "behind")
    assert (store.verbs, store.steps) == ({"read": 7, "list": 2}, 1), store.asked


async def test_a_tier_that_lags_by_nine_tenths_costs_a_few_listings_more(history: BigRepo) -> None:
    _, store = await looked_at(history, "far")
    if history.head > 10:
        assert store.verbs["read"] == 5, store.asked
    assert store.verbs["list"] <= 5 and store.steps <= 3, store.asked
    assert not any(call.startswith(f"list {names.REVISIONS}/{0:012x}/ff") for call in store.asked)


async def test_a_new_tier_is_looked_at_from_the_base_on_that_it_starts_at(history: BigRepo) -> None:
    _, store = await looked_at(history, "new")
    assert sum(store.verbs.values()) <= 8 and store.steps <= 3, store.asked


async def test_contact_with_all_tiers_costs_the_same_however_long_the_history(history: BigRepo) -> None:
    """Also what contact does beside the look: keys are read, of what lags it is asked whether the first of it is
    there after all, nothing is written; and the local state gets no more queries than for a short history."""
    tiers = [tier_of(history, plan, parallel=4) for plan in history.tiers]
    queries: list[str] = []
    history.state._db._db.set_trace_callback(queries.append)
    await TierSet([tier for tier, _ in tiers], history.state, history.ring).contact()
    history.state._db._db.set_trace_callback(None)
    found = [(tier.state, tier.reason) for tier, _ in tiers]
    assert [state for state, _ in found] == [State.ONLINE] + [State.LAGGING] * 3, found
    assert (tiers[0][1].verbs, tiers[0][1].steps) == ({"read": 5, "list": 2}, 2), tiers[0][1].asked
    for _, store in tiers:
        assert store.verbs["size"] <= 1 and not store.verbs["create"] and not store.verbs["put"], store.asked
        assert sum(store.verbs.values()) <= 14 + 18 * (history.head == 10) and store.steps <= 8, store.asked
    assert len(queries) < 250


async def test_what_is_held_above_a_revision_that_cannot_be_had_is_not_read_at_each_look(
    memory_path: Path, stack: ExitStack
) -> None:
    """The vault that alone had revision 3 is away for long: the tier goes on without it."""
    repo = made(stack, memory_path, 1_000, None)
    plan = repo.tiers[1]
    with repo.state.together():
        repo.state._db.change("INSERT INTO missing VALUES (?, 3)", (plan.identity.tier_id,))
    tier, store = tier_of(repo, plan)
    await tier.meet()
    assert tier.state is State.LAGGING
    assert (store.verbs, store.steps) == ({"read": 7, "list": 2}, 1), store.asked


async def test_a_gap_full_of_ours_is_read_and_only_its_numbers_are_kept(
    memory_path: Path, stack: ExitStack
) -> None:
    """A synchronisation that ended before it could confirm what it had written."""
    repo = made(stack, memory_path, 1_000, None)
    plan = repo.tiers[1]
    with repo.state.together():
        repo.state._db.change(
            "INSERT INTO missing SELECT ?, n FROM journal WHERE n BETWEEN 100 AND 999",
            (plan.identity.tier_id,),
        )
    tier, _ = tier_of(repo, plan)
    await tier.meet()
    assert tier.seen is not None and tier.state is State.LAGGING
    assert set(tier.seen.numbers) == {1_000}
    assert tier.seen.claimed == tier.seen.recorded == set(range(100, 1_001))
    assert await tier.verify(range(100, 1_000)) == ""


async def test_of_a_clone_that_wrote_into_the_gap_one_document_is_kept_whole(
    memory_path: Path, stack: ExitStack
) -> None:
    """It is found though it stands in the middle of a wide gap, and thousands of records take no memory."""
    repo = made(stack, memory_path, 1_000, 100)
    tier, store = tier_of(repo, repo.tiers[1])
    for number in range(500, 700):
        store.shared[names.claim_path(number)] = repo.writer.claim(number, tier.id, nonce_of(number, 9)).data
        store.shared[names.record_path(number)] = repo.writer.record(number, nonce_of(number, 9)).data
    with pytest.raises(SecondInstallation, match="revision 500 is not ours"):
        await tier.meet()
    assert tier.seen is not None
    assert set(tier.seen.numbers) == {100, *range(500, 700)}
    assert [n for n, found in tier.seen.numbers.items() if found.record is not None] == [100, 500]


async def test_what_stands_above_the_head_is_read_to_its_end_in_few_steps(
    memory_path: Path, stack: ExitStack
) -> None:
    repo = made(stack, memory_path, 10, None)
    tier, store = tier_of(repo, repo.tiers[1])
    for number in range(11, 311):
        store.shared[names.claim_path(number)] = repo.writer.claim(number, tier.id, nonce_of(number, 9)).data
    with pytest.raises(SecondInstallation, match="revision 11 is not ours"):
        await tier.meet()
    assert tier.seen is not None and max(tier.seen.numbers) == 310
    assert store.steps <= 12
