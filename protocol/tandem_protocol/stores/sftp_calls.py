"""Single requests about names below one root folder of a server, and what their failures mean. Blocking.

A bare "Failure" may mean "is there", "no space" or "read-only": the server is asked which. The verbs of the
Store contract are built of these in sftp_folder.py.
"""

from __future__ import annotations

import os
import posixpath
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from paramiko import sftp

from ..errors import Absent, Refused, TandemError
from .sftp_errors import StatusError, from_status, full
from .sftp_requests import Attributes, Reply, Requests, read_attributes

HARDLINK, FSYNC, STATVFS = b"hardlink@openssh.com", b"fsync@openssh.com", b"statvfs@openssh.com"
NEW = sftp.SFTP_FLAG_READ | sftp.SFTP_FLAG_WRITE | sftp.SFTP_FLAG_CREATE | sftp.SFTP_FLAG_EXCL
_MODE_FLAG = 0x4
_FILE_MODE, _FOLDER_MODE = 0o600, 0o700


class SftpCalls:
    """One session's view of the root. ``place`` is its address for messages."""

    def __init__(self, requests: Requests, root: str, place: str) -> None:
        self._requests = requests
        self._root = root
        self._place = place
        self.power_safe = FSYNC in requests.extensions

    def enter(self, make: bool) -> None:
        """See that the root is a folder; make it and its parents first if ``make``."""
        with self._explained("open the folder"):
            try:
                found = self._stat(self._path(""))
            except StatusError as error:
                if error.code != sftp.SFTP_NO_SUCH_FILE:
                    raise
                if not make:
                    raise Absent(
                        f"{self._place}: there is no such folder on the server",
                        "check the path, and that the disk behind it is mounted there",
                    ) from error
                self._make_root()
                found = self._stat(self._path(""))
        if not found.is_folder:
            raise Refused(f"{self._place} is not a folder", "give the path of a folder")

    def _make_root(self) -> None:
        path = ""
        for part in self._root.split("/"):
            path = f"{path}{part}/"
            if part:
                with suppress(StatusError):
                    self._mkdir(os.fsencode(path.rstrip("/")))

    def _path(self, name: str) -> bytes:
        root = os.fsencode(self._root)
        if not root:
            return name.encode() or b"."
        return root.rstrip(b"/") + b"/" + name.encode() if name else root

    def _open(self, path: bytes, flags: int) -> bytes:
        return self._requests.call(sftp.CMD_OPEN, path, flags, _MODE_FLAG, _FILE_MODE).string()

    def _open_new(self, name: str) -> bytes:
        reply = self._with_parents(name, sftp.CMD_OPEN, self._path(name), NEW, _MODE_FLAG, _FILE_MODE)
        return reply.string()

    def _with_parents(self, name: str, kind: int, *fields: int | bytes) -> Reply:
        """The request; if it says "no such file", once more with the parent folders of ``name`` made."""
        try:
            return self._requests.call(kind, *fields)
        except StatusError as error:
            if error.code not in (sftp.SFTP_NO_SUCH_FILE, sftp.SFTP_FAILURE):
                raise
            there = self._is_folder(posixpath.dirname(name))
            if there and error.code == sftp.SFTP_FAILURE:
                raise
        # A folder that is there now was not a moment ago: another session made it.
        walked = ""
        for part in () if there else name.split("/")[:-1]:
            walked = f"{walked}/{part}" if walked else part
            # Its answer does not matter: "is there" and worse are both told by the request itself.
            with suppress(StatusError):
                self._mkdir(self._path(walked))
        return self._requests.call(kind, *fields)

    def _mkdir(self, path: bytes) -> None:
        self._requests.call(sftp.CMD_MKDIR, path, _MODE_FLAG, _FOLDER_MODE)

    def _stat(self, path: bytes) -> Attributes:
        return read_attributes(self._requests.call(sftp.CMD_STAT, path))

    def _lstat(self, path: bytes) -> Attributes:
        return read_attributes(self._requests.call(sftp.CMD_LSTAT, path))

    def _exists(self, name: str) -> bool:
        try:
            self._lstat(self._path(name))
        except StatusError as error:
            if error.code == sftp.SFTP_NO_SUCH_FILE:
                return False
            raise
        return True

    def _is_folder(self, name: str) -> bool:
        try:
            return self._stat(self._path(name)).is_folder
        except StatusError:
            return False

    def _sync(self, handle: bytes) -> None:
        if self.power_safe:
            self._requests.call(sftp.CMD_EXTENDED, FSYNC, handle)

    def _settle(self, name: str) -> None:
        """Best effort: what an earlier session published under ``name``, or a folder, goes to disk now."""
        if not self.power_safe:
            return
        with suppress(StatusError):
            handle = self._open(self._path(name), sftp.SFTP_FLAG_READ)
            self._later(sftp.CMD_EXTENDED, FSYNC, handle)
            self._requests.call(sftp.CMD_FSTAT, handle)
            self._later(sftp.CMD_CLOSE, handle)

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
        if error.code == sftp.SFTP_FAILURE and STATVFS in self._requests.extensions:
            with suppress(StatusError, struct.error):
                reply = self._requests.call(sftp.CMD_EXTENDED, STATVFS, self._path(""))
                values = struct.unpack(">11Q", reply.take(88))
                free, files, free_files, flags = values[1] * values[4], values[5], values[7], values[9]
                if need and (free < need or (files and not free_files)):
                    return full(f"cannot {doing}: no room is left")
                if flags & 1:
                    return Refused(f"cannot {doing}: it is mounted read-only", "mount it for writing there")
        return from_status(error, doing)
