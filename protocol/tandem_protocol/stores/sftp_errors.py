"""What SFTP statuses and the words of ``ssh`` mean for whoever called: permanent, full, or worth a retry.

Pure: codes and texts in, the project's errors out. Texts of servers become printable in `TandemError`.
"""

from __future__ import annotations

import re

from ..errors import Full, Missing, Refused, TandemError, Unavailable
from .sftp_codes import EOF, FAILURE, NO_SUCH_FILE, OP_UNSUPPORTED, PERMISSION_DENIED

_MEANINGS = {
    EOF: "End of file",
    NO_SUCH_FILE: "No such file",
    PERMISSION_DENIED: "Permission denied",
    FAILURE: "Failure",
    OP_UNSUPPORTED: "Operation unsupported",
}

MAX_TEXT = 300
"""Characters of a server's text that are shown."""

_FULL_WORDS = re.compile(r"no space|disk full|quota|not enough space", re.IGNORECASE)
_PERMISSION = "check the account's rights on that folder of the server"

LOGIN = "check the user name, and that the server knows this key (or give the right key file or password)"
_SSH_SAYS: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern), what, remedy)
    for pattern, what, remedy in (
        (r"UNPROTECTED PRIVATE KEY FILE", "the key file may be read by others", "chmod 600 the key file"),
        (r"Permission denied \(|Too many authentication failures", "the server refuses the login", LOGIN),
        (r"subsystem request failed", "the server offers no SFTP", "have SFTP turned on for this account"),
        (r"Unable to negotiate|no matching (host key|cipher|key exchange|MAC)",
         "the server offers no algorithm that is safe enough", "have the server's SSH brought up to date"),
        (r"Bad configuration option|Bad owner or permissions on|terminating, \d+ bad configuration",
         "the SSH configuration of this machine is not usable", "correct ~/.ssh/config"),
    )
)  # fmt: skip
_OFFERED = re.compile(r"The fingerprint for the (\S+) key sent by the remote host is\s+(SHA256:\S+?)\.?\s")
HOST_KEY_FAILED = re.compile(
    r"REMOTE HOST IDENTIFICATION HAS CHANGED|Host key verification failed|host key is known for"
)


class StatusError(Exception):
    """A server's answer that is not OK. ``code`` is the SFTP status, ``text`` the server's own words."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = text[:MAX_TEXT] or _MEANINGS.get(code, f"status {code}")
        super().__init__(self.text)


class NotSyncedError(StatusError):
    """What was asked for was done, but the fsync behind it was refused."""


def from_status(error: StatusError, doing: str) -> TandemError:
    """The error for a status whose cause is plain. A bare "Failure" is `Unavailable` here; whoever can
    ask the server more (free space, is the name taken) does that first."""
    text = f"cannot {doing}: {error.text}"
    if error.code == NO_SUCH_FILE:
        return Missing(text)
    if error.code == PERMISSION_DENIED:
        return Refused(text, _PERMISSION)
    if error.code == OP_UNSUPPORTED:
        return Refused(text, "this server lacks what a tier needs; choose another")
    if _FULL_WORDS.search(error.text):
        return full(text)
    return Unavailable(text)


def full(text: str) -> Full:
    return Full(text, "make room on the server or have the quota raised; nothing was lost")


def offered_fingerprint(stderr: str) -> str | None:
    """The fingerprint, with its type, that ``ssh`` says a server showed."""
    found = _OFFERED.search(stderr)
    return f"{found.group(2)} ({found.group(1)})" if found else None


def from_ssh(stderr: str, place: str, code: int | None) -> TandemError:
    """The error for an ``ssh`` that ended with exit code ``code``, by what it said (in English, LC_ALL=C).
    Host keys are judged before, by whoever knows the pins."""
    for pattern, what, remedy in _SSH_SAYS:
        if pattern.search(stderr):
            return Refused(f"{place}: {what}: {_last_line(stderr)}", remedy)
    said = _last_line(stderr) or ("the connection ended" if code is None else f"ssh ended with code {code}")
    return Unavailable(f"{place}: {said}")


def _last_line(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1][:MAX_TEXT] if lines else ""
