"""Debian's real vsftpd, ProFTPD and Pure-FTPD on free ports of loopback, each with users and settings of its own.

They are started as root and serve one folder, as the user daemon, jailed to it; plain, or with TLS demanded
on both connections (and the reuse of its session where the server can demand that). scripts/test-packages
has them. Passwords: vsftpd's come from its list for anonymous logins, since its others need PAM.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.support.requirements import need, require_root
from tests.support.sshd import free_port

from tandem_protocol.stores.ftp_target import FtpTarget

UNPACKED = "/usr/local/lib/tandem-ftp-servers"
KINDS = ("vsftpd", "proftpd", "pureftpd")
USER, PASSWORD = "ftp", "correct-horse"
HASHED = "$5$tandem$.DXaHJyrWZyePaIvv4PHrR6VbMFmThjz12UtWwvOydD"
"""`PASSWORD` as ProFTPD and Pure-FTPD take it."""

_PATIENCE_S = 20


class FtpServer:
    """One running server. ``root`` is what its clients see as ``/``; ``tls`` is "none", "explicit" or
    "implicit" (not Pure-FTPD, which has no such port)."""

    host = "127.0.0.1"
    program = ""

    def __init__(self, folder: Path, tls: str = "none", extra: str = "") -> None:
        require_root()
        self.folder = folder
        self.root = folder / "root"
        self.root.mkdir(parents=True)
        self.tls = tls
        self.extra = extra
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.certificate = folder / "server.pem"
        make_certificate(self.certificate)
        self.owner = pwd.getpwnam("daemon")  # vsftpd wants a home that is there

    def command(self) -> list[str]:
        """Write the settings, and give the command line that serves in the foreground."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.certificate)

    def folder_for(self, name: str) -> Path:
        """A new folder in the root that belongs to the user who serves."""
        path = self.root / name
        path.mkdir()
        self.give(path)
        return path

    def give(self, path: Path) -> None:
        """Hand ``path``, and the folders between it and the root, to the user who serves."""
        while path != self.root:
            os.chown(path, self.owner.pw_uid, self.owner.pw_gid)
            path = path.parent

    def start(self) -> Self:
        self.port = self.port or free_port()
        command = self.command()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + _PATIENCE_S
        while time.monotonic() < end and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex((self.host, self.port)) == 0:
                    return self
            time.sleep(0.01)  # the kernel tells nobody that a port is open now
        self.stop()
        raise AssertionError(f"{self.program} did not start: {(self.folder / 'log').read_text()}")

    def stop(self) -> None:
        """End the listener and, as a crash would, every connection that it serves."""
        process, self.process = self.process, None
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def target(self, path: str | os.PathLike[str] | None = None, **changes: object) -> FtpTarget:
        """How a store reaches ``path``, which is given as this machine sees it (else the root)."""
        inside = "/" + os.path.relpath(path, self.root) if path else "/"
        values: dict[str, object] = {
            "host": self.host,
            "port": self.port,
            "user": USER,
            "password": PASSWORD,
            "path": inside,
            "tls": self.tls,
            "deadline_s": 20.0,
        }
        if self.tls != "none":
            values["certificate_fingerprint"] = self.fingerprint
        return FtpTarget(**(values | changes))  # type: ignore[arg-type]  # the tests' own keywords


class Vsftpd(FtpServer):
    program = "vsftpd"

    def command(self) -> list[str]:
        passwords = self.folder / "passwords"
        passwords.write_text(f"{PASSWORD}\n")
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        settings = f"""listen=YES
listen_address={self.host}
listen_port={self.port}
background=NO
anonymous_enable=YES
anon_root={self.root}
ftp_username={self.owner.pw_name}
secure_email_list_enable=YES
email_password_file={passwords}
write_enable=YES
anon_upload_enable=YES
anon_mkdir_write_enable=YES
anon_other_write_enable=YES
anon_world_readable_only=NO
secure_chroot_dir={empty}
seccomp_sandbox=NO
use_localtime=NO
delay_failed_login=0
"""
        if self.tls != "none":
            settings += f"""ssl_enable=YES
allow_anon_ssl=YES
force_anon_logins_ssl=YES
force_anon_data_ssl=YES
ssl_tlsv1=YES
ssl_ciphers=HIGH
require_ssl_reuse=YES
implicit_ssl={"YES" if self.tls == "implicit" else "NO"}
rsa_cert_file={self.certificate}
rsa_private_key_file={self.certificate}
"""
        config = self.folder / "vsftpd.conf"
        config.write_text(settings + self.extra)
        return [find_server("vsftpd"), str(config)]


class Proftpd(FtpServer):
    program = "proftpd"

    def command(self) -> list[str]:
        users = self.folder / "users"
        users.write_text(
            f"{USER}:{HASHED}:{self.owner.pw_uid}:{self.owner.pw_gid}:test:{self.root}:/bin/false\n"
        )
        users.chmod(0o600)
        program = find_server("proftpd")
        settings = f"""ServerType standalone
DefaultAddress {self.host}
Port {self.port}
ModulePath {program.removesuffix("sbin/proftpd")}lib/proftpd
LoadModule mod_tls.c
User {self.owner.pw_name}
Group nogroup
AuthOrder mod_auth_file.c
AuthUserFile {users}
RequireValidShell off
DefaultRoot ~
UseIPv6 off
UseReverseDNS off
WtmpLog off
TransferLog none
DelayTable none
MaxInstances none
PidFile {self.folder}/pid
ScoreboardFile {self.folder}/scoreboard
"""
        if self.tls != "none":
            settings += f"""<IfModule mod_tls.c>
TLSEngine on
TLSRequired on
TLSLog {self.folder}/tls.log
TLSECCertificateFile {self.certificate}
TLSECCertificateKeyFile {self.certificate}
{"TLSOptions UseImplicitSSL" if self.tls == "implicit" else ""}
</IfModule>
"""
        if "AllowOverwrite" not in self.extra:  # of two such lines the first would hold
            settings += "AllowOverwrite on\nAllowStoreRestart on\n"
        config = self.folder / "proftpd.conf"
        config.write_text(settings + self.extra)
        return [program, "-n", "-q", "-c", str(config)]


class Pureftpd(FtpServer):
    program = "pure-ftpd"

    def command(self) -> list[str]:
        users = self.folder / "users"
        # Written by hand: pure-pw itself would make a hash that takes a second of every login.
        ids = f"{self.owner.pw_uid}:{self.owner.pw_gid}"
        users.write_text(f"{USER}:{HASHED}:{ids}::{self.root}/./{':' * 12}\n")
        make = [find_server("pure-pw", "bin"), "mkdb", f"{users}.pdb", "-f", str(users)]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        command = [find_server("pure-ftpd"), "-S", f"{self.host},{self.port}", "-l", f"puredb:{users}.pdb"]
        # Jailed, no anonymous logins, no name look-ups, IPv4, users from 1 on, up to 200 sessions.
        command += ["-A", "-E", "-H", "-4", "-u", "1", "-C", "200", "-c", "200", "-g", f"{self.folder}/pid"]
        if self.tls != "none":
            command += ["-Y", "3", "-2", str(self.certificate)]
        return command + self.extra.split()


@contextmanager
def running_ftp(kind: str, tls: str = "none", extra: str = "") -> Iterator[FtpServer]:
    """A started server of ``kind``, stopped at the end whatever happened. ``extra``: more settings (Pure-FTPD:
    arguments). Its folder is not below pytest's, which other users may not enter."""
    classes = {"vsftpd": Vsftpd, "proftpd": Proftpd, "pureftpd": Pureftpd}
    with tempfile.TemporaryDirectory(prefix="tandem-ftp-") as folder:
        os.chmod(folder, 0o755)
        server = classes[kind](Path(folder), tls, extra)
        try:
            yield server.start()
        finally:
            server.stop()


def find_server(name: str, folder: str = "sbin") -> str:
    """The path of a server's program: installed, or unpacked by scripts/test-packages."""
    path = _where(name, folder)
    need(None if path else f"{name} is not installed")
    assert path is not None
    return path


def find_missing(name: str) -> str | None:
    """What is missing here for a server of this program, or None."""
    if os.geteuid() != 0:
        return f"{name} is started as root"
    return None if _where(name, "sbin") else f"{name} is not installed"


def _where(name: str, folder: str) -> str | None:
    return shutil.which(name, path=f"{UNPACKED}/usr/{folder}:/usr/{folder}:/usr/local/{folder}")


def make_certificate(path: Path, host: str = "127.0.0.1") -> None:
    """A self-signed certificate for ``host``, good for a day, and its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    path.touch(0o600)
    path.write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))


def fingerprint(path: Path) -> str:
    """SHA-256 of the certificate in a PEM file, as a target takes it."""
    text = path.read_text()
    der = ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE") :])
    return hashlib.sha256(der).hexdigest()
