"""Makes tree pages from the scanner's events, from the bottom up, in the order in which they come.

Waits for the chunk ids of large files, puts each page into the tree packs, takes whole pages over from the
last backup where nothing in or below them changed, and notes in the files cache what each page was made
from. Memory is in proportion to the depth, not to the number of names: a folder's pages leave one by one.
"""

from __future__ import annotations

import grp
import pwd
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

from blake3 import blake3

from tandem_agent.engine.channel import Stopped
from tandem_agent.engine.events import Draft, Enter, Event, Leave, Pending, Removed, Segment
from tandem_agent.engine.filescache import CacheDamaged, FilesCache, NewRow, Row, children_digest
from tandem_agent.engine.folders import join
from tandem_agent.engine.packer import Packer, RunIds
from tandem_agent.engine.seen import STAT_FIELDS, stats_digest
from tandem_agent.engine.troubles import Warnings
from tandem_protocol.errors import Refused
from tandem_protocol.keys import KeyRing
from tandem_protocol.pack import TARGET_FRAME
from tandem_protocol.tree import DIR, MAX_IDS, Entry, PageBuilder

_ID = 32
_IDS_IN_BLOB = (1 << 20) // _ID
_WAIT = 0.2
_NAMES_WAITING = 20_000


@lru_cache(maxsize=4096)
def user_name(number: int) -> str | None:
    """The name of a user number on this machine."""
    try:
        return pwd.getpwuid(number).pw_name
    except (KeyError, OverflowError):
        return None


@lru_cache(maxsize=4096)
def group_name(number: int) -> str | None:
    """The name of a group number on this machine."""
    try:
        return grp.getgrgid(number).gr_name
    except (KeyError, OverflowError):
        return None


class TreeStore:
    """Puts pages and lists of ids into tree packs, several to a frame."""

    def __init__(self, ring: KeyRing, ids: RunIds, packer: Packer) -> None:
        self._key = ring.content_id_key[1]
        self._ids = ids
        self._packer = packer
        self._blobs: list[bytes] = []
        self._names: list[bytes] = []
        self._size = 0

    def put(self, blob: bytes) -> bytes:
        """The id of ``blob``, which is stored if it is new."""
        content_id = blake3(blob, key=self._key).digest()
        if self._ids.claim(content_id):
            if self._size + len(blob) > TARGET_FRAME:
                self._write()
            self._blobs.append(blob)
            self._names.append(content_id)
            self._size += len(blob)
        return content_id

    def content(self, ids: list[bytes]) -> tuple[bytes, bool]:
        """(content of an entry, whether it is indirect): above `MAX_IDS` ids are stored as blobs themselves."""
        if len(ids) <= MAX_IDS:
            return b"".join(ids), False
        lists = [b"".join(ids[at : at + _IDS_IN_BLOB]) for at in range(0, len(ids), _IDS_IN_BLOB)]
        return b"".join(map(self.put, lists)), True

    def _write(self) -> None:
        if self._blobs:
            self._packer.add(self._blobs, b"".join(self._names), list(map(len, self._blobs)))
            self._blobs, self._names, self._size = [], [], 0

    def finish(self) -> None:
        """Write what waits and deliver the last pack."""
        self._write()
        self._packer.finish()


Content = tuple[bytes, bool]


@dataclass(slots=True)
class _Folder:
    """A folder whose pages are being made. ``names``, ``stats`` and ``contents`` are of the page
    under way; ``before`` are the pages that the files cache has of it, ``kept`` the details of those that were
    taken over, ``same`` says that nothing else has come yet."""

    path: bytes
    device: int
    reusable: bool
    before: Sequence[Row]
    builder: PageBuilder | None = None
    pages: list[bytes] = field(default_factory=list)
    kept: set[int] = field(default_factory=set)
    same: bool = True
    children: deque[Content | None] = field(default_factory=deque)
    names: list[bytes] = field(default_factory=list)
    stats: list[int] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)


class TreeBuilder:
    """Takes every event of one scan, in the scanner's thread: with one of its own, the two would spend more
    time passing the interpreter to each other than working."""

    def __init__(
        self, store: TreeStore, cache: FilesCache, warnings: Warnings, stopping: Callable[[], bool]
    ) -> None:
        self._store = store
        self._cache = cache
        self._warnings = warnings
        self._stopping = stopping
        self._stack: list[_Folder] = []
        self._queue: deque[Event] = deque()
        self._names = 0
        self._root = b""

    def offer(self, event: Event) -> None:
        """The next event. It is dealt with as soon as the contents that it and those before it wait for
        are there; only when too many names wait does this wait too."""
        self._queue.append(event)
        if isinstance(event, Segment):
            self._names += len(event.entries)
        self._drain(_NAMES_WAITING)

    def finish(self) -> bytes:
        """Deal with what waits; gives the ids of the root's pages."""
        self._drain(-1)
        self._store.finish()
        return self._root

    def _drain(self, most: int) -> None:
        while self._queue:
            event = self._queue[0]
            if isinstance(event, Segment):
                if event.pending and not self._arrived(event.pending, self._names > most):
                    return
                self._names -= len(event.entries)
            self._queue.popleft()
            self._take(event)

    def _arrived(self, pending: list[Pending], wait: bool) -> bool:
        for content in pending:
            while not content.ready():
                if not wait:
                    return False
                if self._stopping():
                    raise Stopped
                content.wait(_WAIT)
        return True

    def _take(self, event: Event) -> None:
        if isinstance(event, Segment):
            self._segment(self._stack[-1], event)
        elif isinstance(event, Enter):
            self._stack.append(_Folder(event.path, event.device, event.reusable, event.rows))
        elif isinstance(event, Leave):
            self._leave(event)
        elif isinstance(event, Removed):
            self._cache.forget(event.path)

    def _leave(self, event: Leave) -> None:
        folder = self._stack.pop()
        if folder.builder is not None:
            self._page(folder, folder.builder.finish())
        self._noted(folder)
        content = self._store.content(folder.pages)
        if self._stack:
            self._stack[-1].children.append(None if event.gone else content)
        elif content[1]:
            raise Refused("the root folder has too many names")
        else:
            self._root = content[0]

    def _note(self, folder: _Folder, row: Row | NewRow) -> None:
        """Note a page for the next backup; one that stands where it stood is noted already."""
        part = len(folder.pages) - 1
        if isinstance(row, Row):
            folder.kept.add(row.detail)
            if row.part == part:
                return
        folder.same = False
        self._cache.put(folder.path, part, row)

    def _noted(self, folder: _Folder) -> None:
        """All pages of the folder are noted: drop what is left of those before."""
        before = folder.before
        if folder.reusable and not (folder.same and len(before) == len(folder.pages)):
            gone = [row.detail for row in before if row.detail not in folder.kept]
            self._cache.finish(folder.path, len(folder.pages), len(before), gone)

    # Segments

    def _segment(self, folder: _Folder, segment: Segment) -> None:
        children = [folder.children.popleft() for _ in range(segment.folders)]
        row = segment.row
        if row is None:
            self._entries(folder, segment.entries, segment.stats, children)
            return
        contents = [child[0] for child in children if child is not None]
        at_page_start = folder.builder is None or not folder.builder.waiting
        if at_page_start and len(contents) == len(children) and children_digest(contents) == row.children:
            folder.pages.append(row.page)
            self._note(folder, row)
            return
        detail = self._cache.detail(row)
        if detail is None:
            raise CacheDamaged
        entries: list[Draft | None] = [
            (*entry[:8], None, _without_indirect(entry)) if entry[0] == DIR else entry
            for entry in detail.entries
        ]
        self._entries(folder, entries, detail.stats, children)

    def _entries(
        self,
        folder: _Folder,
        entries: list[Draft | None],
        stats: list[int],
        children: list[Content | None],
    ) -> None:
        """Add entries to the page under way; each page that is full leaves."""
        folders = iter(children)
        if folder.builder is None:
            folder.builder = PageBuilder(user_name, group_name)
        builder = folder.builder
        for i, draft in enumerate(entries):
            if draft is None:
                continue
            # Nearly all entries come complete: as little as possible is done for each.
            entry = cast(Entry, draft) if type(draft[8]) is bytes else self._complete(draft, folders)
            if entry is None:
                continue
            try:
                page = builder.add(entry)
            except Refused as error:
                self._warnings.add(join(folder.path, entry[1]), error.what)
                continue
            if page is not None and builder.waiting:  # it was full before this entry
                self._page(folder, page)
                page = None
            folder.names.append(entry[1])
            folder.stats += stats[i * STAT_FIELDS : i * STAT_FIELDS + STAT_FIELDS]
            if entry[0] == DIR:
                folder.contents.append(entry[8])
            if page is not None:
                self._page(folder, page)

    def _complete(self, draft: Draft, folders: Iterator[Content | None]) -> Entry | None:
        """The entry with its content, which for a large file is waited for; None for a folder that is gone."""
        content = draft[8]
        if isinstance(content, Pending):
            ids, indirect = self._store.content(content.ids)
        else:
            child = next(folders)
            if child is None:
                return None
            ids, indirect = child
        extras = {**(draft[9] or {}), "indirect": 1} if indirect else draft[9]
        return (*draft[:8], ids, extras)

    def _page(self, folder: _Folder, page: bytes | None) -> None:
        """Store a finished page and note what it was made from."""
        if page is None:
            return
        content_id = self._store.put(page)
        folder.pages.append(content_id)
        if folder.reusable:
            # Of what is in the page: a name that could not be read is not, so it is tried again.
            digest = stats_digest(folder.device, folder.names, folder.stats)
            first = folder.names[0] if len(folder.pages) > 1 else b""
            children = children_digest(folder.contents)
            self._note(folder, NewRow(first, digest, content_id, children, folder.stats, page))
        folder.names, folder.stats, folder.contents = [], [], []


def _without_indirect(entry: Entry) -> dict[str, object] | None:
    extras = entry[9]
    if extras is None or "indirect" not in extras:
        return extras
    return {key: value for key, value in extras.items() if key != "indirect"} or None
