"""Making a repository: stopped anywhere and run again, and places that must not be touched (issue: init)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.support.office import Place

from tandem_agent import init as init_module
from tandem_agent import wiring
from tandem_agent.config import Config, TierConfig
from tandem_agent.init import InitResult, init_repository
from tandem_agent.places import Place as Url
from tandem_agent.state import State
from tandem_agent.wiring import AGENT_KEY, open_agent, open_any_slot
from tandem_protocol import names
from tandem_protocol.browse import history_from_store
from tandem_protocol.errors import Busy, Refused, TandemError, Usage
from tandem_protocol.identity import Identity, decode_identity
from tandem_protocol.keys import passphrase_slot
from tandem_protocol.names import ObjectType
from tandem_protocol.revision import Kind
from tandem_protocol.stores.memory import MemoryStore
from tandem_protocol.stores.retrying import RetryPolicy

PHRASE = "correct horse"


class Killed(BaseException):
    """Ends a process where it is."""


class Desk:
    """A configuration whose tiers are in memory."""

    def __init__(self, folder: Path, tiers: tuple[str, ...] = ("vault", "remote")) -> None:
        self.places = {name: Place() for name in tiers}
        self.config = self.configured(folder, *tiers)

    def configured(self, folder: Path, *tiers: str) -> Config:
        return Config(
            tuple(TierConfig(name, Url("file", f"/{name}")) for name in tiers), str(folder / "state")
        )

    async def init(self, phrase: str = PHRASE, config: Config | None = None) -> InitResult:
        return await init_repository(config or self.config, phrase, lambda *_: False)

    async def check(self) -> None:
        """Every tier is whole: its own identity, one init, readable with the passphrase alone, all level."""
        identities = set()
        for place in self.places.values():
            history = await history_from_store(MemoryStoreOpen(place.shared))
            identities.add(history.identity.tier_id)
            assert [r.kind for r in history.records if r.kind is not Kind.ABORTED] == [Kind.INIT]
            assert sorted(o.type for o in history.live.values()) == [ObjectType.KEY] * 2
            ring = open_any_slot(history.slots.values(), PHRASE)
            assert ring.root_public == history.identity.root_public
        assert len(identities) == len(self.places)
        async with open_agent(self.config, lambda: "not asked for") as agent:
            await agent.tiers.contact(60)
            assert {tier.state.value for tier in agent.tiers.tiers} == {"online"}


class MemoryStoreOpen(MemoryStore):
    """Open from the start."""

    def __init__(self, shared: dict[str, bytes]) -> None:
        super().__init__(shared)
        self._is_open = True


@pytest.fixture
def desk(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    found = Desk(memory_path)
    monkeypatch.setattr(wiring, "make_store", lambda _config, tier, *_: found.places[tier.name].store())
    monkeypatch.setattr(wiring, "RetryPolicy", lambda attempts, *_: RetryPolicy(attempts, 0, 0, 0))
    monkeypatch.setattr(
        init_module, "passphrase_slot", partial(passphrase_slot, memory_kib=8, passes=1, lanes=1)
    )
    yield found


async def test_init_makes_every_tier_and_keeps_its_secrets_to_itself(desk: Desk) -> None:
    result = await desk.init()
    assert (result.tiers, result.resumed) == (["vault", "remote"], False)
    await desk.check()
    key = Path(desk.config.state_dir) / AGENT_KEY
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_bytes()) == 32
    everything = b"".join(data for place in desk.places.values() for data in place.shared.values())
    assert key.read_bytes() not in everything
    assert PHRASE.encode() not in everything


async def test_init_again_is_nothing_and_needs_the_passphrase(desk: Desk) -> None:
    first = await desk.init()
    before = {name: dict(place.shared) for name, place in desk.places.items()}
    again = await desk.init()
    assert (again.repository_id, again.resumed) == (first.repository_id, True)
    assert {name: place.shared for name, place in desk.places.items()} == before
    with pytest.raises(Refused, match="passphrase"):
        await desk.init("wrong")


@pytest.mark.parametrize("tier", ["vault", "remote"])
@pytest.mark.parametrize("verb", range(0, 30, 2))
async def test_a_link_lost_at_any_verb_and_the_same_init_again(desk: Desk, tier: str, verb: int) -> None:
    desk.places[tier].after = verb
    try:
        await desk.init()
    except TandemError as fault:
        assert fault.remedy or fault.exit_code == 1
    desk.places[tier].up, desk.places[tier].after = True, None
    await desk.init()
    await desk.check()


@pytest.mark.parametrize("verb", range(0, 24, 2))
async def test_killed_at_any_verb_and_the_same_init_again(desk: Desk, verb: int) -> None:
    left = [verb]

    def hook(_verb: str, _name: str) -> bool:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return True

    for place in desk.places.values():
        place.hook = hook
    with suppress(Killed):
        await desk.init()
    for place in desk.places.values():
        place.hook = None
    await desk.init()
    await desk.check()


async def test_a_place_with_a_repository_is_refused_before_anything_is_made(desk: Desk) -> None:
    theirs = {names.IDENTITY: Identity(b"r" * 16, b"t" * 16, b"k" * 32).encode(), "packs/aa": b"x"}
    desk.places["remote"].roll_back(theirs)
    with pytest.raises(Refused, match="repository at"):
        await desk.init()
    assert desk.places["remote"].shared == theirs
    assert desk.places["vault"].shared == {}
    assert not os.path.exists(os.path.join(desk.config.state_dir, AGENT_KEY))


async def test_a_repository_that_came_between_two_runs_is_never_touched(desk: Desk) -> None:
    desk.places["remote"].hook = lambda verb, name: (
        _dead() if name == names.IDENTITY and verb == "create" else True
    )
    with pytest.raises(Killed):
        await desk.init()
    desk.places["remote"].hook = None
    theirs = {names.IDENTITY: Identity(b"r" * 16, b"t" * 16, b"k" * 32).encode()}
    desk.places["remote"].roll_back(theirs)
    with pytest.raises(Refused, match="another repository"):
        await desk.init()
    assert desk.places["remote"].shared == theirs


def _dead() -> bool:
    raise Killed


async def test_a_damaged_identity_at_the_place_is_not_written_over(desk: Desk) -> None:
    desk.places["vault"].shared[names.IDENTITY] = b"torn"
    with pytest.raises(Refused):
        await desk.init()
    assert desk.places["vault"].shared == {names.IDENTITY: b"torn"}


async def test_an_unreachable_tier_ends_it_with_nothing_made(desk: Desk) -> None:
    desk.places["remote"].up = False
    with pytest.raises(TandemError):
        await desk.init()
    assert desk.places["vault"].shared == {}
    desk.places["remote"].up = True
    await desk.init()
    await desk.check()


async def test_init_run_again_later_does_not_initialise_a_disk_that_is_not_mounted(desk: Desk) -> None:
    """Also while another tier lags: an empty folder in the place of a tier is never made one."""
    await desk.init()
    with_lag = State.open(desk.config.state_dir)
    remote = with_lag.tiers()[1].id
    with_lag._db.change("INSERT INTO missing VALUES (?, 1)", (remote,))
    with_lag.close()
    desk.places["vault"].roll_back({})
    with pytest.raises(Usage, match="is not at"):
        await desk.init()
    assert desk.places["vault"].shared == {}


async def test_other_tiers_than_those_begun_with_are_refused(desk: Desk, memory_path: Path) -> None:
    await desk.init()
    desk.places["third"] = Place()
    for tiers in (("vault",), ("vault", "third"), ("vault", "remote", "third")):
        with pytest.raises(Usage, match="begun with"):
            await desk.init(config=desk.configured(memory_path, *tiers))
    assert desk.places["third"].shared == {}


async def test_two_tiers_at_one_place_are_refused(desk: Desk) -> None:
    desk.places["remote"].shared = desk.places["vault"].shared
    with pytest.raises(Refused, match="another repository"):
        await desk.init()


async def test_a_second_process_is_kept_out(desk: Desk) -> None:
    with wiring.process_lock(desk.config), pytest.raises(Busy):
        await desk.init()


async def test_a_tier_id_that_is_configured_is_used(desk: Desk) -> None:
    tiers: Any = (TierConfig("vault", Url("file", "/vault"), tier_id=b"i" * 16),)
    desk.places.pop("remote")
    desk.config = Config(tiers, desk.config.state_dir)
    await desk.init()
    assert decode_identity(desk.places["vault"].shared[names.IDENTITY]).tier_id == b"i" * 16


async def test_before_init_there_is_nothing_to_open(desk: Desk) -> None:
    with pytest.raises(Usage, match="tandem init"):
        async with open_agent(desk.config, lambda: PHRASE):
            pass


async def test_two_disks_for_one_place_are_begun_with_one(desk: Desk) -> None:
    ids = [b"1" * 16, b"2" * 16]
    tiers = tuple(TierConfig(n, Url("file", "/vault"), i) for n, i in zip(("one", "two"), ids, strict=True))
    with pytest.raises(Usage, match="same URL") as told:
        await desk.init(config=Config(tiers, desk.config.state_dir))
    assert "tandem tier add two" in told.value.remedy
    assert desk.places["vault"].shared == {}


async def test_swapped_tier_ids_in_the_configuration_are_told(desk: Desk) -> None:
    await desk.init()
    wrong = replace(desk.config, tiers=tuple(replace(tier, tier_id=b"x" * 16) for tier in desk.config.tiers))
    with pytest.raises(Usage, match="tier_id"):
        async with open_agent(wrong, lambda: PHRASE):
            pass
