"""Synchronisation: levelling from any tier, the net effect, healing, comparison in full (A7, A8, F5)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.office import Office

from tandem_agent.progress import Progress
from tandem_agent.resync import SyncResult, sync
from tandem_agent.tiers.targets import reachable_targets
from tandem_agent.tiers.tierset import TierSet
from tandem_agent.tiers.writing import Revision
from tandem_protocol import names
from tandem_protocol.errors import Refused, SecondInstallation, Unavailable, Usage
from tandem_protocol.names import ObjectType, object_name, object_path
from tandem_protocol.revision import Kind, Removal
from tandem_protocol.verdict import State


class Killed(BaseException):
    """Ends a process where it is; nothing may catch it."""


@pytest.fixture
def office(memory_path: Path) -> Iterator[Office]:
    found = Office(memory_path / "state", ("vault", "remote", "third"))
    yield found
    found.close()


async def level(office: Office, *only: str, full: bool = False) -> SyncResult:
    return await sync(office.agent(), only, full, Progress(), 60)


async def states(office: Office) -> dict[str, str]:
    return {tier.name: tier.state.value for tier in (await office.contacted()).tiers}


def same_everywhere(office: Office, *of: str) -> bool:
    """Names and bytes, but for identity, claims and quarantine."""

    def comparable(name: str) -> dict[str, bytes]:
        shared = office.places[name].shared
        return {
            path: data
            for path, data in shared.items()
            if path != names.IDENTITY and not path.endswith(".claim") and not path.startswith("quarantine")
        }

    first, *rest = [comparable(name) for name in of or office.places]
    return all(other == first for other in rest)


async def removing(tiers: TierSet, removed: list[Removal], add: list[bytes] | None = None) -> int:
    revision = await Revision.begin(tiers, await reachable_targets(tiers, 1.0), Progress())
    for data in add or []:
        await revision.add(ObjectType.PACK, data)
    await revision.commit(Kind.PRUNE, {}, removed=removed)
    return revision.number


async def test_a_tier_that_was_away_gets_what_it_missed_and_nothing_else(office: Office) -> None:
    await office.init()
    await office.write(objects=2)
    office.down("remote")
    await office.write(objects=3)
    await office.write(objects=1)
    office.down()
    result = await level(office)
    found = {tier.name: tier for tier in result.tiers}
    assert (found["remote"].revisions, found["remote"].objects, found["remote"].bytes) == (2, 4, 400)
    assert (found["vault"].objects, found["third"].objects) == (0, 0)
    assert same_everywhere(office)
    assert set((await states(office)).values()) == {"online"}


async def test_only_the_tiers_named_are_levelled_and_an_unknown_one_is_told(office: Office) -> None:
    await office.init()
    office.down("remote", "third")
    await office.write()
    office.down()
    result = await level(office, "third")
    assert [tier.name for tier in result.tiers] == ["third"]
    assert (await states(office))["remote"] == "lagging"
    with pytest.raises(Usage, match="this repository has vault, remote, third"):
        await level(office, "cellar")


async def test_the_net_effect_is_copied_and_not_each_step(office: Office) -> None:
    """Removed and brought back while the tier was away: it must be there in the end; removed for good: not."""
    await office.init()
    office.down("remote")
    back, gone = os.urandom(50), os.urandom(60)
    tiers = await office.contacted()
    await removing(tiers, [], [back, gone])
    await removing(tiers, [Removal(ObjectType.PACK, object_name(d)) for d in (back, gone)])
    await removing(tiers, [], [back])
    office.down()
    result = await level(office, "remote")
    assert result.tiers[0].objects == 1
    shared = office.places["remote"].shared
    assert object_path(ObjectType.PACK, object_name(back)) in shared
    assert object_path(ObjectType.PACK, object_name(gone)) not in shared


async def test_what_a_tier_holds_more_is_left_alone(office: Office) -> None:
    await office.init()
    extra = object_path(ObjectType.PACK, os.urandom(32))
    office.places["remote"].shared[extra] = b"an orphan"
    office.down("remote")
    await office.write()
    office.down()
    await level(office, full=True)
    assert office.places["remote"].shared[extra] == b"an orphan"


async def test_an_object_of_a_wrong_size_is_moved_aside_and_sent_again(office: Office) -> None:
    await office.init()
    office.down("remote")
    await office.write()
    (path,) = office.places["vault"].paths("packs/")
    office.places["remote"].shared[path] = b"half"
    office.down()
    await level(office)
    assert same_everywhere(office)
    assert [office.places["remote"].shared[p] for p in office.places["remote"].paths(names.DAMAGED)] == [
        b"half"
    ]


async def test_a_comparison_in_full_finds_what_is_gone_and_brings_it_back(office: Office) -> None:
    await office.init()
    await office.write(objects=5)
    remote = office.places["remote"]
    lost = remote.paths("packs/")[2]
    del remote.shared[lost]
    assert (await level(office)).tiers[1].objects == 0
    result = await level(office, "remote", full=True)
    assert (result.tiers[0].objects, result.tiers[0].state) == (1, "online")
    assert same_everywhere(office)


async def test_what_a_full_comparison_misses_is_known_before_anything_is_copied(office: Office) -> None:
    """Killed at the first object: the tier must not be taken for complete by the next process."""
    await office.init()
    await office.write(objects=3)
    remote = office.places["remote"]
    for path in remote.paths("packs/"):
        del remote.shared[path]

    def killed(verb: str, name: str) -> bool:
        if verb == "put":
            raise Killed
        return True

    remote.hook = killed
    with pytest.raises(Killed):
        await level(office, "remote", full=True)
    remote.hook = None
    tiers = await office.contacted()
    assert tiers.tiers[1].state is State.LAGGING
    assert len(tiers.state.lacking(tiers.tiers[1].id)) == 3
    assert await office.write() == ["vault", "third"]
    await level(office)
    assert same_everywhere(office)


async def test_a_damaged_source_is_noted_and_the_next_tier_gives_it(office: Office) -> None:
    await office.init()
    office.down("third")
    await office.write()
    (path,) = office.places["vault"].paths("packs/")
    office.places["vault"].damage(path)
    office.down()
    await level(office, "third")
    assert same_everywhere(office, "remote", "third")
    tiers = await office.contacted()
    assert len(tiers.state.lacking(tiers.tiers[0].id)) == 1
    assert tiers.tiers[0].state is State.LAGGING
    await level(office)
    assert same_everywhere(office)
    assert set((await states(office)).values()) == {"online"}
    assert len(office.places["vault"].paths(names.DAMAGED)) == 1


async def test_what_only_seemed_bad_is_kept_where_it_is(office: Office) -> None:
    """A healing verifies by name before it moves anything aside: it may be the only good copy."""
    await office.init()
    await office.write()
    tiers = await office.contacted()
    (path,) = office.places["vault"].paths("packs/")
    for tier in tiers.tiers:
        tiers.state.add_lacking(tier.id, [bytes.fromhex(path.rpartition("/")[2])])
    await level(office)
    assert all(path in place.shared for place in office.places.values())
    assert set((await states(office)).values()) == {"online"}
    assert not office.places["vault"].paths(names.DAMAGED)


async def test_a_revision_whose_objects_nobody_has_is_passed_over_and_the_next_is_not(office: Office) -> None:
    await office.init()
    office.down("remote", "third")
    await office.write()
    (path,) = office.places["vault"].paths("packs/")
    office.places["vault"].damage(path)
    await office.write()
    office.down()
    result = await level(office, "remote")
    assert (result.tiers[0].revisions, result.tiers[0].state) == (1, "lagging")
    assert "cannot be had" in result.tiers[0].reason
    shared = office.places["remote"].shared
    assert names.record_path(2) not in shared
    assert names.record_path(3) in shared
    assert await states(office) == {"vault": "lagging", "remote": "lagging", "third": "lagging"}


async def test_a_tier_rolled_back_by_its_storage_is_compared_and_level_again(office: Office) -> None:
    await office.init()
    await office.write(objects=2)
    before = dict(office.places["remote"].shared)
    await office.write(objects=3)
    office.places["remote"].roll_back(before)
    result = await level(office)
    assert (result.tiers[1].objects, result.tiers[1].state) == (3, "online")
    assert same_everywhere(office)
    tiers = await office.contacted()
    assert not tiers.tiers[1].row.to_compare


async def test_two_tiers_rolled_back_give_each_other_what_they_still_have(office: Office) -> None:
    await office.init()
    kept = {name: dict(place.shared) for name, place in office.places.items()}
    await office.write(objects=2)
    lost = office.places["remote"].paths("packs/")
    for name, path in zip(("vault", "remote"), lost, strict=True):
        place = office.places[name]
        place.roll_back(kept[name] | {path: place.shared[path]})
    office.places["third"].roll_back(kept["third"])
    await level(office)
    await level(office)
    assert same_everywhere(office)
    assert set((await states(office)).values()) == {"online"}


async def test_what_a_rolled_back_tier_lost_for_good_does_not_block_it_for_ever(
    memory_path: Path,
) -> None:
    """One tier only: nobody else has what is gone; it is given up, and the next backup goes on without it."""
    alone = Office(memory_path / "alone", ("vault",))
    await alone.init()
    before = dict(alone.places["vault"].shared)
    await alone.write()
    alone.places["vault"].roll_back(before)
    result = await level(alone)
    assert result.lost == 1
    tiers = await alone.contacted()
    assert not tiers.tiers[0].row.to_compare
    assert tiers.state.missing(tiers.tiers[0].id) == []
    assert await alone.write() == ["vault"]
    alone.close()


@pytest.mark.parametrize("verb", range(0, 60, 3))
async def test_a_run_that_is_cut_at_any_verb_goes_on_where_it_was(office: Office, verb: int) -> None:
    await office.init()
    office.down("remote")
    for _ in range(3):
        await office.write(objects=2)
    office.down()
    tiers = await office.contacted()
    office.places["remote"].after = verb
    await sync(office.agent(tiers), (), False, Progress(), 60)
    office.down()
    await level(office)
    assert same_everywhere(office)
    assert set((await states(office)).values()) == {"online"}


async def test_a_storage_rolled_back_while_it_is_synchronised_is_not_counted_as_level(office: Office) -> None:
    await office.init()
    await office.write()
    office.down("remote")
    await office.write()
    office.down()
    remote = office.places["remote"]
    before = dict(remote.shared)
    before.pop(names.record_path(2))

    def roll_back(verb: str, name: str) -> bool:
        if (verb, name) == ("create", names.record_path(3)):
            remote.roll_back(before)
        return True

    remote.hook = roll_back
    await level(office)
    remote.hook = None
    tiers = await office.contacted()
    assert tiers.tiers[1].row.to_compare
    assert tiers.state.missing(tiers.tiers[1].id) == [1, 2, 3]
    await level(office)
    assert same_everywhere(office)


async def test_a_server_that_says_done_and_drops_the_record_is_not_counted_as_level(office: Office) -> None:
    """trust.md 30."""
    await office.init()
    office.down("remote")
    await office.write()
    office.down()
    office.places["remote"].hook = lambda verb, name: not (verb == "create" and name.endswith(".record"))
    await level(office)
    office.places["remote"].hook = None
    tiers = await office.contacted()
    assert names.record_path(2) in office.places["remote"].shared, "contact writes it again"
    assert tiers.tiers[1].state is State.ONLINE


async def test_one_object_that_a_tier_refuses_does_not_keep_the_others_away(office: Office) -> None:
    await office.init()
    office.down("remote")
    await office.write(objects=1)
    await office.write(objects=2)
    office.down()
    remote = office.places["remote"]
    refused = office.places["vault"].paths("packs/")[0]

    def hook(verb: str, name: str) -> bool:
        if (verb, name) == ("put", refused):
            raise Refused("no permission for this one")
        return True

    remote.hook = hook
    result = await level(office, "remote")
    assert result.tiers[0].objects == 2
    assert "no permission" in result.tiers[0].reason
    remote.hook = None
    await level(office)
    assert same_everywhere(office)


async def test_a_clone_found_in_a_sources_new_session_ends_the_synchronisation(office: Office) -> None:
    await office.init()
    office.down("remote", "third")
    await office.write(objects=2)
    office.down("third")
    vault = office.places["vault"]
    tiers = await office.contacted()
    clone = office.clone(office.folder.with_name("clone"))
    assert await clone.write() == ["vault"]
    claim = vault.shared.pop(names.claim_path(3))
    record = vault.shared.pop(names.record_path(3))

    def hook(verb: str, name: str) -> bool:
        if verb == "read" and name.startswith("packs/"):
            vault.hook = None
            vault.shared |= {names.claim_path(3): claim, names.record_path(3): record}
            raise Unavailable("the link broke once")
        return True

    vault.hook = hook
    with pytest.raises(SecondInstallation):
        await sync(office.agent(tiers), ("remote",), False, Progress(), 60)
    clone.close()
