"""What the scanner tells the tree builder, in depth-first order, and the content that is still under way.

For each folder: `Enter`, then for each stretch of its names the events of the subfolders in it followed by
one `Segment`, then `Leave`. Plain data; no thread is started here.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tandem_agent.engine.filescache import Row


class Pending:
    """The chunk ids of a large file whose chunks other threads are naming.

    The scanner adds parts and then calls `close`; a worker fills ``ids`` and calls `done` for each part.
    """

    __slots__ = ("_finished", "_left", "_lock", "ids")

    def __init__(self) -> None:
        self.ids: list[bytes] = []
        self._left = 1
        self._lock = threading.Lock()
        self._finished = threading.Event()

    def add(self) -> int:
        """Announce a chunk; gives its position in ``ids``."""
        self.ids.append(b"")
        with self._lock:
            self._left += 1
        return len(self.ids) - 1

    def done(self) -> None:
        """A chunk has its id."""
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._finished.set()

    close = done
    """The scanner has announced the last chunk."""

    def ready(self) -> bool:
        """Whether all ids are there."""
        return self._finished.is_set()

    def wait(self, seconds: float) -> bool:
        """Whether all ids are there, after at most ``seconds``."""
        return self._finished.wait(seconds)


Draft = tuple[int, bytes, int, int, int, int, int, int, "bytes | Pending | None", "dict[str, Any] | None"]
"""A tree entry whose content may still be `Pending`, or None: then it is a folder and takes the content of
the next subfolder that was left."""


@dataclass(frozen=True, slots=True)
class Enter:
    """A folder begins. ``path`` is absolute. ``reusable`` is False for folders that are only partly looked
    at (parents of sources): nothing is kept of those. ``device`` is its st_dev, ``rows`` are the
    pages that the files cache has of it."""

    path: bytes
    device: int
    reusable: bool
    rows: Sequence[Row] = ()


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the folder's names, in order. Either ``entries`` with the numbers of ``stats``
    (`seen.STAT_FIELDS` each), or ``row``: a page of the last backup of which all names and stat fields are
    the same, with ``folders`` subfolders. An entry of None could not be read. ``pending``: contents that
    entries wait for."""

    entries: list[Draft | None]
    stats: list[int]
    row: Row | None
    folders: int
    pending: list[Pending]


@dataclass(frozen=True, slots=True)
class Leave:
    """The folder is complete. ``gone``: it vanished or was swapped, and is not to be recorded."""

    gone: bool


@dataclass(frozen=True, slots=True)
class Removed:
    """The last backup had a folder at ``path``, which is not there any more."""

    path: bytes


Event = Enter | Segment | Leave | Removed
