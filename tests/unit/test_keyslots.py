"""Passphrase slots: adding, listing, removing, on every tier and through kills (issue: `tandem key`; trust.md)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from tests.support.office import Office

from tandem_agent import keyslots
from tandem_agent.keyslots import KeySlot, key_add, key_list, key_remove
from tandem_agent.progress import Progress
from tandem_agent.resync import sync
from tandem_agent.tiers import targets
from tandem_agent.tiers.targets import reachable_targets
from tandem_agent.tiers.tierset import TierSet
from tandem_agent.tiers.writing import Revision
from tandem_agent.wiring import Agent, unlock_with_passphrase
from tandem_protocol.errors import Missing, NoTierReachable, Refused, Unavailable, Usage
from tandem_protocol.keys import passphrase_slot
from tandem_protocol.names import ObjectType, object_name, object_path
from tandem_protocol.revision import Kind

cheap = partial(passphrase_slot, memory_kib=8, passes=1, lanes=1)


class Killed(BaseException):
    """Ends a process where it is."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyslots, "passphrase_slot", cheap)
    monkeypatch.setattr(targets, "POLL_S", 0.001)


@pytest.fixture
async def office(memory_path: Path) -> Office:
    found = Office(memory_path / "state")
    state = found._state()
    first = cheap(found.ring, "first", "init", created=1)
    state.put_key_slot(object_name(first), first)
    await found.init()
    return found


@pytest.fixture(autouse=True)
def closing(office: Office) -> Iterator[None]:
    yield
    office.close()


def path_of(slot: KeySlot) -> str:
    return object_path(ObjectType.KEY, bytes.fromhex(slot.id))


def labels(agent: Agent) -> list[str]:
    return [slot.label for slot in key_list(agent.state)]


async def test_a_slot_that_was_added_opens_and_is_on_every_tier(office: Office) -> None:
    slot = await key_add(office.agent(), "first", "second", "Anna")
    fresh = office.agent()
    assert set(labels(fresh)) == {"test", "init", "Anna"}
    assert unlock_with_passphrase(fresh.state, "second").root_private == office.ring.root_private
    assert all(path_of(slot) in place.shared for place in office.places.values())
    assert fresh.state.record(2).kind is Kind.KEY


async def test_a_wrong_passphrase_changes_nothing(office: Office) -> None:
    for change in (key_add(office.agent(), "wrong", "x", "y"), key_remove(office.agent(), "wrong", "init")):
        with pytest.raises(Refused, match="passphrase"):
            await change
    assert office.agent().state.head == 1


async def test_a_slot_is_removed_by_label_or_the_start_of_its_id(office: Office) -> None:
    anna = await key_add(office.agent(), "first", "second", "Anna")
    berta = await key_add(office.agent(), "second", "third", "Berta")
    assert await key_remove(office.agent(), "first", "Anna") == anna
    assert await key_remove(office.agent(), "first", berta.id[:10].upper()) == berta
    fresh = office.agent()
    assert set(labels(fresh)) == {"test", "init"}
    with pytest.raises(Refused):
        unlock_with_passphrase(fresh.state, "second")
    assert bytes.fromhex(anna.id) not in fresh.state.live()


async def test_names_that_fit_none_or_several(office: Office) -> None:
    for label in ("twin", "twin"):
        await key_add(office.agent(), "first", "x", label)
    with pytest.raises(Missing):
        await key_remove(office.agent(), "first", "nobody")
    with pytest.raises(Missing):
        await key_remove(office.agent(), "first", key_list(office.agent().state)[0].id[:3])
    with pytest.raises(Usage, match="2 key slots"):
        await key_remove(office.agent(), "first", "twin")


async def test_the_last_passphrase_stays(office: Office) -> None:
    with pytest.raises(Refused, match="last passphrase"):
        await key_remove(office.agent(), "first", "init")
    await key_remove(office.agent(), "first", "test")
    assert labels(office.agent()) == ["init"]


async def test_a_tier_that_was_away_gets_the_key_before_anything_else_of_the_next_write(
    office: Office,
) -> None:
    office.down("remote")
    slot = await key_add(office.agent(), "first", "second", "Anna")
    office.down("vault")
    first: list[str] = []

    def note(_verb: str, name: str) -> bool:
        first.append(name)
        return True

    office.places["remote"].hook = note
    assert await office.write() == ["remote"]
    keys = first.index(path_of(slot))
    assert all(not name.startswith("packs/") for name in first[:keys])


@pytest.mark.parametrize("add", [True, False])
async def test_a_change_decided_without_a_tier_holding_it_is_told_and_completed_later(
    office: Office, add: bool
) -> None:
    await key_add(office.agent(), "first", "other", "other")
    for place in office.places.values():
        place.hook = lambda verb, name: _cut() if verb == "create" and name.endswith("3.record") else True
    with pytest.raises(NoTierReachable):
        if add:
            await key_add(office.agent(), "first", "second", "Anna", 0.01)
        else:
            await key_remove(office.agent(), "first", "other", 0.01)
    for place in office.places.values():
        place.hook = None
    agent = office.agent()
    await agent.tiers.contact(60)
    assert ("Anna" in labels(agent)) is add
    assert ("other" in labels(agent)) is add
    assert {tier.state.value for tier in agent.tiers.tiers} == {"online"}


def _cut() -> bool:
    raise Unavailable("cut")


@pytest.mark.parametrize("verb", range(0, 14))
async def test_killed_at_any_verb_the_slot_is_either_there_and_opens_or_is_not(
    office: Office, verb: int
) -> None:
    agent = office.agent()
    await agent.tiers.contact(60)
    left = [verb]

    def hook(_verb: str, _name: str) -> bool:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return True

    office.places["vault"].hook = hook
    with suppress(Killed):
        await key_add(agent, "first", "second", "Anna")
    office.places["vault"].hook = None
    fresh = office.agent()
    await fresh.tiers.contact(60)
    if "Anna" in labels(fresh):
        unlock_with_passphrase(fresh.state, "second")
        (slot,) = [s for s in key_list(fresh.state) if s.label == "Anna"]
        assert fresh.tiers.state.record(2).kind is Kind.KEY
        assert any(path_of(slot) in place.shared for place in office.places.values())
    else:
        with pytest.raises(Refused):
            unlock_with_passphrase(fresh.state, "second")
        assert fresh.state.head == 1 or fresh.state.record(2).kind is Kind.ABORTED
    assert await _again(office, fresh.tiers)


async def _again(office: Office, tiers: TierSet) -> bool:
    """Whether the next write reaches every tier, once what the killed one left on one of them is levelled."""
    await sync(office.agent(tiers), (), False, Progress(), 60)
    revision = await Revision.begin(tiers, await reachable_targets(tiers, 1.0), Progress())
    return len(await revision.commit(Kind.CHECKPOINT, {})) == len(office.places)
