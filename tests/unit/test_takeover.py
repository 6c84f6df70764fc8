"""Takeover and join at their edges (A10, F7), with the real use cases on tiers in memory: stopped at any verb, lost to
somebody else, torn records, junk in the way. What was acknowledged to anyone is there afterwards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.documents import Writer
from tests.support.formats import make_ring
from tests.support.machines import PHRASE, Killed, Machine, Site, first_with

from tandem_agent import catalog
from tandem_agent.opening import open_place
from tandem_agent.progress import Progress
from tandem_agent.tiers import writing
from tandem_agent.tiers.targets import reachable_targets
from tandem_agent.tiers.writing import Revision
from tandem_agent.wiring import open_agent
from tandem_protocol import identity, names, revision
from tandem_protocol.errors import Refused, SecondInstallation, TandemError, Unavailable, Unsupported
from tandem_protocol.identity import Identity, decode_identity
from tandem_protocol.replicate import sizes_of
from tandem_protocol.revision import Kind, ObjectRef, Requires
from tandem_protocol.store import Store

VERBS = range(0, 78, 3)


@pytest.fixture
def site(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(memory_path, monkeypatch, "vault", "remote")


async def settled(machine: Machine, kept: dict[str, str]) -> None:
    """The machine writes, tiers are level after a synchronisation, and ``kept`` restores from each alone."""
    await machine.backup("at the end")
    await machine.sync()
    assert set((await machine.contact()).values()) == {"online"}
    for tier in machine.site.places:
        for id, content in kept.items():
            assert await machine.read(id, tier) == content
    assert {b.id.hex() for b in machine.backups()} >= kept.keys()


async def test_a_takeover_unites_and_stops_the_first(site: Site) -> None:
    first, ids = await first_with(site, "one", "two")
    second = site.machine("second")
    result = await second.take_over()
    assert (result.epoch, result.backups, result.recovered) == (2, 2, 0)
    assert [tier.imported for tier in result.tiers] == [True, True]
    with pytest.raises(SecondInstallation, match="takeover"):
        await first.backup("too late")
    await settled(second, dict(zip(ids, ("one", "two"), strict=True)))


@pytest.mark.parametrize("verb", VERBS)
async def test_killed_at_any_verb_and_run_again(site: Site, verb: int) -> None:
    _, ids = await first_with(site, "one")
    second = site.machine("second")
    site.kill_after(verb)
    with suppress(Killed):
        await second.take_over()
    site.down()
    await second.take_over()
    await settled(second, {ids[0]: "one"})


@pytest.mark.parametrize("tier", ["vault", "remote"])
@pytest.mark.parametrize("verb", VERBS)
async def test_a_link_lost_at_any_verb_leaves_a_late_side_that_is_joined(
    site: Site, verb: int, tier: str
) -> None:
    first, ids = await first_with(site, "one")
    other = next(name for name in site.places if name != tier)
    site.down(other)
    ids.append((await first.backup("only there")).id)
    site.down()
    site.places[tier].after = verb
    second = site.machine("second")
    try:
        await second.take_over()
    except TandemError as fault:
        assert fault.exit_code != 4
    site.down()
    if not (Path(second.config.state_dir) / "state.sqlite").exists() or not second.backups():
        await second.take_over()
    await settled(second, {ids[0]: "one", ids[1]: "only there"})
    with pytest.raises(SecondInstallation):
        await first.backup("too late")


async def test_a_number_that_somebody_was_faster_with_is_not_waited_for(site: Site) -> None:
    """Begun and stopped before the fence; the old one writes that very number; then it is run again."""
    first, ids = await first_with(site, "one")
    second = site.machine("second")
    for place in site.places.values():
        place.hook = lambda verb, _: _killed() if verb == "create" else True
    with suppress(Killed):
        await second.take_over()
    site.down()
    ids.append((await first.backup("two")).id)
    result = await second.take_over()
    assert result.epoch == 3
    await settled(second, dict(zip(ids, ("one", "two"), strict=True)))


def _killed() -> bool:
    raise Killed


async def test_an_epoch_that_somebody_was_faster_with_is_passed(site: Site) -> None:
    _, ids = await first_with(site, "one")
    second, third = site.machine("second"), site.machine("third")
    for place in site.places.values():
        place.hook = lambda verb, _: _killed() if verb == "create" else True
    with suppress(Killed):
        await second.take_over()
    site.down()
    assert (await third.take_over()).epoch == 2
    assert (await second.take_over()).epoch > 2
    with pytest.raises(SecondInstallation):
        await third.backup("too late")
    await settled(second, {ids[0]: "one"})


async def test_what_the_first_left_open_is_closed_on_every_tier(site: Site) -> None:
    """Killed before its record: the number is ended by an aborted record, so that the first can't complete it."""
    first, ids = await first_with(site, "one")
    for place in site.places.values():
        place.hook = lambda verb, name: _killed() if verb == "create" and name.endswith("record") else True
    with suppress(Killed):
        await first.backup("never finished")
    site.down()
    second = site.machine("second")
    await second.take_over()
    for place in site.places.values():
        claims = {path.removesuffix(".claim") for path in place.paths("revisions/") if path.endswith("claim")}
        records = {
            path.removesuffix(".record") for path in place.paths("revisions/") if path.endswith("record")
        }
        assert claims == records
    with pytest.raises(SecondInstallation):
        await first.backup("too late")
    await settled(second, {ids[0]: "one"})


async def test_a_backup_whose_record_is_torn_is_found_by_its_snapshot(site: Site) -> None:
    first, ids = await first_with(site, "one", "two")
    async with open_agent(first.config, lambda: "") as agent:
        torn = agent.state.head
    for place in site.places.values():
        place.damage(names.record_path(torn))
    second = site.machine("second")
    result = await second.take_over()
    assert (result.backups, result.recovered) == (2, 1)
    found = next(b for b in second.backups() if b.id.hex() == ids[1])
    assert found.status == "partial"
    assert "found again by its snapshot" in found.warnings[0]
    await settled(second, {ids[0]: "one", ids[1]: "two"})


async def test_a_backup_that_refers_to_a_torn_one_keeps_what_it_needs(site: Site) -> None:
    """Deduplicated against a revision whose record cannot be read: nobody names those packs any more."""
    first, ids = await first_with(site, "one")
    text = "the same in both\n" * 1000
    ids.append((await first.backup("two", big=text)).id)
    async with open_agent(first.config, lambda: "") as agent:
        torn = agent.state.head
    ids.append((await first.backup("three", big=text)).id)
    for place in site.places.values():
        place.damage(names.record_path(torn))
    second = site.machine("second")
    await second.take_over()
    await settled(second, dict(zip(ids, ("one", "two", "three"), strict=True)))


async def test_a_backup_of_which_a_part_is_gone_is_not_made_up(site: Site) -> None:
    first, ids = await first_with(site, "one", "two")
    async with open_agent(first.config, lambda: "") as agent:
        torn = agent.state.head
        packs = [ref.name.hex() for ref in agent.state.record(torn).added if ref.type == "pack"]
    for place in site.places.values():
        place.damage(names.record_path(torn))
        for path in place.paths("packs/"):
            if path.split("/")[-1] in packs:
                del place.shared[path]
    second = site.machine("second")
    result = await second.take_over()
    assert (result.backups, result.recovered) == (1, 0)
    assert any("not all of it is there" in notice for notice in result.notices)
    await settled(second, {ids[0]: "one"})


async def test_junk_with_huge_numbers_does_not_use_them_up(site: Site) -> None:
    _, ids = await first_with(site, "one")
    for place in site.places.values():
        place.shared["epochs/ffffffffffffffff"] = b"junk"
        place.shared["epochs/7fffffffffffffff"] = b""
        place.shared[names.claim_path(names.MAX_NUMBER)] = b"junk"
        place.shared[names.record_path(names.MAX_NUMBER - 300)] = b"junk"
    second = site.machine("second")
    result = await second.take_over()
    assert result.epoch == 2
    assert result.revision < 10
    await settled(second, {ids[0]: "one"})
    for place in site.places.values():
        assert len([path for path in place.paths(names.DAMAGED) if "epochs" in path]) == 2


async def test_two_repositories_and_one_place_twice_are_refused(site: Site) -> None:
    await first_with(site, "one")
    second = site.machine("second")
    vault = dict(site.places["vault"].shared)
    good = dict(site.places["remote"].shared)
    site.places["remote"].roll_back(vault)
    with pytest.raises(Refused, match="one and the same place"):
        await second.take_over()
    other = Identity(os.urandom(16), os.urandom(16), os.urandom(32)).encode()
    site.places["remote"].roll_back(good | {names.IDENTITY: other})
    with pytest.raises(Refused, match="different repositories"):
        await second.take_over()
    assert site.places["vault"].shared == vault


async def test_a_tier_rolled_back_after_a_takeover_is_joined_again(site: Site) -> None:
    """The roll-back took the fence away: the first, not stopped, has written there once more."""
    first, ids = await first_with(site, "one")
    before = dict(site.places["remote"].shared)
    second = site.machine("second")
    await second.take_over()
    ids.append((await second.backup("two")).id)
    site.places["remote"].roll_back(before)
    site.down("vault")
    ids.append((await first.backup("the first goes on")).id)
    site.down()
    with pytest.raises(SecondInstallation):
        await first.backup("seen on the vault")
    await settled(second, dict(zip(ids, ("one", "two", "the first goes on"), strict=True)))
    async with open_agent(second.config, lambda: "") as agent:
        assert agent.state.has_kind(Kind.JOIN)
        assert all(tier.row.imported for tier in agent.tiers.tiers)


@pytest.mark.parametrize("verb", VERBS)
async def test_a_join_killed_at_any_verb_is_done_at_the_next_contact(site: Site, verb: int) -> None:
    first, ids = await first_with(site, "one")
    site.down("vault")
    ids.append((await first.backup("late")).id)
    site.down("remote")
    second = site.machine("second")
    await second.take_over()
    ids.append((await second.backup("since")).id)
    site.down()
    site.kill_after(verb)
    with suppress(Killed):
        await second.contact()
    site.down()
    await settled(second, dict(zip(ids, ("one", "late", "since"), strict=True)))


async def test_a_join_that_is_stopped_after_closing_is_not_taken_for_somebody_else(site: Site) -> None:
    """The late side has a claim of the takeover's own number, whose reply was lost, and one of the first's."""
    first, ids = await first_with(site, "one")
    site.down("vault")
    site.places["remote"].hook = lambda verb, name: (
        _killed() if verb == "create" and name.endswith("record") else True
    )
    with suppress(Killed):
        await first.backup("claimed, never finished")
    site.down()
    second = site.machine("second")
    lost = names.claim_path(4)
    site.places["remote"].hook = lambda verb, name: _cut(site, verb, name, lost)
    result = await second.take_over()
    assert result.revision == 4
    site.down()
    assert lost in site.places["remote"].shared
    site.places["remote"].hook = lambda verb, name: _killed() if verb == "put" else True
    with suppress(Killed):
        await second.contact()
    site.down()
    await settled(second, {ids[0]: "one"})


def _cut(site: Site, verb: str, name: str, path: str) -> bool:
    """The claim gets there, and then the link is gone."""
    if (verb, name) == ("read", path) or (
        verb == "create" and name != path and path in site.places["remote"].shared
    ):
        site.places["remote"].up = False
    return True


async def test_a_late_side_whose_identity_is_damaged_is_joined_too(site: Site) -> None:
    """Nothing of the new installation's stands there; the old claims say which tier it is."""
    first, ids = await first_with(site, "one")
    site.down("vault")
    ids.append((await first.backup("late")).id)
    site.down("remote")
    second = site.machine("second")
    await second.take_over()
    site.down()
    site.places["remote"].damage(names.IDENTITY)
    await settled(second, dict(zip(ids, ("one", "late"), strict=True)))


async def test_a_clone_that_left_a_gap_above_our_head_is_seen(site: Site) -> None:
    """The clone's next number is levelled on a tier before the one below it."""
    first, _ = await first_with(site, "one")
    clone = site.machine("clone")
    shutil.copytree(first.config.state_dir, clone.config.state_dir)
    site.down("vault")
    await clone.backup("two")
    await clone.backup("three")
    remote = site.places["remote"]
    for path in (names.claim_path(3), names.record_path(3)):
        del remote.shared[path]
    site.down()
    with pytest.raises(SecondInstallation, match="revision 4"):
        await first.backup("too late")


@pytest.mark.parametrize("heir", ["second", "third"])
async def test_what_lies_below_a_revision_that_was_levelled_alone_is_heard_later(
    site: Site, heir: str
) -> None:
    """A revision without objects stands on the vault, those before it only on the remote, which is away at the
    takeover. Then it is joined, or a third installation takes over from both."""
    first, ids = await first_with(site, "one")
    site.down("vault")
    ids.append((await first.backup("two")).id)
    async with open_agent(first.config, lambda: "") as agent:
        revision = await Revision.begin(agent.tiers, await reachable_targets(agent.tiers, 0.0), Progress())
        await revision.commit(Kind.CHECK, {})
        number = agent.state.head
        record = agent.state.record(number)
    vault = site.places["vault"]
    site.down("remote")
    async with open_agent(first.config, lambda: "") as agent:
        await agent.tiers.contact(1)
        tier = agent.tiers.tiers[0]
        await tier.write_claim(number, record.nonce, record.claim_parents)
        await tier.write_record(record)
    assert names.record_path(number) in vault.shared
    second = site.machine("second")
    await second.take_over()
    site.down()
    machine = second
    if heir == "third":
        machine = site.machine("third")
        await machine.take_over()
    await settled(machine, dict(zip(ids, ("one", "two"), strict=True)))


async def test_a_backup_that_was_tried_twice_is_listed_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tier is lost when the first attempt has all but its record there; the second one comes through."""
    first, _ = await first_with(site)
    breaks = iter(site.places)

    async def break_first(store: Store, objects: Sequence[ObjectRef]) -> dict[bytes, int]:
        if next(breaks, None) is not None:
            raise Unavailable("the link broke")
        return await sizes_of(store, objects)

    monkeypatch.setattr(writing, "sizes_of", break_first)
    id = (await first.backup("twice")).id
    assert len(site.places["vault"].paths("snapshots/")) == 2
    site.places["vault"].damage(names.record_path(2))
    async with open_place(first.alone("vault"), lambda: PHRASE) as view:
        assert view.notices
        assert [backup.id.hex() for backup in view.backups if backup.snapshot] == [id]
    second = site.machine("second")
    assert (await second.take_over()).recovered == 0
    assert [backup.id.hex() for backup in second.backups()] == [id]
    await settled(second, {id: "twice"})


async def test_packs_that_no_index_names_are_named_by_the_takeover(site: Site) -> None:
    """Both servers drop the index of a backup, and the machine dies as soon as one has all the rest."""
    first, ids = await first_with(site, "one")
    snapshots = iter([True])

    def drop(verb: str, path: str) -> bool:
        if verb == "put" and path.startswith("snapshots/") and not next(snapshots, False):
            raise Killed
        return not (verb == "put" and path.startswith("index/"))

    for place in site.places.values():
        place.hook = drop
    with suppress(Killed):
        await first.backup("two")
    site.down()
    second = site.machine("second")
    result = await second.take_over()
    assert result.recovered == 1
    ids += {backup.id.hex() for backup in second.backups()} - set(ids)
    await settled(second, dict(zip(ids, ("one", "two"), strict=True)))


async def test_a_late_backup_whose_record_is_torn_may_share_blocks_with_ours(site: Site) -> None:
    """Its own packs alone do not make it whole."""
    first = site.machine("first")
    await first.init()
    ids = [(await first.backup("one", other="shared" * 500)).id]
    site.down("vault")
    ids.append((await first.backup("two", other="shared" * 500)).id)
    site.places["remote"].damage(site.places["remote"].paths("revisions/")[-1])
    site.down("remote")
    second = site.machine("second")
    await second.take_over()
    site.down()
    await settled(second, dict(zip(ids, ("one", "two"), strict=True)))


async def test_what_no_catalogue_tells_of_is_found_by_its_snapshot(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A catalogue is full, and the records of what it left out are below the base that a tier starts at."""
    _, ids = await first_with(site, "one", "two")
    monkeypatch.setattr(catalog, "MAX_BYTES", 0)
    base = (await site.machine("second").take_over()).revision
    for place in site.places.values():
        for number in range(1, base):
            for path in (names.claim_path(number), names.record_path(number)):
                place.shared.pop(path, None)
    third = site.machine("third")
    result = await third.take_over()
    assert (result.backups, result.recovered) == (2, 2)
    assert {backup.id.hex() for backup in third.backups()} == set(ids)


async def test_a_failed_backup_that_is_found_again_counts_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = await first_with(site)

    async def broken(_store: Store, _objects: Sequence[ObjectRef]) -> dict[bytes, int]:
        raise Unavailable("the link broke")

    with monkeypatch.context() as patch, suppress(TandemError):
        patch.setattr(writing, "sizes_of", broken)
        await first.backup("never acknowledged")
    result = await site.machine("second").take_over()
    assert (result.backups, result.recovered) == (1, 1)


async def test_a_late_side_that_cannot_be_read_holds_up_no_other(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has a claim that somebody forged; the other one's backup must not wait for that."""
    site = Site(memory_path, monkeypatch, "vault", "forged", "remote")
    first, ids = await first_with(site, "one")
    site.down("vault", "forged")
    ids.append((await first.backup("late")).id)
    site.down("forged", "remote")
    second = site.machine("second")
    await second.take_over()
    site.down()
    forged = site.places["forged"].shared
    identity = decode_identity(forged["tandem"])
    stranger = Writer(ring=replace(make_ring(9), repository_id=identity.repository_id))
    forged[names.claim_path(1)] = stranger.claim(1, identity.tier_id).data
    await second.sync()
    states = await second.contact()
    assert (states["vault"], states["forged"], states["remote"]) == ("online", "blocked", "online")
    async with open_agent(second.config, lambda: "") as agent:
        head = agent.state.head
    await second.contact()
    async with open_agent(second.config, lambda: "") as agent:
        assert agent.state.head == head, "an attempt that cannot come to anything uses up no number"
    for tier in ("vault", "remote"):
        assert await second.read(ids[1], tier) == "late"


NEWER = frozenset({revision.INDEX_2, "index-3"})


async def upgraded(site: Site, monkeypatch: pytest.MonkeyPatch, requires: Requires) -> tuple[Machine, str]:
    """The first machine, of a newer program, after a backup and an upgrade that only the vault has; and its id."""
    monkeypatch.setattr(revision, "KNOWN_FEATURES", NEWER)
    first, ids = await first_with(site, "one")
    site.down("remote")
    async with open_agent(first.config, lambda: "") as agent:
        upgrade = await Revision.begin(agent.tiers, await reachable_targets(agent.tiers, 0.0), Progress())
        await upgrade.commit(Kind.UPGRADE, {}, requires=requires)
    site.down()
    return first, ids[0]


REQUIRES = pytest.mark.parametrize(
    "requires",
    [Requires(("index-3",), ("index-3",)), Requires((), ("index-3",))],
    ids=["to be read", "to be written"],
)


@REQUIRES
async def test_a_program_that_is_too_old_stops_nobody(
    site: Site, monkeypatch: pytest.MonkeyPatch, requires: Requires
) -> None:
    """It is told so before anything is written anywhere, and whoever can write goes on."""
    first, id = await upgraded(site, monkeypatch, requires)
    before = site.live("")
    monkeypatch.setattr(revision, "KNOWN_FEATURES", NEWER - {"index-3"})
    with pytest.raises(Unsupported, match="upgrade tandem") as caught:
        await site.machine("second").take_over()
    assert caught.value.exit_code == 1
    assert site.live("") == before
    monkeypatch.setattr(revision, "KNOWN_FEATURES", NEWER)
    await settled(first, {id: "one"})


async def test_an_identity_of_a_newer_program_is_no_tier_that_is_away(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, ids = await first_with(site, "one")
    before = site.live("")
    with monkeypatch.context() as older:
        older.setattr(identity, "LAYOUT", 0)
        with pytest.raises(Unsupported, match=r"tier vault: .*layout 1.*upgrade tandem"):
            await site.machine("second").take_over()
    assert site.live("") == before
    await settled(first, {ids[0]: "one"})


@REQUIRES
async def test_a_late_side_of_a_newer_program_is_left_as_it_is(
    site: Site, monkeypatch: pytest.MonkeyPatch, requires: Requires
) -> None:
    """Until the program here is new enough: then it is joined."""
    _, id = await upgraded(site, monkeypatch, requires)
    monkeypatch.setattr(revision, "KNOWN_FEATURES", NEWER - {"index-3"})
    site.down("vault")
    second = site.machine("second")
    await second.take_over()
    site.down()
    before = dict(site.places["vault"].shared)
    assert (await second.contact())["vault"] == "blocked"
    assert site.places["vault"].shared == before
    monkeypatch.setattr(revision, "KNOWN_FEATURES", NEWER)
    await settled(second, {id: "one"})
