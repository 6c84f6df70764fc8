"""One tier: publishing with lost replies, mending what is damaged, servers that lie (A5, A6; trust.md 11-17, 30)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.office import Office, Place

from tandem_protocol import names
from tandem_protocol.errors import SecondInstallation, Unavailable
from tandem_protocol.identity import Identity
from tandem_protocol.store import Store
from tandem_protocol.verdict import State


class Killed(BaseException):
    """Ends a process where it is."""


@pytest.fixture
def office(memory_path: Path) -> Iterator[Office]:
    found = Office(memory_path / "state")
    yield found
    found.close()


def vault_of(office: Office) -> Place:
    return office.places["vault"]


async def both_online(office: Office) -> bool:
    return [tier.state for tier in (await office.contacted()).tiers] == [State.ONLINE] * 2


# Lost replies


@pytest.mark.parametrize("path", [names.claim_path(2), names.record_path(2)])
async def test_a_lost_reply_to_a_claim_or_record_is_read_back(office: Office, path: str) -> None:
    await office.init()
    vault_of(office).lost = [("create", path)]
    assert await office.write() == ["vault", "remote"]
    assert not vault_of(office).lost


async def test_a_lost_reply_to_the_first_epoch_and_to_an_object(office: Office) -> None:
    vault_of(office).lost = [("create", names.epoch_path(1))]
    await office.init()
    assert not vault_of(office).lost
    vault_of(office).hook = lambda verb, name: _lose_once(vault_of(office), verb, name)
    assert await office.write() == ["vault", "remote"]
    assert vault_of(office).hook is None


def _lose_once(place: Place, verb: str, name: str) -> bool:
    if verb == "put" and name.startswith("packs/"):
        place.hook, place.lost = None, [("put", name)]
    return True


# Mending


MENDED = [names.IDENTITY, names.epoch_path(1), names.claim_path(2), names.record_path(2)]


@pytest.mark.parametrize(
    ("path", "damage"),
    [(path, damage) for path in MENDED for damage in ("flip", "empty", "cut")]
    + [(path, "swapped") for path in MENDED[1:]],
)
async def test_what_is_ours_and_damaged_is_moved_aside_and_written_again(
    office: Office, path: str, damage: str
) -> None:
    """trust.md 11 to 15: torn, flipped, of another tier."""
    await office.init()
    await office.write()
    place = vault_of(office)
    good = place.shared[path]
    if damage == "flip":
        place.damage(path)
    else:
        swapped = office.places["remote"].shared[names.claim_path(1)]
        place.shared[path] = {"empty": b"", "cut": good[:-1], "swapped": swapped}[damage]
    bad = place.shared[path]
    assert await both_online(office)
    if not path.endswith(".claim"):  # a claim has its time under seal
        assert place.shared[path] == good
    assert [place.shared[p] for p in place.paths(names.DAMAGED)] == [bad]
    assert await office.write() == ["vault", "remote"]


@pytest.mark.parametrize("path", MENDED[1:])
async def test_a_reply_lost_while_mending_is_no_fault(office: Office, path: str) -> None:
    await office.init()
    await office.write()
    vault_of(office).damage(path)
    vault_of(office).lost = [("create", path)]
    assert await both_online(office)
    assert not vault_of(office).lost


@pytest.mark.parametrize("path", MENDED[1:])
async def test_a_server_that_damages_again_what_was_mended_does_not_drive_in_circles(
    office: Office, path: str
) -> None:
    """A hostile one: what it was given is never what it shows. The other tier goes on."""
    await office.init()
    await office.write()
    place = vault_of(office)
    place.damage(path)

    def hook(verb: str, name: str) -> bool:
        if (verb, name) == ("create", path):
            place.shared[path] = b"junk"
        return True

    place.hook = hook
    tiers = await office.contacted()
    assert tiers.tiers[0].state is State.BLOCKED
    assert await office.write() == ["remote"]


async def test_a_damaged_claim_of_a_number_under_way_makes_the_tier_leave(office: Office) -> None:
    await office.init()
    place = vault_of(office)

    def hook(verb: str, name: str) -> bool:
        if (verb, name) == ("create", names.claim_path(2)):
            place.hook = None
            place.shared[name] = b"torn"
        return True

    place.hook = hook
    assert await office.write() == ["remote"]
    assert await both_online(office) is False
    assert names.record_path(2) not in place.shared
    assert place.shared[names.claim_path(2)] != b"torn", "mended once the number is known"


async def test_an_unreadable_claim_where_nothing_of_ours_is_under_way_is_told(office: Office) -> None:
    await office.init()
    for place in office.places.values():
        place.shared[names.claim_path(2)] = b"torn"
    with pytest.raises(SecondInstallation, match="which we never wrote"):
        await office.write()


@pytest.mark.parametrize("dead", [True, False])
async def test_an_identity_being_mended_when_all_ends_is_mended_the_next_time(
    office: Office, dead: bool
) -> None:
    """Killed, or the link lost, between moving it aside and writing it again: not for ever without identity."""
    await office.init()
    await office.write()
    place = vault_of(office)
    good = place.shared[names.IDENTITY]
    place.damage(names.IDENTITY)

    def hook(verb: str, name: str) -> bool:
        if (verb, name) == ("create", names.IDENTITY):
            place.hook = None
            raise Killed if dead else Unavailable("the link broke once")
        return True

    place.hook = hook
    with suppress(Killed):
        await office.contacted()
    assert await both_online(office)
    assert place.shared[names.IDENTITY] == good


# Who it is


async def test_another_disk_and_an_empty_folder_are_offline_and_untouched(office: Office) -> None:
    await office.init()
    place = vault_of(office)
    other = Identity(office.ring.repository_id, os.urandom(16), office.ring.root_public).encode()
    for shared in ({names.IDENTITY: other}, {}):
        place.roll_back(shared)
        tiers = await office.contacted()
        assert tiers.tiers[0].state is State.OFFLINE
        assert place.shared == shared
    assert await office.write() == ["remote"]
    assert place.shared == {}


async def test_a_tier_exchanged_while_it_was_away_in_an_operation_is_not_written(office: Office) -> None:
    """A reconnect is a new session: identity, epochs and claim are read again before anything else."""
    await office.init()
    place = vault_of(office)
    other = {
        names.IDENTITY: Identity(office.ring.repository_id, os.urandom(16), office.ring.root_public).encode()
    }

    def hook(verb: str, name: str) -> bool:
        if verb == "put":
            place.hook = None
            place.roll_back(other)
            raise Unavailable("the link broke once")
        return True

    place.hook = hook
    assert await office.write() == ["remote"]
    assert place.shared == other


async def test_a_tier_rolled_back_while_its_link_was_broken_is_not_confirmed(office: Office) -> None:
    """Starting again at the claim in a new session."""
    await office.init()
    place = vault_of(office)
    before = dict(place.shared)

    def hook(verb: str, name: str) -> bool:
        if (verb, name) == ("create", names.record_path(2)):
            place.hook = None
            place.roll_back(before)
            raise Unavailable("the link broke once")
        return True

    place.hook = hook
    assert await office.write() == ["remote"]
    assert names.record_path(2) not in place.shared
    tiers = await office.contacted()
    assert tiers.tiers[0].row.to_compare


async def test_a_clone_that_writes_between_our_claim_and_our_look(office: Office) -> None:
    await office.init()
    clone = office.clone(office.folder.with_name("clone"))
    other = await clone.contacted()
    place = vault_of(office)

    def hook(verb: str, name: str) -> bool:
        if (verb, name) == ("create", names.claim_path(2)):
            place.hook = None
            place.shared[names.claim_path(3)] = foreign
        return True

    await other.tiers[0].write_claim(3, bytes(24), ())
    foreign = place.shared.pop(names.claim_path(3))
    place.hook = hook
    with pytest.raises(SecondInstallation, match="clone"):
        await office.write()
    assert not place.paths("packs/")
    clone.close()


async def test_a_look_does_no_more_at_once_than_a_store_can(office: Office) -> None:
    """Store.parallel is how many verbs may be under way in one session."""
    await office.init()
    for _ in range(5):
        await office.write()
    tiers = await office.contacted()
    tier = tiers.tiers[0]
    tiers.state.forget_holds(tier.id)
    most = Counting.wrap(tier.store)
    await tier.look()
    assert most.most == 1


class Counting:
    """Counts the reads under way of a store that can do one at a time."""

    def __init__(self) -> None:
        self.now = self.most = 0

    @classmethod
    def wrap(cls, store: Store) -> Counting:
        counter = cls()
        read = store.read

        async def counted(name: str, offset: int = 0, length: int | None = None) -> bytes:
            counter.now += 1
            counter.most = max(counter.most, counter.now)
            await asyncio.sleep(0)
            try:
                return await read(name, offset, length)
            finally:
                counter.now -= 1

        store.read = counted  # type: ignore[method-assign]  # a test's counter
        store.parallel = 1
        return counter
