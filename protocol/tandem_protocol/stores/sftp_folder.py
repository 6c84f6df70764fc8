"""The verbs of the Store contract as SFTP requests below one root folder of a server. Blocking.

create: temporary file, fsync, hard link to the name, else plain rename, else exclusive open; fsync again on
the same handle. put: a part in ``tmp/`` that a later attempt goes on from, size checked, fsync, plain
rename, fsync again. Requests that do not depend on each other go out together: round trips are
what costs here.
"""

from __future__ import annotations

import posixpath
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from ..errors import Corrupt, Exists, Missing, Unavailable
from ..names import valid
from ..store import Entry
from . import sftp_codes as codes
from .faults import temporary_name
from .folder import CONTENT
from .parts import SLICE, KnownParts
from .sftp_calls import HARDLINK, SftpCalls
from .sftp_errors import NotSyncedError, StatusError
from .sftp_messages import Reply, Request, read_attributes
from .sftp_requests import Requests

MAX_OBJECT = 256 * 1024 * 1024
"""Bytes of the longest object that is read whole: a server's word on a size is not trusted beyond it."""

MAX_NAMES = 262_144
"""Names (and answers) that one folder may have before its listing is refused."""

_READ_AHEAD = 4
_LOOK_AHEAD = 256


class SftpFolder(SftpCalls):
    """The verbs, in one session. Names are checked by the caller. ``parts`` outlives it."""

    def __init__(self, requests: Requests, root: str, place: str, parts: KnownParts | None = None) -> None:
        super().__init__(requests, root, place)
        self._parts = parts or KnownParts()

    def create(self, name: str, data: memoryview) -> None:
        temporary = temporary_name(name)
        with self._explained(f"create {name}", len(data)):
            handle = self._open_new(temporary)
            try:
                self._requests.write(handle, data, 0, _ignore, self._settling(handle))
                if not self._publish_new(temporary, name, handle):
                    self._create_in_place(name, data)
            except StatusError as error:
                if self._exists(name):
                    self._settle(name)
                    raise Exists(f"{self._place}: {name} is there") from error
                # Asked before the temporary file goes: its room would look free.
                raise self._explain(error, f"create {name}", len(data)) from error
            finally:
                self._later(codes.CLOSE, handle)
                self._later(codes.REMOVE, self._path(temporary))

    def _publish_new(self, temporary: str, name: str, handle: bytes) -> bool:
        """Give the temporary file its name exclusively, durably. False: this server can do that in neither way."""
        source, target = self._path(temporary), self._path(name)
        if HARDLINK in self._requests.extensions:
            try:
                self._with_parents(name, (codes.EXTENDED, HARDLINK, source, target), handle)
                return True
            except StatusError:
                if self._exists(name):
                    raise
        try:
            self._with_parents(name, (codes.RENAME, source, target), handle)
        except NotSyncedError:
            raise
        except StatusError as error:
            if error.code != codes.OP_UNSUPPORTED:
                raise
            return False
        return True

    def _create_in_place(self, name: str, data: memoryview) -> None:
        """The last resort: a crash in here leaves a torn file, which the protocol knows and writes again."""
        handle = self._open_new(name)
        try:
            self._requests.write(handle, data, 0, _ignore, self._settling(handle))
        finally:
            self._later(codes.CLOSE, handle)

    def put(self, name: str, data: memoryview, sent: Callable[[int], None]) -> None:
        part = f"tmp/{posixpath.basename(name)}"
        with self._explained(f"write {name}", len(data)):
            looked = self._requests.ask(codes.LSTAT, self._path(name))
            opened = self._ask_with_parents(part, self._opening(part))
            there = True
            try:
                there = self._is_there(name, len(data), looked)
            finally:
                if there:
                    self._take_back(part, opened)
            if there:
                return
            handle, done = self._open_part(part, data, opened)
            try:
                self._write(handle, data, done, part, sent)
                self._finish(handle, part, name, len(data))
            except StatusError as error:
                cause = self._explain(error, f"write {name}", len(data))
                # Whatever failed (space, the fsync), this file is not to be built upon.
                self._discard(part)
                raise cause from error
            finally:
                self._later(codes.CLOSE, handle)

    def _write(
        self, handle: bytes, data: memoryview, done: int, part: str, sent: Callable[[int], None]
    ) -> None:
        """Write what is not ``done``, durably; it is seen that all of it is there."""
        then: list[Request] = [(codes.FSTAT, handle), *self._settling(handle)]
        looked = self._requests.write(handle, data[done:], done, sent, then)[0]
        size = read_attributes(looked).size
        if size != len(data):
            self._discard(part)
            raise Unavailable(f"{self._place}: {part} has {size} bytes where {len(data)} were written")

    def _finish(self, handle: bytes, part: str, name: str, length: int) -> None:
        """Give the part its name, durably."""
        try:
            self._with_parents(name, (codes.RENAME, self._path(part), self._path(name)), handle)
        except NotSyncedError:
            raise
        except StatusError:
            if not self._is_there(name, length):
                raise
            self._discard(part)
            self._sync(handle)
        self._parts.forget(part)

    def _take_back(self, part: str, opened: list[int]) -> None:
        """The part is not needed: the object is there."""
        with suppress(StatusError):
            self._later(codes.CLOSE, self._answered(part, opened).string())
            self._later(codes.REMOVE, self._path(part))

    def _discard(self, part: str) -> None:
        """Remove a part before anything else happens: the next upload takes the same name."""
        self._parts.forget(part)
        with suppress(StatusError):
            self._requests.call(codes.REMOVE, self._path(part))

    def _open_part(self, part: str, data: memoryview, opened: list[int]) -> tuple[bytes, int]:
        """(handle, bytes that are there already and right) of the part to write to, which ``opened`` asks for."""
        try:
            return self._answered(part, opened).string(), 0
        except StatusError:
            if not self._exists(part):
                return self._open_new(part), 0
        handle = self._open(self._path(part), codes.FLAG_READ | codes.FLAG_WRITE)
        size = read_attributes(self._requests.call(codes.FSTAT, handle)).size
        if 0 < size <= len(data) and self._is_good(handle, part, size, data):
            return handle, size
        self._later(codes.CLOSE, handle)
        self._parts.forget(part)
        self._requests.call(codes.REMOVE, self._path(part))
        return self._open_new(part), 0

    def _is_good(self, handle: bytes, part: str, size: int, data: memoryview) -> bool:
        """Whether the part is the beginning of ``data``; what was found so stays known, wherever this ends."""
        start = self._parts.good(part, size)
        if start < size:
            try:
                self._sync(handle)  # first, so that a crash of the server cannot undo what is read now
            except StatusError:
                self._discard(part)
                raise
        while start < size:
            found = bytearray(min(SLICE, size - start))
            stop = start + len(found)
            if self._requests.read_into(handle, start, memoryview(found)) < len(found):
                return False
            if found != data[start:stop]:
                return False
            self._parts.note(part, stop)
            start = stop
        return True

    def _is_there(self, name: str, length: int, looked: int | None = None) -> bool:
        """Whether the object is there with this size, durably; `Exists` if with another."""
        try:
            size = self._size(name, looked)
        except Missing:
            return False
        if size != length:
            raise Exists(f"{self._place}: {name} is there with {size} bytes where {length} belong")
        self._settle(name)
        return True

    def read(self, name: str, offset: int, length: int | None) -> bytes:
        with self._explained(f"read {name}"):
            try:
                data = self._read(self._path(name), offset, length)
            except StatusError as error:
                # A server may refuse to open a folder, or let it be opened and refuse to read it.
                if error.code == codes.NO_SUCH_FILE or not self._lstat(self._path(name)).is_folder:
                    raise
                data = None
            return (
                self._read(self._path(f"{name}/{CONTENT}"), offset, length) or b"" if data is None else data
            )

    def _read(self, path: bytes, offset: int, length: int | None) -> bytes | None:
        """The bytes, or None if ``path`` is a folder."""
        requests = self._requests
        handle = self._open(path, codes.FLAG_READ)
        try:
            first = bytearray(min(requests.max_read, requests.max_read if length is None else length))
            looked, reading = requests.ask_look_and_read(handle, offset, memoryview(first))
            found = read_attributes(requests.answer(looked))
            if found.is_folder:
                requests.drop(reading)
                return None
            wanted = max(0, found.size - offset if length is None else min(length, found.size - offset))
            if wanted > MAX_OBJECT:
                raise Corrupt(f"{self._place}: the server says that an object has {found.size} bytes")
            got = self._first(reading) if first else 0
            if got >= wanted:
                return bytes(memoryview(first)[:wanted])
            whole = bytearray(wanted)
            whole[:got] = memoryview(first)[:got]
            got += requests.read_into(handle, offset + got, memoryview(whole)[got:])
            if got != wanted:
                raise Corrupt(
                    f"{self._place}: the server sent {got} of {wanted} bytes that it says are there"
                )
            return bytes(whole)
        finally:
            self._later(codes.CLOSE, handle)

    def _first(self, reading: int) -> int:
        try:
            return self._requests.answer_read(reading)
        except StatusError as error:
            if error.code != codes.EOF:
                raise
            return 0

    def size(self, name: str) -> int:
        with self._explained(f"look at {name}"):
            return self._size(name)

    def _size(self, name: str, looked: int | None = None) -> int:
        """``looked``: the number of the request for what stands there, if it was sent."""
        try:
            if looked is None:
                looked = self._requests.ask(codes.LSTAT, self._path(name))
            found = read_attributes(self._requests.answer(looked))
            if found.is_folder:
                found = self._lstat(self._path(f"{name}/{CONTENT}"))
        except StatusError as error:
            raise self._explain(error, f"look at {name}") from error
        if not found.is_file:
            raise Missing(f"{self._place}: {name} is not a file")
        return found.size

    def entries(self, folder: str) -> list[Entry]:
        with self._explained(f"list {folder or 'the root'}"):
            try:
                handle = self._requests.call(codes.OPENDIR, self._path(folder)).string()
                try:
                    entries = list(self._names(handle, folder))
                finally:
                    self._later(codes.CLOSE, handle)
            except StatusError as error:
                # Some servers open any folder, and say only when it is read that there is none.
                if error.code == codes.NO_SUCH_FILE:
                    return []
                raise
            return self._objects_in_folders(folder, entries)

    def _names(self, handle: bytes, folder: str) -> Iterator[Entry]:
        """Every valid name that the server gives, with a few requests ahead; `Corrupt` if it never ends."""
        requests, answers, names = self._requests, 0, 0
        waiting = deque(requests.ask_all(*[(codes.READDIR, handle)] * _READ_AHEAD))
        try:
            while True:
                reply = requests.answer(waiting.popleft())
                answers += 1
                for entry in _listed(reply):
                    names += 1
                    if entry is not None:
                        yield entry
                if answers > MAX_NAMES or names > MAX_NAMES:
                    raise Corrupt(f"{self._place}: the listing of {folder or 'the root'} does not end")
                if len(waiting) < _READ_AHEAD // 2:
                    waiting += requests.ask_all(*[(codes.READDIR, handle)] * _READ_AHEAD)
        except StatusError as error:
            if error.code != codes.EOF:
                raise
        finally:
            for number in waiting:
                requests.drop(number)

    def _objects_in_folders(self, folder: str, entries: list[Entry]) -> list[Entry]:
        """Folders that hold the one file ``c`` are objects."""
        prefix = f"{folder}/" if folder else ""
        folders = [at for at, entry in enumerate(entries) if entry.is_folder]
        for start in range(0, len(folders), _LOOK_AHEAD):
            asked = [
                (at, self._requests.ask(codes.LSTAT, self._path(f"{prefix}{entries[at].name}/{CONTENT}")))
                for at in folders[start : start + _LOOK_AHEAD]
            ]
            for at, number in asked:
                with suppress(StatusError):
                    found = read_attributes(self._requests.answer(number))
                    if found.is_file:
                        entries[at] = Entry(entries[at].name, found.size, False)
        return entries

    def move(self, source: str, target: str) -> None:
        with self._explained(f"move {source} to {target}"):
            if self._exists(target):
                raise Exists(f"{self._place}: cannot move {source}: {target} is there")
            try:
                self._with_parents(target, (codes.RENAME, self._path(source), self._path(target)))
            except StatusError as error:
                if not self._exists(source):
                    raise Missing(f"{self._place}: cannot move {source}: it is not there") from error
                if self._exists(target):
                    raise Exists(f"{self._place}: cannot move {source}: {target} is there") from error
                raise
            self._settle(target)

    def delete(self, name: str) -> None:
        path = self._path(name)
        with self._explained(f"delete {name}"):
            try:
                self._requests.call(codes.REMOVE, path)
            except StatusError as error:
                if error.code == codes.NO_SUCH_FILE or not self._exists(name):
                    return
                if not self._lstat(path).is_folder:
                    raise
                with suppress(StatusError):
                    self._requests.call(codes.REMOVE, self._path(f"{name}/{CONTENT}"))
                self._requests.call(codes.RMDIR, path)
            self._settle(posixpath.dirname(name))


def _listed(reply: Reply) -> Iterator[Entry | None]:
    """The entries of one READDIR answer; None for a name that is passed over."""
    if reply.kind != codes.NAME:
        raise Corrupt("the server answered a listing with something else")
    for _ in range(reply.int32()):
        raw = reply.string()
        reply.string()
        found = read_attributes(reply)
        name = raw.decode("ascii", errors="replace")
        if valid(name) and "/" not in name and (found.is_folder or found.is_file):
            yield Entry(name, 0 if found.is_folder else found.size, found.is_folder)
        else:
            yield None


def _ignore(_count: int) -> None:
    """Nobody watches the progress of a small file."""
