"""The use case of looking inside a backup: entries of a folder, or a whole tree below it, one by one.

Entries come as they are read, so that a million of them take no memory. How they are printed is for the
command line, except for the two forms that every interface shares: a line like that of ``ls -l`` and a map
for JSON.
"""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tandem_agent.engine.fetch import Fetcher
from tandem_agent.engine.treewalk import (
    Broken,
    Enter,
    Entries,
    Folder,
    Selection,
    TreeWalker,
    is_indirect,
    join,
    normal_path,
)
from tandem_agent.restore import read_snapshot
from tandem_protocol.errors import printable
from tandem_protocol.tree import BLOCK, CHAR, DIR, FIFO, FILE, SOCKET, SYMLINK, Entry, Page

if TYPE_CHECKING:
    from tandem_agent.reading import RepositoryView

KINDS = {
    FILE: "file",
    DIR: "folder",
    SYMLINK: "symlink",
    FIFO: "fifo",
    CHAR: "character device",
    BLOCK: "block device",
    SOCKET: "socket",
}
_TYPES = {
    FILE: stat.S_IFREG,
    DIR: stat.S_IFDIR,
    SYMLINK: stat.S_IFLNK,
    FIFO: stat.S_IFIFO,
    CHAR: stat.S_IFCHR,
    BLOCK: stat.S_IFBLK,
    SOCKET: stat.S_IFSOCK,
}


@dataclass(frozen=True, slots=True)
class ListedEntry:
    """One entry. ``path`` is absolute, as on the source, any bytes; ``kind`` a number of ``tree``; ``size`` in
    bytes; ``mtime_ns`` since 1970; ``user`` and ``group`` are names, or "" where there was none; ``device``
    (major, minor). ``hard_linked``: it had more names than this one."""

    path: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    user: str
    group: str
    size: int
    mtime_ns: int
    target: bytes = b""
    device: tuple[int, int] | None = None
    hard_linked: bool = False
    sparse: bool = False
    attributes: int = 0

    @property
    def mode_text(self) -> str:
        """Like ``drwxr-xr-x``, with a ``+`` where there are attributes or access lists."""
        return stat.filemode(_TYPES[self.kind] | self.mode) + ("+" if self.attributes else "")

    def line(self, name: bytes | None = None) -> str:
        """Like a line of ``ls -l``, safe for a terminal; the path is shown as ``name`` if given."""
        size = f"{self.device[0]}, {self.device[1]}" if self.device else str(self.size)
        when = _local_time(self.mtime_ns)
        shown = text_of(self.path if name is None else name)
        arrow = f" -> {text_of(self.target)}" if self.kind == SYMLINK else ""
        owner = f"{self.user or self.uid:<8} {self.group or self.gid:<8}"
        return f"{self.mode_text:<11} {owner} {size:>12} {when} {shown}{arrow}"

    def as_json(self) -> dict[str, Any]:
        """For ``--json``. A path that is no UTF-8 is shown with escapes and given exactly in ``path_hex``."""
        fields: dict[str, Any] = {
            "path": self.path.decode("utf-8", "backslashreplace"),
            "kind": KINDS[self.kind],
            "mode": f"{self.mode:04o}",
            "uid": self.uid,
            "gid": self.gid,
            "user": self.user,
            "group": self.group,
            "size": self.size,
            "mtime_ns": self.mtime_ns,
        }
        if not _is_text(self.path):
            fields["path_hex"] = self.path.hex()
        if self.kind == SYMLINK:
            fields["target"] = self.target.decode("utf-8", "backslashreplace")
            if not _is_text(self.target):
                fields["target_hex"] = self.target.hex()
        if self.device is not None:
            fields["device"] = list(self.device)
        fields |= {name: True for name in ("hard_linked", "sparse") if getattr(self, name)}
        return fields


async def list_backup(
    view: RepositoryView, snapshot_name: bytes, path: bytes = b"", *, recursive: bool = False
) -> AsyncIterator[ListedEntry]:
    """The entry at ``path`` if it is no folder; else what is in it, in order of name (``recursive``: and
    below, each folder before what is in it). Raises `Missing` if nothing is there, and `Corrupt` or
    `Unavailable`, after all that can be told, where a part could not be read."""
    fetcher = Fetcher(view.ring, view.tiers, view.index, view.damage, view.remedy)
    snapshot = await read_snapshot(fetcher, snapshot_name)
    walker = TreeWalker(fetcher.blob)
    wanted = normal_path(path)
    entry, page = await walker.find(snapshot.root, wanted)
    if entry is not None and page is not None and entry[0] != DIR:
        yield _listed(wanted, entry, page)
        return
    if recursive:
        async for listed in _below(walker, snapshot.root, wanted):
            yield listed
        return
    content, indirect = (entry[8], is_indirect(entry)) if entry is not None else (snapshot.root, False)
    async for page in walker.pages(content, indirect):
        for entry in page.entries:
            yield _listed(join(wanted, entry[1]), entry, page)


async def _below(walker: TreeWalker, root: bytes, wanted: bytes) -> AsyncIterator[ListedEntry]:
    broken: Broken | None = None
    async for event in walker.walk(root, Selection([wanted] if wanted else [])):
        match event:
            case Enter(folder) if folder.entry is not None and folder.wanted and folder.path != wanted:
                yield _folder(folder)
            case Entries(folder, entries, page):
                for entry in entries:
                    yield _listed(join(folder.path, entry[1]), entry, page)
            case Broken():
                broken = broken or event
    if broken is not None:
        raise broken.error


def _folder(folder: Folder) -> ListedEntry:
    assert folder.entry is not None
    return _listed(folder.path, folder.entry, Page([], dict(folder.users), dict(folder.groups)))


def _listed(path: bytes, entry: Entry, page: Page) -> ListedEntry:
    kind, _, mode, uid, gid, mtime_s, mtime_ns, size, content, extras = entry
    more = extras or {}
    return ListedEntry(
        path=b"/" + path,
        kind=kind,
        mode=mode,
        uid=uid,
        gid=gid,
        user=page.users.get(uid, ""),
        group=page.groups.get(gid, ""),
        size=size,
        mtime_ns=mtime_s * 1_000_000_000 + mtime_ns,
        target=content if kind == SYMLINK else b"",
        device=more.get("r"),
        hard_linked="l" in more,
        sparse="s" in more,
        attributes=len(more.get("x") or ()),
    )


def text_of(path: bytes) -> str:
    """A path for a terminal: bytes that are no UTF-8 and characters that could move the cursor as escapes."""
    return printable(path.decode("utf-8", "backslashreplace"))


def _is_text(path: bytes) -> bool:
    try:
        path.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _local_time(ns: int) -> str:
    """Minutes are enough for people; a time that no calendar has is shown in seconds."""
    try:
        return datetime.fromtimestamp(ns // 1_000_000_000).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return f"{ns // 1_000_000_000} s"
