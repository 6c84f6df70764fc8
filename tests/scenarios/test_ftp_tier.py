"""FTP with TLS as a tier, through the real commands (issue 4: "FTP and FTPS as tiers, against real vsftpd, ProFTPD
and Pure-FTPD"; trust.md 31, 35): a folder and an ftpes:// place, made, backed up to, and restored from alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.desk import Desk
from tests.support.ftpservers import PASSWORD, USER, FtpServer, running_ftp


@pytest.fixture
def server() -> Iterator[FtpServer]:
    with running_ftp("vsftpd", "explicit") as started:
        started.folder_for("tandem")
        yield started


class FtpDesk:
    """A desk with a vault in a folder and a remote place on ``server``; how to log in there."""

    def __init__(self, folder: Path, server: FtpServer) -> None:
        self.url = f"ftpes://{USER}@{server.host}:{server.port}/tandem"
        self.desk = Desk(folder, {"vault": str(folder / "vault"), "remote": self.url})
        (folder / "password").write_text(f"{PASSWORD}\n")
        self.login = ["--password-file", str(folder / "password")]
        self.pinned = [*self.login, "--certificate-fingerprint", f"SHA256:{server.fingerprint}"]


def test_a_backup_restores_from_the_ftp_place_alone(tmp_path: Path, server: FtpServer) -> None:
    ftp = FtpDesk(tmp_path, server)
    desk = ftp.desk
    desk.init(*ftp.pinned)
    assert PASSWORD not in desk.config.read_text()
    assert server.fingerprint in desk.config.read_text()
    desk.must("backup")
    desk.fill(desk.source, seed=8)
    desk.must("backup")
    (tmp_path / "vault").rename(tmp_path / "gone")
    desk.same("--from", ftp.url, *ftp.pinned)
    desk.same("--tier", "remote")
    (tmp_path / "gone").rename(tmp_path / "vault")
    server.stop()
    desk.fill(desk.source, seed=9)
    desk.must("backup")
    server.start()
    desk.must("sync")
    desk.same("--from", ftp.url, *ftp.pinned)


def test_a_certificate_that_nobody_vouches_for_is_one_clear_line(tmp_path: Path, server: FtpServer) -> None:
    ftp = FtpDesk(tmp_path, server)
    words = ["init", str(ftp.desk.source), "--state-dir", str(ftp.desk.state), "--tier", f"remote={ftp.url}"]
    line = ftp.desk.fails(1, *words, *ftp.login, says=f"SHA256:{server.fingerprint}")
    assert "certificate_fingerprint" in line
    assert "self-signed" in line
    other = ["--certificate-fingerprint", "SHA256:" + "ab" * 32]
    ftp.desk.fails(1, *words, *ftp.login, *other, says="is not the pinned one")
    assert not list(server.root.joinpath("tandem").iterdir())
    (tmp_path / "wrong").write_text("not-this\n")
    wrong = ["--password-file", str(tmp_path / "wrong"), *ftp.pinned[2:]]
    assert "not-this" not in ftp.desk.fails(1, *words, *wrong, says="refuses the login")


def test_plain_ftp_only_by_name_and_on_purpose(tmp_path: Path) -> None:
    with running_ftp("proftpd") as server:
        server.folder_for("tandem")
        url = f"ftp://{USER}@{server.host}:{server.port}/tandem"
        desk = Desk(tmp_path, {"remote": url})
        (tmp_path / "password").write_text(f"{PASSWORD}\n")
        login = ["--password-file", str(tmp_path / "password")]
        words = ["init", str(desk.source), "--state-dir", str(desk.state), *login]
        desk.fails(2, *words, "--tier", f"remote={url}", says="for all to read")
        desk.fails(1, *words, "--tier", f"remote={url.replace('ftp:', 'ftpes:')}", says="offers no TLS")
        desk.init(*login, "--insecure")
        desk.must("backup")
        desk.fails(2, "backups", "--from", url, *login, says="for all to read")
        desk.same("--from", url, *login, "--insecure")
