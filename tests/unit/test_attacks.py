"""Attacks on takeover, join and changes of tiers (A10, F7): what is said of a backup is true, and what was
acknowledged stays, where numbers of two histories meet, caches outlive the state, and lists or keys are lost."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.machines import PHRASE, Killed, Machine, Site
from tests.support.office import Place

from tandem_agent.backup import _about as backup_about
from tandem_agent.backup import backup
from tandem_agent.config import TierConfig
from tandem_agent.engine import scan
from tandem_agent.keyslots import key_add, key_list, key_remove
from tandem_agent.places import Place as Url
from tandem_agent.progress import Progress
from tandem_agent.takeover import take_over
from tandem_agent.tier_changes import add_tier, replace_tier, retire_tier
from tandem_agent.tiers.targets import reachable_targets
from tandem_agent.tiers.writing import Revision
from tandem_agent.wiring import open_agent
from tandem_protocol import names
from tandem_protocol.errors import Refused


@pytest.fixture
def site(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(memory_path, monkeypatch, "vault", "remote")


def said(machine: Machine, id: str) -> set[str]:
    """The tiers that a backup is said to be on."""
    return set(next(b.tiers for b in machine.backups() if b.id.hex() == id))


async def first_with(site: Site, *contents: str) -> tuple[Machine, list[str]]:
    first = site.machine("first")
    await first.init()
    return first, [(await first.backup(content)).id for content in contents]


async def with_disk(site: Site, machine: Machine) -> Machine:
    """``machine`` after it has added a tier that is not filled yet."""
    site.places["disk"] = Place()
    new = TierConfig("disk", Url("file", "/disk"))
    async with open_agent(machine.config, lambda: PHRASE) as agent:
        await add_tier(agent, new, lambda *_: False, lambda _: True, 0)
    return Machine(site, replace(machine.config, tiers=(*machine.config.tiers, new)))


async def test_a_joined_backup_whose_number_is_one_of_ours_is_not_said_to_be_where_ours_is(
    site: Site,
) -> None:
    first, _ = await first_with(site, "one")
    site.down("vault")
    late = [await first.backup(f"late {n}") for n in range(2)]
    site.down("remote")
    second = site.machine("second")
    taken = await second.take_over()
    ours = await second.backup("since")
    assert taken.revision == late[0].revision
    assert ours.revision == late[1].revision
    site.down()
    await second.contact()
    for found in late:
        assert said(second, found.id) <= {"remote"}
    await second.sync()
    for found in late:
        assert said(second, found.id) == {"vault", "remote"}
        assert await second.read(found.id, "vault")


async def test_a_backup_found_by_its_snapshot_is_not_said_to_be_on_a_tier_that_was_away(site: Site) -> None:
    first, _ = await first_with(site, "one")
    site.down("remote")
    torn = await first.backup("two")
    site.places["vault"].damage(names.record_path(torn.revision))
    second = site.machine("second")
    await second.take_over()
    assert said(second, torn.id) == {"vault"}
    site.down()
    await second.sync()
    assert said(second, torn.id) == {"vault", "remote"}
    assert await second.read(torn.id, "remote") == "two"


async def test_a_cache_that_outlives_the_state_is_not_believed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is lost, the cache beside it is not; what it remembers is on a tier that is away at the takeover,
    and the numbers meet."""
    monkeypatch.setattr(scan, "RACY_NS", 0)
    first, _ = await first_with(site, "one")
    site.down("vault")
    await first.backup("before")
    last = await first.backup("only there")
    site.down("remote")
    for path in Path(first.config.state_dir).glob("state.sqlite*"):
        path.unlink()
    again = site.machine("first")
    taken = await again.take_over()
    assert taken.revision < last.revision

    async with open_agent(again.config, lambda: PHRASE) as agent:
        for n in range(3):
            await key_add(agent, PHRASE, f"phrase {n}", str(n))
        done = await backup(agent, [str(again.source).encode()], wait_s=0, progress=Progress())
    assert await again.read(done.id, "vault") == "only there"


async def test_a_key_that_a_join_brings_in_is_listed_and_kept(site: Site) -> None:
    first, _ = await first_with(site, "one")
    site.down("vault")
    async with open_agent(first.config, lambda: PHRASE) as agent:
        added = await key_add(agent, PHRASE, "another", "added late", 0)
    site.down("remote")
    second = site.machine("second")
    await second.take_over()
    site.down()
    await second.contact()
    async with open_agent(second.config, lambda: PHRASE) as agent:
        assert bytes.fromhex(added.id) in agent.state.live_keys()
        assert added.id in {slot.id for slot in key_list(agent.state)}


async def test_one_tier_filled_from_a_base_can_be_read_though_a_list_is_damaged_there(site: Site) -> None:
    first, ids = await first_with(site, "one", "two")
    third = await with_disk(site, first)
    await third.sync()
    assert await third.read(ids[0], "disk") == "one"
    for path in site.places["disk"].paths("lists/"):
        site.places["disk"].damage(path)
    assert await third.read(ids[0], "disk") == "one"


async def test_a_new_tier_that_is_the_only_target_restores_alone(site: Site) -> None:
    """Not filled yet: what it gets refers to nothing that it has not."""
    first, _ = await first_with(site, "one", "two")
    third = await with_disk(site, first)
    site.down("vault", "remote")
    done = await third.backup("two")
    assert [tier.name for tier in done.tiers if tier.has_it] == ["disk"]
    assert await third.read(done.id, "disk") == "two"


async def test_a_tier_filled_from_a_base_can_be_read_though_its_record_is_damaged_there(site: Site) -> None:
    first, ids = await first_with(site, "one", "two")
    third = await with_disk(site, first)
    await third.sync()
    for path in site.places["disk"].paths("revisions/"):
        if path.endswith("record"):
            site.places["disk"].damage(path)
    assert await third.read(ids[0], "disk") == "one"


async def test_a_late_tier_is_not_retired_as_if_nothing_were_on_it(site: Site) -> None:
    """What the first wrote there nobody else has; it was acknowledged."""
    first, _ = await first_with(site, "one")
    site.down("vault")
    late = await first.backup("late")
    site.down("remote")
    second = site.machine("second")
    await second.take_over()
    async with open_agent(second.config, lambda: PHRASE) as agent:
        with pytest.raises(Refused):
            await retire_tier(agent, "remote", lambda _: True, False, 0)
    site.down()
    async with open_agent(second.config, lambda: PHRASE) as agent:
        await agent.tiers.contact(1)
    await second.sync()
    async with open_agent(second.config, lambda: PHRASE) as agent:
        await retire_tier(agent, "remote", lambda _: True, False, 0)
    assert await second.read(late.id, "vault") == "late"


async def test_a_backup_that_came_through_at_its_second_attempt_is_not_forgotten_by_a_join(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One id: the vault knows of the failed attempt, the tier that was away at the takeover of the good one."""
    first, _ = await first_with(site, "one")
    about = backup_about(time.time_ns())
    monkeypatch.setattr("tandem_agent.backup._about", lambda _: dict(about))
    async with open_agent(first.config, lambda: PHRASE) as agent:
        targets = await reachable_targets(agent.tiers, 0)
        revision = await Revision.begin(agent.tiers, targets, Progress(), about)
        await revision.abort("every tier was lost")
        await agent.tiers.contact(1)
    site.down("vault")
    done = await first.backup("two")
    assert done.id == about["id"]
    site.down("remote")
    second = site.machine("second")
    await second.take_over()
    site.down()
    await second.sync()
    assert said(second, done.id) == {"vault", "remote"}
    for tier in site.places:
        assert await second.read(done.id, tier) == "two"
    third = site.machine("third")
    await third.take_over()
    assert said(third, done.id) == {"vault", "remote"}


async def test_a_replacement_that_was_stopped_before_the_file_named_its_place_is_gone_on_with(
    site: Site,
) -> None:
    first, _ = await first_with(site, "one")
    site.down("remote")
    site.places["new"] = Place()
    new = TierConfig("remote", Url("file", "/new"))
    for _ in range(2):
        async with open_agent(first.config, lambda: PHRASE) as agent:
            identity = await replace_tier(agent, new, lambda *_: False, lambda _: True, False, 0)
            assert agent.state.tier(identity.tier_id).name == "remote"


@pytest.mark.parametrize("away", [False, True])
async def test_a_number_that_is_closed_does_not_undo_what_came_after(
    site: Site, monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    """A synchronisation stopped after its claims left numbers open; later a passphrase was removed. Closing them must
    not bring back what was live then: in a takeover, or in a join of the tier that has them."""
    first, ids = await first_with(site, "one")
    async with open_agent(first.config, lambda: PHRASE) as agent:
        revoked = bytes.fromhex((await key_add(agent, PHRASE, "known to too many", "old", 0)).id)
    site.down("remote")
    await first.backup("two")
    site.down()
    path = names.claim_path(4)
    site.places["remote"].hook = lambda verb, name: (
        _stop() if verb == "create" and path in site.places["remote"].shared else True
    )
    with suppress(Killed):
        await first.sync()
    site.down("remote")
    assert path in site.places["remote"].shared
    async with open_agent(first.config, lambda: PHRASE) as agent:
        await key_remove(agent, PHRASE, revoked.hex(), 0)
    site.down(*(["remote"] if away else []))
    second = site.machine("second")
    await second.take_over()
    site.down()
    await second.sync()
    assert await second.read(ids[0], "remote") == "one"
    async with open_agent(second.config, lambda: PHRASE) as agent:
        assert revoked not in agent.state.live_keys()


def _stop() -> bool:
    raise Killed


async def test_a_tier_that_only_the_late_side_knows_is_one_of_the_repository_after_the_join(
    site: Site,
) -> None:
    """Added by the first while the tier that was taken over was away; a backup is there alone."""
    first, _ = await first_with(site, "one")
    site.down("remote")
    third = await with_disk(site, first)
    site.down("vault", "remote")
    late = await third.backup("on the disk alone")
    site.down("vault", "disk")
    second = Machine(site, replace(first.config, state_dir=str(site.folder / "second")))
    await second.take_over()
    site.down("disk")
    await second.sync()
    new = third.config.tiers[-1]
    site.down()
    async with open_agent(second.config, lambda: PHRASE) as agent:
        assert {row.name for row in agent.state.tiers()} == {"vault", "remote", "disk"}
        await add_tier(agent, new, lambda *_: False, lambda _: True, 0)
    fourth = Machine(site, replace(third.config, state_dir=second.config.state_dir))
    await fourth.sync()
    await fourth.sync()
    assert set((await fourth.contact()).values()) == {"online"}
    assert said(fourth, late.id) == {"vault", "remote", "disk"}
    assert await fourth.read(late.id, "vault") == "on the disk alone"


async def test_a_key_that_is_added_while_a_takeover_asks_is_kept_and_listed(site: Site) -> None:
    first, _ = await first_with(site, "one")
    added: list[str] = []

    async def add() -> None:
        async with open_agent(first.config, lambda: PHRASE) as agent:
            added.append((await key_add(agent, PHRASE, "another", "added meanwhile", 0)).id)

    def agree(_outlook: object) -> bool:
        thread = threading.Thread(target=lambda: asyncio.run(add()))
        thread.start()
        thread.join()
        return True

    second = site.machine("second")
    await take_over(second.config, lambda: PHRASE, lambda *_: False, agree, Progress())
    async with open_agent(second.config, lambda: PHRASE) as agent:
        assert added[0] in {slot.id for slot in key_list(agent.state)}


async def test_a_replaced_disk_that_another_machine_still_names_is_not_brought_back(site: Site) -> None:
    """Both disks are called the same; the machine that takes over reaches the old one alone by that name."""
    first, ids = await first_with(site, "one")
    site.down("remote")
    site.places["new"] = Place()
    new = TierConfig("remote", Url("file", "/new"))
    async with open_agent(first.config, lambda: PHRASE) as agent:
        await replace_tier(agent, new, lambda *_: False, lambda _: True, False, 0)
    site.down()
    moved = Machine(site, replace(first.config, tiers=(first.config.tiers[0], new)))
    await moved.sync()
    ids.append((await moved.backup("two")).id)
    old = Machine(site, replace(first.config, state_dir=str(site.folder / "old")))
    with pytest.raises(Refused, match="tier remote was retired"):
        await old.take_over()
    right = Machine(site, replace(moved.config, state_dir=str(site.folder / "old")))
    await right.take_over()
    await right.sync()
    for id, content in zip(ids, ("one", "two"), strict=True):
        for tier in ("vault", "remote"):
            assert await right.read(id, tier) == content
