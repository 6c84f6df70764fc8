"""Every "Bad input" of issue 3 against the real commands: one clear line, the right exit code, nothing lost."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.desk import PASSPHRASE, TANDEM, Desk
from tests.support.embedded import EmbeddedServer
from tests.support.requirements import need, require_root

from tandem_protocol.identity import decode_identity

SEED = 3


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A repository with one backup on a vault and a second folder."""
    desk = Desk(tmp_path, {"vault": str(tmp_path / "vault"), "second": str(tmp_path / "second")})
    desk.init()
    desk.must("backup")
    return desk


@pytest.fixture
def office(tmp_path: Path, sftp_server: EmbeddedServer) -> Desk:
    """A repository with one backup on a vault and on an SFTP server."""
    tiers = {"vault": str(tmp_path / "vault"), "remote": sftp_server.url("/tandem")}
    desk = Desk(tmp_path, tiers, sftp_server)
    desk.init()
    desk.must("backup")
    return desk


def tiers_of(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, object]]:
    """The tiers of a backup's JSON, by name."""
    return {tier["name"]: tier for tier in json.loads(done.stdout)["tiers"]}


def backup_with(desk: Desk, code: int = 0) -> dict[str, dict[str, object]]:
    """A backup that has to end with ``code``; its tiers by name."""
    done = desk.run("backup", "--json")
    assert done.returncode == code, done.stdout + done.stderr + desk.logs()
    desk.clean(done)
    return tiers_of(done)


class TestPassphrase:
    def test_wrong(self, alone: Desk) -> None:
        vault = alone.tiers["vault"]
        for words in (("restore", "latest", "--to", "back"), ("ls", "latest")):
            alone.fails(1, *words, "--from", vault, passphrase="wrong", says="wrong passphrase")
        (alone.folder / "new").write_text("another")
        words = ("key", "add", "--new-passphrase-file", str(alone.folder / "new"))
        alone.fails(1, *words, passphrase="wrong", says="wrong passphrase")
        assert not (alone.folder / "back").exists()
        alone.same("--from", vault)

    def test_none(self, alone: Desk, tmp_path: Path) -> None:
        line = alone.fails(
            2,
            "restore",
            "latest",
            "--to",
            "back",
            "--from",
            alone.tiers["vault"],
            passphrase=None,
            says="no passphrase",
        )
        assert "TANDEM_PASSPHRASE" in line and "--passphrase-file" in line
        (tmp_path / "new").mkdir()
        words = ("init", "--config", str(tmp_path / "new.toml"), "--tier", f"vault={tmp_path}/new/vault")
        alone.fails(2, *words, passphrase=None, says="no passphrase")
        assert os.listdir(tmp_path / "new") == []
        assert not (tmp_path / "new.toml").exists()

    def test_an_unattended_backup_needs_none(self, alone: Desk) -> None:
        assert alone.run("backup", passphrase=None).returncode == 0


class TestSources:
    def test_missing(self, alone: Desk) -> None:
        alone.fails(2, "backup", str(alone.folder / "gone"), says="gone is not there")
        alone.source.rename(alone.folder / "elsewhere")
        alone.fails(2, "backup", says="source is not there")
        (alone.folder / "elsewhere").rename(alone.source)
        alone.same("--from", alone.tiers["vault"])

    def test_one_of_two_missing_is_a_partial_backup(self, alone: Desk) -> None:
        text = alone.config.read_text().replace('sources = ["', f'sources = ["{alone.folder}/gone", "')
        alone.config.write_text(text)
        done = alone.run("backup", "--json")
        assert done.returncode == 3, done.stdout + done.stderr
        assert "gone" in "".join(json.loads(done.stdout)["warnings"])
        alone.same("--from", alone.tiers["vault"])

    def test_a_file(self, alone: Desk) -> None:
        alone.fails(2, "backup", str(alone.source / "large"), says="large is not a folder")


class TestTierFolders:
    def test_unwritable(self, alone: Desk) -> None:
        """Read-only, as root sees it: a mount. Reading goes on."""
        require_root()
        vault = alone.tiers["vault"]
        mounted = [["mount", "--bind", vault, vault], ["mount", "-o", "remount,ro,bind", vault]]
        done = [subprocess.run(command, capture_output=True, check=False).returncode for command in mounted]
        need(None if done == [0, 0] else "bind mounts are not allowed here")
        try:
            alone.fails(1, "backup", "--wait", "1", says="vault")
            alone.same("--from", vault)
        finally:
            subprocess.run(["umount", vault], check=True)
        alone.must("backup")
        alone.same("--from", vault)

    def test_not_mounted(self, desk: Desk) -> None:
        desk.unmount("vault")
        (desk.source / "new").write_text("new")
        tiers = backup_with(desk)
        assert tiers["second"]["has_it"] and not tiers["vault"]["has_it"]
        assert "mounted" in str(tiers["vault"]["reason"])
        assert os.listdir(desk.tiers["vault"]) == []
        desk.mount_again("vault")
        desk.must("sync")
        desk.same("--from", desk.tiers["vault"])

    def test_none_mounted(self, alone: Desk) -> None:
        before = alone.manifest()
        alone.unmount("vault")
        alone.fails(5, "backup", "--wait", "0.5", says="mounted")
        assert os.listdir(alone.tiers["vault"]) == []
        alone.mount_again("vault")
        alone.same("--from", alone.tiers["vault"], expected=before)
        alone.must("backup")

    def test_nothing_at_all_there(self, alone: Desk) -> None:
        alone.fails(5, "restore", "latest", "--to", "back", "--from", str(alone.folder / "none"), says="none")

    def test_nobody_answers_there(self, alone: Desk) -> None:
        with socket.socket() as taken:  # bound, and nobody listens
            taken.bind(("127.0.0.1", 0))
            host = f"127.0.0.1:{taken.getsockname()[1]}"
            pinned = (f"sftp://u@{host}/x", "--accept-host-key", "SHA256:" + "A" * 43)
            for words in ((f"sftp://u@{host}/x",), pinned, (f"ftps://u@{host}/x",)):
                line = alone.fails(5, "backups", "--from", *words, says="Connection refused: check the")
                assert "Errno" not in line


class TestServer:
    def test_changed_host_key(self, office: Desk) -> None:
        server = office.server
        assert server is not None
        server.stop()
        server.host_key.unlink()
        server.start()
        tiers = backup_with(office)
        assert tiers["vault"]["has_it"] and not tiers["remote"]["has_it"]
        assert "host key" in str(tiers["remote"]["reason"])
        known = (office.state / "known_hosts").read_text()
        assert "remote is blocked" in office.fails(0, "backup", "--quiet", says="host key")
        line = office.fails(5, "backup", "--require", "all", says="1 of 2 tiers")
        assert "tandem tiers" in line
        assert (office.state / "known_hosts").read_text() == known
        office.same("--tier", "vault")

    def test_an_unknown_host_key_is_not_trusted(self, office: Desk) -> None:
        assert office.server is not None
        words = ["restore", "latest", "--to", "back", "--from", office.tiers["remote"]]
        words += ["--identity-file", str(office.server.client_key)]
        office.fails(2, *words, says="is not confirmed")
        office.fails(1, *words, "--accept-host-key", "SHA256:" + "A" * 43, says="host key")
        office.same("--from", office.tiers["remote"], *office.login())

    def test_a_key_that_is_not_there_is_corrected_where_it_was_named(self, office: Desk) -> None:
        assert office.server is not None
        missing = ("--identity-file", str(office.folder / "nokey"))
        words = ("backups", "--from", office.tiers["remote"], "--accept-host-key", office.server.fingerprint)
        office.fails(2, *words, *missing, says="nokey is not there: correct --identity-file")
        words = ("tier", "add", "more", office.server.url("/more"), "--yes")
        office.fails(2, *words, *missing, says="nokey is not there: correct --identity-file")
        named = office.config.read_text().replace(str(office.server.client_key), missing[1])
        office.config.write_text(named)
        words = ("tier", "replace", "remote", "--yes")
        office.fails(2, *words, says="nokey is not there: correct identity_file in the configuration")

    def test_wrong_key(self, office: Desk, tmp_path: Path) -> None:
        assert office.server is not None
        with EmbeddedOther(tmp_path / "other") as other:
            key = other.client_key
        text = office.config.read_text().replace(str(office.server.client_key), str(key))
        assert str(key) in text
        office.config.write_text(text)
        tiers = backup_with(office)
        assert tiers["vault"]["has_it"] and not tiers["remote"]["has_it"]
        assert "refuses the login" in str(tiers["remote"]["reason"])
        words = [
            "restore",
            "latest",
            "--to",
            "back",
            "--from",
            office.tiers["remote"],
            "--identity-file",
            str(key),
        ]
        office.fails(1, *words, "--accept-host-key", office.server.fingerprint, says="refuses the login")

    def test_killed_in_a_transfer(self, office: Desk) -> None:
        server = office.server
        assert server is not None
        (office.source / "big").write_bytes(random.Random(SEED).randbytes(96 << 20))
        arrived = server.root / "tandem" / "tmp"
        environment = {**os.environ, "TANDEM_CONFIG": str(office.config)}
        command = [TANDEM, "backup", "--json"]
        running = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        try:
            while running.poll() is None and not any(_part(arrived)):
                os.sched_yield()
            server.kill()
            out, err = running.communicate(timeout=120)
        finally:
            running.kill()
        assert running.returncode == 0, out + err
        tiers = {tier["name"]: tier for tier in json.loads(out)["tiers"]}
        assert tiers["vault"]["has_it"] and not tiers["remote"]["has_it"]
        office.same("--tier", "vault")
        server.start()
        office.must("sync")
        office.same("--from", office.tiers["remote"], *office.login())


class EmbeddedOther:
    """The key of somebody whom the server does not know."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._server = EmbeddedServer(folder)

    def __enter__(self) -> EmbeddedServer:
        return self._server

    def __exit__(self, *_: object) -> None:
        self._server.stop()


def _part(folder: Path) -> Iterator[Path]:
    """Uploads under way that hold some bytes."""
    try:
        yield from (path for path in folder.iterdir() if path.is_file() and path.stat().st_size > 1 << 20)
    except FileNotFoundError:
        return


class TestFullDisk:
    @pytest.fixture
    def small(self, tmp_path: Path) -> Iterator[Path]:
        """A file system of 8 MiB."""
        require_root()
        folder = tmp_path / "small"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
        need(
            None
            if subprocess.run(mount, capture_output=True, check=False).returncode == 0
            else "no mounts here"
        )
        yield folder
        subprocess.run(["umount", str(folder)], check=True)

    def test_of_one_tier_of_two(self, small: Path, tmp_path: Path) -> None:
        desk = Desk(tmp_path, {"vault": str(small / "vault"), "second": str(tmp_path / "second")})
        desk.init()
        desk.must("backup")
        (desk.source / "big").write_bytes(random.Random(SEED).randbytes(16 << 20))
        done = desk.run("backup", "--json", "--quiet")
        tiers = tiers_of(done)
        assert tiers["second"]["has_it"] and not tiers["vault"]["has_it"]
        assert "space" in str(tiers["vault"]["reason"])
        says = f"tandem: vault is blocked and has not got the backup: {tiers['vault']['reason']}\n"
        assert (done.returncode, done.stderr) == (0, says)
        desk.same("--from", desk.tiers["second"])
        (desk.source / "big").unlink()
        still = f"lacks revisions; blocked before: {tiers['vault']['reason']}\n"
        for _ in range(2):  # every night, not only the first
            done = desk.run("backup", "--quiet")
            says = f"tandem: vault is lagging and has not got the backup: {still}"
            assert (done.returncode, done.stderr) == (0, says)
        assert still in desk.must("tiers")
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        desk.must("sync")
        desk.same("--from", desk.tiers["vault"])
        done = desk.run("backup", "--quiet")
        assert (done.returncode, done.stderr) == (0, "")
        assert "blocked" not in desk.must("tiers")

    def test_of_the_only_tier(self, small: Path, tmp_path: Path) -> None:
        desk = Desk(tmp_path, {"vault": str(small / "vault")})
        desk.init()
        desk.must("backup")
        before = desk.manifest()
        (desk.source / "big").write_bytes(random.Random(SEED).randbytes(16 << 20))
        desk.fails(1, "backup", "--wait", "1", says="space")
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        desk.must("backup")
        desk.same("--from", desk.tiers["vault"])
        first = json.loads(desk.must("backups", "--json"))[0]
        desk.same("--from", desk.tiers["vault"], backup=first["name"], expected=before)

    def test_of_the_local_state(self, small: Path, tmp_path: Path) -> None:
        desk = Desk(tmp_path, {"vault": str(tmp_path / "vault")})
        desk.state = small / "state"
        desk.init()
        desk.must("backup")
        before = desk.manifest()
        filler = small / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(bytes(1 << 16))
        (desk.source / "new").write_text("new")
        line = desk.fails(1, "backup", "--wait", "1", says="space")
        assert "state" in line
        desk.same("--from", desk.tiers["vault"], expected=before)
        filler.unlink()
        desk.must("backup")
        desk.same("--from", desk.tiers["vault"])

    def test_of_the_target_of_a_restore(self, small: Path, tmp_path: Path) -> None:
        desk = Desk(tmp_path, {"vault": str(tmp_path / "vault")})
        (desk.source / "big").write_bytes(random.Random(SEED).randbytes(16 << 20))
        desk.init()
        desk.must("backup")
        target = small / "back"
        desk.fails(1, "restore", "latest", "--to", str(target), says="space")
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        desk.must("restore", "latest", "--to", str(target))
        assert (Path(f"{target}{desk.source}") / "big").read_bytes() == (desk.source / "big").read_bytes()


def test_a_newer_format(desk: Desk) -> None:
    """The identity names a layout that this program does not know."""
    before = desk.manifest()
    identity = Path(desk.tiers["vault"]) / "tandem"
    data = dataclasses.replace(decode_identity(identity.read_bytes()), layout=2).encode()
    identity.chmod(0o600)
    identity.write_bytes(data)
    tiers = backup_with(desk)
    assert tiers["second"]["has_it"] and not tiers["vault"]["has_it"]
    assert "newer" in str(tiers["vault"]["reason"])
    desk.fails(1, "restore", "latest", "--to", "back", "--from", desk.tiers["vault"], says="layout 2")
    assert identity.read_bytes() == data
    desk.same("--from", desk.tiers["second"], expected=before)


def test_an_unknown_key_in_the_configuration(alone: Desk) -> None:
    alone.config.write_text(alone.config.read_text().replace("exclude =", "exlude ="))
    line = alone.fails(2, "backup", says="unknown key 'exlude'")
    assert f"{alone.config}, line " in line and "'exclude'" in line


FOLDERS = ["packs", "index", "snapshots", "keys", "revisions", "epochs", "tandem"]


@pytest.mark.parametrize("where", FOLDERS)
def test_a_flipped_bit(where: str, desk: Desk) -> None:
    """In every file below ``where`` on one tier. Restoring with both tiers gives everything; from the damaged
    one alone either everything, or a clear end: never wrong bytes."""
    rng = random.Random(f"{SEED} {where}")
    for path in _files(Path(desk.tiers["vault"]) / where):
        _flip(path, rng)
    desk.same()
    target = desk.folder / "from-damaged"
    done = desk.run("restore", "latest", "--to", str(target), "--from", desk.tiers["vault"])
    desk.clean(done)
    assert done.returncode in (0, 1, 6), done.stderr
    if done.returncode:
        assert done.stderr.count("tandem: ") == 1, done.stderr
    for path in _files(target):
        original = Path("/") / path.relative_to(target)
        assert path.read_bytes() == original.read_bytes()
    if where in ("packs", "snapshots"):
        assert done.returncode == 6
    (desk.source / "new").write_text("new")
    tiers = backup_with(desk)
    assert tiers["second"]["has_it"]
    desk.same("--from", desk.tiers["second"])


def _files(top: Path) -> list[Path]:
    if top.is_file():
        return [top]
    return sorted(path for path in top.rglob("*") if path.is_file() and not path.is_symlink())


def _flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    assert data
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.chmod(0o600)
    path.write_bytes(data)


@pytest.mark.parametrize("what", ["run-*", "frames"])
def test_a_damaged_local_index(what: str, desk: Desk) -> None:
    """It says nothing about what the tiers have: it is made anew, by the same command."""
    (file,) = (desk.folder / "state" / "cache" / "index").glob(what)
    data = file.read_bytes()
    noise = random.Random(SEED).randbytes(min(4096, len(data) // 2))
    at = len(data) - len(noise)
    file.write_bytes(data[:at] + noise)
    desk.same()


HOSTILE = """
    from tandem_protocol import tree

    finish = tree.PageBuilder.finish

    def hostile(self):
        page = finish(self)
        return page and page.replace(b"..X..Xevil", b"../../evil")

    tree.PageBuilder.finish = hostile
    import sys
    sys.argv = ["tandem", "backup"]
    from tandem_agent.cli import main
    main()
"""


def test_a_tree_with_dot_dot_in_it(alone: Desk) -> None:
    """A repository sealed by somebody who has the keys and means harm."""
    (alone.source / "d" / "..X..Xevil").write_text("out of the target")
    environment = {**os.environ, "TANDEM_CONFIG": str(alone.config), "TANDEM_PASSPHRASE": PASSPHRASE}
    command = [sys.executable, "-c", textwrap.dedent(HOSTILE)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    target = alone.folder / "deep" / "deeper" / "back"
    target.mkdir(parents=True)
    alone.fails(6, "restore", "latest", "--to", str(target), says="not restored")
    outside = [path for path in alone.folder.rglob("*evil*") if "source" not in path.parts]
    assert outside == []
    first = json.loads(alone.must("backups", "--json"))[0]["name"]
    (alone.source / "d" / "..X..Xevil").unlink()
    alone.must("restore", first, "--to", str(alone.folder / "good"))
