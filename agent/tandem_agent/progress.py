"""What a running operation counts, for whoever watches it.

Plain mutable numbers: the operation adds, the watcher reads a few times a second. A sum read while it
is added to may be a moment old, which is all a progress line needs. No output here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class TierProgress:
    """One tier's side. Sizes in bytes: ``queued_bytes`` is all that was ever handed over for it, ``sent_bytes``
    what of that has gone. ``state`` is a word for people ("online", "offline" …), "" while nobody said.
    ``announced``: what the tier lacks as a whole has been counted as handed over."""

    queued_bytes: int = 0
    sent_bytes: int = 0
    state: str = ""
    announced: bool = False


@dataclass(slots=True)
class Progress:
    """Counters of one operation. Sizes in bytes; ``bytes_total_estimate`` is 0 while nobody knows.
    ``bytes_read`` counts what is dealt with, also what is unchanged and not read again.
    ``phase`` is a word for people, ``current_path`` the file in hand (any bytes, not yet printable)."""

    files: int = 0
    dirs: int = 0
    bytes_read: int = 0
    bytes_total_estimate: int = 0
    bytes_stored: int = 0
    current_path: bytes = b""
    phase: str = ""
    tiers: dict[str, TierProgress] = field(default_factory=dict)
    read_from: Callable[[], Mapping[str, int]] | None = None
    """Bytes that each tier gave so far, where something is read from tiers."""

    def tier(self, name: str) -> TierProgress:
        """The counters of the tier called ``name``, made at first use."""
        return self.tiers.setdefault(name, TierProgress())
