"""The errors of Tandem: one root and few kinds, told apart by what the caller does next.

Each carries one line for people: what happened, to what, and (``remedy``) what to do. Texts that came
from a server or a file name are made printable here, once, so no terminal escape reaches a screen.
This module knows nothing of exit codes beyond the contract number each kind maps to (README.md, Exit codes).
"""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` with every character that could move a cursor or hide something written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class TandemError(Exception):
    """Root of all expected errors. ``exit_code`` is the contract number of the command line."""

    exit_code = 1

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what = printable(what)
        self.remedy = printable(remedy)
        super().__init__(f"{self.what}: {self.remedy}" if remedy else self.what)


class Unavailable(TandemError):
    """A transient fault of a link or a store. Retrying with a new session may help."""


class Absent(Unavailable):
    """The place itself is not there: a disk not plugged in, a share not mounted. It comes back by somebody's
    hand, not within seconds, so nobody retries; the next contact sees it."""


class NoTierReachable(TandemError):
    """No tier could be reached within the time given."""

    exit_code = 5


class Missing(TandemError):
    """The named thing is not there. Read it from another tier."""


class Exists(TandemError):
    """An exclusive creation lost: the name is already there. Read it to learn whose it is."""


class Corrupt(TandemError):
    """Bytes that do not decode, verify, or keep their caps. Read them from another tier."""

    exit_code = 6


class Unreadable(Corrupt):
    """A store that answers cannot read this one thing: a bad block of its disk."""


class Refused(TandemError):
    """A permanent refusal (credentials, host key, permission). Retrying cannot help; the remedy may."""


class Full(Refused):
    """No space, no inodes or no quota left. Retrying cannot help until somebody makes room."""


class Unsupported(TandemError):
    """Written by a newer or unknown program. Upgrade; nothing was touched."""


class Usage(TandemError):
    """Wrong usage or configuration."""

    exit_code = 2


class SecondInstallation(TandemError):
    """Another installation writes to this repository. End without writing or deleting anything."""

    exit_code = 4


class Busy(TandemError):
    """Another Tandem process is at work on the same state."""

    exit_code = 7
