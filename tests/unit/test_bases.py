"""What a base carries (tier protocol, "Base"): the lists that it removes, names of tiers, the catalogue of backups."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.documents import OTHER_TIER, RING, TIER, Writer, ref

from tandem_agent.bases import base_details, old_lists, told_names
from tandem_agent.catalog import CHUNK, decode_catalog, encode_catalog, recovered, told_backups
from tandem_protocol.errors import Corrupt
from tandem_protocol.names import ObjectType
from tandem_protocol.revision import Kind, Record, RecordDraft, Removal, make_record
from tandem_protocol.snapshot import Snapshot

WRITER = Writer()
A, B, C = (ref(number).name for number in (1, 2, 3))


def base(number: int, *lists: bytes) -> Record:
    return WRITER.record(number, lists=lists, tiers=(TIER,))


def removed(*names: bytes) -> tuple[Removal, ...]:
    return tuple(Removal(ObjectType.LIST, name) for name in names)


def test_a_base_removes_the_lists_of_the_one_before_the_last() -> None:
    assert old_lists([], [C]) == ()
    assert old_lists([base(1, A)], [C]) == ()
    assert old_lists([base(1, A), base(2, B)], [C]) == removed(A)


def test_lists_of_equal_content_are_one_object_and_stay() -> None:
    assert old_lists([base(1, A, B), base(2, A)], [C]) == removed(B)
    assert old_lists([base(1, A, B), base(2, C)], [B]) == removed(A)


def sealed(number: int, details: dict[str, Any], kind: Kind = Kind.CHECKPOINT, **more: Any) -> Record:
    draft = RecordDraft(number, bytes(24), kind, (), details, **more)
    return make_record(RING, WRITER.installation, WRITER.certificate, draft)


def about(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"{number:032x}", "name": f"250101{number:02d}", "status": "complete", **more}


def test_the_newest_name_of_a_tier_is_the_one_that_holds() -> None:
    first = sealed(
        1, base_details({TIER: "old", OTHER_TIER: "other"}, []), tiers=(TIER, OTHER_TIER), lists=()
    )
    second = sealed(2, base_details({TIER: "new"}, []), tiers=(TIER,), lists=())
    assert told_names(RING, [second, first, sealed(3, {})]) == {TIER: "new", OTHER_TIER: "other"}


def test_a_catalogue_of_many_backups_comes_back_whole_and_without_warnings() -> None:
    backups = [(number, about(number, warnings=["w"])) for number in range(1, CHUNK + 10)]
    found = decode_catalog({"catalog": encode_catalog(backups)})
    assert found == [(number, about(number)) for number in range(1, CHUNK + 10)]
    assert decode_catalog({}) == []


@pytest.mark.parametrize("catalog", [[1], [[0, 2**40, b"x"]], [[0, 3, b"abc"]], [["x", 1, b""]]])
def test_a_catalogue_that_is_none_is_damage(catalog: list[Any]) -> None:
    with pytest.raises(Corrupt):
        decode_catalog({"catalog": catalog})


def test_backups_are_told_by_records_first_then_by_catalogues_and_only_while_they_are_live() -> None:
    snapshot = ref(9).name
    lost = about(3, snapshot=ref(8).name.hex())
    own = sealed(2, {"backup": about(2, snapshot=snapshot.hex(), warnings=["mine"])}, Kind.BACKUP)
    listing = base_details({}, [(1, about(1)), (2, about(2, snapshot=snapshot.hex())), (3, lost)])
    records = [own, sealed(5, listing, lists=(), tiers=())]
    told = told_backups(RING, records, {snapshot})
    assert [(number, found["name"], found.get("warnings")) for number, found in told] == [
        (1, "25010101", None),
        (2, "25010102", ["mine"]),
    ]
    repaired = sealed(6, {"damaged": [about(2)["id"]]}, Kind.REPAIR)
    (_, first), (_, second) = told_backups(RING, [*records, repaired], {snapshot})
    assert (first.get("damaged"), second["damaged"], second["status"]) == (None, True, "partial")


def test_a_recovered_backup_gets_the_first_free_name_of_its_day() -> None:
    snapshot = Snapshot(b"i" * 16, b"", "host", "", [], 1_735_732_800 * 10**9, 2**62 + 10**18, 3600)
    found = recovered(ref(1).name, snapshot, ["25010101", "25010103", "250101**", "24123101"])
    assert found["name"] == "25010102"
    assert found["started"].endswith("+01:00")
    assert found["ended"]
