"""The write operation, steps 1 to 8 of tier-protocol.md, over memory stores with cut links (A4, A5, A6, A10, F5)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.office import Office

from tandem_agent.progress import Progress
from tandem_agent.tiers.sending import Target
from tandem_agent.tiers.targets import reachable_targets
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.tierset import TierSet
from tandem_agent.tiers.writing import Revision
from tandem_protocol import names
from tandem_protocol.errors import NoTierReachable, SecondInstallation
from tandem_protocol.names import ObjectType
from tandem_protocol.revision import Kind, Record
from tandem_protocol.stores.retrying import RetryPolicy


@pytest.fixture
def office(memory_path: Path) -> Iterator[Office]:
    found = Office(memory_path / "state")
    yield found
    found.close()


async def write(tiers: TierSet, kind: Kind = Kind.CHECKPOINT, objects: int = 1) -> tuple[int, list[Tier]]:
    targets = await reachable_targets(tiers, 1.0)
    revision = await Revision.begin(tiers, targets, Progress())
    for _ in range(objects):
        await revision.add(ObjectType.PACK, os.urandom(100))
    return revision.number, await revision.commit(kind, {})


def names_of(tiers: list[Tier]) -> list[str]:
    return [tier.name for tier in tiers]


async def test_init_then_a_write_reaches_both_tiers_with_the_same_bytes(office: Office) -> None:
    tiers = await office.init()
    number, confirmed = await write(tiers)
    assert (number, names_of(confirmed)) == (2, ["vault", "remote"])
    vault, remote = (place.shared for place in office.places.values())
    different = {path for path in vault if vault[path] != remote.get(path)}
    assert vault.keys() == remote.keys()
    assert different == {names.IDENTITY, names.claim_path(1), names.claim_path(2)}


async def test_the_claim_is_there_before_any_object(office: Office) -> None:
    tiers = await office.init()
    targets = await reachable_targets(tiers, 1.0)
    await Revision.begin(tiers, targets, Progress())
    for place in office.places.values():
        assert names.claim_path(2) in place.shared
        assert not any(path.startswith("packs/") for path in place.shared)


async def test_a_tier_that_is_away_lags_and_the_other_has_it(office: Office) -> None:
    tiers = await office.init()
    office.places["remote"].up = False
    _, confirmed = await write(office.open())
    assert names_of(confirmed) == ["vault"]
    office.places["remote"].up = True
    again = office.open()
    await again.contact(60)
    assert {t.name: t.state.value for t in again.tiers} == {"vault": "online", "remote": "lagging"}
    assert len(again.tiers[1].facts().missing) == 1
    assert tiers.state.head == 2


async def test_without_any_tier_it_waits_and_touches_nothing(office: Office) -> None:
    await office.init()
    for place in office.places.values():
        place.up = False
    tiers = office.open()
    with pytest.raises(NoTierReachable) as caught:
        await reachable_targets(tiers, 0.5)
    assert caught.value.exit_code == 5
    assert tiers.state.intent() is None


async def test_only_a_lagging_tier_reachable_gets_the_write_whole(office: Office) -> None:
    """F5: never stuck."""
    await office.init()
    office.places["remote"].up = False
    await write(office.open())
    office.places["remote"].up, office.places["vault"].up = True, False
    tiers = office.open()
    number, confirmed = await write(tiers)
    assert names_of(confirmed) == ["remote"]
    assert tiers.state.is_on(number, confirmed[0].id)
    assert confirmed[0].state.value == "lagging"


@pytest.mark.parametrize("verbs", range(0, 40))
async def test_a_link_that_breaks_at_any_verb_of_one_tier_leaves_the_other(
    office: Office, verbs: int
) -> None:
    await office.init()
    tiers = office.open()
    await tiers.contact(60)
    office.places["remote"].after = verbs
    _, confirmed = await write(tiers)
    assert "vault" in names_of(confirmed)
    office.places["remote"].up, office.places["remote"].after = True, None
    fresh = office.open()
    _, confirmed = await write(fresh)
    assert "vault" in names_of(confirmed)


@pytest.mark.parametrize("verbs", range(0, 60))
async def test_both_links_break_at_any_verb_and_the_next_write_needs_no_help(
    office: Office, verbs: int
) -> None:
    await office.init()
    tiers = office.open()
    await tiers.contact(60)
    for place in office.places.values():
        place.after = verbs
    acknowledged: list[str] = []
    number = 0
    try:
        number, confirmed = await write(tiers, objects=3)
        acknowledged = names_of(confirmed)
    except NoTierReachable:
        pass
    for place in office.places.values():
        place.up, place.after = True, None
    for name in acknowledged:
        assert names.record_path(number) in office.places[name].shared
    fresh = office.open()
    _, confirmed = await write(fresh)
    assert confirmed


async def test_a_clone_that_wrote_is_found_by_the_first_and_nothing_is_written(
    office: Office, tmp_path: Path
) -> None:
    """A10: exit code 4."""
    await office.init()
    clone = office.clone(tmp_path / "clone")
    await write(clone.open())
    before = {name: dict(place.shared) for name, place in office.places.items()}
    with pytest.raises(SecondInstallation) as caught:
        await write(office.open())
    assert caught.value.exit_code == 4
    assert "clone" in caught.value.what
    assert before == {name: place.shared for name, place in office.places.items()}
    clone.close()


async def test_a_kill_between_intent_and_decision_aborts_the_number(office: Office) -> None:
    await office.init()
    tiers = office.open()
    targets = await reachable_targets(tiers, 1.0)
    revision = await Revision.begin(tiers, targets, Progress())
    await revision.add(ObjectType.PACK, b"x" * 50)
    fresh = office.open()
    number, confirmed = await write(fresh)
    assert number == 3
    assert names_of(confirmed) == ["vault", "remote"]
    assert fresh.state.record(2).kind is Kind.ABORTED
    for place in office.places.values():
        assert names.record_path(2) in place.shared


async def test_a_tier_rolled_back_by_its_storage_is_told_once_and_lags(office: Office) -> None:
    await office.init()
    before = dict(office.places["vault"].shared)
    await write(office.open())
    office.places["vault"].shared.clear()
    office.places["vault"].shared.update(before)
    tiers = office.open()
    await tiers.contact(60)
    vault = tiers.tiers[0]
    assert vault.state.value == "lagging"
    assert "rolled back" in vault.reason
    assert vault.row.to_compare
    await tiers.contact(60)
    assert "rolled back" not in vault.reason
    _, confirmed = await write(tiers)
    assert names_of(confirmed) == ["remote"]


async def test_a_damaged_record_of_ours_is_moved_aside_and_written_again(office: Office) -> None:
    await office.init()
    number, _ = await write(office.open())
    shared = office.places["vault"].shared
    good = shared[names.record_path(number)]
    shared[names.record_path(number)] = good[:-1] + bytes([good[-1] ^ 1])
    tiers = office.open()
    await tiers.contact(60)
    assert shared[names.record_path(number)] == good
    assert any(path.startswith(names.DAMAGED) for path in shared)
    assert tiers.tiers[0].state.value == "online"


async def test_a_link_that_dies_while_writing_holds_the_other_up_no_longer_than_the_patience(
    office: Office,
) -> None:
    """A11: the line is cut in the middle; its ten attempts take minutes, the vault must not wait for them."""
    await office.init()
    tiers = office.open(RetryPolicy(1_000, 0.05, 0.05, 0))
    tiers.patience_s = 0.2
    targets = await reachable_targets(tiers, 1.0)
    revision = await Revision.begin(tiers, targets, Progress())
    office.places["remote"].up = False
    await revision.add(ObjectType.PACK, os.urandom(100))
    confirmed = await revision.commit(Kind.CHECKPOINT, {})
    assert names_of(confirmed) == ["vault"]
    assert "left while it was retried" in tiers.tiers[1].reason


async def test_a_target_that_was_ready_early_is_looked_at_again_before_it_counts(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its storage is rolled back while it waits for the slower one."""
    tiers = await office.init()
    vault, remote = tiers.tiers
    before = dict(office.places["vault"].shared)
    ready = asyncio.Event()
    revision = await Revision.begin(tiers, await reachable_targets(tiers, 1.0), Progress())
    await revision.add(ObjectType.PACK, os.urandom(100))
    write, create = revision._write_record, remote.store.create

    async def write_record(target: Target, record: Record) -> None:
        await write(target, record)
        if target.tier is vault:
            ready.set()

    async def late_create(name: str, data: bytes) -> None:
        await ready.wait()
        office.places["vault"].roll_back(before)
        await create(name, data)

    monkeypatch.setattr(revision, "_write_record", write_record)
    monkeypatch.setattr(remote.store, "create", late_create)
    assert names_of(await revision.commit(Kind.CHECKPOINT, {})) == ["remote"]
    assert not tiers.state.is_on(2, vault.id)
