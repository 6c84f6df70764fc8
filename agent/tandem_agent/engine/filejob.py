"""What a restore has to do for each file: what is written, where its pieces go, what came of it.

Data only; who writes is in writer.py.
"""

from __future__ import annotations

import bisect
import itertools
import threading
from dataclasses import dataclass, field

from tandem_agent.engine.metadata import Spot
from tandem_agent.engine.partfile import PartFile
from tandem_agent.engine.plan import FrameUse
from tandem_agent.engine.treewalk import join
from tandem_protocol.tree import Entry

# Why a file did not come to be.
DAMAGED, AWAY, FAILED = "damaged", "away", "failed"


class FileJob:
    """A regular file on its way. ``missing`` counts pieces not written yet; ``lost`` says why it will not
    be (one of the reasons above); ``writing`` counts threads that write into ``large``."""

    __slots__ = (
        "done",
        "entry",
        "extents",
        "identity",
        "large",
        "lock",
        "lost",
        "missing",
        "owner",
        "planned",
        "spot",
        "starts",
        "temporary",
        "writing",
    )

    def __init__(self, spot: Spot, entry: Entry, owner: tuple[int, int]) -> None:
        self.spot, self.entry, self.owner = spot, entry, owner
        self.missing = 0
        self.planned = False
        self.lost = ""
        self.done = False
        self.temporary = b""
        self.identity = (0, 0)
        self.lock: threading.Lock | None = None
        self.large: PartFile | None = None
        self.writing = 0
        extents = (entry[9] or {}).get("s")
        self.extents: tuple[tuple[int, int], ...] | None = extents
        self.starts: tuple[int, ...] = ()
        if extents is not None:
            self.starts = tuple(itertools.accumulate((length for _, length in extents), initial=0))

    @property
    def path(self) -> bytes:
        return join(self.spot.path, self.entry[1])

    @property
    def content_length(self) -> int:
        """Bytes that the file's blobs have together: its size, or the data of a sparse one."""
        return self.entry[7] if self.extents is None else self.starts[-1]

    def let_go(self) -> None:
        """Close the file unless a thread still writes into it; who writes last lets go of a lost one."""
        if self.large is not None and not self.writing:
            self.large.close()
            self.large = None


@dataclass(slots=True)
class Piece:
    """A blob of a file: where it is in the raw frame, and where it goes in the content (``position``).
    ``whole``: it is all of a file that has no holes."""

    job: FileJob
    content_id: bytes
    offset: int
    length: int
    position: int
    whole: bool


@dataclass(slots=True)
class Outcome:
    """What a worker did: pieces that were not good in these bytes, and what was completed."""

    failed: list[FrameUse[Piece]] = field(default_factory=list)
    files: int = 0
    bytes: int = 0


def placed(job: FileJob, position: int, blob: memoryview) -> list[tuple[int, memoryview]]:
    """Where the parts of a piece go: in a sparse file, content is the data of its extents on end."""
    if job.extents is None:
        return [(position, blob)]
    parts = []
    number = bisect.bisect_right(job.starts, position) - 1
    while blob:
        offset, length = job.extents[number]
        inside = position - job.starts[number]
        part = blob[: length - inside]
        parts.append((offset + inside, part))
        blob, position, number = blob[len(part) :], position + len(part), number + 1
    return parts
