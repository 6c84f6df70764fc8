"""With the real commands: two installations on one repository (A10, F7). The second ends with exit 4 and writes
nothing; after `takeover` on it the first does; what either had acknowledged restores, wherever it was written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.support.desk import Desk
from tests.support.embedded import EmbeddedServer
from tests.support.sshd import running_sshd


def contents(folder: str | Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def equal(desk: Desk) -> bool:
    """Whether both tiers hold the same live names and bytes; what is each tier's own aside, and what lies in
    quarantine or below the newest base."""
    first, second = (
        {
            name: data
            for name, data in contents(url).items()
            if name.split("/")[0] in ("packs", "index", "snapshots", "keys")
        }
        for url in desk.tiers.values()
    )
    return first == second


class Second(Desk):
    """Another machine: its own configuration, state folder and home, on the tiers of ``first``."""

    def __init__(self, first: Desk, name: str = "second") -> None:
        self.first = first
        folder = first.folder / name
        folder.mkdir()
        super().__init__(folder, first.tiers, first.server)
        self.source.rename(folder / "unused")
        self.source = first.source

    def configure(self) -> None:
        """The first one's configuration with a state folder of its own."""
        self.config.write_text(self.first.config.read_text().replace(str(self.first.state), str(self.state)))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path, {"vault": str(tmp_path / "vault"), "remote": str(tmp_path / "remote")})
    made.init()
    return made


@pytest.fixture
def second(desk: Desk) -> Second:
    return Second(desk)


def test_takeover_on_a_new_machine_stops_the_old_one_and_keeps_its_backups(
    desk: Desk, second: Second
) -> None:
    desk.must("backup")
    then = desk.manifest()
    before = {url: contents(url) for url in desk.tiers.values()}
    second.configure()
    for words in (["backup"], ["sync"], ["tiers"]):
        second.fails(4, *words, says="another installation writes to")
    assert before == {url: contents(url) for url in desk.tiers.values()}
    said = json.loads(second.must("takeover", "--yes", "--json"))
    assert (said["epoch"], said["backups"]) == (2, 1)
    assert [(tier["state"], tier["imported"]) for tier in said["tiers"]] == [("online", True)] * 2
    for words in (["backup"], ["sync"], ["tiers"]):
        line = desk.fails(4, *words, says="another installation")
        assert "takeover" in line
    (desk.source / "new").write_text("written after the takeover")
    second.must("backup")
    assert len(json.loads(second.must("backups", "--json"))) == 2
    for url in desk.tiers.values():
        second.same("--from", url)
    first_name = json.loads(second.must("backups", "--json"))[0]["name"]
    second.same(backup=first_name, expected=then)
    desk.fails(4, "backup", says="another installation")


def test_the_first_one_takes_over_again(desk: Desk, second: Second) -> None:
    desk.must("backup")
    second.configure()
    second.must("takeover", "--yes")
    second.must("backup")
    desk.must("takeover", "--yes")
    desk.must("backup")
    assert len(json.loads(desk.must("backups", "--json"))) == 3
    second.fails(4, "backup", says="another installation")
    desk.same()


def test_tiers_split_between_two_installations_are_united(desk: Desk, second: Second, tmp_path: Path) -> None:
    """A clone that saw one tier while the first saw the other: both acknowledged backups."""
    desk.must("backup")
    shutil.copytree(desk.state, second.state)
    second.configure()
    vault = desk.unmount("vault")
    (desk.source / "on remote").write_text("the first wrote this while the vault was away")
    states = {json.loads(desk.must("backup", "--json"))["id"]: desk.manifest()}
    desk.mount_again("vault")
    assert not vault.exists()
    (desk.source / "on remote").unlink()
    desk.unmount("remote")
    (desk.source / "on vault").write_text("the clone wrote this while the remote was away")
    states[json.loads(second.must("backup", "--json"))["id"]] = desk.manifest()
    desk.mount_again("remote")
    desk.fails(4, "backup", says="clone or a restored image")
    second.fails(4, "backup", says="clone or a restored image")
    second.must("takeover", "--yes")
    assert len(json.loads(second.must("backups", "--json"))) == 3
    second.must("sync")
    assert equal(desk)
    for place in (["--tier", "vault"], ["--tier", "remote"], ["--from", desk.tiers["vault"]]):
        for backup, expected in states.items():
            second.same(*place, backup=backup, expected=expected)
    second.must("backup")
    desk.fails(4, "backup", says="another installation")


def test_a_tier_that_was_away_at_the_takeover_is_joined_by_itself(desk: Desk, second: Second) -> None:
    """The late side: it holds a backup that nobody else has."""
    desk.must("backup")
    desk.unmount("vault")
    (desk.source / "late").write_text("only on the remote, acknowledged")
    desk.must("backup")
    late = desk.manifest()
    desk.mount_again("vault")
    desk.unmount("remote")
    second.configure()
    said = json.loads(second.must("takeover", "--yes", "--json"))
    assert [(tier["name"], tier["imported"]) for tier in said["tiers"]] == [
        ("vault", True),
        ("remote", False),
    ]
    (desk.source / "late").unlink()
    (desk.source / "since").write_text("after the takeover")
    second.must("backup")
    since = desk.manifest()
    desk.mount_again("remote")
    shown = json.loads(second.must("tiers", "--json"))["tiers"][1]
    assert shown["state"] == "lagging"
    assert "earlier installation" in shown["reason"]
    second.must("backup")
    second.must("sync")
    assert equal(desk)
    backups = json.loads(second.must("backups", "--json"))
    assert len(backups) == 4
    late_one = next(b for b in backups if b["revision"] == 3)
    for place in (["--tier", "vault"], ["--tier", "remote"], ["--from", desk.tiers["vault"]]):
        second.same(*place, backup=late_one["id"][:12], expected=late)
        second.same(*place, backup="latest", expected=since)
    desk.fails(4, "backup", says="another installation")


def test_a_takeover_is_asked_for_and_refused_without_an_answer(desk: Desk, second: Second) -> None:
    desk.must("backup")
    second.configure()
    before = {url: contents(url) for url in desk.tiers.values()}
    second.fails(2, "takeover", says="nobody is there to agree")
    second.fails(1, "takeover", "--yes", says="wrong passphrase", passphrase="wrong one")
    assert before == {url: contents(url) for url in desk.tiers.values()}
    desk.must("backup")


def test_two_agents_over_sshd(tmp_path: Path) -> None:
    """Row 7 of the issue: two state folders, one repository, on a folder and over OpenSSH. The second machine confirms
    the server's key and logs in."""
    with running_sshd(tmp_path / "sshd") as server:
        tiers = {"vault": str(tmp_path / "vault"), "remote": server.url("/tandem")}
        desk = Desk(tmp_path, tiers, server)
        desk.init()
        desk.must("backup")
        second = Second(desk)
        second.configure()
        second.state.mkdir()
        shutil.copy(desk.state / "known_hosts", second.state)
        before = contents(tmp_path / "vault"), contents(server.root)
        second.fails(4, "backup", says="another installation writes to")
        assert before == (contents(tmp_path / "vault"), contents(server.root))
        second.must("takeover", "--yes")
        before = contents(tmp_path / "vault"), contents(server.root)
        desk.fails(4, "backup", says="another installation")
        assert before == (contents(tmp_path / "vault"), contents(server.root))
        second.must("backup")
        second.same("--tier", "remote")


def test_the_second_machine_makes_its_own_configuration(tmp_path: Path, sftp_server: EmbeddedServer) -> None:
    tiers = {"vault": str(tmp_path / "vault"), "remote": sftp_server.url("/tandem")}
    desk = Desk(tmp_path, tiers, sftp_server)
    desk.init()
    desk.must("backup")
    second = Second(desk)
    words = [f"--tier={name}={url}" for name, url in tiers.items()]
    words += [str(desk.source), "--state-dir", str(second.state), *desk.login()]
    second.fails(2, "takeover", *words, says="nobody is there to agree")
    second.must("takeover", *words, "--yes")
    second.must("backup")
    second.same("--tier", "remote")
    desk.fails(4, "backup", says="another installation")
