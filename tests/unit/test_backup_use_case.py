"""`backup` with the real engine over tiers that come and go: names, checkpoints, what is where (A4, A6, F1, F5, P1)."""

from __future__ import annotations

import asyncio
import random
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support import manifest
from tests.support.office import Office
from tests.support.treegen import remove_tree

from tandem_agent import backup as backup_module
from tandem_agent import backup_writer
from tandem_agent.backup import BackupResult, backup
from tandem_agent.backups import BackupInfo, list_backups
from tandem_agent.config import TierConfig
from tandem_agent.engine import packer, pipeline
from tandem_agent.places import parse_place
from tandem_agent.progress import Progress
from tandem_agent.reading import open_store
from tandem_agent.restore import restore
from tandem_agent.resync import sync
from tandem_agent.tiers import targets
from tandem_agent.tiers.pace import LagBudget
from tandem_protocol import names
from tandem_protocol.errors import NoTierReachable, SecondInstallation, Unavailable
from tandem_protocol.names import ObjectType
from tandem_protocol.revision import Kind
from tandem_protocol.store import Buffer
from tandem_protocol.stores.memory import MemoryStore


class Desk(Office):
    """An office with a source folder; what it held at each backup is kept to compare with."""

    def __init__(self, folder: Path, tiers: tuple[str, ...] = ("vault", "remote")) -> None:
        super().__init__(folder / "state", tiers)
        self.source = folder / "source"
        self._made = random.Random(3)
        self.held: dict[int, manifest.Manifest] = {}
        for number in range(12):
            path = self.source / f"d{number % 3}" / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"file {number}\n" * 200)
        self.more("first")

    def more(self, name: str, size: int = 300_000) -> None:
        (self.source / name).write_bytes(self._made.randbytes(size))

    async def backup(self, wait_s: float | None = 1.0) -> BackupResult:
        """In a fresh process."""
        return await self._backup(wait_s)

    async def _backup(self, wait_s: float | None) -> BackupResult:
        now = manifest.take(str(self.source))
        agent = self.agent()
        result = await backup(agent, [bytes(self.source)], wait_s=wait_s, progress=Progress())
        self.held[result.revision] = now
        return result

    def listed(self) -> list[BackupInfo]:
        state = self._state()
        return list_backups(state)

    async def good(self, tier: str, revision: int) -> bool:
        """Whether the backup restores from this tier alone to what the source was, with no local state."""
        store = MemoryStore(dict(self.places[tier].shared))
        target = tempfile.mkdtemp(dir=self.folder)
        async with open_store(tier, store, lambda _: self.ring) as view:
            (info,) = [info for info in view.backups if info.revision == revision]
            assert info.snapshot is not None
            await restore(view, info.snapshot, target, durable=False)
        wrong = manifest.differences(self.held[revision], f"{target}{self.source}")
        remove_tree(target)
        assert not wrong, wrong
        return True


@pytest.fixture
async def desk(memory_path: Path) -> Desk:
    found = Desk(memory_path)
    await found.init()
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "POLL_S", 0.001)


@pytest.fixture(autouse=True)
def closing(desk: Desk) -> Iterator[None]:
    yield
    desk.close()


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small packs, and a checkpoint after each."""
    monkeypatch.setattr(packer, "DEFAULT_CAPACITY", 5 << 20)
    monkeypatch.setattr(pipeline, "DEFAULT_CAPACITY", 5 << 20)
    monkeypatch.setattr(backup_writer, "CHECKPOINT_OBJECTS", 1)


def has_it(result: BackupResult) -> list[str]:
    return [tier.name for tier in result.tiers if tier.has_it]


def breaking(desk: Desk, tier: str, verb: str, part: str, times: int = 1) -> asyncio.Event:
    """The link of ``tier`` goes down for good at the ``times``-th such verb; the event tells when."""
    place = desk.places[tier]
    left = [times]
    down = asyncio.Event()

    def hook(done: str, name: str) -> bool:
        if done == verb and part in name:
            left[0] -= 1
            if left[0] == 0:
                place.hook, place.up = None, False
                down.set()
                raise Unavailable("the line was cut")
        return True

    place.hook = hook
    return down


async def test_two_backups_are_on_both_tiers_and_the_second_stores_only_what_is_new(desk: Desk) -> None:
    first = await desk.backup()
    desk.more("second", 1000)
    second = await desk.backup()
    assert [has_it(result) for result in (first, second)] == [["vault", "remote"]] * 2
    assert (first.status, second.status) == ("complete", "complete")
    assert second.bytes_stored < 20_000 < first.bytes_stored
    assert re.fullmatch(r"\d{6}01", first.name)
    assert second.name == first.name[:6] + "02"
    for tier in desk.places:
        for result in (first, second):
            assert await desk.good(tier, result.revision)
    assert [(i.name, i.status, i.tiers) for i in desk.listed()] == [
        (result.name, "complete", ["vault", "remote"]) for result in (first, second)
    ]


async def test_names_go_on_with_three_digits(desk: Desk) -> None:
    day = (await desk.backup()).name[:6]
    agent = desk.agent()
    agent.state.list_backup(1, {"id": "99" * 16, "name": f"{day}99"})
    assert (await backup(agent, [bytes(desk.source)], wait_s=1, progress=Progress())).name == f"{day}100"
    agent.state.list_backup(1, {"id": "98" * 16, "name": f"{day}**"})
    agent.state.list_backup(1, {"id": "97" * 16, "name": "20010199"})
    assert (await backup(agent, [bytes(desk.source)], wait_s=1, progress=Progress())).name == f"{day}101"


# Checkpoints


async def test_a_long_backup_is_checkpoints_and_one_backup(desk: Desk, checkpoints: None) -> None:
    desk.more("large", 18 << 20)
    result = await desk.backup()
    tiers = await desk.contacted()
    kinds = [tiers.state.record(n).kind for n in tiers.state.journal]
    assert kinds[0] is Kind.INIT
    assert kinds[-1] is Kind.BACKUP
    assert kinds.count(Kind.CHECKPOINT) >= 3
    assert len(desk.listed()) == 1
    assert await desk.good("vault", result.revision)
    assert await desk.good("remote", result.revision)


@pytest.mark.parametrize("at", [1, 3, 5, 8])
async def test_a_tier_lost_anywhere_does_not_have_it_and_the_other_does(
    desk: Desk, checkpoints: None, at: int
) -> None:
    """Also at a checkpoint: it is no target of what follows. Later, synchronised, it has it too."""
    desk.more("large", 12 << 20)
    breaking(desk, "remote", "put", "/", at)
    result = await desk.backup()
    assert has_it(result) == ["vault"]
    assert await desk.good("vault", result.revision)
    assert desk.listed()[-1].tiers == ["vault"]
    desk.down()
    await sync(desk.agent(), (), False, Progress(), 60)
    assert await desk.good("remote", result.revision)
    assert desk.listed()[-1].tiers == ["vault", "remote"]


async def test_what_checkpoints_sent_is_not_sent_again_after_a_failure(desk: Desk, checkpoints: None) -> None:
    desk.more("large", 18 << 20)
    for tier in desk.places:
        breaking(desk, tier, "put", "packs/", 4)
    with pytest.raises(NoTierReachable):
        await desk.backup()
    desk.down()
    assert [(info.status, info.tiers, info.name[-2:]) for info in desk.listed()] == [("failed", [], "**")]
    result = await desk.backup()
    assert result.bytes_stored < 12 << 20
    assert result.name.endswith("01"), "a failed one takes no number"
    assert await desk.good("remote", result.revision)


@pytest.mark.parametrize("back", [True, False])
async def test_every_tier_lost_right_after_a_checkpoint_was_decided(
    desk: Desk, checkpoints: None, back: bool
) -> None:
    """It waits, and goes on where it was; if nobody comes back in time it is listed as failed."""
    desk.more("large", 12 << 20)
    breaking(desk, "vault", "create", "02.record")
    down = breaking(desk, "remote", "create", "02.record")
    task = asyncio.create_task(desk.backup(None if back else 0.01))
    await down.wait()
    if back:
        desk.down("vault")
        result = await asyncio.wait_for(task, 60)
        assert has_it(result) == ["remote"]
        assert await desk.good("remote", result.revision)
    else:
        with pytest.raises(NoTierReachable):
            await task
        (info,) = desk.listed()
        assert (info.status, info.name[-2:]) == ("failed", "**")
        assert "checkpoint" in info.error
        desk.down()
        assert await desk.good("vault", (await desk.backup()).revision)


@pytest.mark.parametrize("when", ["put", "create"])
async def test_where_all_targets_are_lost_it_begins_again_on_what_is_there_then(
    desk: Desk, checkpoints: None, when: str
) -> None:
    """The vault dies for good after a checkpoint (or right after one was decided); the remote comes back just then."""
    desk.more("large", 18 << 20)
    desk.down("remote")
    down = breaking(
        desk, "vault", when, "packs/" if when == "put" else "03.record", 3 if when == "put" else 1
    )
    task = asyncio.create_task(desk.backup(None))
    await down.wait()
    desk.down("vault")
    result = await asyncio.wait_for(task, 60)
    assert (result.status, has_it(result)) == ("complete", ["remote"])
    assert await desk.good("remote", result.revision)
    assert [(info.status, info.tiers) for info in desk.listed()] == [("complete", ["remote"])]
    assert desk.listed()[0].files == 14


async def test_a_link_that_broke_once_costs_only_what_came_after_the_last_checkpoint(
    desk: Desk, checkpoints: None
) -> None:
    desk.more("large", 18 << 20)
    desk.down("remote")
    down = breaking(desk, "vault", "put", "packs/", 3)
    task = asyncio.create_task(desk.backup(None))
    await down.wait()
    desk.down("remote")
    result = await asyncio.wait_for(task, 60)
    assert has_it(result) == ["vault"]
    assert result.bytes_stored < 15 << 20
    assert await desk.good("vault", result.revision)


async def test_a_tier_that_loses_every_upload_does_not_keep_it_going_for_ever(desk: Desk) -> None:
    """It can be reached, and nothing gets forward."""
    puts = []

    def hook(verb: str, name: str) -> bool:
        if verb == "put":
            puts.append(name)
            raise Unavailable("the line was cut")
        return True

    for place in desk.places.values():
        place.hook = hook
    with pytest.raises(NoTierReachable):
        await asyncio.wait_for(desk.backup(None), 60)
    assert len(puts) == 2 * 2 * backup_module.ATTEMPTS, "two tiers, two attempts of each link"
    assert [(info.status, info.tiers) for info in desk.listed()] == [("failed", [])]


async def test_another_installation_on_a_tier_that_is_no_target_is_found_at_the_next_checkpoint(
    desk: Desk, checkpoints: None, tmp_path: Path
) -> None:
    """tier-protocol.md, A write, 1: every connected tier is looked at, also between checkpoints."""
    desk.down("remote")
    await desk.write()
    desk.down()
    clone = desk.clone(tmp_path / "clone")
    desk.more("large", 18 << 20)
    working: list[asyncio.Task[None]] = []

    def hook(verb: str, name: str) -> bool:
        if verb == "create" and name.endswith(".record") and not working:
            working.append(asyncio.create_task(use_clone()))
        return True

    async def use_clone() -> None:
        tiers = clone.open()
        remote = tiers.tiers[1]
        await remote.meet()
        intent = tiers.new_intent({}, above=7)
        tiers.state.set_intent(intent)
        await remote.write_claim(intent.number, intent.nonce, intent.parents)

    desk.places["vault"].hook = hook
    with pytest.raises(SecondInstallation):
        await asyncio.wait_for(desk.backup(), 60)
    await working[0]
    clone.close()


@pytest.mark.parametrize("uploads", [1, 3])
async def test_a_tier_that_is_packs_behind_gets_what_it_should(
    desk: Desk, checkpoints: None, monkeypatch: pytest.MonkeyPatch, uploads: int
) -> None:
    """No buffer is used again before the slowest has read it; checked by restoring from each tier alone."""
    desk.more("large", 60 << 20)
    monkeypatch.setattr(backup_writer, "CHECKPOINT_OBJECTS", 1000)
    tiers = desk.open()
    agent = desk.agent(tiers)
    slow = TierConfig("remote", parse_place("/nowhere", "/"), lag_budget=LagBudget(20 << 20, 3600))
    agent.config = replace(agent.config, tiers=(slow,))
    store = tiers.tiers[1].store
    put = store.put
    behind: list[int] = []

    async def late(name: str, data: Buffer, sent: Callable[[int], None] | None = None) -> None:
        await asyncio.sleep(0.03)
        behind.append(len(desk.places["vault"].paths("packs/")) - len(desk.places["remote"].paths("packs/")))
        await put(name, data, sent)

    monkeypatch.setattr(store, "put", late)
    await tiers.contact(60)
    monkeypatch.setattr(store, "uploads", uploads)
    now = manifest.take(str(desk.source))
    result = await backup(agent, [bytes(desk.source)], wait_s=1, progress=Progress())
    desk.held[result.revision] = now
    assert has_it(result) == ["vault", "remote"]
    assert 2 <= max(behind) <= 6
    for tier in desk.places:
        assert await desk.good(tier, result.revision)


# Failing


async def test_a_failed_backup_is_listed_with_its_reason(desk: Desk) -> None:
    for tier in desk.places:
        breaking(desk, tier, "put", "packs/")
    with pytest.raises(NoTierReachable) as caught:
        await desk.backup()
    assert caught.value.exit_code == 5
    (info,) = desk.listed()
    assert (info.status, info.snapshot) == ("failed", None)
    assert "link is down" in info.error or "lost" in info.error


async def test_an_interrupted_backup_is_listed_and_the_next_needs_no_help(desk: Desk) -> None:
    task: asyncio.Task[BackupResult] | None = None

    def hook(verb: str, name: str) -> bool:
        if verb == "put" and task is not None:
            task.cancel()
        return True

    desk.places["vault"].hook = hook
    task = asyncio.create_task(desk.backup())
    with pytest.raises(asyncio.CancelledError):
        await task
    desk.places["vault"].hook = None
    assert desk.listed()[0].error == "interrupted"
    assert has_it(await desk.backup()) == ["vault", "remote"]


async def test_without_a_tier_nothing_is_begun(desk: Desk) -> None:
    desk.down("vault", "remote")
    with pytest.raises(NoTierReachable):
        await desk.backup(0.01)
    assert desk.listed() == []
    assert desk.agent().state.head == 1


# Deduplication, and what a files cache may be believed


async def test_each_tier_alone_gets_a_backup_that_is_whole(desk: Desk) -> None:
    """F5: what only the other one has is no reason to leave something out."""
    desk.down("remote")
    first = await desk.backup()
    desk.down("vault")
    second = await desk.backup()
    assert second.bytes_stored >= 300_000
    third = await desk.backup()
    assert third.bytes_stored < 20_000
    assert [has_it(result) for result in (first, second, third)] == [["vault"], ["remote"], ["remote"]]
    for tier, result in (("vault", first), ("remote", second), ("remote", third)):
        assert await desk.good(tier, result.revision)
    desk.down()
    await sync(desk.agent(), (), False, Progress(), 60)
    for result in (first, second, third):
        assert await desk.good("vault", result.revision)
        assert await desk.good("remote", result.revision)
    assert [info.tiers for info in desk.listed()] == [["vault", "remote"]] * 3


async def test_nothing_refers_to_a_pack_that_is_known_to_be_damaged(desk: Desk) -> None:
    await desk.backup()
    tiers = await desk.contacted()
    packs = list(tiers.state.live_of(ObjectType.PACK))
    for tier in tiers.tiers:
        for path in desk.places[tier.name].paths("packs/"):
            desk.places[tier.name].damage(path)
        tiers.state.add_lacking(tier.id, packs)
    result = await desk.backup()
    assert result.bytes_stored >= 300_000
    assert has_it(result) == ["vault", "remote"]
    assert await desk.good("vault", result.revision)
    assert [info.tiers for info in desk.listed()] == [[], ["vault", "remote"]]


async def test_a_tier_whose_storage_went_back_gets_a_whole_backup_when_it_is_alone(desk: Desk) -> None:
    before = dict(desk.places["remote"].shared)
    await desk.backup()
    desk.places["remote"].roll_back(before)
    desk.down("vault")
    result = await desk.backup()
    assert has_it(result) == ["remote"]
    assert await desk.good("remote", result.revision)
    assert [info.tiers for info in desk.listed()] == [["vault"], ["remote"]]


# Decided, and then alone


async def test_pending_when_the_last_tier_vanishes_after_the_decision(desk: Desk) -> None:
    for tier in desk.places:
        breaking(desk, tier, "create", ".record")
    result = await desk.backup(0.01)
    assert (result.status, has_it(result)) == ("pending", [])
    assert desk.listed()[-1].tiers == []
    desk.down()
    await desk.contacted()
    assert desk.listed()[-1].tiers == ["vault", "remote"]
    assert await desk.good("vault", result.revision)
    assert await desk.good("remote", result.revision)


@pytest.mark.parametrize("lost", [False, True])
async def test_pending_on_a_tier_that_lags_is_on_it_when_its_record_is_there(desk: Desk, lost: bool) -> None:
    """The process ended; nothing needs to be synchronised for it. But not if since then something on the tier, which
    the backup may need, was found to be ``lost``."""
    desk.down("remote")
    await desk.backup()
    desk.down("vault")
    await desk.backup()
    desk.more("second")
    breaking(desk, "remote", "create", ".record")
    result = await desk.backup(0.01)
    assert (result.status, has_it(result)) == ("pending", [])
    if lost:
        state = desk.open().state
        tier = next(row.id for row in state.tiers() if row.name == "remote")
        state.add_lacking(tier, list(state.live_of(ObjectType.PACK))[:1])
    desk.down("vault")
    await desk.contacted()
    assert names.record_path(result.revision) in desk.places["remote"].shared
    assert desk.listed()[-1].tiers == ([] if lost else ["remote"])
    assert await desk.good("remote", result.revision)


@pytest.mark.parametrize("alone", [False, True])
async def test_it_waits_and_acknowledges_when_a_tier_is_back(desk: Desk, alone: bool) -> None:
    """With ``alone`` the tier lacks a backup before this one."""
    if alone:
        desk.down("remote")
        await desk.backup()
        desk.down("vault")
    else:
        breaking(desk, "vault", "create", ".record")
    down = breaking(desk, "remote", "create", ".record")
    task = asyncio.create_task(desk.backup(None))
    await down.wait()
    desk.places["remote"].up = True
    result = await asyncio.wait_for(task, 30)
    assert (result.status, has_it(result)) == ("complete", ["remote"])
    assert await desk.good("remote", result.revision)
    assert names.record_path(result.revision) in desk.places["remote"].shared
