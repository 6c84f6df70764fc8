"""Goes through the tree of a snapshot, page by page, holding one page for each folder on the way down.

Nothing that a tree says is trusted: names are checked again, folders that contain themselves, folders that
are nested too deep and names that come twice are refused, and only the folder where it happens is lost.
There is no cap on how much a tree holds: folders that share what is below them are nothing unusual, and a tree made
to have more paths than anyone can count only takes time, for memory is held for the way down alone, and whoever
started it can stop it at any moment. This module reads blobs through the function it is given and writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tandem_protocol.errors import Corrupt, Missing, Unavailable, Usage
from tandem_protocol.tree import DIR, FILE, Entry, Page, decode_page

ID = 32
MAX_DEPTH = 4096

_BREATH = 16
"""Steps of a walk after which others get a turn: where all pages are at hand, nothing else would stop it."""

ReadBlob = Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder on the way: ``path`` relative to the root of the snapshot (b"" is the root, which has no
    entry). ``wanted`` is False for one that is only passed through to reach what was selected."""

    path: bytes
    entry: Entry | None
    depth: int
    wanted: bool
    users: Mapping[int, str] = field(default_factory=dict)
    groups: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Enter:
    folder: Folder


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries of ``folder`` that are not folders, selected, in order of name."""

    folder: Folder
    entries: list[Entry]
    page: Page


@dataclass(frozen=True, slots=True)
class Leave:
    """All below ``folder`` has been told."""

    folder: Folder


@dataclass(frozen=True, slots=True)
class Broken:
    """A part of ``path`` (a folder) could not be read: what was in it is not told."""

    path: bytes
    error: Corrupt | Missing | Unavailable


Event = Enter | Entries | Leave | Broken


class Selection:
    """Which paths are wanted: those given and all below them; all without any."""

    def __init__(self, paths: Iterable[bytes] = ()) -> None:
        self.paths = sorted({normal_path(p) for p in paths})
        self._root: dict[bytes, object] = {}
        for path in self.paths:
            self._plant(path)

    def _plant(self, path: bytes) -> None:
        node = self._root
        for part in path.split(b"/") if path else []:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                return
            node = child
        node[b""] = True

    @property
    def top(self) -> Branch:
        return Branch(None if not self.paths else self._root)


class Branch:
    """The selection as seen from one folder."""

    __slots__ = ("_node",)

    def __init__(self, node: dict[bytes, object] | None) -> None:
        self._node = None if node is None or b"" in node else node

    @property
    def everything(self) -> bool:
        return self._node is None

    def child(self, name: bytes) -> Branch | None:
        """The selection below ``name``, or None if nothing there is wanted."""
        if self._node is None:
            return self
        found = self._node.get(name)
        return Branch(found) if isinstance(found, dict) else None


def normal_path(path: bytes) -> bytes:
    """``path`` without leading, trailing and doubled slashes; `Usage` for one with ``.`` or ``..`` in it."""
    parts = [part for part in path.split(b"/") if part]
    if any(part in (b".", b"..") or b"\0" in part for part in parts):
        raise Usage(f"not a path in a backup: {show(path)}", "name it as it was on the source, from /")
    return b"/".join(parts)


def show(path: bytes) -> str:
    """A path for people; bytes that are no UTF-8 as escapes."""
    return path.decode("utf-8", "backslashreplace")


def check_name(name: bytes) -> None:
    """Raise `Corrupt` for a name that could lead out of its folder."""
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise Corrupt(f"a name in the tree that is not one: {show(name)!r}")


@dataclass(slots=True)
class _Level:
    folder: Folder
    branch: Branch
    pages: AsyncIterator[bytes]
    content: bytes
    waiting: Iterator[Entry] = field(default_factory=lambda: iter(()))
    page: Page | None = None
    last_name: bytes = b""


class TreeWalker:
    """Reads trees through ``read_blob``, which gives a blob's verified bytes or raises `Corrupt` or
    `Missing` when no tier has them good."""

    def __init__(self, read_blob: ReadBlob, max_depth: int = MAX_DEPTH) -> None:
        self._read = read_blob
        self._max_depth = max_depth

    async def walk(self, root: bytes, selection: Selection | None = None) -> AsyncIterator[Event]:
        """Tell what is below ``root`` (concatenated page ids): in each folder first what is not a folder,
        page by page, then its folders, depth first. Every `Enter` gets its `Leave`."""
        branch = (selection or Selection()).top
        top = Folder(b"", None, 0, branch.everything)
        yield Enter(top)
        levels = [_Level(top, branch, self._ids(root, indirect=False), root)]
        steps = 0
        while levels:
            steps += 1
            if steps % _BREATH == 0:
                await asyncio.sleep(0)
            level = levels[-1]
            step = await self._step(level, levels)
            if step is None:
                levels.pop()
                yield Leave(level.folder)
            elif isinstance(step, _Level):
                levels.append(step)
                yield Enter(step.folder)
            else:
                yield step

    async def _step(self, level: _Level, levels: list[_Level]) -> Entries | Broken | _Level | None:
        """Go down into the next folder of the page in hand, or take the next page; None at the end."""
        for entry in level.waiting:
            try:
                return self._descend(level, levels, entry)
            except Corrupt as error:
                return Broken(join(level.folder.path, entry[1]), error)
        try:
            page_id = await anext(level.pages, None)
            if page_id is None:
                return None
            page = decode_page(await self._read(page_id))
            return self._page(level, page)
        except (Corrupt, Missing, Unavailable) as error:
            return Broken(level.folder.path, error)

    def _page(self, level: _Level, page: Page) -> Entries:
        entries = []
        for entry in page.entries:
            name = entry[1]
            check_name(name)
            if name <= level.last_name:
                raise Corrupt(f"names out of order in {show(level.folder.path)!r}")
            level.last_name = name
            if level.branch.everything or level.branch.child(name) is not None:
                entries.append(entry)
        level.page = page
        level.waiting = iter([e for e in entries if e[0] == DIR])
        rest = [e for e in entries if e[0] != DIR and self._is_selected(level.branch, e[1])]
        return Entries(level.folder, rest, page)

    @staticmethod
    def _is_selected(branch: Branch, name: bytes) -> bool:
        child = branch.child(name)
        return child is not None and child.everything

    def _descend(self, level: _Level, levels: list[_Level], entry: Entry) -> _Level:
        path, content = join(level.folder.path, entry[1]), entry[8]
        if len(levels) > self._max_depth:
            raise Corrupt(f"folders nested deeper than {self._max_depth}: {show(path)[-200:]!r}")
        if content and any(above.content == content for above in levels):
            raise Corrupt(f"a folder that contains itself: {show(path)[-200:]!r}")
        branch = level.branch.child(entry[1])
        if branch is None or level.page is None:
            raise Corrupt(f"not selected: {show(path)!r}")
        indirect = is_indirect(entry)
        page = level.page
        folder = Folder(path, entry, level.folder.depth + 1, branch.everything, page.users, page.groups)
        return _Level(folder, branch, self._ids(content, indirect), content)

    async def _ids(self, content: bytes, indirect: bool) -> AsyncIterator[bytes]:
        """The ids in ``content``, through one more level of blobs where it says so."""
        for block in split_ids(content):
            if not indirect:
                yield block
                continue
            for inner in split_ids(await self._read(block)):
                yield inner

    async def content_ids(self, entry: Entry) -> AsyncIterator[bytes]:
        """The ids of a file's blobs, in order. Raises `Corrupt` or `Missing` where a list of ids is lost."""
        if entry[0] != FILE:
            raise ValueError("only files have content")
        async for block in self._ids(entry[8], is_indirect(entry)):
            yield block

    async def pages(self, content: bytes, indirect: bool = False) -> AsyncIterator[Page]:
        """The pages of one folder, in order. Raises `Corrupt` or `Missing` where one is lost."""
        async for page_id in self._ids(content, indirect):
            yield decode_page(await self._read(page_id))

    async def find(self, root: bytes, path: bytes) -> tuple[Entry | None, Page | None]:
        """The entry at ``path`` and the page it is on (None, None: the root itself). `Missing` if there is
        none; `Corrupt` where the way to it cannot be read."""
        content, indirect = root, False
        entry: Entry | None = None
        page: Page | None = None
        for part in filter(None, normal_path(path).split(b"/")):
            if entry is not None and entry[0] != DIR:
                raise Missing(f"not in this backup: /{show(normal_path(path))}", "it is below a file")
            entry, page = await self._look_up(content, indirect, part, path)
            content, indirect = entry[8], is_indirect(entry)
        return entry, page

    async def _look_up(self, content: bytes, indirect: bool, name: bytes, path: bytes) -> tuple[Entry, Page]:
        async for page in self.pages(content, indirect):
            if page.entries and page.entries[-1][1] >= name:
                for entry in page.entries:
                    if entry[1] == name:
                        return entry, page
                break
        raise Missing(f"not in this backup: /{show(normal_path(path))}", "see 'tandem ls'")


def is_indirect(entry: Entry) -> bool:
    """Whether the content of a file or folder is the ids of blobs that hold its ids."""
    return bool(entry[9] and entry[9].get("indirect"))


def join(folder: bytes, name: bytes) -> bytes:
    """A name in a folder; b"" is the root."""
    return folder + b"/" + name if folder else name


def split_ids(content: bytes) -> Iterator[bytes]:
    """The 32-byte ids in ``content``; `Corrupt` if it is not made of them."""
    if len(content) % ID:
        raise Corrupt("a list of content ids with a piece of one at its end")
    return (content[i : i + ID] for i in range(0, len(content), ID))
