"""Data connections of an FTP session: sending, receiving and listing, each block under a deadline.

The server's "226 complete" is not believed here either: callers compare sizes. What is told as sent has been
acknowledged by the other side's system, where this one can tell; else it is told at the end.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable

from ..errors import Corrupt, Refused, Unavailable
from .ftp_errors import ReplyError
from .ftp_link import FtpLink

BLOCK = 256 * 1024
"""Bytes that have the deadline to themselves."""

MAX_LISTING = 64 * 1024 * 1024
"""Bytes of a listing."""

_CUT_LISTING = ("truncated",)

# What a full disk makes vsftpd, ProFTPD and Pure-FTPD say: "451 Failure writing to local file", "451 Transfer
# aborted. Input/output error", "451 Error during write to file".
_CANNOT_WRITE = re.compile(r"input/output error|\bwrit", re.IGNORECASE)


class FtpData:
    """The transfers of one session. After any error but `ReplyError` the session is useless."""

    def __init__(self, link: FtpLink) -> None:
        self._link = link
        self._deadline_s = link.target.deadline_s

    def begin(self, command: str, offset: int = 0) -> socket.socket:
        """A data connection for ``command``, which the server has agreed to; `ReplyError` if it does not."""
        link = self._link
        conn, _ = link.ntransfercmd(command, offset or None)
        try:
            link.keep(conn)
            if link.context is None:
                return conn
            assert isinstance(link.sock, ssl.SSLSocket)
            return link.secured(conn, link.sock.session)
        except ssl.SSLError as error:
            conn.close()
            # A server that does not like the TLS session says so in its reply.
            self._blame(error)
            raise
        except BaseException:
            conn.close()
            raise

    def send(self, conn: socket.socket, data: memoryview, sent: Callable[[int], None]) -> None:
        """All of ``data``, and the server's word that it is complete."""
        done = told = 0
        with conn:
            try:
                for start in range(0, len(data), BLOCK):
                    block = data[start : start + BLOCK]
                    end = time.monotonic() + self._deadline_s
                    while block:
                        conn.settimeout(self._link.left(end))
                        count = conn.send(block)
                        done += count
                        block = block[count:]
                    if (certain := done - _unacknowledged(conn, done)) > told:
                        sent(certain - told)
                        told = certain
                self._farewell(conn)
                # Not closed yet: with bytes of the server unread, that would throw away what is on its way.
                socket.socket.shutdown(conn, socket.SHUT_WR)
            except TimeoutError:
                raise
            except OSError as error:
                self._blame(error)
                raise
            self._end_of_upload()
        if done > told:
            sent(done - told)

    def _end_of_upload(self) -> None:
        try:
            self._link.voidresp()
        except ReplyError as error:
            if error.code == 451 and _CANNOT_WRITE.search(error.text):
                raise ReplyError(452, error.text) from error
            raise

    def receive(
        self, conn: socket.socket, view: memoryview, is_all: bool, came: Callable[[int], None] | None = None
    ) -> int:
        """Bytes received into ``view``, fewer than it takes only if the server sent no more. ``is_all``: the
        object ends there; else the server is cut short. ``came`` is told how many there are, as they come."""
        with conn:
            got = self._fill(conn, view, came)
            if got == len(view) and is_all and self._fill(conn, memoryview(bytearray(1))):
                raise Corrupt(f"{self._link.target.place}: the server sends more than it said is there")
            self._farewell(conn)
        if got == len(view) and not is_all:
            self._after_cut()
        else:
            self._link.voidresp()
        return got

    def _fill(self, conn: socket.socket, view: memoryview, came: Callable[[int], None] | None = None) -> int:
        got = 0
        while got < len(view):
            stop = min(got + BLOCK, len(view))
            end = time.monotonic() + self._deadline_s
            while got < stop:
                conn.settimeout(self._link.left(end))
                # An end without TLS's farewell is an end: the size says whether anything is lacking.
                try:
                    count = conn.recv_into(view[got:stop])
                except ssl.SSLEOFError:
                    count = 0
                if not count:
                    return got
                got += count
                if came is not None:
                    came(got)
        return got

    def _after_cut(self) -> None:
        """Read what the server says to a transfer that was ended from here: mostly 426, seldom 226, and
        Pure-FTPD's statistics come under 150. One that ends the session as well (ProFTPD does, once in
        thousands) has sent what was wanted all the same."""
        try:
            self._link.getresp()
        except ReplyError as error:
            self._link.is_over = error.code == 421
        except (EOFError, OSError):
            self._link.is_over = True

    def listing(self, command: str) -> bytes:
        """The whole answer to MLSD or LIST, ended as it should."""
        data = bytearray()
        with self.begin(command) as conn:
            block_end, in_block = time.monotonic() + self._deadline_s, 0
            while True:
                conn.settimeout(self._link.left(block_end))
                part = conn.recv(BLOCK)
                if not part:
                    break
                data += part
                in_block += len(part)
                if len(data) > MAX_LISTING:
                    raise Corrupt(f"{self._link.target.place}: a listing does not end")
                if in_block >= BLOCK:
                    block_end, in_block = time.monotonic() + self._deadline_s, 0
            self._farewell(conn)
        reply = self._link.voidresp()
        if any(word in reply.lower() for word in _CUT_LISTING):
            raise Refused(
                f"{self._link.target.place}: the server cuts long listings short ({reply[-100:]})",
                "have its limit for listings raised (Pure-FTPD: LimitRecursion)",
            )
        return bytes(data)

    def _farewell(self, conn: socket.socket) -> None:
        """TLS's own end, sent and not waited for: without it OpenSSL would not reuse the session again."""
        if not isinstance(conn, ssl.SSLSocket):
            return
        conn.settimeout(0)
        end = time.monotonic() + self._deadline_s
        while True:
            try:
                conn.unwrap()
            except ssl.SSLWantWriteError:
                select.select([], [conn], [], self._link.left(end))
                continue
            except (OSError, ValueError):
                pass  # ours is sent; whether the other's comes does not matter
            return

    def _blame(self, error: OSError) -> None:
        """Raise why a data connection broke, if the server says so on the control connection."""
        try:
            self._end_of_upload()
        except (OSError, EOFError):
            return
        raise Unavailable(f"{self._link.target.place}: the data connection broke ({error})") from error


def _unacknowledged(conn: socket.socket, done: int) -> int:
    """Bytes that are still here, or on their way; all of ``done`` where the system does not tell."""
    if sys.platform != "linux":
        return done
    import fcntl
    import termios

    try:
        return int(struct.unpack("i", fcntl.ioctl(conn.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    except OSError:
        return done
