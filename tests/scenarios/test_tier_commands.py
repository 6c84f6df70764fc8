"""`tandem tier add/remove/replace/retire` with the real commands (F6, row A6): guarded, explained, filled from the
others, and stopped half-way gone on with."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from tests.support.desk import PASSPHRASE, TANDEM, Desk

SEED, STOPS = 5, 4


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path, {"vault": str(tmp_path / "vault"), "remote": str(tmp_path / "remote")})
    made.init()
    made.must("backup")
    return made


def states(desk: Desk) -> dict[str, str]:
    return {tier["name"]: tier["state"] for tier in json.loads(desk.must("tiers", "--json"))["tiers"]}


def test_a_new_tier_is_filled_and_restores_alone(desk: Desk, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    desk.fails(2, "tier", "add", "disk", str(disk), says="nobody is there to agree")
    assert not disk.exists()
    desk.config.write_text("# kept\n" + desk.config.read_text())
    done = desk.run("tier", "add", "disk", str(disk), "--yes")
    assert done.returncode == 0, done.stderr
    assert "to copy" in done.stderr
    assert states(desk) == dict.fromkeys(("vault", "remote", "disk"), "online")
    assert desk.config.read_text().startswith("# kept\n")
    written = [path for path in disk.rglob("*") if path.suffix in (".claim", ".record")]
    assert len(written) == 2, "no old claims or records are written to a new tier"
    desk.same("--from", str(disk))
    names = [backup["name"] for backup in json.loads(desk.must("backups", "--json"))]
    alone = json.loads(desk.must("backups", "--from", str(disk), "--json"))
    assert [backup["name"] for backup in alone] == names
    desk.must("backup")
    desk.same("--from", str(disk))
    desk.fails(2, "tier", "add", "disk", str(tmp_path / "other"), "--yes", says="a tier called disk already")


def test_what_cannot_be_a_tier_is_refused_before_anything_is_written(desk: Desk, tmp_path: Path) -> None:
    other = Desk(tmp_path / "elsewhere", {"vault": str(tmp_path / "elsewhere" / "vault")})
    other.init()
    before = desk.config.read_text()
    desk.fails(1, "tier", "add", "disk", other.tiers["vault"], "--yes", says="another repository")
    desk.fails(2, "tier", "add", "disk", desk.tiers["vault"], "--yes", says="is tier vault")
    desk.fails(2, "tier", "add", "Disk!", str(tmp_path / "disk"), "--yes", says="cannot be used")
    desk.fails(2, "tier", "add", "disk", "gopher://x/y", "--yes", says="gopher")
    assert desk.config.read_text() == before
    assert states(desk) == {"vault": "online", "remote": "online"}


def test_stopped_at_any_moment_an_add_is_gone_on_with(desk: Desk, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    words = [TANDEM, "tier", "add", "disk", str(tmp_path / "disk"), "--yes"]
    environment = {**os.environ, "TANDEM_CONFIG": str(desk.config), "TANDEM_PASSPHRASE": PASSPHRASE}
    for _ in range(STOPS):
        process = subprocess.Popen(
            words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(rng.uniform(0.3, 1.5))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    desk.must("tier", "add", "disk", str(tmp_path / "disk"), "--yes")
    assert states(desk) == dict.fromkeys(("vault", "remote", "disk"), "online")
    desk.same("--from", str(tmp_path / "disk"))


def test_refused_at_the_prompt_nothing_is_made(desk: Desk, tmp_path: Path) -> None:
    before = desk.config.read_text()
    place = tmp_path / "new" / "disk"
    done = at_a_terminal(desk, "tier", "add", "disk", str(place), answer=b"n\n")
    assert done.endswith("tandem: nothing was changed: run it again when you are sure\r\n"), done
    assert not place.parent.exists()
    assert desk.config.read_text() == before


def test_what_was_typed_before_the_question_is_no_answer(desk: Desk, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    at_a_terminal(desk, "tier", "add", "disk", str(place), ahead=b"y\n", answer=b"\n")
    assert not place.exists()


def at_a_terminal(desk: Desk, *words: str, ahead: bytes = b"", answer: bytes) -> str:
    """What a command shows where somebody types ``answer`` when it asks, and ``ahead`` before it does; it has to end
    with 2."""
    terminal, theirs = os.openpty()
    os.write(terminal, ahead)
    with subprocess.Popen(
        [TANDEM, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=desk.environment()
    ) as process:
        os.close(theirs)
        shown = b""
        with open(terminal, "r+b", buffering=0) as screen:
            while True:
                try:
                    shown += screen.read(4096)
                except OSError:  # EIO: the command has ended
                    break
                if answer and shown.endswith(b"[y/N]: "):
                    screen.write(answer)
                    answer = b""
    assert process.returncode == 2, shown
    return shown.decode()


def test_removed_from_the_configuration_it_stays_a_tier_and_comes_back(desk: Desk) -> None:
    desk.must("tier", "remove", "remote", "--yes")
    assert states(desk) == {"vault": "online", "remote": "offline"}
    (desk.source / "new").write_text("while the remote was not used")
    desk.must("backup")
    desk.must("tier", "add", "remote", desk.tiers["remote"], "--yes")
    assert states(desk) == {"vault": "online", "remote": "online"}
    desk.same("--from", desk.tiers["remote"])
    desk.must("tier", "remove", "remote", "--yes")
    desk.fails(1, "tier", "remove", "vault", "--yes", says="only tier")


def test_a_lost_disk_is_replaced_and_its_return_changes_nothing(desk: Desk, tmp_path: Path) -> None:
    lost = desk.unmount("vault")
    desk.fails(1, "tier", "replace", "remote", "--yes", says="itself is at")
    desk.must("tier", "replace", "vault", "--yes")
    assert states(desk) == {"vault": "online", "remote": "online"}
    desk.same("--tier", "vault")
    desk.must("backup")
    shutil.rmtree(desk.tiers["vault"])
    lost.rename(desk.tiers["vault"])
    shown = json.loads(desk.must("tiers", "--json"))["tiers"][0]
    assert (shown["state"], "another disk" in shown["reason"]) == ("offline", True)
    desk.must("tier", "replace", "vault", str(tmp_path / "third"), "--yes")
    desk.same("--from", str(tmp_path / "third"))
    assert states(desk) == {"vault": "online", "remote": "online"}


def test_what_only_the_lost_tier_had_is_not_given_up_in_silence(desk: Desk) -> None:
    remote = desk.unmount("remote")
    (desk.source / "only here").write_text("only on the vault")
    desk.must("backup")
    shutil.rmtree(desk.tiers["remote"])
    remote.rename(desk.tiers["remote"])
    desk.unmount("vault")
    desk.fails(1, "tier", "replace", "vault", "--yes", says="are known to be on tier vault only")
    desk.fails(1, "tier", "retire", "vault", "--yes", says="are known to be on tier vault only")
    done = desk.run("tier", "replace", "vault", "--yes", "--force")
    assert done.returncode == 6, done.stderr
    desk.clean(done)
    assert "given up; backups concerned" in done.stderr
    assert states(desk) == {"vault": "online", "remote": "online"}
    backups = json.loads(desk.must("backups", "--json"))
    assert [len(backup["tiers"]) for backup in backups] == [2, 0]
    desk.must("backup")
    desk.same("--tier", "vault")


def test_a_retired_tier_is_gone_for_good(desk: Desk) -> None:
    desk.must("tier", "retire", "remote", "--yes")
    assert states(desk) == {"vault": "online"}
    assert "remote" not in desk.config.read_text()
    desk.must("backup")
    desk.same("--tier", "vault")
    desk.fails(
        1, "tier", "add", "remote", desk.tiers["remote"], "--yes", says="retired tier of this repository"
    )
    desk.fails(1, "tier", "retire", "vault", "--yes", says="only tier")
    shutil.rmtree(desk.tiers["remote"])
    desk.must("tier", "add", "remote", desk.tiers["remote"], "--yes")
    desk.same("--from", desk.tiers["remote"])


def test_two_disks_that_take_turns_at_one_place(desk: Desk, tmp_path: Path) -> None:
    """The second one is added while it is plugged in; the file then names the id of each."""
    mount = tmp_path / "disk"
    desk.must("tier", "add", "monday", str(mount), "--yes")
    desk.tiers["monday"] = str(mount)
    monday = desk.unmount("monday")
    desk.must("tier", "add", "friday", str(mount), "--yes")
    assert desk.config.read_text().count("tier_id") == 2
    assert states(desk) == {"vault": "online", "remote": "online", "monday": "offline", "friday": "online"}
    (desk.source / "new").write_text("while monday was in the drawer")
    desk.must("backup")
    mount.rename(tmp_path / "friday")
    monday.rename(mount)
    assert states(desk)["friday"] == "offline"
    assert states(desk)["monday"] == "lagging"
    desk.run("sync")
    assert states(desk)["monday"] == "online"
    desk.same("--from", str(mount))


def test_reading_by_name_with_another_disk_there_says_so_and_notes_nothing(
    desk: Desk, tmp_path: Path
) -> None:
    mount = tmp_path / "disk"
    desk.must("tier", "add", "monday", str(mount), "--yes")
    desk.tiers["monday"] = str(mount)
    monday = desk.unmount("monday")
    desk.must("tier", "add", "friday", str(mount), "--yes")
    before = desk.must("backups", "--json")
    desk.fails(5, "restore", "latest", "--to", str(tmp_path / "out"), "--tier", "monday", says="another disk")
    mount.rename(tmp_path / "friday")
    mount.mkdir()
    desk.fails(
        5, "restore", "latest", "--to", str(tmp_path / "out"), "--tier", "monday", says="no repository in"
    )
    mount.rmdir()
    monday.rename(mount)
    assert desk.must("backups", "--json") == before
    desk.same("--tier", "monday")


def test_retiring_with_no_tier_there_changes_nothing(desk: Desk) -> None:
    for name in desk.tiers:
        desk.unmount(name)
    before = desk.config.read_text()
    desk.fails(5, "tier", "retire", "remote", "--yes", "--force", says="no tier can be written to")
    assert desk.config.read_text() == before


def test_on_a_new_disk_where_the_old_one_was_the_folder_is_made(desk: Desk, tmp_path: Path) -> None:
    mount = tmp_path / "disk"
    mount.mkdir()
    desk.must("tier", "add", "disk", str(mount / "tandem"), "--yes")
    mount.rename(tmp_path / "lost")
    desk.fails(1, "tier", "replace", "disk", "--yes", says=f"{mount} is not there: mount")
    assert not mount.exists()
    mount.mkdir()
    desk.must("tier", "replace", "disk", "--yes")
    assert states(desk)["disk"] == "online"
    desk.same("--from", str(mount / "tandem"))


def test_the_only_tier_is_not_replaced(desk: Desk) -> None:
    desk.must("tier", "retire", "remote", "--yes")
    desk.fails(1, "tier", "replace", "vault", "--yes", "--force", says="the only tier")


def test_a_takeover_does_not_bring_a_retired_tier_back(desk: Desk, tmp_path: Path) -> None:
    desk.must("tier", "retire", "remote", "--yes")
    desk.must("backup")
    words = [f"--tier={name}={url}" for name, url in desk.tiers.items()]
    state = str(tmp_path / "other state")
    done = desk.run(
        "takeover", str(desk.source), *words, "--state-dir", state, "--yes", config=tmp_path / "new.toml"
    )
    assert done.returncode == 1, done.stderr
    assert "tier remote was retired" in done.stderr
