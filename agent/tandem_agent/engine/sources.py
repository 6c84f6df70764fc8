"""Puts several sources into one tree that mirrors absolute paths, and walks them in order.

/srv/data is the entry "data" in the folder "srv" of the root; folders above a source carry their real
metadata and hold nothing but what leads to sources. A source below another one is part of that. The walk of
each source is `scan`'s.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from tandem_agent.engine.events import Draft, Enter, Event, Leave, Segment
from tandem_agent.engine.folders import join, open_folder
from tandem_agent.engine.scan import Scanner
from tandem_agent.engine.seen import STAT_FIELDS
from tandem_agent.engine.sourcetree import Node
from tandem_agent.engine.troubles import Warnings, show
from tandem_protocol.errors import Missing


class SourceWalk:
    """One pass over a tree of sources. Raises `Missing` if not one of them is there."""

    def __init__(self, scanner: Scanner, emit: Callable[[Event], None], warnings: Warnings) -> None:
        self._scanner = scanner
        self._emit = emit
        self._warnings = warnings
        self._found = 0
        self._missing: list[bytes] = []

    def run(self, root: Node) -> None:
        if root.source:
            self._walk(b"/", root)
        else:
            self._above(b"/", root)
        if not self._found:
            raise Missing(
                f"{', '.join(map(show, self._missing))} cannot be read, so there is nothing to back up",
                "check that the path is right and that its disk is mounted",
            )

    def _above(self, path: bytes, node: Node) -> None:
        """A folder that only leads to sources."""
        self._emit(Enter(path, 0, reusable=False))
        entries: list[Draft | None] = []
        for name in sorted(node.children):
            child = node.children[name]
            entry = self._child(join(path, name), name, child)
            if entry is not None:
                entries.append(entry)
        folders = sum(entry is not None and entry[8] is None for entry in entries)
        self._emit(
            Segment(entries, [0] * (STAT_FIELDS * len(entries)), None, folders, self._scanner.pending())
        )
        self._emit(Leave(gone=False))

    def _child(self, path: bytes, name: bytes, node: Node) -> Draft | None:
        try:
            st = os.stat(path) if node.follow or not node.source else os.lstat(path)
        except OSError as error:
            self._warnings.add(path, f"is not there or cannot be read: {error.strerror}")
            self._missing.append(path)
            return None
        if not node.source:
            if not stat.S_ISDIR(st.st_mode):
                self._warnings.add(path, "is not a folder")
                self._missing.append(path)
                return None
            self._above(path, node)
            return self._scanner.entries.leading(name, st, path)
        if not stat.S_ISDIR(st.st_mode):
            return self._counted(path, self._single(path, name, st))
        return self._walk(path, node, st)

    def _walk(self, path: bytes, node: Node, st: os.stat_result | None = None) -> Draft | None:
        for name, child in node.children.items():
            self._below(join(path, name), child)
        return self._counted(path, self._scanner.walk(path, st or os.stat(path), node.follow))

    def _counted(self, path: bytes, entry: Draft | None) -> Draft | None:
        """``entry``, after noting whether the source at ``path`` could be read at all."""
        if entry is None:
            self._missing.append(path)
        else:
            self._found += 1
        return entry

    def _below(self, path: bytes, node: Node) -> None:
        """Sources below another one come with it; only one that is not there needs a word."""
        if node.source and not os.path.lexists(path):
            self._warnings.add(path, "is not there")
        for name, child in node.children.items():
            self._below(join(path, name), child)

    def _single(self, path: bytes, name: bytes, st: os.stat_result) -> Draft | None:
        """A source that is not a folder."""
        try:
            fd = open_folder(os.path.dirname(path), None, follow=True)
        except OSError as error:
            self._warnings.add_error(path, error)
            return None
        try:
            return self._scanner.single(fd, name, st, path)
        finally:
            os.close(fd)
