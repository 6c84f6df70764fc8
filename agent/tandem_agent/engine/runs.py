"""Pieces of a large file that follow one another, brought together in memory that can be written past the cache.

The memory is used again and again: what a decoder makes anew for each piece costs fresh pages. Nothing is
written or verified here.
"""

from __future__ import annotations

import mmap

from tandem_agent.engine.filejob import FileJob, Piece
from tandem_agent.engine.partfile import BLOCK

LONGEST = 4 * 1024 * 1024
"""Bytes in a run: as many as one read has, and in any one piece that this program makes."""


class Run:
    """The run of one thread. In memory it begins as far behind the begin of a page as it does in the file."""

    def __init__(self) -> None:
        self._memory = memoryview(mmap.mmap(-1, LONGEST + BLOCK))
        self._begin = self._end = 0
        self.at = 0
        self.pieces: list[Piece] = []

    @property
    def job(self) -> FileJob:
        return self.pieces[0].job

    @property
    def data(self) -> memoryview:
        """All that is in it, for ``at`` in the file."""
        return self._memory[self._begin : self._end]

    def follows(self, piece: Piece) -> bool:
        """Whether ``piece`` comes next in the file, and has room."""
        length = self._end - self._begin
        return (
            bool(self.pieces)
            and piece.job is self.job
            and piece.position == self.at + length
            and length + piece.length <= LONGEST
        )

    def begin(self, at: int) -> None:
        """A new run, of what is at ``at`` in a file."""
        self.at, self.pieces = at, []
        self._begin = self._end = at % BLOCK

    def place(self, length: int) -> memoryview:
        """Where the next bytes go."""
        return self._memory[self._end : self._end + length]

    def add(self, piece: Piece) -> None:
        """What is in its `place` is this piece."""
        self.pieces.append(piece)
        self._end += piece.length
