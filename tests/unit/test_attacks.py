"""Attacks on takeover, join and changes of tiers (A10, F7): what is said of a backup is true, and what was
acknowledged stays, where numbers of two histories meet, caches outlive the state, and lists or keys are lost."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from tests.support.machines import PHRASE, Machine, Site

from tandem_agent import keyslots
from tandem_agent.backup import backup
from tandem_agent.engine import scan
from tandem_agent.keyslots import key_add
from tandem_agent.progress import Progress
from tandem_agent.wiring import open_agent
from tandem_protocol import names
from tandem_protocol.keys import passphrase_slot


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
    cheap = partial(passphrase_slot, memory_kib=8, passes=1, lanes=1)
    monkeypatch.setattr(keyslots, "passphrase_slot", cheap)
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
