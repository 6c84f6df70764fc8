"""What is known of parts that cut uploads left in ``tmp/`` of a server, across the sessions of one process.

A part is read back before it is gone on from. Over a link that breaks after so many bytes, reading a long part
back would take all that a session has, each time anew; so what was found right once, and lies safe on the server's
disk as far as that can be had, is not read again. Nothing is known of what only was sent.
"""

from __future__ import annotations

SLICE = 1024 * 1024
"""Bytes read back between two notes."""


class KnownParts:
    """By the part's name, the bytes from its beginning that are right. Used from several threads at once, each with
    parts of its own."""

    def __init__(self) -> None:
        self._good: dict[str, int] = {}

    def good(self, part: str, size: int) -> int:
        """The bytes of a part of ``size`` that need no reading; 0 for a part that is shorter than it was."""
        known = self._good.get(part, 0)
        return known if known <= size else 0

    def note(self, part: str, good: int) -> None:
        self._good[part] = good

    def forget(self, part: str) -> None:
        """The part is gone, or not to be built upon."""
        self._good.pop(part, None)
