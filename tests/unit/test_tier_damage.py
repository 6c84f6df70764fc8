"""Every offset of every document that a look reads (trust.md 11 to 13), through contact, verdict and mending: a flipped
bit or a cut is found, told apart from a second installation, moved aside and written again; where nothing of ours can
have stood, it is one. Nothing damaged is ever taken for good. What parsers do alone is in test_revision, test_identity.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.office import Office, Place

from tandem_agent.tiers.tier import Tier
from tandem_protocol import names
from tandem_protocol.errors import SecondInstallation
from tandem_protocol.revision import Record
from tandem_protocol.verdict import Case, State

SEED = 13
DOCUMENTS = {
    "identity": names.IDENTITY,
    "epoch": names.epoch_path(1),
    "claim": names.claim_path(2),
    "record": names.record_path(2),
}


@pytest.fixture
def office(memory_path: Path) -> Iterator[Office]:
    found = Office(memory_path / "state")
    yield found
    found.close()


async def level_vault(office: Office) -> tuple[Tier, Place]:
    """A vault with revisions 1 and 2, and its tier in the session in which it was found level."""
    await office.init()
    await office.write()
    tier = (await office.contacted()).tiers[0]
    assert tier.state is State.ONLINE
    return tier, office.places["vault"]


async def is_mended(tier: Tier, place: Place, path: str, bad: bytes) -> None:
    """The next look finds ``bad`` at ``path`` for what it is, and leaves the tier as it was before."""
    place.shared[path] = bad
    verdict = await tier.look()
    assert (verdict.case, verdict.state) == (Case.LEVEL, State.ONLINE)
    assert [repair.what for repair in verdict.repairs] == [tier_word(path)]
    (kept,) = place.paths(names.DAMAGED)
    assert place.shared.pop(kept) == bad
    assert (await tier.look()).repairs == ()


def tier_word(path: str) -> str:
    return next(word for word, known in DOCUMENTS.items() if known == path)


@pytest.mark.parametrize("path", DOCUMENTS.values(), ids=DOCUMENTS)
async def test_a_bit_flip_at_every_offset(office: Office, path: str) -> None:
    tier, place = await level_vault(office)
    bits = random.Random(f"{SEED} {path}")
    for offset in range(len(place.shared[path])):
        good = place.shared[path]
        bad = bytearray(good)
        bad[offset] ^= 1 << bits.randrange(8)
        assert bytes(bad) != good
        await is_mended(tier, place, path, bytes(bad))
        assert path == DOCUMENTS["claim"] or place.shared[path] == good, f"offset {offset}, seed {SEED}"


@pytest.mark.parametrize("path", DOCUMENTS.values(), ids=DOCUMENTS)
async def test_a_cut_at_many_lengths_and_bytes_too_many(office: Office, path: str) -> None:
    tier, place = await level_vault(office)
    good = place.shared[path]
    for length in [0, 1, 11, 12, 13, *range(14, len(good), 7), len(good) - 1]:
        await is_mended(tier, place, path, place.shared[path][:length])
    for more in (b"\0", bytes(10 << 20)):
        await is_mended(tier, place, path, place.shared[path] + more)


@pytest.mark.parametrize("kind", ["claim", "record"])
async def test_the_same_damage_where_we_never_wrote_is_a_second_installation(
    office: Office, kind: str
) -> None:
    """A claim or record that cannot be read, above the head, is somebody's: nothing is written."""
    tier, place = await level_vault(office)
    good = place.shared[DOCUMENTS[kind]]
    path = {"claim": names.claim_path, "record": names.record_path}[kind](3)
    for offset in range(0, len(good), 5):
        bad = bytearray(good)
        bad[offset] ^= 16
        place.shared[path] = bytes(bad)
        before = dict(place.shared)
        with pytest.raises(SecondInstallation, match="tier vault"):
            await tier.look()
        assert place.shared == before


async def test_every_flip_of_an_epoch_file_above_ours_is_a_takeover(office: Office) -> None:
    """Readable or not: a bit flip must not make a takeover invisible."""
    tier, place = await level_vault(office)
    good = place.shared[names.epoch_path(1)]
    for offset in range(0, len(good), 3):
        bad = bytearray(good)
        bad[offset] ^= 1
        place.shared[names.epoch_path(2)] = bytes(bad)
        with pytest.raises(SecondInstallation, match="epoch 2"):
            await tier.look()


async def test_damage_is_never_read_as_a_record(office: Office) -> None:
    """What a look returns for a flipped record is a fault, whatever the offset: never a `Record`."""
    tier, place = await level_vault(office)
    good = place.shared[names.record_path(2)]
    for offset in range(0, len(good), 3):
        bad = bytearray(good)
        bad[offset] ^= 128
        place.shared[names.record_path(2)] = bytes(bad)
        await tier.look()
        assert tier.seen is not None
        assert not isinstance(tier.seen.numbers[2].record, Record)


async def test_a_tier_full_of_foreign_epochs_is_told_in_bounded_time(office: Office) -> None:
    """Whoever keeps the tier can make any number of files: one above ours says it all."""
    tier, place = await level_vault(office)
    for epoch in range(2, 10_000):
        place.shared[names.epoch_path(epoch)] = b"junk"
    reads = 0

    def count(verb: str, _name: str) -> bool:
        nonlocal reads
        reads += verb == "read"
        return True

    place.hook = count
    with pytest.raises(SecondInstallation, match="epoch"):
        await tier.look()
    assert reads < 100


async def test_a_claim_at_the_last_number_of_all_changes_nothing(office: Office) -> None:
    """trust.md 16: 2^64-1, which no arithmetic may pass; below it and above the head there is nothing."""
    tier, place = await level_vault(office)
    for path in (names.claim_path(names.MAX_NUMBER), names.record_path(names.MAX_NUMBER)):
        place.shared[path] = b"junk"
    assert (await tier.look()).case is Case.LEVEL
    assert await office.write() == ["vault", "remote"]
