"""Only a lagging tier is reachable (issue 4, Must show 8; requirement F5): the backup goes to it whole, deduplicated
against what that tier holds, and restores from it alone with nothing but the passphrase. When the other comes
back, both are equal after one synchronisation. Real commands; the remote is the embedded server.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.desk import Desk
from tests.support.embedded import EmbeddedServer
from tests.support.levelcheck import unlike

BLOCKS = 600_000
"""Bytes of the file that each revision changes: random, so that nothing but itself is like it."""


class Pair:
    """A desk with a vault in a folder and a remote on a server."""

    def __init__(self, folder: Path, server: EmbeddedServer) -> None:
        self.server = server
        self.vault = folder / "vault"
        self.url = server.url("/tandem")
        self.desk = Desk(folder, {"vault": str(self.vault), "remote": self.url}, server)
        self.desk.init()

    def backup(self, seed: int) -> dict[str, object]:
        """A backup after the large file became ``seed``'s."""
        self.desk.fill(self.desk.source, seed, BLOCKS)
        done: dict[str, object] = json.loads(self.desk.must("backup", "--json"))
        return done

    def lose_vault(self) -> None:
        self.vault.rename(self.vault.with_name("lost"))

    def find_vault(self) -> None:
        self.vault.with_name("lost").rename(self.vault)

    def remote_alone(self, backup: str = "latest") -> None:
        self.desk.same("--from", self.url, *self.desk.login(), backup=backup)

    def missing(self, name: str) -> int:
        rows = json.loads(self.desk.must("tiers", "--json"))["tiers"]
        return next(int(row["missing_revisions"]) for row in rows if row["name"] == name)

    def level(self) -> None:
        """One synchronisation makes them equal."""
        self.desk.must("sync")
        folders = {"vault": str(self.vault), "remote": str(self.server.root / "tandem")}
        assert not unlike(folders, str(self.desk.state))


def holders(done: dict[str, object]) -> list[str]:
    tiers = done["tiers"]
    assert isinstance(tiers, list)
    return [row["name"] for row in tiers if row["has_it"]]


@pytest.fixture
def pair(tmp_path: Path, sftp_server: EmbeddedServer) -> Pair:
    return Pair(tmp_path / "desk", sftp_server)


def test_the_vault_died_after_the_remote_lagged_by_three(pair: Pair) -> None:
    assert holders(pair.backup(1)) == ["vault", "remote"]
    pair.server.stop()
    for seed in (2, 3, 4):
        assert holders(pair.backup(seed)) == ["vault"]
    pair.lose_vault()
    pair.server.start()
    assert pair.missing("remote") == 3
    done = pair.backup(5)
    assert holders(done) == ["remote"]
    assert int(str(done["bytes_stored"])) > BLOCKS
    pair.remote_alone()
    assert pair.missing("remote") == 3  # what only the vault had is still missing here
    again = pair.backup(5)
    assert int(str(again["bytes_stored"])) < BLOCKS / 4  # what it holds now is not sent again
    pair.remote_alone()
    pair.find_vault()
    says = f"the backup {again['name']} is not on vault yet, but on remote: leave --tier out"
    for words in (("restore", str(again["name"]), "--to", "nowhere"), ("ls", str(again["name"]))):
        pair.desk.fails(1, *words, "--tier", "vault", says=says)
    assert json.loads(pair.desk.must("ls", "latest", "--json", "--tier", "vault")), "the latest that it has"
    pair.level()
    pair.desk.same("--tier", "vault")
    pair.desk.same("--from", str(pair.vault))


def test_what_only_the_vault_had_is_sent_again_and_what_the_remote_has_is_not(pair: Pair) -> None:
    """The source goes back to what each of them has seen: deduplicated against the reachable tier alone."""
    pair.backup(1)
    pair.server.stop()
    pair.backup(2)
    pair.lose_vault()
    pair.server.start()
    known = pair.backup(1)
    assert holders(known) == ["remote"]
    assert int(str(known["bytes_stored"])) < BLOCKS / 4
    pair.remote_alone()
    unknown = pair.backup(2)  # the vault has it, the remote never saw it
    assert holders(unknown) == ["remote"]
    assert int(str(unknown["bytes_stored"])) > BLOCKS
    pair.remote_alone()
    pair.find_vault()
    pair.level()


def test_unchanged_since_a_backup_that_the_lagging_one_missed(pair: Pair) -> None:
    """Nothing has changed on disk since the vault's last backup, so the files' stamps say that all is known; the
    remote has none of it."""
    pair.server.stop()
    pair.backup(1)
    pair.lose_vault()
    pair.server.start()
    done = json.loads(pair.desk.must("backup", "--json"))
    assert holders(done) == ["remote"]
    pair.remote_alone()
    pair.find_vault()
    pair.level()


def test_the_lagging_one_lacks_the_newest_key_slot(pair: Pair, tmp_path: Path) -> None:
    """A second passphrase was added while the remote was away: the backup that goes to the remote alone brings the
    slot with it."""
    pair.backup(1)
    second = tmp_path / "second"
    second.write_text("another passphrase altogether\n")
    pair.server.stop()
    added = pair.desk.run("key", "add", "--new-passphrase-file", str(second))
    assert added.returncode == 0, added.stdout + added.stderr
    pair.lose_vault()
    pair.server.start()
    assert holders(pair.backup(2)) == ["remote"]
    pair.remote_alone()
    alone = ["--from", pair.url, *pair.desk.login(), "--passphrase-file", str(second)]
    done = pair.desk.run("backups", *alone, passphrase=None)
    assert done.returncode == 0, done.stdout + done.stderr
    pair.desk.same(*alone)
    pair.find_vault()
    pair.level()


def test_in_turn_and_never_both(pair: Pair) -> None:
    """A laptop that sees now the one, now the other: each backup goes to the one that lags, and restores from it."""
    for seed, name in enumerate(("vault", "remote", "remote", "vault", "remote"), 1):
        if name == "vault":
            pair.server.stop()
        else:
            pair.lose_vault()
        assert holders(pair.backup(seed)) == [name]
        if name == "vault":
            pair.desk.same("--from", str(pair.vault))
            pair.server.start()
        else:
            pair.remote_alone()
            pair.find_vault()
    pair.level()
    pair.desk.same("--from", str(pair.vault))
    pair.remote_alone()
