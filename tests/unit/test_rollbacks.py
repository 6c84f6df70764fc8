"""Storage that is rolled back at the moments where nothing of ours stands there yet that would be missed: while a
takeover reads, after healing, between copy and record. Each was found by the search of the rules (tests/model)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from tests.support.machines import Killed, Machine, Site, first_with
from tests.support.office import Place

from tandem_agent.progress import Progress
from tandem_agent.resync import sync
from tandem_agent.state import State
from tandem_agent.tiers import levelling
from tandem_agent.tiers.tier import Tier
from tandem_agent.wiring import open_agent
from tandem_protocol import names
from tandem_protocol.errors import SecondInstallation


@pytest.fixture
def site(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(memory_path, monkeypatch, "vault", "remote")


async def test_a_fence_that_a_roll_back_takes_away_is_missed(site: Site) -> None:
    """Read for a takeover, rolled back before its record came there; the first one, not stopped, goes on."""
    first, ids = await first_with(site, "one")
    remote = site.places["remote"]
    before = dict(remote.shared)
    second = site.machine("second")

    def cut(verb: str, name: str) -> bool:
        if verb == "create" and name.endswith(".record"):
            remote.up = False
        return True

    remote.hook = cut
    result = await second.take_over()
    assert [tier.imported for tier in result.tiers] == [True, True]
    remote.roll_back(before)
    site.down("vault")
    ids.append((await first.backup("acknowledged below the fence")).id)
    site.down()
    await second.contact()
    await second.sync()
    assert set((await second.contact()).values()) == {"online"}
    for tier in site.places:
        assert await second.read(ids[1], tier) == "acknowledged below the fence"
    with pytest.raises(SecondInstallation):
        await first.backup("too late")


async def test_what_a_takeover_read_is_listed_again_before_it_counts(site: Site) -> None:
    """The roll-back keeps the fence, and takes objects that were listed."""
    _, ids = await first_with(site, "one")
    second = site.machine("second")
    remote = site.places["remote"]

    def lose_packs(verb: str, name: str) -> bool:
        if verb == "create" and name.endswith(".record"):
            for path in remote.paths("packs/"):
                del remote.shared[path]
        return True

    remote.hook = lose_packs
    await second.take_over()
    site.down()
    assert (await second.contact())["remote"] == "lagging"
    await second.sync()
    assert (await second.contact())["remote"] == "online"
    assert await second.read(ids[0], "remote") == "one"


async def test_what_was_mended_and_rolled_back_is_missed(site: Site) -> None:
    """Healing writes no record of its own; the one after it is what a roll-back takes away."""
    machine, ids = await first_with(site, "one")
    remote = site.places["remote"]
    for path in remote.paths("packs/"):
        del remote.shared[path]
    before = dict(remote.shared)
    await machine.sync(full=True)
    assert set((await machine.contact()).values()) == {"online"}
    remote.roll_back(before)
    assert (await machine.contact())["remote"] == "lagging"
    await machine.sync()
    assert set((await machine.contact()).values()) == {"online"}
    assert await machine.read(ids[0], "remote") == "one"


async def test_objects_that_go_while_their_records_come_do_not_count(site: Site) -> None:
    """A roll-back to between the claims and the objects: the look alone would find all as it should be."""
    machine, ids = await first_with(site, "one")
    site.down("remote")
    ids.append((await machine.backup("two")).id)
    site.down()
    remote = site.places["remote"]
    kept = set(remote.paths("packs/"))

    def lose_packs(verb: str, name: str) -> bool:
        if verb == "create" and name == names.record_path(3):
            for path in set(remote.paths("packs/")) - kept:
                del remote.shared[path]
        return True

    remote.hook = lose_packs
    await machine.sync()
    site.down()
    async with open_agent(machine.config, lambda: "") as agent:
        row = next(row for row in agent.state.tiers() if row.name == "remote")
        assert not agent.state.is_on(3, row.id)
    await machine.sync()
    assert set((await machine.contact()).values()) == {"online"}
    assert await machine.read(ids[1], "remote") == "two"


async def test_what_cannot_be_completed_makes_no_revision_at_every_synchronisation(site: Site) -> None:
    """Part of a revision can be had and part cannot: the part is not marked again and again."""
    machine, _ = await first_with(site, "one")
    site.down("remote")
    await machine.backup("two")
    site.down()
    vault = site.places["vault"]
    async with open_agent(machine.config, lambda: "") as agent:
        packs = [ref.name.hex() for ref in agent.state.record(3).added if ref.type == "pack"]
    for path in vault.paths("packs/"):
        if path.endswith(packs[0]):
            vault.damage(path)
    heads = []
    for _ in range(3):
        async with open_agent(machine.config, lambda: "") as agent:
            await sync(agent, ("remote",), False, Progress())
            heads.append(agent.state.head)
    assert len(set(heads)) == 1


@pytest.mark.parametrize("confirmed_by", ["synchronisation", "contact"])
async def test_what_stood_there_before_does_not_hide_a_roll_back(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, confirmed_by: str
) -> None:
    """Record 3 stands on a tier unconfirmed, then 4 is confirmed there, then 2 is written; then what 3 needs comes, and
    the storage goes back to before 2, which leaves 3 and 4."""
    site = Site(memory_path, monkeypatch, "a", "b", "far")
    machine, ids = await first_with(site)
    for number, away in ((2, ("b", "far")), (3, ("a", "far"))):
        site.down(*away)
        ids.append((await machine.backup(f"backup {number}")).id)
    far = site.places["far"]
    site.down("a", "b")
    async with open_agent(machine.config, lambda: "") as agent:
        await agent.tiers.contact(1)
        tier = next(tier for tier in agent.tiers.tiers if tier.name == "far")
        record = agent.state.record(3)
        await tier.write_claim(3, record.nonce, record.claim_parents)
        await tier.write_record(record)
    ids.append((await machine.backup("backup 4")).id)
    before = dict(far.shared)
    site.down("b")
    await machine.sync()
    site.down()
    if confirmed_by == "contact":
        await stopped_before_the_end_of(3, machine, monkeypatch)
        await machine.contact()
    else:
        far.hook = partial(_cut_at_claims, far)
        await machine.sync()
        site.down()
    far.roll_back(before)
    await machine.contact()
    await machine.sync()
    await machine.sync()
    assert set((await machine.contact()).values()) == {"online"}
    for number, id in enumerate(ids, 2):
        assert await machine.read(id, "far") == f"backup {number}"


def _cut_at_claims(place: Place, verb: str, name: str) -> bool:
    if verb == "create" and name.endswith("claim"):
        place.up = False
    place.check()
    return True


async def stopped_before_the_end_of(number: int, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A synchronisation that is killed when all objects of revision ``number`` are there, before that is known."""
    real = levelling.confirm

    async def killed(tier: Tier, state: State, numbers: list[int], last: int) -> None:
        if tier.name == "far" and number in numbers:
            raise Killed
        await real(tier, state, numbers, last)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(levelling, "confirm", killed)
        await machine.sync()
