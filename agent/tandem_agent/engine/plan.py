"""In what order to read: the wanted blobs of one window, by pack in first-use order, as few large reads.

Pure: places come in, read ranges come out. Nothing is read, written or decoded here. A window is bounded
by its limits, so a restore of millions of files plans a few thousand at a time and memory stays flat; a
frame that two windows share is read twice, which costs one frame at each border.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

MERGE_GAP = 512 * 1024
MAX_RANGE = 4 * 1024 * 1024
MAX_BYTES = 512 * 1024 * 1024
MAX_USES = 8_000

T = TypeVar("T")


@dataclass(slots=True)
class FrameUse(Generic[T]):
    """What is wanted from one frame. ``offset`` and ``sealed_length`` are bytes in the pack's file; each
    of ``uses`` is one wanted blob, in the caller's own form."""

    pack: int
    frame: int
    offset: int
    sealed_length: int
    uses: list[T] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.offset + self.sealed_length


@dataclass(frozen=True, slots=True)
class ReadRange(Generic[T]):
    """One read: ``length`` bytes from ``offset`` of a pack hold all of ``frames`` (rising offsets)."""

    pack: int
    offset: int
    length: int
    frames: list[FrameUse[T]]


@dataclass(frozen=True, slots=True)
class Limits:
    """When a window is full (bytes of content, wanted blobs) and how reads are merged (bytes)."""

    max_bytes: int = MAX_BYTES
    max_uses: int = MAX_USES
    merge_gap: int = MERGE_GAP
    max_range: int = MAX_RANGE

    def part(self, share: int) -> Limits:
        """The same for a window of one ``share``-th."""
        return replace(self, max_bytes=self.max_bytes // share, max_uses=self.max_uses // share)


class Window(Generic[T]):
    """Collects wanted blobs until it is full, then says what to read."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._packs: dict[int, dict[int, FrameUse[T]]] = {}
        self._bytes = 0
        self._uses = 0

    @property
    def full(self) -> bool:
        return self._bytes >= self._limits.max_bytes or self._uses >= self._limits.max_uses

    def frame(self, pack: int, frame: int) -> FrameUse[T] | None:
        """The frame if something is wanted from it already."""
        return self._packs.get(pack, {}).get(frame)

    def add_frame(self, pack: int, frame: int, offset: int, sealed_length: int) -> FrameUse[T]:
        """Name a frame and where it is; asked for again, it is the same one."""
        frames = self._packs.setdefault(pack, {})
        found = frames.get(frame)
        if found is None:
            found = frames[frame] = FrameUse(pack, frame, offset, sealed_length)
        return found

    def add_use(self, frame: FrameUse[T], use: T, length: int) -> None:
        """One wanted blob of ``length`` bytes of content in ``frame``."""
        frame.uses.append(use)
        self._bytes += length
        self._uses += 1

    def ranges(self) -> list[ReadRange[T]]:
        """Every read of this window: packs in first-use order, offsets rising inside each."""
        found: list[ReadRange[T]] = []
        for frames in self._packs.values():
            found += _merge(sorted(frames.values(), key=lambda f: f.offset), self._limits)
        return found


def _merge(frames: list[FrameUse[T]], limits: Limits) -> list[ReadRange[T]]:
    """Reads over sorted frames of one pack; a gap up to ``merge_gap`` is read along, being cheaper than
    another round trip."""
    found: list[ReadRange[T]] = []
    run: list[FrameUse[T]] = []
    for frame in frames:
        joins = run and frame.offset - run[-1].end <= limits.merge_gap
        if run and not (joins and frame.end - run[0].offset <= limits.max_range):
            found.append(_range(run))
            run = []
        run.append(frame)
    if run:
        found.append(_range(run))
    return found


def _range(run: list[FrameUse[T]]) -> ReadRange[T]:
    end = max(frame.end for frame in run)
    return ReadRange(run[0].pack, run[0].offset, end - run[0].offset, run)
