"""How one tier is levelled: in batches that count, stopped by a write and going on, from the base that a tier starts
at (A7, A8, A11; issue 4: "resumes where it was stopped, stops within a second when a write begins and keeps the part
it sent, gets forward even when it is stopped again and again"; "filling a new tier writes no old claims")."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.office import Office, Place, SwitchedStore
from tests.support.slowlink import far_away
from tests.support.sshd import running_sshd

from tandem_agent.progress import Progress, TierProgress
from tandem_agent.resync import SyncResult, sync
from tandem_agent.tierbook import TierStart
from tandem_agent.tiers import batching, levelling, writing
from tandem_agent.tiers.targets import reachable_targets
from tandem_agent.tiers.tierset import TierSet
from tandem_agent.tiers.writing import Revision
from tandem_protocol import names
from tandem_protocol.errors import Unavailable
from tandem_protocol.identity import Identity
from tandem_protocol.names import ObjectType, object_name, object_path
from tandem_protocol.revision import Kind, Removal
from tandem_protocol.store import Store
from tandem_protocol.stores.sftp import SftpStore
from tandem_protocol.verdict import State


@pytest.fixture
def office(memory_path: Path) -> Iterator[Office]:
    found = Office(memory_path / "state")
    yield found
    found.close()


@pytest.fixture
def two_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "BATCH_REVISIONS", 2)


async def behind(office: Office, revisions: int, objects: int = 1) -> None:
    """The remote misses so many revisions."""
    await office.init()
    office.down("remote")
    for _ in range(revisions):
        await office.write(objects=objects)
    office.down()


async def level(office: Office, tiers: TierSet | None = None, full: bool = False) -> SyncResult:
    return await sync(office.agent(tiers), (), full, Progress(), 60)


async def states(office: Office) -> dict[str, str]:
    return {tier.name: tier.state.value for tier in (await office.contacted()).tiers}


def numbers_with(place: Place, ending: str) -> list[int]:
    """The revisions of which a claim (record) stands there."""
    found = [names.parse_numbered(path) for path in place.paths("revisions/") if path.endswith(ending)]
    return [parsed[0] for parsed in found if parsed is not None]


def calls(place: Place, verb: str) -> list[str]:
    """The names that ``verb`` is called for from now on."""
    called: list[str] = []

    def hook(done: str, name: str) -> bool:
        if done == verb:
            called.append(name)
        return True

    place.hook = hook
    return called


# Batches


async def test_what_a_batch_brought_counts_when_the_next_one_is_cut(
    office: Office, two_at_a_time: None
) -> None:
    await behind(office, 5)
    remote = office.places["remote"]
    puts = 0

    def hook(verb: str, name: str) -> bool:
        nonlocal puts
        puts += verb == "put"
        if puts == 4:
            remote.up = False
            raise Unavailable("the line was cut")
        return True

    remote.hook = hook
    await level(office)
    remote.hook = None
    assert numbers_with(remote, ".claim") == [1, 2, 3, 4, 5], "no more claims than one batch are left open"
    assert numbers_with(remote, ".record") == [1, 2, 3]
    office.down("remote")
    tiers = await office.contacted()
    assert tiers.state.missing(tiers.tiers[1].id) == [4, 5, 6]


async def test_a_batch_is_closed_by_its_bytes_too(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    await behind(office, 3, objects=2)
    monkeypatch.setattr(batching, "BATCH_BYTES", 150)
    created = calls(office.places["remote"], "create")
    await level(office)
    assert created == [path(n) for n in (2, 3, 4) for path in (names.claim_path, names.record_path)]
    assert await states(office) == {"vault": "online", "remote": "online"}


async def test_what_is_dead_at_the_head_is_not_copied_by_an_earlier_batch(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The net effect, also of what is removed in a later batch, and of what is added again in one."""
    monkeypatch.setattr(batching, "BATCH_REVISIONS", 1)
    await office.init()
    office.down("remote")
    back, gone = os.urandom(50), os.urandom(60)
    tiers = await office.contacted()
    for removed, added in (([], [back, gone]), ([back, gone], []), ([], [back])):
        revision = await Revision.begin(tiers, await reachable_targets(tiers, 1.0), Progress())
        for data in added:
            await revision.add(ObjectType.PACK, data)
        removals = [Removal(ObjectType.PACK, object_name(data)) for data in removed]
        await revision.commit(Kind.PRUNE, {}, removed=removals)
    office.down()
    put = calls(office.places["remote"], "put")
    await level(office)
    assert put == [object_path(ObjectType.PACK, object_name(back))]
    assert numbers_with(office.places["remote"], ".record") == [1, 2, 3, 4]
    assert await states(office) == {"vault": "online", "remote": "online"}


async def test_what_lags_is_shown_for_every_tier_from_the_start(office: Office) -> None:
    await behind(office, 3, objects=2)
    progress = Progress()
    waiting: list[int] = []

    def hook(verb: str, name: str) -> bool:
        if verb == "put":
            counters = progress.tier("remote")
            waiting.append(counters.queued_bytes - counters.sent_bytes)
        return True

    office.places["remote"].hook = hook
    await sync(office.agent(), (), False, progress, 60)
    assert waiting[0] == 600
    assert progress.tier("remote").queued_bytes == progress.tier("remote").sent_bytes == 600


# Stopped


def hanging(store: Store, started: asyncio.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every put from now on hangs until it is cancelled."""

    async def never(*_: object) -> None:
        started.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(store, "put", never)


async def test_a_write_stops_it_in_the_middle_of_an_object_and_it_goes_on_afterwards(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    await behind(office, 3)
    tiers = await office.contacted()
    started = asyncio.Event()
    with monkeypatch.context() as patch:
        hanging(tiers.tiers[1].store, started, patch)
        task = asyncio.create_task(level(office, tiers))
        await started.wait()
        assert tiers.tiers[1].state is State.SYNCING
        assert await office.write(tiers) == ["vault"]
        result = await task
    assert [tier.stopped for tier in result.tiers] == [False, True]
    assert (result.tiers[1].state, result.tiers[1].objects) == ("lagging", 0)
    assert "goes on where it was" in result.tiers[1].reason
    assert (await level(office, tiers)).tiers[1].state == "online"
    assert await states(office) == {"vault": "online", "remote": "online"}


async def test_none_is_begun_while_a_write_is_under_way(office: Office) -> None:
    await behind(office, 1)
    tiers = await office.contacted()
    revision = await Revision.begin(tiers, await reachable_targets(tiers, 1.0), Progress())
    put = calls(office.places["remote"], "put")
    outcome = await levelling.level_tier(tiers, tiers.tiers[1], False, Progress())
    assert outcome.stopped
    assert put == []
    await revision.commit(Kind.CHECKPOINT, {})
    assert (await level(office, tiers)).tiers[1].state == "online"


async def test_interrupted_by_the_user_it_leaves_no_task_and_the_tier_lags(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    await behind(office, 2)
    tiers = await office.contacted()
    started = asyncio.Event()
    hanging(tiers.tiers[1].store, started, monkeypatch)
    task = asyncio.create_task(level(office, tiers))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(asyncio.all_tasks()) == 1
    assert tiers.tiers[1].state is State.LAGGING


@pytest.mark.parametrize("verb", ["create", "put", "read"])
async def test_stopped_again_and_again_it_gets_forward(
    office: Office, two_at_a_time: None, verb: str
) -> None:
    """At each third such verb: no object and no claim is sent again, and in the end the tier is level. Reading has to
    get as far as two looks, or nothing could be known of what was written."""
    await behind(office, 7)
    remote = office.places["remote"]
    sent: list[str] = []
    tasks: list[asyncio.Task[SyncResult]] = []
    left = [0]

    def hook(done: str, name: str) -> bool:
        if done == verb and tasks:
            left[0] -= 1
            if left[0] == 0:
                tasks[0].cancel()
        if done in ("create", "put"):
            sent.append(name)
        return True

    for _ in range(40):
        tiers = await office.contacted()
        if tiers.tiers[1].state is State.ONLINE:
            break
        remote.hook, left[0] = hook, 3 if verb != "read" else 90
        tasks[:] = [asyncio.create_task(level(office, tiers))]
        await asyncio.wait(tasks)
        remote.hook = None
    assert await states(office) == {"vault": "online", "remote": "online"}
    assert len(sent) == len(set(sent)), "nothing is sent twice"


class Watched(TierProgress):
    """Tells when something has gone."""

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "reached", asyncio.Event())

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "sent_bytes" and self.sent_bytes:
            self.reached.set()  # type: ignore[attr-defined]  # set above, past the slots of the base


async def test_over_a_slow_line_it_stops_at_once_and_the_next_one_sends_only_the_rest(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSH at 4 MB/s: waiting for the object would take 15 seconds."""
    size = 60_000_000
    remote = office.places["remote"]
    with running_sshd(tmp_path / "sshd") as sshd:
        root = Path(sshd.target().path)
        (root / names.IDENTITY).write_bytes(remote.shared[names.IDENTITY])
        ports = [sshd.port]

        def store() -> Store:
            target = sshd.target(port=ports[0], known_hosts=(sshd.known_hosts_line.split(" ", 1)[1],))
            return SftpStore(target) if remote.up else SwitchedStore(remote)

        monkeypatch.setattr(remote, "store", store)
        await (await office.init()).close()
        office.down("remote")
        tiers = office.open()
        revision = await Revision.begin(tiers, await reachable_targets(tiers, 1.0), Progress())
        name = await revision.add(ObjectType.PACK, random.Random(5).randbytes(size))
        await revision.commit(Kind.CHECKPOINT, {})
        office.down()
        part = root / "tmp" / name.hex()
        async with far_away(sshd.port, 0.001, 4e6) as ports[0]:
            tiers = await office.contacted()
            watched = Watched()
            progress = Progress(tiers={"remote": watched})
            task = asyncio.create_task(sync(office.agent(tiers), (), False, progress, 60))
            await watched.reached.wait()  # type: ignore[attr-defined]
            async with asyncio.timeout(10):
                await tiers.stop_levelling()
                result = await task
            assert result.tiers[1].stopped
            sent = part.stat().st_size
            assert 0 < sent < size
            await tiers.close()
        ports[0] = sshd.port
        tiers = await office.contacted()
        progress = Progress()
        result = await sync(office.agent(tiers), (), False, progress, 60)
        assert result.tiers[1].state == "online"
        assert progress.tier("remote").sent_bytes <= size - sent
        assert not part.exists()
        await tiers.close()


# The base that a tier starts from


async def with_a_new_tier(office: Office, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, int]:
    """Some history, a base that names a third tier, and one revision above it: the tier's id, the base's number."""
    await office.init()
    for _ in range(4):
        await office.write(objects=2)
    with monkeypatch.context() as patch:
        patch.setattr(writing, "base_is_due", lambda *_: True)
        await office.write()
    tiers = office.open()
    base = tiers.state.head
    identity = Identity(office.ring.repository_id, os.urandom(16), office.ring.root_public)
    tiers.state.start_empty(TierStart(identity, "new", True), base)
    office.places["new"] = Place()
    office.places["new"].shared[names.IDENTITY] = identity.encode()
    office.down("new")
    await office.write()
    office.down()
    return identity.tier_id, base


async def test_a_new_tier_gets_all_that_is_live_one_claim_and_one_record_for_what_was_before(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, base = await with_a_new_tier(office, monkeypatch)
    await level(office)
    new, vault = office.places["new"], office.places["vault"]
    assert numbers_with(new, ".claim") == numbers_with(new, ".record") == [base, base + 1]
    for folder in ("packs/", "keys/", "lists/"):
        assert new.paths(folder) == vault.paths(folder) != []
    assert (await states(office))["new"] == "online"
    assert await office.write() == ["vault", "remote", "new"]


@pytest.mark.parametrize("damaged", [False, True])
async def test_the_base_of_a_new_tier_is_recorded_only_when_everything_below_is_there(
    office: Office, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    """An old object that no other tier has good: nothing below counts as held; what is above is brought."""
    tier_id, base = await with_a_new_tier(office, monkeypatch)
    lost = office.places["vault"].paths("packs/")[0]
    tiers = await office.contacted()
    added = tiers.state.live_object(bytes.fromhex(lost.rpartition("/")[2]))
    assert added is not None
    for name in ("vault", "remote"):
        if damaged:
            office.places[name].damage(lost)
        else:
            del office.places[name].shared[lost]
    await sync(office.agent(), ("new",), False, Progress(), 60)
    tiers = await office.contacted()
    new = next(tier for tier in tiers.tiers if tier.id == tier_id)
    expected = [base] if added.added <= base else [base + 1]
    assert tiers.state.missing(tier_id) == expected
    assert numbers_with(office.places["new"], ".record") == [n for n in (base, base + 1) if n not in expected]
    assert new.state is State.LAGGING
    assert "cannot be had" in new.reason or new.reason == "lacks revisions"


@pytest.mark.parametrize("at", range(1, 30, 3))
async def test_filling_a_new_tier_goes_on_where_it_was_stopped(
    office: Office, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    tier_id, base = await with_a_new_tier(office, monkeypatch)
    office.places["new"].after = at
    await level(office)
    tiers = await office.contacted()
    if base in tiers.state.missing(tier_id):
        packs = list(tiers.state.live_of(ObjectType.PACK).values())
        facts = next(tier for tier in tiers.tiers if tier.id == tier_id).facts()
        assert not any(facts.holds_last(pack) for pack in packs if pack.added < base)
    office.down()
    await level(office)
    assert numbers_with(office.places["new"], ".claim") == [base, base + 1]
    assert set((await states(office)).values()) == {"online"}
