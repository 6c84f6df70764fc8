"""Disks that take turns on one URL beside a vault (issue 4, Must show 9; requirement F6): plugged in, a disk catches
up; unplugged, it only lags; pulled out in the middle of a backup, the vault has the backup. Real commands; a disk
is a folder that is renamed away and back, or (pulled out) a file system that is shut down under the program.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from tests.support import moments, powercut, treegen
from tests.support.desk import Desk
from tests.support.lab import Lab, Place
from tests.support.levelcheck import unlike
from tests.support.powercut import CutDisk
from tests.support.proxied import FAST
from tests.support.requirements import need

DISKS = ("monday", "tuesday")


class Rotation:
    """A desk with a vault and two disks that share the slot ``usb``, the second added as a user does; at first none of
    them is plugged in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.slot = folder / "usb"
        first, second = DISKS
        self.desk = Desk(folder, {"vault": str(folder / "vault"), first: str(self.slot)})
        self.desk.init()
        self.plugged = first
        self.unplug()
        self.desk.must("tier", "add", second, str(self.slot), "--yes")
        self.plugged = second
        self.unplug()

    def plug(self, name: str) -> None:
        (self.folder / f"shelf-{name}").rename(self.slot)
        self.plugged = name

    def unplug(self) -> None:
        self.slot.rename(self.folder / f"shelf-{self.plugged}")
        self.plugged = ""

    def status(self) -> dict[str, dict[str, object]]:
        return {row["name"]: row for row in json.loads(self.desk.must("tiers", "--json"))["tiers"]}

    def backup(self, seed: int) -> list[str]:
        """A backup of other content; the tiers that have it."""
        self.desk.fill(self.desk.source, seed)
        done = json.loads(self.desk.must("backup", "--json"))
        return [row["name"] for row in done["tiers"] if row["has_it"]]


def test_two_disks_in_turn_three_times(tmp_path: Path) -> None:
    rotation = Rotation(tmp_path)
    desk = rotation.desk
    seed = 100
    assert rotation.backup(seed) == ["vault"]
    for _ in range(3):
        for name, other in (DISKS, DISKS[::-1]):
            rotation.plug(name)
            before = rotation.status()
            assert before[name]["state"] == "lagging"
            assert before[other]["state"] == "offline"
            assert before[other]["reason"] == "another disk of this repository is there"
            desk.run("sync")
            seed += 1
            assert set(rotation.backup(seed)) == {"vault", name}
            desk.same("--tier", name)
            rotation.unplug()
            seed += 1
            assert rotation.backup(seed) == ["vault"]
        told = rotation.status()
        for name in DISKS:
            assert told[name]["state"] == "offline"
            assert f"the folder {rotation.slot} is not there: mount the disk" in str(told[name]["reason"])
    folders = {"vault": str(tmp_path / "vault")}
    for name in DISKS:
        rotation.plug(name)
        desk.run("sync")
        rotation.unplug()
        folders[name] = str(tmp_path / f"shelf-{name}")
    assert not unlike(folders, str(desk.state))
    for name in DISKS:
        desk.same("--from", folders[name])


@pytest.mark.parametrize("shared", [True, False], ids=["its backups are elsewhere too", "it alone had one"])
def test_a_disk_takes_backups_alone_and_its_loss_holds_nobody_up(tmp_path: Path, shared: bool) -> None:
    """The vault is away: the disk that is plugged in has the backup, whole. Then that disk is lost for good."""
    rotation = Rotation(tmp_path)
    desk = rotation.desk
    (tmp_path / "vault").rename(tmp_path / "vault-away")
    rotation.plug("monday")
    assert rotation.backup(1) == ["monday"]
    desk.same("--from", str(rotation.slot))
    (tmp_path / "vault-away").rename(tmp_path / "vault")
    if shared:
        desk.run("sync")
    rotation.unplug()
    treegen.remove_tree(str(tmp_path / "shelf-monday"))
    rotation.plug("tuesday")
    desk.run("sync")
    told = rotation.status()
    assert told["tuesday"]["state"] == ("online" if shared else "lagging")
    assert told["tuesday"]["missing_revisions"] == (0 if shared else 1)
    assert set(rotation.backup(3)) == {"vault", "tuesday"}
    desk.same("--tier", "vault")
    desk.same("--from", str(rotation.slot))
    if not shared:
        desk.fails(1, "tier", "retire", "monday", "--yes", says="known to be on tier monday only")
    desk.must("tier", "retire", "monday", "--yes", *([] if shared else ["--force"]))
    assert set(rotation.status()) == {"vault", "tuesday"}
    if shared:
        desk.must("sync")
    else:
        desk.fails(6, "sync", says="good on no tier, given up; backups concerned: ")
    assert {name: row["state"] for name, row in rotation.status().items()} == {
        "vault": "online",
        "tuesday": "online",
    }
    assert set(rotation.backup(4)) == {"vault", "tuesday"}


def test_a_disk_renamed_away_in_the_middle_of_a_backup(tmp_path: Path) -> None:
    """Its folder is gone by name while the program writes; another disk stands there at once. Nothing of one disk
    ends on the other, and both catch up."""
    rotation = Rotation(tmp_path)
    desk = rotation.desk
    rotation.plug("monday")
    desk.run("sync")
    treegen.write_random(str(desk.source / "big"), 48 * treegen.MIB, 3)
    lab = Lab(str(tmp_path / "watch"), [], str(tmp_path))
    os.makedirs(lab.folder)
    lab.config = str(desk.config)
    watch = moments.Watch(str(rotation.slot), moments.Step("pack", "packs"))
    process = lab.start("backup")
    assert moments.wait_for(
        moments.Moment(0.0, "usb", moments.STEPS[3]), lambda: process.poll() is not None, watch
    )
    rotation.unplug()
    rotation.plug("tuesday")
    outcome = lab.finish(process, ["backup"])
    assert outcome.code == 0, outcome
    holders = [row["name"] for row in outcome.document["tiers"] if row["has_it"]]
    assert "vault" in holders and "tuesday" not in holders
    desk.run("sync")
    desk.same("--tier", "tuesday")
    rotation.unplug()
    if "monday" in holders:
        desk.same("--from", str(tmp_path / "shelf-monday"))
    rotation.plug("monday")
    desk.run("sync")
    desk.same("--tier", "monday")
    rotation.unplug()
    shelves = {name: str(tmp_path / f"shelf-{name}") for name in DISKS}
    assert not unlike({"vault": str(tmp_path / "vault"), **shelves}, str(desk.state))


def test_a_disk_pulled_out_in_the_middle_of_a_backup(tmp_path: Path) -> None:
    """Every call to it fails from one moment on; the vault has the backup, and the disk, back, catches up."""
    need(powercut.why_not())
    with CutDisk(str(tmp_path), megabytes=512) as disk:
        vault, usb = str(tmp_path / "vault"), os.path.join(disk.root, "tandem")
        os.makedirs(vault)
        os.makedirs(usb)
        places = [
            Place("vault", f"file://{vault}", vault),
            Place("usb", f"file://{usb}", usb, {"retries": FAST}),
        ]
        os.makedirs(tmp_path / "home")
        lab = Lab(str(tmp_path), places, str(tmp_path / "home"))
        treegen.make_tree(lab.source, treegen.TreeSpec(20, pool_bytes=treegen.MIB))
        lab.write_config()
        lab.must("init")
        treegen.write_random(f"{lab.source}/big", 48 * treegen.MIB, 4)
        watch = moments.Watch(usb, moments.STEPS[3])
        process = lab.start("backup")
        assert moments.wait_for(
            moments.Moment(0.0, "usb", moments.STEPS[3]), lambda: process.poll() is not None, watch
        )
        disk.cut()
        outcome = lab.finish(process, ["backup"])
        assert outcome.code == 0, outcome
        told = {row["name"]: row for row in outcome.document["tiers"]}
        assert told["vault"]["has_it"]
        assert (told["usb"]["has_it"], told["usb"]["state"]) == (False, "offline")
        disk.restore_power()
        lab.must("sync")
        last = lab.backup()
        assert set(last.tiers) == {"vault", "usb"}
        lab.check_all([last])
        assert not unlike({"vault": vault, "usb": usb}, f"{lab.home}/state")


def test_a_disk_that_comes_back_is_noticed_by_a_backup_that_waits(tmp_path: Path) -> None:
    slot = tmp_path / "usb"
    os.makedirs(tmp_path / "home")
    lab = Lab(str(tmp_path), [Place("usb", f"file://{slot}", str(slot))], str(tmp_path / "home"))
    treegen.make_tree(lab.source, treegen.TreeSpec(20, pool_bytes=treegen.MIB))
    lab.write_config(patience=1.0)
    lab.must("init")
    slot.rename(tmp_path / "shelf")
    outcome = lab.run("backup", "--wait", "1")
    assert outcome.code == 5
    assert f"the folder {slot} is not there" in outcome.errors, outcome
    process = lab.start("backup", "--wait", "240")
    with pytest.raises(subprocess.TimeoutExpired):  # it waits
        process.wait(3.0)
    (tmp_path / "shelf").rename(slot)
    outcome = lab.finish(process, ["backup"])
    assert outcome.code == 0, outcome
