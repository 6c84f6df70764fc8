"""`sync --full` goes through every claim and record that a tier should hold (trust.md 11 to 17; tier-protocol.md, "a
damaged claim or record at a number the journal has"): old ones, that no other look reads any more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.office import Office, Place

from tandem_agent.progress import Progress
from tandem_agent.resync import SyncResult, sync
from tandem_protocol import names
from tandem_protocol.errors import SecondInstallation
from tandem_protocol.revision import RecordDraft, make_record

REVISIONS = 6


@pytest.fixture
async def office(memory_path: Path) -> AsyncIterator[Office]:
    found = Office(memory_path / "state")
    await found.init()
    for _ in range(REVISIONS - 1):
        await found.write()
    yield found
    found.close()


async def synchronised(office: Office, full: bool = True) -> SyncResult:
    return await sync(office.agent(), ["vault"], full, Progress())


def vault(office: Office) -> Place:
    return office.places["vault"]


@pytest.mark.parametrize("how", ["gone", "damaged"])
async def test_old_claims_and_records_are_there_again(office: Office, how: str) -> None:
    place = vault(office)
    good = {path: place.shared[path] for path in place.paths(names.REVISIONS)}
    harmed = [names.record_path(2), names.claim_path(3), names.record_path(4), names.claim_path(4)]
    for path in harmed:
        if how == "gone":
            del place.shared[path]
        else:
            place.damage(path)
    assert [tier.state for tier in (await synchronised(office, full=False)).tiers] == ["online"]
    assert any(place.shared.get(path) != good[path] for path in harmed), "no usual look reads them"
    assert [tier.state for tier in (await synchronised(office)).tiers] == ["online"]
    assert place.paths(names.REVISIONS) == list(good)
    for path, data in good.items():
        assert path.endswith(".claim") or place.shared[path] == data
    assert len(place.paths(names.DAMAGED)) == (0 if how == "gone" else len(harmed))
    before = dict(place.shared)
    await synchronised(office)
    assert place.shared == before


async def test_a_clones_record_at_an_old_number_is_found(office: Office) -> None:
    tiers = office.open()
    setup, ours = tiers.state.setup(), tiers.state.record(3)
    assert setup is not None
    draft = RecordDraft(3, ours.nonce, ours.kind, ours.parents, {})
    place = vault(office)
    place.shared[names.record_path(3)] = make_record(
        office.ring, setup.installation, setup.certificate, draft
    ).data
    before = dict(place.shared)
    await synchronised(office, full=False)
    with pytest.raises(SecondInstallation, match="revision 3"):
        await synchronised(office)
    assert place.shared == before


async def test_what_was_damaged_and_mended_counts_as_before(office: Office) -> None:
    """The head, what is held and where backups are do not change by it."""
    place = vault(office)
    place.damage(names.record_path(2))
    tiers = office.open()
    held = [tiers.state.missing(row.id) for row in tiers.state.tiers()]
    await synchronised(office)
    assert held == [tiers.state.missing(row.id) for row in tiers.state.tiers()]
    assert await office.write() == ["vault", "remote"]
