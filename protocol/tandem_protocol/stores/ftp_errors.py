"""What FTP replies mean for whoever called: permanent, full, or worth a new session.

Reply codes are coarse and servers differ in them, so some words of the servers' texts count too. What 550
means (not there, not allowed) is not judged here: ftp_folder.py looks first. Texts of servers are cut here and
become printable in `TandemError`.
"""

from __future__ import annotations

import ftplib
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import Corrupt, Full, Refused, TandemError, Unavailable

MAX_TEXT = 300
"""Characters of a server's text that are shown."""

LOGIN = "check the user name, and what password_file or password_command of the tier gives"
PERMISSION = "check the account's rights on that folder of the server"
LOOK_CLOSER = frozenset({450, 451, 501, 550, 553, 554})
"""Codes that may mean "it is not there", "its folder is not there" or "something is there already"."""

_FULL = re.compile(r"no space|disk full|quota|not enough space", re.IGNORECASE)
_DENIED = re.compile(
    r"permission denied|access( is)? denied|not (permitted|allowed)|read-only", re.IGNORECASE
)
_CROWDED = re.compile(r"too many|maximum number|try (again )?later", re.IGNORECASE)


class ReplyError(Exception):
    """A reply 4yz or 5yz. ``text`` is the server's own, without the code."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = text[:MAX_TEXT].strip() or "no reason given"
        super().__init__(f"{code} {self.text}")

    @property
    def denied(self) -> bool:
        """Whether the server says in words that the account may not do that."""
        return _DENIED.search(self.text) is not None


def from_reply(error: ReplyError, doing: str) -> TandemError:
    """The error for a reply. ``doing`` says what was done to what ("read tandem on ftps://…")."""
    text = f"cannot {doing}: {error}"
    if error.code in (452, 552) or (error.code != 421 and _FULL.search(error.text)):
        return Full(
            text,
            "make room on the server (or have the quota raised, or its disk looked at); nothing was lost",
        )
    if error.code in (430, 530, 532):
        return Refused(text, LOGIN)
    if error.code in (500, 502, 504):
        return Refused(text, "this server lacks what a tier needs; choose another")
    # vsftpd refuses a data connection whose TLS session it has forgotten: a new login cures that.
    if error.code < 500 or error.code == 522:
        return Unavailable(text)
    return Refused(text, PERMISSION)


def from_login(error: ReplyError, doing: str) -> TandemError:
    """As `from_reply`, for what a server says until the account is let in."""
    text = f"cannot {doing}: {error}"
    if _CROWDED.search(error.text) or (error.code < 500 and error.code != 430):
        return Unavailable(text)
    return Refused(f"the server refuses the login: {text}", LOGIN)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Whatever goes wrong inside leaves as one of the project's kinds."""
    try:
        yield
    except ReplyError as error:
        raise from_reply(error, doing) from error
    except TimeoutError as error:
        raise Unavailable(f"cannot {doing}: no answer in time") from error
    except EOFError as error:
        raise Unavailable(f"cannot {doing}: the server closed the connection") from error
    except OSError as error:
        raise Unavailable(f"cannot {doing}: {error.strerror or error}") from error
    except ftplib.Error as error:
        raise Corrupt(f"cannot {doing}: the server breaks the protocol: {str(error)[:MAX_TEXT]}") from error
