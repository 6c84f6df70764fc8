"""One session with an FTP server: the control connection, its TLS, the login, and single commands.

ftplib of the standard library speaks the protocol; what it lacks is here: a deadline for every whole reply,
caps on what a server may say, the TLS session of the control connection reused for data (vsftpd and ProFTPD
demand that), certificates pinned by fingerprint, implicit TLS, and being cut from another thread. Data
connections go only to the host of the control connection, whatever a PASV reply says (ftplib's own rule).
Moving data is ftp_data.py's.
"""

from __future__ import annotations

import ftplib
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

from ..errors import Corrupt, Refused, Unavailable
from .ftp_errors import ReplyError, from_login, translated
from .ftp_target import FtpTarget, blind_handshake, check_certificate, make_context, refused_certificate

CONNECT_S = 20.0
MAX_LINE = 8192
"""Bytes of the longest line of a reply."""

MAX_REPLY = 64 * 1024
"""Bytes of a whole reply: banners and FEAT have many lines."""

_AHEAD = 64
"""Commands sent before the first of their replies is read; their replies fit into any socket's buffer."""

_NO_COMMON_TLS = {
    "WRONG_VERSION_NUMBER",
    "UNSUPPORTED_PROTOCOL",
    "NO_PROTOCOLS_AVAILABLE",
    "SSLV3_ALERT_HANDSHAKE_FAILURE",
    "TLSV1_ALERT_PROTOCOL_VERSION",
}
_CODE = re.compile(r"[1-5][0-9][0-9](?:[ -]|$)")


class FtpLink(ftplib.FTP):
    """A connection that is made, secured and logged in by `start`. Blocking; one thread, but for `cut`."""

    def __init__(self, target: FtpTarget) -> None:
        super().__init__(timeout=min(CONNECT_S, target.deadline_s), encoding="utf-8")
        self.target = target
        self.context = None if target.tls == "none" else make_context(target)
        self.features: frozenset[str] = frozenset()
        self.is_over = False
        """Whether the server has ended the session, or left it in doubt, after a verb that was carried out."""
        self._input = bytearray()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._is_cut = False

    def start(self) -> None:
        """Connect and log in; raises only the project's errors."""
        doing = f"connect to {self.target.place}"
        with translated(doing):
            self.host, self.port = self.target.host, self.target.port
            sock = socket.create_connection((self.host, self.port), self.timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self.sock, self.af = self.keep(sock), sock.family
            if self.target.tls == "implicit":
                self.sock = self.secured(sock)
            try:
                self.welcome = self.voidresp()
                if self.target.tls == "explicit":
                    self._demand_tls()
                self.login(self.target.user, self.target.password or "")
            except ReplyError as error:
                raise from_login(error, doing) from error
            if self.context is not None:
                self._demand_private_data()
            self.voidcmd("TYPE I")
            self.features = self._ask_features()

    def _demand_tls(self) -> None:
        try:
            self.voidcmd("AUTH TLS")
        except ReplyError as error:
            if error.code == 421:
                raise
            raise Refused(
                f"{self.target.server}, offers no TLS ({error}); no password was sent",
                "have TLS turned on at the server; if it was on yesterday, somebody may be in between",
            ) from error
        if self._input:
            raise Corrupt(f"{self.target.server}, sent more in the clear after agreeing to TLS")
        assert self.sock is not None
        self.sock = self.secured(self.sock)

    def _demand_private_data(self) -> None:
        try:
            self.voidcmd("PBSZ 0")
            self.voidcmd("PROT P")
        except ReplyError as error:
            raise Refused(
                f"{self.target.server}, does not encrypt data connections ({error})",
                "have that turned on at the server",
            ) from error

    def _ask_features(self) -> frozenset[str]:
        try:
            lines = self.sendcmd("FEAT").splitlines()
        except ReplyError as error:
            if error.code < 500:
                raise
            return frozenset()
        return frozenset(line.split()[0].upper() for line in lines if line.startswith(" ") and line.strip())

    def secured(self, sock: socket.socket, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
        """``sock`` in TLS, the server's certificate approved; ``session`` is offered for reuse."""
        assert self.context is not None
        try:
            sock.settimeout(self.timeout)
            wrapped = self.context.wrap_socket(
                sock,
                server_hostname=self.host,
                session=session,
                do_handshake_on_connect=False,  # it has to be known to `cut` first
                suppress_ragged_eofs=False,  # an end without TLS's own farewell may be somebody else's doing
            )
            self.keep(wrapped)
            wrapped.do_handshake()
        except ssl.SSLCertVerificationError as error:
            raise refused_certificate(self.target, error, self._offered_fingerprint()) from error
        except ssl.SSLError as error:
            if error.reason in _NO_COMMON_TLS:
                raise Refused(
                    f"no safe TLS with {self.target.server} ({error.reason})",
                    "check the port, and whether the server wants ftpes:// or ftps://; TLS 1.2 is the least",
                ) from error
            raise
        check_certificate(self.target, wrapped)
        return wrapped

    def _offered_fingerprint(self) -> str:
        """What the server shows to anybody, for a message."""
        try:
            with socket.create_connection((self.host, self.port), self.timeout) as sock:
                if self.target.tls == "explicit":
                    file = sock.makefile("rb")
                    _skip_reply(file.readline)
                    sock.sendall(b"AUTH TLS\r\n")
                    _skip_reply(file.readline)
                return blind_handshake(sock)
        except (OSError, EOFError):
            return "a certificate that could not be asked for again"

    def keep(self, sock: socket.socket) -> socket.socket:
        """Have `cut` end ``sock`` too."""
        with self._lock:
            if self._is_cut:
                sock.close()
                raise Unavailable(f"{self.target.place}: the connection was given up")
            self._sockets = [known for known in self._sockets if known.fileno() >= 0]
            self._sockets.append(sock)
        return sock

    def cut(self) -> None:
        """Cut every connection, from any thread; whatever waits on one ends now."""
        with self._lock:
            self._is_cut = True
            for sock in self._sockets:
                with suppress(OSError):
                    # Not SSLSocket's own method, which would let the other thread go on in the clear.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Release everything; the server notices."""
        with self._lock:
            for sock in self._sockets:
                with suppress(OSError):
                    sock.close()
            self._sockets.clear()
        self.sock = None

    def left(self, end: float) -> float:
        """Seconds until ``end``, for a socket's timeout; `TimeoutError` if there are none."""
        seconds = end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds

    def putline(self, line: str) -> None:
        if "\r" in line or "\n" in line:
            raise Corrupt("a line break in an FTP command")
        if self.sock is None:
            raise EOFError
        self.sock.settimeout(self.target.deadline_s)
        self.sock.sendall(line.encode("utf-8", "surrogateescape") + b"\r\n")

    def getmultiline(self) -> str:
        """A whole reply, within the deadline and the caps."""
        end = time.monotonic() + self.target.deadline_s
        lines = [self._line(end)]
        size = len(lines[0])
        if not _CODE.match(lines[0]):
            raise Corrupt(f"{self.target.place}: not a reply of FTP: {lines[0][:100]}")
        last = lines[0][:3]
        while lines[0][3:4] == "-" and not (lines[-1][:3] == last and lines[-1][3:4] != "-"):
            lines.append(self._line(end))
            size += len(lines[-1]) + 1
            if size > MAX_REPLY:
                raise Corrupt(f"{self.target.place}: a reply of the server does not end")
        return "\n".join(lines)

    def _line(self, end: float) -> str:
        while (at := self._input.find(b"\n", 0, MAX_LINE + 1)) < 0:
            if len(self._input) > MAX_LINE:
                raise Corrupt(f"{self.target.place}: a line of the server does not end")
            if self.sock is None:
                raise EOFError
            self.sock.settimeout(self.left(end))
            part = self.sock.recv(MAX_LINE)
            if not part:
                raise EOFError
            self._input += part
        line = bytes(self._input[:at])
        del self._input[: at + 1]
        return line.rstrip(b"\r").decode("utf-8", "surrogateescape")

    def getresp(self) -> str:
        """A reply 1yz to 3yz; any other is raised as `ReplyError`."""
        reply = self.getmultiline()
        self.lastresp = reply[:3]
        if reply[0] in "45":
            raise ReplyError(int(reply[:3]), reply[4:])
        return reply

    def answers(self, commands: Iterable[str]) -> list[str | ReplyError]:
        """The replies to commands that do not depend on each other, in few round trips."""
        waiting = list(commands)
        replies: list[str | ReplyError] = []
        for start in range(0, len(waiting), _AHEAD):
            batch = waiting[start : start + _AHEAD]
            for command in batch:
                self.putcmd(command)
            for _ in batch:
                try:
                    replies.append(self.getresp())
                except ReplyError as error:
                    replies.append(error)
        return replies


def _skip_reply(readline: object) -> None:
    """Read over one reply on a connection that is only made to look at a certificate."""
    assert callable(readline)
    for _ in range(100):
        line = readline(MAX_LINE)
        if not line:
            raise EOFError
        if line[3:4] == b" ":
            return
    raise EOFError
