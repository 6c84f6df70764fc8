"""The verbs of the Store contract as FTP commands below one root folder of a server. Blocking.

create: a folder ``tmp/x`` with the one file ``c``, size checked, the folder renamed to the name: servers
refuse the second one, while a rename of a file overwrites silently. put: a part in ``tmp/`` that a later
attempt goes on from, size checked, renamed after a look that nothing is there. FTP has no fsync.

550 may mean "not there" or "not allowed". Not there is believed only if the folder above can be entered, or is
itself not in the listing of its parent.
"""

from __future__ import annotations

import ftplib
import posixpath
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from ..errors import Corrupt, Exists, Missing, Refused, TandemError, Unavailable
from ..store import Entry
from .faults import temporary_name
from .folder import CONTENT
from .ftp_data import FtpData
from .ftp_errors import LOOK_CLOSER, PERMISSION, ReplyError, from_reply, translated
from .ftp_link import FtpLink
from .ftp_listing import MAX_SIZE_DIGITS, entries_of

MAX_OBJECT = 256 * 1024 * 1024
"""Bytes of the longest object that is read whole: a server's word on a size is not trusted beyond it."""

MAX_NAMES = 262_144
"""Names that one folder may have before its listing is refused."""

_T = TypeVar("_T")


class FtpFolder:
    """The verbs, in one session. Names are checked by the caller."""

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

    def _no_root(self) -> Unavailable:
        return Unavailable(
            f"{self._place}: there is no such folder on the server",
            "check the path, and that the disk behind it is mounted there",
        )

    def create(self, name: str, data: memoryview) -> None:
        box = temporary_name(name)
        content = f"{box}/{CONTENT}"
        with self._explained(f"create {name}"):
            self._with_parents(box, lambda: self._link.voidcmd(f"MKD {self._path(box)}"))
            try:
                self._data.send(self._data.begin(f"STOR {self._path(content)}"), data, _ignore)
                self._check_size(content, len(data))
                self._publish_new(box, name)
            except (ReplyError, TandemError):
                self._forget(content, box)
                raise

    def _publish_new(self, box: str, name: str) -> None:
        """Give the folder its name, which only one can."""
        for makes_parents in (True, False):
            try:
                self._rename(box, name)
                return
            except ReplyError as error:
                if error.code not in LOOK_CLOSER:
                    raise
                if self._find(name) is not None:
                    raise Exists(f"{self._place}: {name} is there") from error
                if not makes_parents:
                    raise
                self._make_parents(name)

    def put(self, name: str, data: memoryview, sent: Callable[[int], None]) -> None:
        part = f"tmp/{posixpath.basename(name)}"
        with self._explained(f"write {name}"):
            size, *there = self._sizes([part, name, f"{name}/{CONTENT}"])
            if self._is_same(name, there, len(data)):
                return
            done = self._good_part(part, size, data)
            if done < len(data) or not data:
                self._upload(part, data, done, sent)
            size, *there = self._sizes([part, name, f"{name}/{CONTENT}"])
            if size != len(data):
                self._forget(part)
                raise Unavailable(f"{self._place}: {part} has {size} bytes where {len(data)} were written")
            if self._is_same(name, there, len(data)):
                self._forget(part)
                return
            self._with_parents(name, lambda: self._rename(part, name))

    def _is_same(self, name: str, sizes: list[int | None], length: int) -> bool:
        """Whether the object is there with this size; `Exists` if with another."""
        for size in sizes:
            if size == length:
                return True
            if size is not None:
                raise Exists(f"{self._place}: {name} is there with {size} bytes where {length} belong")
        return False

    def _good_part(self, part: str, size: int | None, data: memoryview) -> int:
        """Bytes of the part that are there and right; a wrong part is removed."""
        if size is None:
            return 0
        if 0 < size <= len(data):
            found = bytearray(size)
            conn = self._data.begin(f"RETR {self._path(part)}")
            if self._data.receive(conn, memoryview(found), is_all=True) == size and found == data[:size]:
                return size
        # Removed, not overwritten: a session that was cut may still be writing to it.
        self._link.voidcmd(f"DELE {self._path(part)}")
        return 0

    def _upload(self, part: str, data: memoryview, done: int, sent: Callable[[int], None]) -> None:
        try:
            conn = self._resumed(part, done) if done else None
            if conn is None:
                done = 0
                conn = self._with_parents(part, lambda: self._data.begin(f"STOR {self._path(part)}"))
            self._data.send(conn, data[done:], sent)
        except ReplyError as error:
            self._forget_if_full(part, error)
            raise

    def _resumed(self, part: str, done: int) -> socket.socket | None:
        """A connection that goes on after ``done`` bytes; None, and no part, where the server allows none."""
        path = self._path(part)
        for command, offset in ((f"STOR {path}", done), (f"APPE {path}", 0)):
            with suppress(ReplyError):
                return self._data.begin(command, offset)
        self._link.voidcmd(f"DELE {path}")
        self._link.sendcmd("REST 0")  # the refused offset may not wait for the next upload
        return None

    def _forget_if_full(self, part: str, error: ReplyError) -> None:
        """A part that cannot be completed must not take the room that is lacking."""
        if isinstance(from_reply(error, ""), Refused):
            self._forget(part)

    def read(self, name: str, offset: int, length: int | None) -> bytes:
        with self._explained(f"read {name}"):
            path, size = self._object(name)
            wanted = max(0, size - offset if length is None else min(length, size - offset))
            if wanted > MAX_OBJECT:
                raise Corrupt(f"{self._place}: the server says that an object has {size} bytes")
            if not wanted:
                return b""
            whole = bytearray(wanted)
            try:
                conn = self._data.begin(f"RETR {self._path(path)}", offset)
            except ReplyError:
                self._object(name)  # it may just have been removed
                raise
            got = self._data.receive(conn, memoryview(whole), is_all=offset + wanted == size)
            if got != wanted:
                raise Unavailable(f"{self._place}: the server sent {got} of {wanted} bytes of {name}")
            return bytes(whole)

    def size(self, name: str) -> int:
        with self._explained(f"look at {name}"):
            return self._object(name)[1]

    def entries(self, folder: str) -> list[Entry]:
        with self._explained(f"list {folder or 'the root'}"):
            if not self._can_enter(folder):
                self._believe(folder)
                return []
            entries = self._list_here(folder)
            prefix = f"{folder}/" if folder else ""
            folders = [at for at, entry in enumerate(entries) if entry.is_folder]
            sizes = self._sizes([f"{prefix}{entries[at].name}/{CONTENT}" for at in folders])
            for at, size in zip(folders, sizes, strict=True):
                if size is not None:
                    entries[at] = Entry(entries[at].name, size, False)
            return entries

    def _list_here(self, folder: str) -> list[Entry]:
        """What is in the folder that was just entered: named, a path could be taken for a pattern."""
        data = self._data.listing("MLSD" if self._lists_facts else "LIST")
        if data.count(b"\n") > MAX_NAMES:
            raise Corrupt(f"{self._place}: the listing of {folder or 'the root'} does not end")
        return entries_of(data, self._lists_facts)

    def move(self, source: str, target: str) -> None:
        with self._explained(f"move {source} to {target}"):
            taken = Exists(f"{self._place}: cannot move {source}: {target} is there")
            if self._find(target) is not None:
                raise taken
            try:
                self._rename(source, target)
            except ReplyError as error:
                if error.code not in LOOK_CLOSER:
                    raise
                self._object(source)
                self._make_parents(target)
                try:
                    self._rename(source, target)
                except ReplyError:
                    if self._find(target) is not None:
                        raise taken from error
                    raise

    def delete(self, name: str) -> None:
        with self._explained(f"delete {name}"):
            try:
                self._link.voidcmd(f"DELE {self._path(name)}")
                return
            except ReplyError as error:
                if error.code not in LOOK_CLOSER:
                    raise
                if self._sizes([name])[0] is not None:
                    raise
            with suppress(ReplyError):
                self._link.voidcmd(f"DELE {self._path(name)}/{CONTENT}")
            try:
                self._link.voidcmd(f"RMD {self._path(name)}")
            except ReplyError:
                if self._can_enter(name):
                    raise
                self._believe(posixpath.dirname(name))

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


def _ignore(_count: int) -> None:
    """Nobody watches the progress of a small file."""
