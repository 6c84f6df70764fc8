"""Storage that is rolled back at the moments where nothing of ours stands there yet that would be missed: while a
takeover reads, after healing, between copy and record. Each was found by the search of the rules (tests/model)."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.machines import Site, first_with

from tandem_agent.progress import Progress
from tandem_agent.resync import sync
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
