"""A tier that is slower than the others: what waits for it is bounded, and past its budget it leaves and lags, so that
a backup ends at the speed of the fast one (A11; issue 4: "a bounded queue each and a lag budget")."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.office import Office

from tandem_agent.backup import backup
from tandem_agent.config import TierConfig
from tandem_agent.places import parse_place
from tandem_agent.progress import Progress
from tandem_agent.resync import sync
from tandem_agent.tiers.pace import DEFAULT_BYTES, DEFAULT_SECONDS, LagBudget, Pace
from tandem_agent.tiers.sending import SMALL_TOO
from tandem_agent.tiers.targets import reachable_targets
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.tierset import TierSet
from tandem_agent.tiers.writing import Revision
from tandem_protocol import names
from tandem_protocol.names import ObjectType
from tandem_protocol.revision import Kind
from tandem_protocol.store import Buffer
from tandem_protocol.verdict import State

SIZE = 100


@pytest.fixture
async def office(memory_path: Path) -> Office:
    found = Office(memory_path / "state")
    await found.init()
    return found


@pytest.fixture(autouse=True)
def closing(office: Office) -> Iterator[None]:
    yield
    office.close()


class Gate:
    """Lets so many puts of a tier through; the next ones wait until it is opened."""

    def __init__(self, tier: Tier, through: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting = asyncio.Event()
        self.opened = asyncio.Event()
        self.cancelled = 0
        self.asked: list[str] = []
        put = tier.store.put

        async def gated(name: str, data: Buffer, sent: Callable[[int], None] | None = None) -> None:
            self.asked.append(name)
            if len(self.asked) > through:
                self.waiting.set()
                try:
                    await self.opened.wait()
                except asyncio.CancelledError:
                    self.cancelled += 1
                    raise
            await put(name, data, sent)

        monkeypatch.setattr(tier.store, "put", gated)


def budget(tier: Tier, size: int, seconds: float) -> Pace:
    return Pace({tier.id: LagBudget(size, seconds)})


async def begin(tiers: TierSet, pace: Pace | None) -> Revision:
    return await Revision.begin(tiers, await reachable_targets(tiers, 1.0), Progress(), None, pace)


async def add(revision: Revision, count: int) -> None:
    for _ in range(count):
        await revision.add(ObjectType.PACK, os.urandom(SIZE))


async def turns() -> None:
    """Everything that needs no more than turns of the event loop is done."""
    for _ in range(500):
        await asyncio.sleep(0)


async def commit(revision: Revision) -> list[str]:
    return [tier.name for tier in await revision.commit(Kind.CHECKPOINT, {})]


# Leaving


@pytest.mark.parametrize("seconds", [0.0, 0.02])
async def test_past_its_budget_it_leaves_in_the_middle_of_an_object_and_the_others_go_on(
    office: Office, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    tiers = office.open()
    vault, remote = tiers.tiers
    revision = await begin(tiers, budget(remote, 2 * SIZE, seconds))
    gate = Gate(remote, 3, monkeypatch)
    for _ in range(3):
        await add(revision, 1)
        await turns()
    await asyncio.wait_for(add(revision, 17), 30)
    assert await asyncio.wait_for(commit(revision), 30) == ["vault"]
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("upload to")]
    assert (gate.cancelled, len(gate.asked)) == (1, 4)
    assert remote.state is State.LAGGING
    assert "held up for 0 s; synchronisation brings it level" in remote.reason
    assert vault.state is State.ONLINE
    monkeypatch.undo()
    progress = Progress()
    result = await sync(office.agent(tiers), (), False, progress, 60)
    assert (result.tiers[1].objects, result.tiers[1].state) == (17, "online"), "three were there"


async def test_it_leaves_at_the_end_too_where_the_others_have_everything(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it fits into memory, so nobody waits before."""
    tiers = office.open()
    remote = tiers.tiers[1]
    revision = await begin(tiers, budget(remote, 1 << 20, 0))
    Gate(remote, 2, monkeypatch)
    await add(revision, 5)
    assert len(revision.targets) == 2
    assert await asyncio.wait_for(commit(revision), 30) == ["vault"]


async def test_who_has_everything_is_waited_for_until_its_record_is_there(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget is for what still has to be sent: with nothing behind, a tier is not slow."""
    tiers = office.open()
    remote = tiers.tiers[1]
    revision = await begin(tiers, budget(remote, 1 << 20, 0))
    await add(revision, 3)
    await turns()
    create, through = remote.store.create, asyncio.Event()

    async def late(name: str, data: Buffer) -> None:
        await through.wait()
        await create(name, data)

    monkeypatch.setattr(remote.store, "create", late)
    task = asyncio.create_task(commit(revision))
    await turns()
    assert names.record_path(revision.number) in office.places["vault"].shared
    assert not task.done()
    through.set()
    assert await task == ["vault", "remote"]


async def test_within_its_budget_the_others_wait(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    tiers = office.open()
    remote = tiers.tiers[1]
    pace = budget(remote, 2 * SIZE, 3600)
    revision = await begin(tiers, pace)
    gate = Gate(remote, 0, monkeypatch)
    task = asyncio.create_task(add(revision, 10))
    await gate.waiting.wait()
    await turns()
    assert not task.done()
    assert len(office.places["vault"].paths("packs/")) == 3, "no further ahead than the bytes of the budget"
    gate.opened.set()
    await task
    assert await commit(revision) == ["vault", "remote"]
    assert 0 < pace.held_up(remote.id) < 3600


async def test_seconds_are_counted_over_all_revisions_of_a_backup(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiers = office.open()
    remote = tiers.tiers[1]
    pace = budget(remote, SIZE, 60)
    first = await begin(tiers, pace)
    await add(first, 2)
    assert await commit(first) == ["vault", "remote"]
    pace.charge(remote.id, 60)
    second = await begin(tiers, pace)
    Gate(remote, 0, monkeypatch)
    await asyncio.wait_for(add(second, 3), 30)
    assert await asyncio.wait_for(commit(second), 30) == ["vault"]
    assert "held up for 60 s" in remote.reason


@pytest.mark.parametrize("others", [(), ("vault",)])
async def test_the_last_target_never_leaves(
    office: Office, monkeypatch: pytest.MonkeyPatch, others: tuple[str, ...]
) -> None:
    """Also where the other one left by a fault."""
    office.down("vault")
    tiers = office.open()
    if others:
        office.down()
    revision = await begin(tiers, Pace({tier.id: LagBudget(0, 0) for tier in tiers.tiers}))
    office.down("vault")
    gate = Gate(tiers.tiers[1], 0, monkeypatch)
    task = asyncio.create_task(add(revision, 4))
    await gate.waiting.wait()
    await turns()
    assert not task.done()
    gate.opened.set()
    await task
    assert await commit(revision) == ["remote"]


async def test_none_leaves_while_all_are_behind(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    tiers = office.open()
    revision = await begin(tiers, Pace({tier.id: LagBudget(SIZE, 0) for tier in tiers.tiers}))
    gates = [Gate(tier, 0, monkeypatch) for tier in tiers.tiers]
    task = asyncio.create_task(add(revision, 4))
    for gate in gates:
        await gate.waiting.wait()
    await turns()
    assert not task.done()
    for gate in gates:
        gate.opened.set()
    await task
    assert await commit(revision) == ["vault", "remote"]


async def test_without_budgets_nobody_leaves_for_being_slow(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is added must not miss a tier because it is slow."""
    tiers = office.open()
    revision = await begin(tiers, None)
    gate = Gate(tiers.tiers[1], 0, monkeypatch)
    task = asyncio.create_task(commit(revision))
    await add(revision, 1)
    await turns()
    assert not task.done()
    gate.opened.set()
    assert await task == ["vault", "remote"]


@pytest.mark.parametrize(("uploads", "at_once"), [(1, 1), (2, SMALL_TOO), (1000, SMALL_TOO)])
async def test_where_the_way_is_long_several_are_put_at_once_and_all_of_them_end_when_it_leaves(
    office: Office, monkeypatch: pytest.MonkeyPatch, uploads: int, at_once: int
) -> None:
    tiers = office.open()
    remote = tiers.tiers[1]
    targets = await reachable_targets(tiers, 1.0)
    monkeypatch.setattr(remote.store, "uploads", uploads)
    revision = await Revision.begin(tiers, targets, Progress(), None, budget(remote, 1 << 20, 0))
    gate = Gate(remote, 0, monkeypatch)
    await add(revision, SMALL_TOO + 2)
    await turns()
    assert (len(gate.asked), gate.cancelled, len(revision.targets)) == (at_once, 0, 2)
    assert await asyncio.wait_for(commit(revision), 30) == ["vault"]
    assert gate.cancelled == at_once


async def test_a_fault_of_one_of_several_uploads_ends_them_and_the_other_tier_goes_on(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiers = office.open()
    remote = tiers.tiers[1]
    targets = await reachable_targets(tiers, 1.0)
    monkeypatch.setattr(remote.store, "uploads", 3)
    revision = await Revision.begin(tiers, targets, Progress())
    gate = Gate(remote, 0, monkeypatch)
    await add(revision, 6)
    await turns()
    office.down("remote")
    gate.opened.set()
    assert await asyncio.wait_for(commit(revision), 30) == ["vault"]
    assert remote.state is State.OFFLINE


# Memory


async def test_data_is_free_when_the_slowest_has_it_or_has_left(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiers = office.open()
    remote = tiers.tiers[1]
    revision = await begin(tiers, budget(remote, 2 * SIZE, 0))
    gate = Gate(remote, 1, monkeypatch)
    first = await revision.upload(ObjectType.PACK, os.urandom(32), os.urandom(SIZE))
    await first
    second = await revision.upload(ObjectType.PACK, os.urandom(32), os.urandom(SIZE))
    await gate.waiting.wait()
    await turns()
    assert not second.done()
    for _ in range(3):
        await revision.upload(ObjectType.PACK, os.urandom(32), os.urandom(SIZE))
    await asyncio.wait_for(second, 30)
    assert remote.state is State.LAGGING
    await revision.abort("enough")


async def test_an_object_weighs_what_its_buffer_takes(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiers = office.open()
    remote = tiers.tiers[1]
    revision = await begin(tiers, budget(remote, 2 * SIZE, 0))
    Gate(remote, 0, monkeypatch)
    for _ in range(2):
        await revision.upload(ObjectType.PACK, os.urandom(32), b"few bytes", 3 * SIZE)
    assert [tier.name for tier in revision.targets] == ["vault"]
    await revision.abort("enough")


async def test_what_waits_is_shown(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    tiers = office.open()
    progress = Progress()
    revision = await Revision.begin(tiers, await reachable_targets(tiers, 1.0), progress)
    gate = Gate(tiers.tiers[1], 1, monkeypatch)
    await add(revision, 4)
    await gate.waiting.wait()
    await asyncio.sleep(0)
    counters = progress.tier("remote")
    assert counters.queued_bytes - counters.sent_bytes == 3 * SIZE
    gate.opened.set()
    await commit(revision)
    assert counters.queued_bytes == counters.sent_bytes == 4 * SIZE


# A backup


async def test_a_backup_keeps_to_the_budgets_of_the_configuration(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(os.urandom(2_000_000))
    tiers = await office.contacted()
    agent = office.agent(tiers)
    place = parse_place("/nowhere", "/")
    slow = TierConfig("remote", place, lag_budget=LagBudget(0, 0))
    agent.config = replace(agent.config, tiers=(slow,))
    with monkeypatch.context() as patch:
        Gate(tiers.tiers[1], 1, patch)
        result = await asyncio.wait_for(backup(agent, [bytes(source)], wait_s=1, progress=Progress()), 60)
    assert [(tier.name, tier.has_it) for tier in result.tiers] == [("vault", True), ("remote", False)]
    assert "synchronisation brings it level" in result.tiers[1].reason
    await sync(agent, (), False, Progress(), 60)
    assert tiers.state.is_on(result.revision, tiers.tiers[1].id)


def test_the_default_is_an_hour_and_one_pack() -> None:
    assert LagBudget() == LagBudget(DEFAULT_BYTES, DEFAULT_SECONDS) == LagBudget(32 << 20, 3600)
    pace = Pace({})
    assert (pace.allowance(b"any"), pace.left(b"any")) == (DEFAULT_BYTES, float("inf"))


def test_what_is_left_is_never_less_than_a_clock_moves_by() -> None:
    """A wait of 1e-16 s ends at once and is charged as nothing: it was repeated without end (found by simulation)."""
    pace = Pace({b"tier": LagBudget(0, 0.1 + 0.2)})
    pace.charge(b"tier", 0.3)
    assert pace.left(b"tier") == 0
    pace = Pace({b"tier": LagBudget(0, 1)})
    pace.charge(b"tier", 0.5)
    assert pace.left(b"tier") == 0.5
