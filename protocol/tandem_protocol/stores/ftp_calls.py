"""Single commands about names below one root folder of an FTP server, and what their refusals mean. Blocking.

550 may mean "not there" or "not allowed". Not there is believed only if the folder above can be entered, or is
itself not in the listing of its parent. The verbs of the Store contract are built of these in ftp_folder.py.
"""

from __future__ import annotations

import ftplib
import posixpath
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from ..errors import Absent, Corrupt, Missing, Refused, TandemError, Unavailable
from ..store import Entry
from .folder import CONTENT
from .ftp_data import FtpData
from .ftp_errors import LOOK_CLOSER, PERMISSION, ReplyError, from_reply, translated
from .ftp_link import FtpLink
from .ftp_listing import MAX_SIZE_DIGITS, entries_of

MAX_NAMES = 262_144
"""Names that one folder may have before its listing is refused."""

_T = TypeVar("_T")


class FtpCalls:
    """One session's view of the root, which `enter` finds."""

    def __init__(self, link: FtpLink) -> None:
        self._link = link
        self._data = FtpData(link)
        self._place = link.target.place
        self._root = link.target.path.rstrip("/") or "/"
        self._lists_facts = bool({"MLST", "MLSD"} & link.features)

    def enter(self, make: bool) -> None:
        """See that the root is a folder; make it and its parents first if ``make``."""
        with self._explained("open the folder"):
            if not self._root.isascii() and "UTF8" in self._link.features:
                with suppress(ReplyError):
                    self._link.voidcmd("OPTS UTF8 ON")
            if not self._root.startswith("/"):
                login = ftplib.parse257(self._link.voidcmd("PWD"))
                self._root = posixpath.join("/", login, self._root)
            if self._can_enter(""):
                return
            if self._sizes([""])[0] is not None:
                raise Refused(f"{self._place} is not a folder", "give the path of a folder")
            if not make:
                raise self._no_root()
            for at, letter in enumerate(self._root + "/"):
                if letter == "/" and at:
                    with suppress(ReplyError):
                        self._link.voidcmd(f"MKD {self._root[:at]}")
            self._link.voidcmd(f"CWD {self._root}")

    def _no_root(self) -> Absent:
        return Absent(
            f"{self._place}: there is no such folder on the server",
            "check the path, and that the disk behind it is mounted there",
        )

    def _path(self, name: str) -> str:
        return posixpath.join(self._root, name) if name else self._root

    def _rename(self, source: str, target: str) -> None:
        self._link.rename(self._path(source), self._path(target))

    def _sizes(self, names: list[str]) -> list[int | None]:
        """Size of each file; None for what the server gives no size: not there, or a folder."""
        replies = self._link.answers(f"SIZE {self._path(name)}" for name in names)
        return [self._size_in(reply) for reply in replies]

    def _size_in(self, reply: str | ReplyError) -> int | None:
        if isinstance(reply, ReplyError):
            if reply.code not in LOOK_CLOSER:
                raise reply
            if reply.denied:
                raise from_reply(reply, f"look on {self._place}")
            return None
        text = reply[4:].strip()
        if reply[:3] != "213" or not text.isdecimal() or len(text) > MAX_SIZE_DIGITS:
            raise Corrupt(f"{self._place}: not a size: {reply[:100]}")
        return int(text)

    def _find(self, name: str) -> tuple[str, int] | None:
        """(path, size) of the file that is the object or holds it."""
        paths = [name, f"{name}/{CONTENT}"]
        for path, size in zip(paths, self._sizes(paths), strict=True):
            if size is not None:
                return path, size
        return None

    def _object(self, name: str) -> tuple[str, int]:
        """As `_find`; `Missing` once that can be believed."""
        found = self._find(name)
        if found is None:
            self._believe(posixpath.dirname(name))
            raise Missing(f"{self._place}: {name} is not there")
        return found

    def _check_size(self, name: str, length: int) -> None:
        size = self._sizes([name])[0]
        if size != length:
            raise Unavailable(f"{self._place}: {name} has {size} bytes where {length} were written")

    def _can_enter(self, folder: str) -> bool:
        try:
            self._link.voidcmd(f"CWD {self._path(folder)}")
        except ReplyError as error:
            if error.code not in LOOK_CLOSER:
                raise
            if error.denied:
                raise Refused(f"cannot enter {folder} on {self._place}: {error}", PERMISSION) from error
            return False
        return True

    def _believe(self, folder: str) -> None:
        """Returns if "not there" can be believed of what is in ``folder``: it can be entered, or is itself
        not there. Raises `Refused` if it is only closed to this account."""
        if self._can_enter(folder):
            return
        if not folder:
            raise self._no_root()
        parent, _, last = folder.rpartition("/")
        self._believe(parent)
        if not self._can_enter(parent):
            return
        listed = last in {entry.name for entry in self._list_here(parent)}
        # What is listed may have been made just now, by another session.
        if listed and not self._can_enter(folder):
            raise Refused(f"the folder {folder} on {self._place} cannot be entered", PERMISSION)

    def _list_here(self, folder: str) -> list[Entry]:
        """What is in the folder that was just entered: named, a path could be taken for a pattern."""
        data = self._data.listing("MLSD" if self._lists_facts else "LIST")
        if data.count(b"\n") > MAX_NAMES:
            raise Corrupt(f"{self._place}: the listing of {folder or 'the root'} does not end")
        return entries_of(data, self._lists_facts)

    def _with_parents(self, name: str, call: Callable[[], _T]) -> _T:
        """``call``; if it is refused as it would be without the folder above ``name``, once more with that."""
        try:
            return call()
        except ReplyError as error:
            if error.code not in LOOK_CLOSER:
                raise
        self._make_parents(name)
        return call()

    def _make_parents(self, name: str) -> None:
        parts = name.split("/")[:-1]
        for count in range(1, len(parts) + 1):
            # Its answer does not matter: "is there" and worse are both told by what follows.
            with suppress(ReplyError):
                self._link.voidcmd(f"MKD {self._path('/'.join(parts[:count]))}")

    def _forget(self, file: str, folder: str = "") -> None:
        """Best effort; a session that broke is no new fault here."""
        with suppress(ReplyError, TandemError, OSError, EOFError):
            self._link.answers(
                [f"DELE {self._path(file)}"] + ([f"RMD {self._path(folder)}"] if folder else [])
            )

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        with translated(f"{doing} on {self._place}"):
            yield
