"""Where an FTP server is, how to log in there, and what its TLS certificate has to be.

A certificate is judged by the system's authorities, by those of one file, or by its own fingerprint; in the
last case neither its name nor its dates matter. It is judged before a user name or password is sent.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
import ssl
from dataclasses import dataclass, field
from typing import Literal

from ..errors import Refused, Usage

Tls = Literal["explicit", "implicit", "none"]
SCHEMES: dict[Tls, tuple[str, int]] = {
    "explicit": ("ftpes", 21),
    "implicit": ("ftps", 990),
    "none": ("ftp", 21),
}
PIN = (
    "compare the fingerprint with what the server's keeper says; if it is right, set certificate_fingerprint "
    "of the tier to it"
)
_HOST = re.compile(r"[A-Za-z0-9_.:%-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FtpTarget:
    """Where a server is and how to log in. ``path`` is absolute, or relative to the login folder.

    ``tls`` "explicit" begins plain and demands AUTH TLS before the login; "implicit" is TLS from the first
    byte; "none" sends all in the clear. At most one of ``ca_file`` (PEM) and ``certificate_fingerprint``
    (SHA-256 of the certificate, 64 lower-case hex digits); without both the system's authorities judge.
    ``deadline_s`` is how long a reply, or the next 256 KiB of a transfer, may take.
    """

    host: str
    port: int = 0
    user: str = "anonymous"
    password: str | None = field(default=None, repr=False)
    path: str = ""
    tls: Tls = "explicit"
    ca_file: str | None = None
    certificate_fingerprint: str | None = None
    deadline_s: float = 60.0

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise Usage(f"{self.host!r} cannot be the host of an FTP address")
        # A line break would be a command of its own.
        for what, value in (
            ("user name", self.user),
            ("folder", self.path),
            ("password", self.password or ""),
        ):
            if _CONTROL.search(value):
                raise Usage(f"the {what} for the FTP server {self.host} has characters that FTP cannot send")
        if not self.port:
            object.__setattr__(self, "port", SCHEMES[self.tls][1])
        if self.certificate_fingerprint is not None:
            if self.ca_file is not None:
                raise Usage("both ca_file and certificate_fingerprint", "keep one of them")
            if not _FINGERPRINT.fullmatch(self.certificate_fingerprint):
                raise Usage("a certificate fingerprint is 64 hex digits in lower case")

    @property
    def place(self) -> str:
        """The address for messages; no secrets. An absolute path follows two slashes."""
        scheme, usual = SCHEMES[self.tls]
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{self.user}@{host}{'' if self.port == usual else f':{self.port}'}/{self.path}"

    @property
    def server(self) -> str:
        return f"{self.host}, port {self.port}"


def fingerprint_of(certificate: bytes) -> str:
    """The fingerprint of a certificate in DER, as it is shown."""
    return "SHA256:" + hashlib.sha256(certificate).hexdigest()


def make_context(target: FtpTarget) -> ssl.SSLContext:
    """The TLS settings for every connection of one session; TLS 1.2 at least."""
    if target.certificate_fingerprint is not None:
        return _blind_context()  # `check_certificate` compares what this one does not look at
    try:
        context = ssl.create_default_context(cafile=target.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise Refused(
            f"ca_file {target.ca_file} cannot be used ({error})", "name a file with certificates in PEM form"
        ) from error
    context.sslsocket_class = _Socket
    return context


class _Socket(ssl.SSLSocket):
    """Closes itself when it is told of a reset: a constructor that is told leaves it open, and nobody has it then."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except ConnectionResetError:
            self.close()
            raise


def _blind_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = _Socket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def check_certificate(target: FtpTarget, sock: ssl.SSLSocket) -> None:
    """`Refused` if a fingerprint is pinned and the server behind ``sock`` shows another certificate."""
    if target.certificate_fingerprint is None:
        return
    shown = fingerprint_of(sock.getpeercert(binary_form=True) or b"")
    if not hmac.compare_digest(shown, f"SHA256:{target.certificate_fingerprint}"):
        raise Refused(
            f"the certificate of {target.server} is not the pinned one: pinned "
            f"SHA256:{target.certificate_fingerprint}, offered {shown}",
            "if its keeper really renewed it, compare with what they say and pin the new one; otherwise "
            "somebody may be reading along: do not connect",
        )


def refused_certificate(target: FtpTarget, error: ssl.SSLCertVerificationError, shown: str) -> Refused:
    """What to say of a certificate that the authorities do not vouch for. ``shown``: its fingerprint."""
    reason = error.verify_message or "it cannot be verified"
    return Refused(f"the certificate of {target.server} is not trusted: {reason}; it shows {shown}", PIN)


def blind_handshake(sock: socket.socket) -> str:
    """The fingerprint of what a server shows to anybody, over a connection that is used for nothing else."""
    with _blind_context().wrap_socket(sock) as wrapped:
        return fingerprint_of(wrapped.getpeercert(binary_form=True) or b"")
