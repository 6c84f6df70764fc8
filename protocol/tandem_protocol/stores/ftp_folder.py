"""The verbs of the Store contract as FTP commands below one root folder of a server. Blocking.

create: a folder ``tmp/x`` with the one file ``c``, size checked, the folder renamed to the name: servers
refuse the second one, while a rename of a file overwrites silently. put: a part in ``tmp/`` that a later
attempt goes on from, size checked, renamed after a look that nothing is there. FTP has no fsync.
"""

from __future__ import annotations

import posixpath
import socket
from collections.abc import Callable
from contextlib import suppress

from ..errors import Corrupt, Exists, Refused, TandemError, Unavailable
from ..store import Entry
from .faults import temporary_name
from .folder import CONTENT
from .ftp_calls import FtpCalls
from .ftp_errors import LOOK_CLOSER, ReplyError, from_reply
from .ftp_link import FtpLink
from .parts import SLICE, KnownParts

MAX_OBJECT = 256 * 1024 * 1024
"""Bytes of the longest object that is read whole: a server's word on a size is not trusted beyond it."""


class FtpFolder(FtpCalls):
    """The verbs, in one session. Names are checked by the caller. ``parts`` outlives it."""

    def __init__(self, link: FtpLink, parts: KnownParts | None = None) -> None:
        super().__init__(link)
        self._parts = parts or KnownParts()

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
            self._parts.forget(part)
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
        if 0 < size <= len(data) and self._is_good(part, size, data):
            return size
        # Removed, not overwritten: a session that was cut may still be writing to it.
        self._parts.forget(part)
        self._link.voidcmd(f"DELE {self._path(part)}")
        return 0

    def _is_good(self, part: str, size: int, data: memoryview) -> bool:
        """Whether the part is the beginning of ``data``; what was found so stays known, wherever this ends."""
        first = good = self._parts.good(part, size)
        if first == size:
            return True
        found = memoryview(bytearray(size - first))

        def came(count: int) -> None:
            nonlocal good
            stop = first + count
            if (stop - good >= SLICE or stop == size) and found[good - first : count] == data[good:stop]:
                self._parts.note(part, stop)
                good = stop

        conn = self._data.begin(f"RETR {self._path(part)}", first)
        # It may be growing: the server of a session that was cut still writes what it had received, the same bytes.
        return self._data.receive(conn, found, is_all=False, came=came) == len(found) and good == size

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


def _ignore(_count: int) -> None:
    """Nobody watches the progress of a small file."""
