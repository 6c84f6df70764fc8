"""Hostile servers as tiers (trust.md 26 to 36; issue 4, "Bad input"), with the real commands: a vault in a folder and a
remote place whose server is made to lie after it was honest. SFTP over both transports: sshd runs a program that
stands between the client and the real sftp-server (support/hostile_sftp.py).

Each time: the vault has the backup and the exit code is 0, the remote place lags, is offline or blocked with one
printable line that says why, time and memory are bounded, and once the server is honest again one synchronisation
makes it level: then it restores alone. What single requests do is tested where the stores are: unit/test_sftp_hostile
(26 to 30, 33, 36), unit/test_ftp_hostile (26, 27, 29, 30, 33 to 36), unit/test_sftp_servers (31 to 33).

26 `../` in a listing: with absolute names, NUL, escapes, and each name twice; passed over, SFTP, MLSD, LIST.
27 endless READDIR, endless LIST: "does not end".
28 4 GiB packet length: refused before anything is allocated.
29 short reads: legal, everything works.
30 says OK and drops the data: noticed by its size, the tier lags.
31 changed host key, changed certificate: refused, both fingerprints told.
32 weak or stripped algorithms: refused, "safe enough". (Stripping by who stands between is strict KEX's, in the
   libraries; without it paramiko's and OpenSSH's ciphers with a counter and ETM are the ones that it concerns.)
33 stall mid-packet: the patience ends, the tier is offline; the deadline of each request is unit-tested.
34 PASV to a third host: data goes to the host of the control connection.
35 downgrade to plain FTP: refused, and nothing of the login was sent: the server's own bytes are looked at.
36 error text with terminal escapes, and of a megabyte: printed safely and cut.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock

import pytest
from tests.support import hostile_sftp
from tests.support.desk import PASSPHRASE, Desk
from tests.support.ftp_script import ScriptedFtp, Session
from tests.support.ftpservers import PASSWORD, USER, make_certificate, running_ftp
from tests.support.sshd import Sshd, make_key, running_sshd

from tandem_protocol.errors import Refused
from tandem_protocol.stores.host_keys import read_pins
from tandem_protocol.stores.sftp import SftpStore

SFTP_SERVER = "/usr/lib/openssh/sftp-server"
TRANSPORTS = pytest.mark.parametrize("use_system_ssh", [True, False], ids=["ssh", "paramiko"])


class HostileDesk(Desk):
    """A desk with a vault in a folder and a remote place at ``url``; ``login``: options that reach it."""

    warm = True

    def __init__(self, folder: Path, url: str, login: list[str], path: str | None = None) -> None:
        super().__init__(folder, {"vault": str(folder / "vault"), "remote": url})
        self.url, self.login_options, self._path = url, login, path
        self.init(*login)
        self.config.write_text("patience_seconds = 60\n" + self.config.read_text().split("\n", 1)[1])
        self.must("backup")

    def run(
        self, *words: str, passphrase: str | None = PASSPHRASE, config: Path | None = None
    ) -> CompletedProcess[str]:
        """As `Desk.run`, and every output has to be fit for a terminal."""
        with mock.patch.dict(os.environ, {"PATH": self._path} if self._path else {}):
            done = super().run(*words, passphrase=passphrase, config=config)
        text = done.stdout + done.stderr
        assert all(c.isprintable() or c == "\n" for c in text), repr(text)
        return done

    def lags(self, *says: str) -> None:
        """A backup is on the vault alone, and why is said in one line of reasonable length."""
        tier = self.backup_on()["remote"]
        assert not tier["has_it"]
        assert any(text in tier["reason"] for text in says), tier
        assert len(tier["reason"]) < 1000 and "\n" not in tier["reason"]

    def backup_on(self) -> dict[str, dict[str, str]]:
        """A backup of something new that has to end with 0 and be on the vault; its tiers by name."""
        (self.source / "d" / "more").write_text(f"{random.random()}\n" * 40)
        done = self.run("backup", "--json")
        self.clean(done)
        assert done.returncode == 0, done.stdout + done.stderr
        tiers = {tier["name"]: tier for tier in json.loads(done.stdout)["tiers"]}
        assert tiers["vault"]["has_it"]
        return tiers

    def is_level_again(self) -> None:
        self.must("sync")
        self.same("--tier", "remote")

    def works(self) -> None:
        """Every command does what it does with an honest server."""
        assert self.backup_on()["remote"]["has_it"]
        self.must("sync", "--full")
        self.same("--from", self.url, *self.login_options)

    def lists_each_once(self) -> None:
        listed = json.loads(self.must("backups", "--json", "--from", self.url, *self.login_options))
        assert [b["name"] for b in listed] == [b["name"] for b in json.loads(self.must("backups", "--json"))]


# SFTP


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    folder = tmp_path_factory.mktemp("sshd")
    command = f"{sys.executable} -S -E {hostile_sftp.__file__} {SFTP_SERVER} {folder}/mode"
    with running_sshd(folder, extra=f"Subsystem sftp {command}", sftp=False) as server:
        yield server


def sftp_desk(folder: Path, sshd: Sshd, use_system_ssh: bool) -> HostileDesk:
    (pin,) = read_pins([sshd.known_hosts_line]).fingerprints
    url = f"sftp://{sshd.user}@{sshd.host}:{sshd.port}/{sshd.root}"
    login = ["--identity-file", str(sshd.client_key), "--accept-host-key", pin]
    return HostileDesk(folder, url, login, None if use_system_ssh else str(folder))


@pytest.fixture(scope="module", params=[True, False], ids=["ssh", "paramiko"])
def desk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sshd: Sshd) -> HostileDesk:
    shutil.rmtree(sshd.root)
    lie(sshd, "honest")
    return sftp_desk(tmp_path_factory.mktemp("desk"), sshd, request.param)


def lie(sshd: Sshd, how: str) -> None:
    assert how in hostile_sftp.LIES
    (sshd.folder / "mode").write_text(how)


@pytest.mark.parametrize("how", ["names", "short"])
def test_26_29_odd_names_and_short_reads_do_not_matter(desk: HostileDesk, sshd: Sshd, how: str) -> None:
    lie(sshd, how)
    desk.works()
    desk.lists_each_once()
    assert not list(sshd.folder.rglob("escaped*"))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("endless", "does not end"),
        ("length", "a packet of 4294967295 bytes"),
        ("drops", "0 bytes where"),
        ("text", "\\x1b]0;owned"),
    ],
)
def test_27_28_30_36_lies_keep_nobody_from_the_vault(
    desk: HostileDesk, sshd: Sshd, how: str, says: str
) -> None:
    lie(sshd, how)
    desk.lags(says)
    lie(sshd, "honest")
    desk.is_level_again()


def test_33_a_stall_in_a_packet_ends_with_the_patience(desk: HostileDesk, sshd: Sshd) -> None:
    patient = desk.config.read_text()
    desk.config.write_text(patient.replace("patience_seconds = 60", "patience_seconds = 0.5"))
    lie(sshd, "stall")
    desk.lags("not reachable so far")
    lie(sshd, "honest")
    desk.config.write_text(patient)
    desk.is_level_again()


def test_31_a_changed_host_key(desk: HostileDesk, sshd: Sshd) -> None:
    lie(sshd, "honest")
    (old,) = read_pins([sshd.known_hosts_line]).fingerprints
    kept = [(path, path.read_bytes()) for path in (sshd.host_key, sshd.host_key.with_suffix(".pub"))]
    sshd.stop()
    for path, _ in kept:
        path.unlink()
    make_key(sshd.host_key)
    sshd.start()
    (new,) = read_pins([sshd.known_hosts_line]).fingerprints
    desk.lags(f"pinned {old}, offered {new}")
    sshd.stop()
    for path, data in kept:
        path.write_bytes(data)
    sshd.start()
    desk.is_level_again()


WEAK = {
    "dh group 1": "KexAlgorithms diffie-hellman-group1-sha1",
    "dh group 14, SHA-1": "KexAlgorithms diffie-hellman-group14-sha1",
    "dh exchange, SHA-1": "KexAlgorithms diffie-hellman-group-exchange-sha1",
    "ssh-rsa": "HostKeyAlgorithms ssh-rsa",
    "3des": "Ciphers 3des-cbc",
    "hmac-md5": "Ciphers aes128-ctr\nMACs hmac-md5",
    "hmac-sha1": "Ciphers aes128-ctr\nMACs hmac-sha1-etm@openssh.com,hmac-sha1",
}


@TRANSPORTS
@pytest.mark.parametrize("weak", WEAK.values(), ids=WEAK)
async def test_32_a_server_with_nothing_but_weak_algorithms(
    tmp_path: Path, weak: str, use_system_ssh: bool
) -> None:
    with running_sshd(tmp_path / "weak", extra=weak, key_type="rsa") as server:
        store = SftpStore(server.target(use_system_ssh=use_system_ssh))
        try:
            with pytest.raises(Refused, match="safe enough") as caught:
                await store.open()
        finally:
            await store.close()
    assert "up to date" in caught.value.remedy


# FTP


class LyingFtp(ScriptedFtp):
    """A whole FTP server, where folders are what files imply and nothing is renamed over; it lies as ``how`` says."""

    features: tuple[str, ...] = ("SIZE", "REST STREAM", "MLST type*;size*;")
    how = "honest"

    def on_mlsd(self, session: Session, _: str) -> str:
        lines = [
            f"type={'file;size=' + str(n) if n >= 0 else 'dir'}; {name}" for name, n in self.below(session)
        ]
        if "names" in self.how:
            lines += [f"type=file;size=5; {name}" for name in ODD] + lines
        return self.sent(session, lines)

    def on_list(self, session: Session, _: str) -> str:
        lines = [
            f"{'-' if n >= 0 else 'd'}rw-------    1 0   0   {max(n, 0)} Nov 22 17:49 {name}"
            for name, n in self.below(session)
        ]
        if "names" in self.how:
            lines += [f"-rw-------    1 0   0   5 Nov 22 17:49 {name}" for name in ODD] + lines
        return self.sent(session, lines)

    def below(self, session: Session) -> list[tuple[str, int]]:
        """(name, size; -1: a folder) of what is in the folder of the session."""
        found: dict[str, int] = {}
        for path, data in self.files.items():
            if path.startswith(session.folder + "/"):
                name, _, below = path.removeprefix(session.folder + "/").partition("/")
                found[name] = -1 if below else len(data)
        return list(found.items())

    def sent(self, session: Session, lines: list[str]) -> str:
        if self.how == "endless":
            with session.data() as conn, suppress(OSError):
                while not self.ended.is_set():
                    conn.sendall(b"type=file;size=5; aaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 10_000)
        else:
            session.send("".join(f"{line}\r\n" for line in lines).encode())
        return "226 complete"

    def on_pasv(self, session: Session, _: str) -> str:
        return session.passive("192,0,2,1" if "third host" in self.how else "127,0,0,1")

    def on_stor(self, session: Session, path: str) -> str:
        if self.how != "drops":
            return super().on_stor(session, path)
        session.receive()
        self.files[path] = b""
        return "226 complete"

    def on_rnto(self, session: Session, target: str) -> str:
        if any(path == target or path.startswith(target + "/") for path in self.files):
            return "550 it is there"
        return super().on_rnto(session, target)

    def on_pass(self, session: Session, _: str) -> str:
        if self.how == "text":
            return "530 \x1b]0;owned\x07\x1b[2J " + "no " * 2000
        return "530-no\r\n" + "no " * 400_000 if self.how == "long text" else "230 in"


ODD = ["..", ".", "../escaped", "/etc/passwd", "a/b", "c\0d", "\x1b[2Jx", "UPPER"]


@pytest.fixture(scope="module")
def ftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HostileDesk, LyingFtp]]:
    folder = tmp_path_factory.mktemp("ftp")
    (folder / "password").write_text("a-secret\n")
    with LyingFtp() as server:
        url = f"ftp://somebody@127.0.0.1:{server.port}//root"
        yield HostileDesk(folder, url, ["--password-file", str(folder / "password"), "--insecure"]), server


@pytest.mark.parametrize("command", ["MLSD", "LIST"])
def test_26_34_odd_names_and_a_third_host_do_not_matter(
    ftp: tuple[HostileDesk, LyingFtp], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    desk, server = ftp
    server.how = "names and a third host"
    if command == "LIST":
        monkeypatch.setattr(LyingFtp, "features", ScriptedFtp.features)
    desk.works()
    assert f"{command} " in "".join(f"{line} " for line in server.asked)
    server.how = "honest"


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("endless", "does not end"),
        ("drops", " bytes"),
        ("text", "\\x1b]0;owned"),
        ("long text", "does not end"),
    ],
)
def test_27_30_36_ftp_lies_keep_nobody_from_the_vault(
    ftp: tuple[HostileDesk, LyingFtp], how: str, says: str
) -> None:
    desk, server = ftp
    server.how = how
    desk.lags(says)
    server.how = "honest"
    desk.is_level_again()


def test_31_35_a_changed_certificate_and_a_downgrade(tmp_path: Path) -> None:
    """A tier that was made with TLS; the login goes to nobody else, and never in the clear."""
    with running_ftp("vsftpd", "explicit") as server:
        server.folder_for("tandem")
        (tmp_path / "password").write_text(f"{PASSWORD}\n")
        url = f"ftpes://{USER}@{server.host}:{server.port}/tandem"
        login = ["--password-file", str(tmp_path / "password")]
        old = server.fingerprint
        desk = HostileDesk(tmp_path, url, [*login, "--certificate-fingerprint", f"SHA256:{old}"])
        server.stop()
        good = server.certificate.read_bytes()
        make_certificate(server.certificate)
        with ScriptedFtp(server.certificate, server.port) as other:
            desk.lags(f"SHA256:{server.fingerprint}")
        assert other.asked and {line.split()[0] for line in other.asked} == {"AUTH"}
        for kind in (StripsTls, SpeaksPlain):
            with kind(port=server.port) as stripped:
                desk.lags("offers no TLS")
            assert bytes(stripped.received) == b"AUTH TLS\r\n"
        server.certificate.write_bytes(good)
        server.start()
        desk.is_level_again()


class StripsTls(ScriptedFtp):
    """Somebody in between who says that there is no TLS."""

    def on_auth(self, session: Session, _: str) -> str:
        return "500 AUTH not understood"


class SpeaksPlain(ScriptedFtp):
    """The same, and very welcoming."""

    banner = "220 ready, just log in"

    def on_auth(self, session: Session, _: str) -> str:
        return "431 TLS is not needed here: send USER and PASS"
