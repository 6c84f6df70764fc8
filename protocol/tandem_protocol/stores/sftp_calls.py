"""Single requests about names below one root folder of a server, and what their failures mean. Blocking.

A bare "Failure" may mean "is there", "no space" or "read-only": the server is asked which. The verbs of the
Store contract are built of these in sftp_folder.py.
"""

from __future__ import annotations

import os
import posixpath
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate

from ..errors import Absent, Refused, TandemError
from . import sftp_codes as codes
from .sftp_errors import NotSyncedError, StatusError, from_status, full
from .sftp_messages import Attributes, Reply, Request, read_attributes
from .sftp_requests import Requests

HARDLINK, FSYNC, STATVFS = b"hardlink@openssh.com", b"fsync@openssh.com", b"statvfs@openssh.com"
NEW = codes.FLAG_READ | codes.FLAG_WRITE | codes.FLAG_CREATE | codes.FLAG_EXCL
_MODE_FLAG = 0x4
_FILE_MODE, _FOLDER_MODE = 0o600, 0o700


class SftpCalls:
    """One session's view of the root. ``place`` is its address for messages."""

    def __init__(self, requests: Requests, root: str, place: str) -> None:
        self._requests = requests
        self._root = root
        self._place = place
        self._folders = {""}
        """Folders that were there a moment ago."""
        self.power_safe = FSYNC in requests.extensions

    def enter(self, make: bool) -> float:
        """Begin the session: take the server's limits, and see that the root is a folder; make it and its parents
        first if ``make``. Gives how many seconds a question and its answer took."""
        with self._explained("open the folder"):
            began = time.monotonic()
            limits = self._requests.ask_limits()
            found = self._root_attributes()
            took = time.monotonic() - began
            self._requests.take_limits(limits)
            if found is None and make:
                folders = [path for path in accumulate(self._root.split("/"), "{}/{}".format) if path]
                self._make_folders([os.fsencode(path) for path in folders])
                found = self._root_attributes()
        if found is None:
            raise Absent(
                f"{self._place}: there is no such folder on the server",
                "check the path, and that the disk behind it is mounted there",
            )
        if not found.is_folder:
            raise Refused(f"{self._place} is not a folder", "give the path of a folder")
        return took

    def _root_attributes(self) -> Attributes | None:
        try:
            return self._stat(self._path(""))
        except StatusError as error:
            if error.code != codes.NO_SUCH_FILE:
                raise
            return None

    def _make_folders(self, paths: Sequence[bytes]) -> None:
        """Make those of ``paths``, parents first, that are not there. The answers do not matter: "is there" and worse
        are both told by whatever needs the folder."""
        numbers: list[int] = []
        for path in paths:
            numbers.append(self._requests.ask(*_making(path)))
            if not self._requests.in_order:
                self._end(numbers)
        self._end(numbers)

    def _end(self, numbers: list[int]) -> None:
        """Wait for all these answers, whatever they are."""
        while numbers:
            with suppress(StatusError):
                self._requests.answer(numbers.pop(0))

    def _path(self, name: str) -> bytes:
        root = os.fsencode(self._root)
        if not root:
            return name.encode() or b"."
        return root.rstrip(b"/") + b"/" + name.encode() if name else root

    def _open(self, path: bytes, flags: int) -> bytes:
        return self._requests.call(codes.OPEN, path, flags, _MODE_FLAG, _FILE_MODE).string()

    def _open_new(self, name: str) -> bytes:
        return self._with_parents(name, self._opening(name)).string()

    def _opening(self, name: str) -> Request:
        """What makes a new file and opens it."""
        return (codes.OPEN, self._path(name), NEW, _MODE_FLAG, _FILE_MODE)

    def _with_parents(self, name: str, request: Request, handle: bytes | None = None) -> Reply:
        """The answer to ``request``, which needs the folder of ``name``: that is made, with its parents, if it is not
        there. ``handle``: of the file that it publishes, which is synced right behind it: the name is durable too."""
        try:
            return self._answered(name, self._ask_with_parents(name, request, handle), handle)
        except NotSyncedError:
            raise
        except StatusError as error:
            if error.code not in (codes.NO_SUCH_FILE, codes.FAILURE):
                raise
            there = self._is_folder(posixpath.dirname(name))
            if there and error.code == codes.FAILURE:
                raise
        self._folders.discard(posixpath.dirname(name))
        # A folder that is there now was not a moment ago: another session made it.
        if not there:
            self._make_folders(self._parents(name))
        return self._answered(name, self._ask_with_parents(name, request, handle), handle)

    def _ask_with_parents(self, name: str, request: Request, handle: bytes | None = None) -> list[int]:
        """Send ``request``, and in one piece with it what makes the folder of ``name`` (unless that is known to be
        there) and what syncs ``handle``, to a server that keeps this order. The numbers but for the folders'."""
        if not self._requests.in_order:
            return self._requests.ask_all(request)
        known = posixpath.dirname(name) in self._folders
        made: list[Request] = [] if known else [_making(path) for path in self._parents(name)]
        synced = [] if handle is None else self._settling(handle)
        numbers = self._requests.ask_all(*made, request, *synced)
        for number in numbers[: len(made)]:
            self._requests.drop(number)
        return numbers[len(made) :]

    def _answered(self, name: str, numbers: list[int], handle: bytes | None = None) -> Reply:
        """The answer to what `_ask_with_parents` sent."""
        first, *synced = numbers
        try:
            reply = self._requests.answer(first)
        except StatusError:
            for number in synced:
                self._requests.drop(number)
            raise
        self._folders.add(posixpath.dirname(name))
        if handle is not None and not synced:
            synced = self._requests.ask_all(*self._settling(handle))
        try:
            self._requests.answer_all(synced)
        except StatusError as error:
            raise NotSyncedError(error.code, error.text) from error
        return reply

    def _parents(self, name: str) -> list[bytes]:
        return [self._path(folder) for folder in accumulate(name.split("/")[:-1], "{}/{}".format)]

    def _stat(self, path: bytes) -> Attributes:
        return read_attributes(self._requests.call(codes.STAT, path))

    def _lstat(self, path: bytes) -> Attributes:
        return read_attributes(self._requests.call(codes.LSTAT, path))

    def _exists(self, name: str) -> bool:
        try:
            self._lstat(self._path(name))
        except StatusError as error:
            if error.code == codes.NO_SUCH_FILE:
                return False
            raise
        return True

    def _is_folder(self, name: str) -> bool:
        try:
            return self._stat(self._path(name)).is_folder
        except StatusError:
            return False

    def _sync(self, handle: bytes) -> None:
        for request in self._settling(handle):
            self._requests.call(*request)

    def _settling(self, handle: bytes) -> list[Request]:
        """What makes a file durable, where that can be had."""
        return [(codes.EXTENDED, FSYNC, handle)] if self.power_safe else []

    def _settle(self, name: str) -> None:
        """Best effort: what an earlier session published under ``name``, or a folder, goes to disk now."""
        if not self.power_safe:
            return
        with suppress(StatusError):
            handle = self._open(self._path(name), codes.FLAG_READ)
            self._later(codes.EXTENDED, FSYNC, handle)
            self._requests.call(codes.FSTAT, handle)
            self._later(codes.CLOSE, handle)

    def _later(self, kind: int, *fields: int | bytes) -> None:
        """A request whose answer nobody needs; a link that broke is no new fault then."""
        with suppress(TandemError):
            self._requests.drop(self._requests.ask(kind, *fields))

    @contextmanager
    def _explained(self, doing: str, need: int = 0) -> Iterator[None]:
        try:
            yield
        except StatusError as error:
            raise self._explain(error, doing, need) from error

    def _explain(self, error: StatusError, doing: str, need: int = 0) -> TandemError:
        """The project's error for a status; what "Failure" means is asked of the file system."""
        doing = f"{doing} on {self._place}"
        if error.code == codes.FAILURE and STATVFS in self._requests.extensions:
            with suppress(StatusError, struct.error):
                reply = self._requests.call(codes.EXTENDED, STATVFS, self._path(""))
                values = struct.unpack(">11Q", reply.take(88))
                free, files, free_files, flags = values[1] * values[4], values[5], values[7], values[9]
                if need and (free < need or (files and not free_files)):
                    return full(f"cannot {doing}: no room is left")
                if flags & 1:
                    return Refused(f"cannot {doing}: it is mounted read-only", "mount it for writing there")
        return from_status(error, doing)


def _making(folder: bytes) -> Request:
    return (codes.MKDIR, folder, _MODE_FLAG, _FOLDER_MODE)
