"""The entries of one stretch of a folder's names: taken over where nothing changed, else made, files by reading them.

What changed is told by comparing stat fields with what the files cache has of each name. Names and their stats are
the scanner's to give (`scan`); subfolders get their entries when they are entered.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from tandem_agent.engine.beliefs import Beliefs
from tandem_agent.engine.entries import EntryMaker
from tandem_agent.engine.events import Draft
from tandem_agent.engine.filereader import AHEAD, FileReader, Outdated
from tandem_agent.engine.filescache import FilesCache, Row
from tandem_agent.engine.folders import join
from tandem_agent.engine.seen import STAT_FIELDS, Seen, Stat, compared
from tandem_agent.engine.troubles import Warnings
from tandem_agent.progress import Progress
from tandem_protocol.pack import SMALL_FILE
from tandem_protocol.tree import DIR

_Old = Mapping[bytes, tuple[list[int], Draft]]
"""What the files cache has of each name: its stat fields, and its entry."""


class StretchEntries:
    """For the scanner's thread alone."""

    def __init__(
        self,
        cache: FilesCache,
        beliefs: Beliefs,
        reader: FileReader,
        entries: EntryMaker,
        progress: Progress,
        warnings: Warnings,
        since: int,
        racy: int,
    ) -> None:
        """``since`` (ns): files with such a ctime, or a later one, were fetched by forerunners where those saw them.
        ``racy`` (ns): what has such a time, or a later one, could change once more without its times showing it."""
        self._cache = cache
        self._beliefs = beliefs
        self._reader = reader
        self._others = entries
        self._progress = progress
        self._warnings = warnings
        self._since = since
        self._racy = racy

    def make(
        self,
        path: bytes,
        folder: int,
        names: list[bytes],
        stats: list[Stat],
        numbers: list[int],
        row: Row | None,
    ) -> tuple[list[Draft | None], list[bytes]]:
        """The entries of ``names`` in the open ``folder`` at ``path``, None for a subfolder and for what could not be
        read; and the paths of subfolders that the last backup had there and that are gone. ``numbers`` are what is
        compared of ``stats`` (`seen.compared`), and are corrected; ``row``: what the files cache has of the stretch."""
        detail = self._cache.detail(row) if row is not None else None
        old = detail.by_name() if detail is not None else {}
        trusted = row is not None and self._beliefs.run(row.run)
        entries: list[Draft | None] = []
        prefix = join(path, b"")
        width, racy = STAT_FIELDS, self._racy
        for i, name in enumerate(names):
            if not i % AHEAD:
                self._ahead(folder, names[i : i + AHEAD], stats[i : i + AHEAD], old)
            st = stats[i]
            at = i * width
            found = old.get(name) if old else None
            mode = st.st_mode & 0o170000
            entry: Draft | None
            if mode == 0o040000:
                entry = None  # made when it is entered
            elif (
                found is not None
                and found[0] == numbers[at : at + width]
                and (trusted or self._beliefs.content(found[1]))
            ):
                entry = found[1]
                if st.st_size >= SMALL_FILE:
                    self._progress.bytes_read += st.st_size
                if st.st_nlink > 1:
                    entry = (*entry[:9], {**(entry[9] or {}), "l": (st.st_dev, st.st_ino)})
            elif mode == 0o100000:
                try:
                    entry = self._reader.entry(folder, name, st, prefix + name)
                except Outdated:
                    st, entry = self._again(folder, name, prefix + name, st)
                    numbers[at : at + width] = compared([st])
            else:
                entry = self._others.special(folder, name, st, prefix + name)
            entries.append(entry)
            if st.st_ctime_ns >= racy or st.st_mtime_ns >= racy:
                numbers[at + 3] = -1  # could change once more without its times showing it
        self._reader.ahead(folder, ())
        return entries, [prefix + name for name in _gone_folders(old, names, stats)]

    def _again(self, folder: int, name: bytes, path: bytes, st: Stat) -> tuple[Stat, Draft | None]:
        """The stat and the entry of a name that is not any more what a forerunner saw as ``st``."""
        try:
            st = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            self._warnings.add_error(path, error)
            return st, None
        if stat.S_ISREG(st.st_mode):
            return st, self._reader.entry(folder, name, st, path)
        if stat.S_ISDIR(st.st_mode):
            self._warnings.add(path, "was replaced by a folder while it was being backed up")
            return st, None
        return st, self._others.special(folder, name, st, path)

    def _ahead(self, folder: int, names: list[bytes], stats: list[Stat], old: _Old) -> None:
        """Let the reader prepare for the files among ``names`` that will likely be read, where no forerunner did."""
        files = [
            (name, st)
            for name, st in zip(names, stats, strict=True)
            if not (isinstance(st, Seen) and st.st_ctime_ns >= self._since)
            and st.st_mode & 0o170000 == 0o100000
            and st.st_size
            and (
                (found := old.get(name)) is None
                or found[0][2] != st.st_mtime_ns
                or found[0][3] != st.st_ctime_ns
            )
        ]
        if len(files) > 1:
            self._reader.ahead(folder, files)


def _gone_folders(old: _Old, names: list[bytes], stats: list[Stat]) -> list[bytes]:
    """Names that were folders at the last backup, and are none now."""
    if not old:
        return []
    now = {name for name, st in zip(names, stats, strict=True) if stat.S_ISDIR(st.st_mode)}
    return [name for name, (_, entry) in old.items() if entry[0] == DIR and name not in now]
