"""Collects what could not be backed up, as lines for people. From any thread; no printing here."""

from __future__ import annotations

import errno
import os

from tandem_protocol.errors import printable

MAX_LINES = 1000

_REASONS = {
    errno.ENOENT: "vanished while it was being backed up",
    errno.ELOOP: "was replaced by a symlink while it was being backed up",
    errno.ENXIO: "was replaced by a special file while it was being backed up",
    errno.ENOTDIR: "was replaced by something that is not a folder while it was being backed up",
}


def show(path: bytes) -> str:
    """A path for people: no terminal escape, nothing lost."""
    return printable(path.decode("utf-8", "backslashreplace"))


class Warnings:
    """At most `MAX_LINES` lines and a count of the rest, so that memory stays bounded."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self.count = 0

    def add(self, path: bytes, reason: str) -> None:
        self.count += 1
        if len(self._lines) < MAX_LINES:
            self._lines.append(f"{show(path)}: {reason}")

    def add_error(self, path: bytes, error: OSError) -> None:
        """What the system said about ``path``."""
        number = error.errno or 0
        self.add(path, _REASONS.get(number) or f"could not be read: {os.strerror(number)}")

    def lines(self) -> list[str]:
        """The lines, with one more that counts what is not there."""
        rest = self.count - len(self._lines)
        return [*self._lines, f"and {rest} more warnings"] if rest else list(self._lines)
