"""What of the files cache may be taken over without reading the sources: only what every target of this backup has."""

from __future__ import annotations

from collections.abc import Callable

from tandem_agent.engine.events import Draft
from tandem_agent.engine.filescache import FilesCache, Row
from tandem_protocol.seal import ID_SIZE
from tandem_protocol.tree import FILE


class Beliefs:
    """For the scanner's thread alone."""

    def __init__(
        self, cache: FilesCache, trusted: Callable[[int], bool], has: Callable[[bytes], bool]
    ) -> None:
        """``trusted``: whether all targets have everything up to a revision; ``has``: whether they have a blob."""
        self._cache = cache
        self._trusted = trusted
        self._has = has
        self._runs: dict[int, bool] = {}

    def page(self, row: Row) -> bool:
        """Whether everything that the row speaks of, apart from subfolders, is on every target."""
        if self.run(row.run):
            return True
        detail = self._cache.detail(row)
        return detail is not None and self._has(row.page) and all(map(self.content, detail.entries))

    def run(self, run: int) -> bool:
        """Whether every target has all that a backup stored that was noted as this run."""
        found = self._runs.get(run)
        if found is None:
            revision = self._cache.revision(run)
            found = self._runs[run] = revision is not None and self._trusted(revision)
        return found

    def content(self, entry: Draft) -> bool:
        """Whether a file's content is stored. Of a chunk list that is stored itself, nothing can be said."""
        content, extras = entry[8], entry[9]
        if entry[0] != FILE:
            return True
        if (extras is not None and "indirect" in extras) or not isinstance(content, bytes):
            return False
        return all(self._has(content[at : at + ID_SIZE]) for at in range(0, len(content), ID_SIZE))
