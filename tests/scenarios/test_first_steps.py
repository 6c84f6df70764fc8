"""`tandem init` on real places (issue 3): made once, gone on with when it was stopped, never over something else.

Requirement A1; cli.md, `init` and `key`.
"""

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
from tests.support.embedded import EmbeddedServer

SEED, STOPS = 11, 6


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, {"vault": str(tmp_path / "vault"), "second": str(tmp_path / "second")})


def init_words(desk: Desk) -> list[str]:
    tiers = [word for name, url in desk.tiers.items() for word in ("--tier", f"{name}={url}")]
    return ["init", str(desk.source), "--state-dir", str(desk.state), *tiers]


def test_stopped_at_any_moment_it_is_gone_on_with(desk: Desk) -> None:
    """SIGKILL at random moments; each time the same command again, until it is through; then a backup."""
    rng = random.Random(SEED)
    environment = {**os.environ, "TANDEM_CONFIG": str(desk.config), "TANDEM_PASSPHRASE": PASSPHRASE}
    for _ in range(STOPS):
        process = subprocess.Popen([TANDEM, *init_words(desk)], env=environment, stdout=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0.2, 1.2))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    desk.must(*init_words(desk))
    made = json.loads(desk.must("init", "--json"))
    assert made["resumed"] is True
    desk.must("backup")
    desk.same("--from", desk.tiers["vault"])
    desk.same("--from", desk.tiers["second"])
    tiers = json.loads(desk.must("tiers", "--json"))
    assert [t["missing_revisions"] for t in tiers["tiers"]] == [0, 0]


def test_a_place_that_holds_a_repository_is_left_alone(desk: Desk, tmp_path: Path) -> None:
    desk.init()
    desk.must("backup")
    other = Desk(tmp_path / "other", {"vault": desk.tiers["vault"]})
    other.fails(1, *init_words(other), says="there is a repository at")
    assert not other.config.exists()
    desk.same("--from", desk.tiers["vault"])


def test_the_state_of_one_repository_makes_no_other(desk: Desk, tmp_path: Path) -> None:
    """The configuration was lost, and init is given other places with the same names."""
    desk.init()
    desk.config.unlink()
    right = dict(desk.tiers)
    desk.tiers = {name: f"{url}-elsewhere" for name, url in right.items()}
    desk.fails(2, *init_words(desk), says="is not at")
    desk.tiers = right
    desk.must(*init_words(desk))
    desk.must("backup")


def test_a_tier_that_is_away_stops_init_and_leaves_nothing(desk: Desk, tmp_path: Path) -> None:
    desk.tiers["second"] = "sftp://nobody@127.0.0.1:1/tandem"
    desk.fails(1, *init_words(desk), "--accept-host-key", "SHA256:" + "A" * 43, says="127.0.0.1")
    assert not desk.config.exists()
    assert not (tmp_path / "vault" / "tandem").exists()


def test_host_keys_for_scripts(tmp_path: Path, sftp_server: EmbeddedServer) -> None:
    desk = Desk(tmp_path, {"remote": sftp_server.url("/tandem")})
    words = [*init_words(desk), "--identity-file", str(sftp_server.client_key)]
    line = desk.fails(2, *words, says="is not confirmed")
    assert sftp_server.fingerprint in line
    desk.fails(1, *words, "--accept-host-key", "SHA256:" + "A" * 43, says="none that --accept-host-key names")
    assert not desk.config.exists()
    desk.must(*words, "--accept-host-key", sftp_server.fingerprint)
    desk.must("backup")


def test_a_server_that_was_set_up_anew(tmp_path: Path, sftp_server: EmbeddedServer) -> None:
    """The way that docs/configuration.md gives: old pins out, the new fingerprint in."""
    desk = Desk(tmp_path, {"remote": sftp_server.url("/tandem")}, sftp_server)
    desk.init()
    sftp_server.stop()
    sftp_server.host_key.unlink()
    sftp_server.start()
    desk.fails(1, "backup", "--wait", "1", says="host key")
    (desk.state / "known_hosts").unlink()
    text = desk.config.read_text().replace("\nurl = ", f'\nhost_keys = ["{sftp_server.fingerprint}"]\nurl = ')
    desk.config.write_text(text)
    desk.must("backup")


def test_who_reads_from_a_tier_that_is_away_is_told_soon(tmp_path: Path, sftp_server: EmbeddedServer) -> None:
    """Not after the ten attempts that a link gets which breaks in the middle."""
    desk = Desk(tmp_path, {"remote": sftp_server.url("/tandem")}, sftp_server)
    desk.init()
    desk.must("backup")
    sftp_server.stop()
    patient = desk.config.read_text().replace("attempts = 3", "attempts = 1000").replace("0.01", "0.2")
    desk.config.write_text(patient.replace("0.05", "0.2"))
    for words in (["restore", "latest", "--to", "back"], ["ls", "latest"]):
        desk.fails(5, *words, "--tier", "remote", says="Connection refused")


def test_passphrases_come_and_go(desk: Desk) -> None:
    desk.init()
    desk.must("backup")
    (desk.folder / "new").write_text("another passphrase\n")
    added = json.loads(
        desk.must(
            "key", "add", "--new-passphrase-file", str(desk.folder / "new"), "--label", "safe", "--json"
        )
    )
    kinds = [key["kind"] for key in json.loads(desk.must("key", "list", "--json"))]
    assert sorted(kinds) == ["agent", "passphrase", "passphrase"]
    for name, url in desk.tiers.items():
        where = ["restore", "latest", "--to", f"back-{name}", "--from", url]
        done = desk.run(*where, passphrase="another passphrase")
        assert done.returncode == 0, done.stderr
    desk.must("key", "remove", "init")
    vault = desk.tiers["vault"]
    desk.fails(1, "restore", "latest", "--to", "back", "--from", vault, says="wrong passphrase")
    words = ("key", "remove", added["id"][:8])
    desk.fails(1, *words, says="wrong passphrase")
    desk.fails(1, *words, passphrase="another passphrase", says="last passphrase")


def test_a_machine_without_its_agent_key_asks_for_the_passphrase(desk: Desk) -> None:
    desk.init()
    (desk.state / "agent.key").unlink()
    desk.fails(2, "backup", passphrase=None, says="no passphrase")
    desk.must("backup")


def test_interrupted(desk: Desk) -> None:
    """SIGTERM: 130, one line, and the next backup is whole."""
    desk.init()
    (desk.source / "big").write_bytes(random.Random(SEED).randbytes(64 << 20))
    environment = {**os.environ, "TANDEM_CONFIG": str(desk.config)}
    command = [TANDEM, "backup", "--json"]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    packs = Path(desk.tiers["vault"]) / "packs"
    while running.poll() is None and not packs.exists():
        os.sched_yield()
    running.terminate()
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, out + err
    assert err.startswith("tandem: interrupted: ") and err.count("\n") == 1
    failed = json.loads(desk.must("backups", "--json"))
    assert [b["status"] for b in failed] == ["failed"]
    desk.fails(1, "restore", "latest", "--to", "x", says="there is no backup yet")
    desk.must("backup")
    desk.same("--from", desk.tiers["vault"])


def test_two_at_once(desk: Desk) -> None:
    """The second process is told so (7); a restore is not kept waiting by a backup."""
    desk.init()
    desk.must("backup")
    import fcntl

    with (desk.state / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for words in (["backup"], ["sync"]):
            desk.fails(7, *words, says="another tandem process")
        desk.must("restore", "latest", "--to", "back")
        desk.must("backups")
        seen = json.loads(desk.must("tiers", "--json"))
        assert [(t["name"], t["state"], t["revision"]) for t in seen["tiers"]] == [
            ("vault", "online", seen["head"]),
            ("second", "online", seen["head"]),
        ]
    shutil.rmtree(desk.folder / "back")
