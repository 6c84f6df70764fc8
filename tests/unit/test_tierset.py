"""Contact, patience, what was left open, and what is acknowledged where (A2, A4, A6, F5, P1, P4)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.office import Office

from tandem_agent.engine.fetch import Damage
from tandem_agent.noting import note_found
from tandem_agent.progress import Progress
from tandem_agent.resync import sync
from tandem_agent.tiers import targets
from tandem_agent.tiers.targets import reachable_targets, wait_until_held
from tandem_agent.tiers.tierset import PRESENCE_CHECKS, TierSet
from tandem_agent.tiers.writing import Revision
from tandem_protocol import names
from tandem_protocol.errors import Full, NoTierReachable, Unavailable
from tandem_protocol.names import ObjectType
from tandem_protocol.revision import Kind
from tandem_protocol.store import Store
from tandem_protocol.verdict import LACKS_OBJECTS, State


@pytest.fixture
def office(memory_path: Path) -> Iterator[Office]:
    found = Office(memory_path / "state")
    yield found
    found.close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "POLL_S", 0.001)


def states(tiers: TierSet) -> dict[str, str]:
    return {tier.name: tier.state.value for tier in tiers.tiers}


async def begun(office: Office, objects: int = 1) -> tuple[TierSet, Revision]:
    tiers = office.open()
    revision = await Revision.begin(tiers, await reachable_targets(tiers, 1.0), Progress())
    for _ in range(objects):
        await revision.add(ObjectType.PACK, os.urandom(100))
    return tiers, revision


def hang(store: Store, verb: str) -> None:
    """From now on ``verb`` of this store never answers."""

    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    setattr(store, verb, never)


# Contact


async def test_each_tier_is_met_and_its_state_kept(office: Office) -> None:
    await office.init()
    office.down("remote")
    tiers = await office.contacted()
    assert states(tiers) == {"vault": "online", "remote": "offline"}
    assert [row.state for row in tiers.state.tiers()] == ["online", "offline"]
    assert "link is down" in tiers.tiers[1].reason
    office.down()
    await tiers.contact(60)
    assert states(tiers) == {"vault": "online", "remote": "online"}


async def test_a_tier_that_does_not_answer_holds_nobody_up_for_longer_than_the_patience(
    office: Office,
) -> None:
    await office.init()
    tiers = office.open()
    hang(tiers.tiers[1].store, "open")
    await asyncio.wait_for(tiers.contact(0.01), 10)
    assert states(tiers) == {"vault": "online", "remote": "offline"}
    assert "not reachable so far" in tiers.tiers[1].reason


async def test_a_tier_that_stopped_answering_after_it_was_online_is_no_target(office: Office) -> None:
    await office.init()
    tiers = await office.contacted()
    hang(tiers.tiers[1].store, "read")
    await asyncio.wait_for(tiers.contact(0.01), 10)
    assert states(tiers) == {"vault": "online", "remote": "offline"}


async def test_without_any_tier_the_deadline_ends_the_contact(office: Office) -> None:
    await office.init()
    tiers = office.open()
    for tier in tiers.tiers:
        hang(tier.store, "open")
    await asyncio.wait_for(tiers.contact(60, deadline=asyncio.get_running_loop().time() + 0.02), 10)
    assert set(states(tiers).values()) == {"offline"}


async def test_a_bug_in_one_contact_is_not_swallowed(office: Office) -> None:
    await office.init()
    tiers = office.open()

    async def broken() -> None:
        raise ZeroDivisionError

    tiers.tiers[0].store.open = broken  # type: ignore[method-assign]  # the bug
    with pytest.raises(ZeroDivisionError):
        await tiers.contact(60)


# What was left open


async def test_a_decided_revision_is_completed_and_never_aborted(office: Office) -> None:
    """Killed between the decision and the first record."""
    await office.init()
    _, revision = await begun(office)

    def cut(verb: str, name: str) -> bool:
        if name.endswith(".record") and verb == "create":
            raise Unavailable("the line is dead")
        return True

    for place in office.places.values():
        place.hook = cut
    assert await revision.commit(Kind.CHECKPOINT, {}) == []
    for place in office.places.values():
        place.hook = None
    fresh = await office.contacted()
    assert fresh.state.record(2).kind is Kind.CHECKPOINT
    assert states(fresh) == {"vault": "online", "remote": "online"}
    assert all(names.record_path(2) in place.shared for place in office.places.values())


async def test_an_aborted_number_is_told_with_the_backup_it_was_for(office: Office) -> None:
    await office.init()
    tiers = office.open()
    about = {"id": "ab" * 16, "name": "250101**", "status": "running", "error": ""}
    await Revision.begin(tiers, await reachable_targets(tiers, 1.0), Progress(), about)
    fresh = await office.contacted()
    ((number, info),) = fresh.state.backups()
    assert (number, info["status"], info["error"]) == (2, "failed", "interrupted")
    assert fresh.state.intent() is None


async def test_a_kill_between_confirming_and_forgetting_the_intent(office: Office) -> None:
    await office.init()
    tiers, revision = await begun(office)
    tiers.state.end_intent = lambda: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        await revision.commit(Kind.CHECKPOINT, {})
    fresh = await office.contacted()
    assert fresh.state.intent() is None
    assert states(fresh) == {"vault": "online", "remote": "online"}


@pytest.mark.parametrize("cancel_at", ["claim", "put", "record"])
async def test_interrupted_by_the_user_in_each_phase(office: Office, cancel_at: str) -> None:
    """Ctrl-C: the number is aborted, or decided for good; the next write needs no help either way."""
    await office.init()
    place = office.places["remote"]
    tasks: list[asyncio.Task[object]] = []

    def hook(verb: str, name: str) -> bool:
        if verb == cancel_at or (verb == "create" and name.endswith(cancel_at)):
            place.hook = None
            tasks[0].cancel()
        return True

    async def one() -> None:
        _, revision = await begun(office)
        try:
            await revision.commit(Kind.CHECKPOINT, {})
        except BaseException:
            await revision.abort("interrupted")
            raise

    place.hook = hook
    tasks.append(asyncio.create_task(one()))
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert len(asyncio.all_tasks()) == 1, "a task was left behind"
    fresh = office.open()
    assert await office.write(fresh) == ["vault", "remote"]
    assert fresh.state.head == 3


async def test_a_full_state_disk_at_the_decision_is_no_fault_of_a_tier(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    await office.init()
    tiers, revision = await begun(office)
    with monkeypatch.context() as patch:
        patch.setattr(tiers.state, "decide", _full)
        with pytest.raises(Full, match="local state"):
            await revision.commit(Kind.CHECKPOINT, {})
    assert states(tiers) == {"vault": "online", "remote": "online"}
    assert not any(names.record_path(2) in place.shared for place in office.places.values())
    await revision.abort("no space")
    assert await office.write() == ["vault", "remote"]


def _full(*_: object) -> None:
    raise Full("no space for the local state", "make room")


# Not acknowledged without being there (step 7)


@pytest.mark.parametrize("dropped", ["record", "claim", "packs/"])
async def test_a_server_that_says_done_and_drops_it_is_not_confirmed(office: Office, dropped: str) -> None:
    """trust.md 30."""
    await office.init()
    office.places["remote"].hook = lambda verb, name: dropped not in name or verb not in ("create", "put")
    assert await office.write() == ["vault"]
    office.places["remote"].hook = None
    assert await office.write() == ["vault"] if dropped == "packs/" else ["vault", "remote"]


async def test_objects_lost_between_their_check_and_the_record_are_not_confirmed(office: Office) -> None:
    """Storage rolled back to a moment after the claim: the looks alone see nothing wrong."""
    await office.init()
    remote = office.places["remote"]

    def hook(verb: str, name: str) -> bool:
        if verb == "create" and name.endswith(".record"):
            for path in remote.paths("packs/"):
                del remote.shared[path]
        return True

    remote.hook = hook
    assert await office.write(objects=3) == ["vault"]


async def test_a_roll_back_seen_while_levelling_is_not_confirmed(office: Office) -> None:
    await office.init()
    await office.write()
    office.down("remote")
    _, revision = await begun(office, objects=0)
    await revision.abort("given up")
    office.down()
    remote = office.places["remote"]

    def hook(verb: str, name: str) -> bool:
        if verb == "create" and name == names.record_path(3):
            del remote.shared[names.record_path(2)]
        return True

    remote.hook = hook
    fresh = await office.contacted()
    assert fresh.state.missing(fresh.tiers[1].id) == [1, 2, 3]
    assert fresh.tiers[1].row.to_compare


async def test_what_was_written_last_below_the_highest_is_looked_for_too(office: Office) -> None:
    """Synchronisation writes r2 below r3, and the storage goes back to before it."""
    await office.init()
    office.down("remote")
    await office.write()
    office.down("vault")
    await office.write()
    before = dict(office.places["remote"].shared)
    office.down()
    await sync(office.agent(), (), False, Progress(), 60)
    office.places["remote"].roll_back(before)
    tiers = await office.contacted()
    assert tiers.tiers[1].row.to_compare


# Is on


async def test_a_tier_that_holds_the_number_but_not_one_before_it_does_not_have_the_backup(
    office: Office,
) -> None:
    await office.init()
    office.down("remote")
    await office.write()
    (lost,) = office.places["vault"].paths("packs/")
    await office.write()
    office.places["vault"].damage(lost)
    office.down()
    await sync(office.agent(), ("remote",), False, Progress(), 60)
    tiers = await office.contacted()
    vault, remote = (tier.id for tier in tiers.tiers)
    assert tiers.state.missing(remote) == [2]
    assert not tiers.state.is_on(3, remote)
    assert not tiers.state.is_on(3, vault), "what it was confirmed with is known to be bad since"
    assert tiers.state.is_on(1, remote)


async def test_why_a_tier_lags_is_said_as_soon_as_it_is_known(office: Office) -> None:
    """Also in the process that found it out, without another look, and once it lacks no revision any more."""
    await office.init()
    await office.write()
    tiers = await office.contacted()
    vault = tiers.tiers[0]
    assert (vault.state, vault.reason) == (State.ONLINE, "")
    pack = bytes.fromhex(office.places["vault"].paths("packs/")[0].rpartition("/")[2])
    note_found(tiers, [Damage("vault", ObjectType.PACK, pack, "damaged")])
    assert (vault.state, vault.reason) == (State.LAGGING, LACKS_OBJECTS)
    tiers.state.add_missing(vault.id, [2])
    assert (await office.contacted()).tiers[0].reason == LACKS_OBJECTS, "the revision was only to be noted"


async def test_a_target_with_a_gap_has_what_was_written_to_it_whole(office: Office) -> None:
    """F5: confirmed as a target, though it lacks a revision before."""
    await office.init()
    office.down("remote")
    await office.write()
    office.down("vault")
    await office.write()
    tiers = await office.contacted()
    assert tiers.state.is_on(3, tiers.tiers[1].id)
    assert not tiers.state.is_on(2, tiers.tiers[1].id)
    assert not tiers.state.is_on(3, tiers.tiers[0].id)


@pytest.mark.parametrize("objects", [1, PRESENCE_CHECKS + 1])
async def test_decided_and_then_alone_it_waits_and_completes_it_when_a_tier_is_back(
    office: Office, objects: int
) -> None:
    """Also with more objects than a contact checks, and on a target that lags otherwise."""
    await office.init()
    office.down("remote")
    await office.write()
    office.down("vault")
    tiers, revision = await begun(office, objects)
    remote = office.places["remote"]

    def cut(verb: str, name: str) -> bool:
        if verb == "create" and name.endswith(".record"):
            remote.up = False
            raise Unavailable("the line is dead")
        return True

    remote.hook = cut
    assert await revision.commit(Kind.CHECKPOINT, {}) == []
    assert await wait_until_held(tiers, 3, revision.begun_with, 0.01) == []
    remote.hook = None
    office.down("vault")
    held = await wait_until_held(tiers, 3, revision.begun_with, 5)
    assert [tier.name for tier in held] == ["remote"]
    assert tiers.state.is_on(3, held[0].id)


# Targets


async def test_waiting_goes_on_until_a_tier_is_there(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    await office.init()
    office.down("vault", "remote")
    tiers = office.open()
    contact, met = tiers.contact, []

    async def come_back_at_the_third(*arguments: object, **named: object) -> None:
        met.append(1)
        if len(met) == 3:
            office.down("vault")
        await contact()

    monkeypatch.setattr(tiers, "contact", come_back_at_the_third)
    assert [tier.name for tier in await reachable_targets(tiers, None)] == ["remote"]


async def test_not_waiting_still_finds_the_tiers_that_are_there(office: Office) -> None:
    await office.init()
    assert len(await reachable_targets(office.open(), 0.0)) == 2
    office.down("vault", "remote")
    with pytest.raises(NoTierReachable):
        await reachable_targets(office.open(), 0.0)


async def test_targets_are_bounded_by_those_named(office: Office) -> None:
    tiers = await office.init()
    vault, remote = tiers.tiers
    assert await reachable_targets(tiers, 1.0, only=[remote.id]) == [remote]
    with pytest.raises(NoTierReachable):
        await reachable_targets(tiers, 0.01, only=[])
    assert vault.state is State.ONLINE


async def test_a_rolled_back_tier_is_compared_first_where_there_is_no_other(office: Office) -> None:
    """P4: what can go on does."""
    await office.init()
    before = dict(office.places["vault"].shared)
    await office.write(objects=2)
    office.places["vault"].roll_back(before)
    assert await office.write() == ["remote"], "it is no target while another one is there"
    office.down("remote")
    assert await office.write() == ["vault"]
    tiers = await office.contacted()
    assert not tiers.tiers[0].row.to_compare
    assert tiers.state.missing(tiers.tiers[0].id) == [2, 3]
