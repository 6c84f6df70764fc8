"""The campaigns' own eyes (issue 3, Must show 7): what they call a loss is seen when there is one."""

import dataclasses
import os

import pytest
from tests.support import treegen
from tests.support.lab import Lab, LabFailure, Outcome, Place


@pytest.fixture
def lab(tmp_path):
    places = []
    for name in ("home", "one", "two"):
        os.makedirs(tmp_path / name)
        if name != "home":
            places.append(Place(name, f"file://{tmp_path / name}", str(tmp_path / name)))
    made = Lab(str(tmp_path), places, str(tmp_path / "home"))
    treegen.make_tree(made.source, treegen.TreeSpec(20, pool_bytes=treegen.MIB))
    made.write_config()
    made.must("init")
    return made


def packs(folder):
    return [
        os.path.join(at, name) for at, _, names in os.walk(os.path.join(folder, "packs")) for name in names
    ]


def test_a_loss_on_one_tier_is_seen_there_alone(lab):
    backup = lab.backup()
    assert set(backup.tiers) == {"one", "two"}
    assert lab.check_all([backup]) == 2
    for path in packs(lab.places["one"].folder):
        os.unlink(path)
    with pytest.raises(LabFailure, match="restore"):
        lab.check(backup, "one")
    lab.check(backup, "two")


def test_other_content_than_acknowledged_is_seen(lab):
    backup = lab.backup()
    name = next(path for path, row in sorted(backup.source.items()) if row[0] == "file")
    changed = {**backup.source, name: (*backup.source[name][:6], b"another digest")}
    with pytest.raises(LabFailure, match="differs"):
        lab.check(dataclasses.replace(backup, source=changed), "one")


def test_only_a_whole_document_that_names_a_tier_acknowledges(lab):
    def outcome(document):
        return Outcome(("backup",), 0, document, "")

    has = {"name": "one", "has_it": True}
    has_not = {"name": "one", "has_it": False}
    assert lab.note(outcome(None), {}) is None
    assert lab.note(outcome({"id": "x", "tiers": [has_not]}), {}) is None
    assert lab.note(outcome({"id": "x", "tiers": [has, {"name": "two"}]}), {}).tiers == ("one",)
    assert len(lab.ledger) == 1
