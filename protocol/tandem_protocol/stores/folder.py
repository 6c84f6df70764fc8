"""A root folder held open by its descriptor, and the system calls of a directory store beneath it.

Everything here blocks and runs in a worker thread. Every call is relative to the descriptor that was
opened first, so an unmount (or another disk mounted over the path) cannot redirect a write; no part of a
name is ever followed through a symbolic link. What it does not do: names are checked by the caller, data
is written by the caller, errors leave as OSError.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ..errors import Unavailable

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_LINK = os.O_NOFOLLOW | os.O_CLOEXEC
_RENAME_NOREPLACE = 1
# What link(2) and renameat2(2) answer on file systems that do not have them (FAT, SMB, some FUSE).
_NOT_HERE = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EMLINK}

CONTENT = "c"
"""The one file of an object that is kept as a folder (tier-protocol.md: how FTP creates exclusively)."""


class Folder:
    """The open root. Safe to use from several threads at once; `close` waits for none of them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1
        self._lock = threading.Lock()
        self._settled: set[str] = set()
        self.syncs_folders = True

    def open(self, make: bool) -> None:
        """Hold the root. FileNotFoundError if it is not there and is not to be made."""
        if make:
            _make_durably(self.path)
        fd = os.open(self.path, DIRECTORY)
        self.close()
        with self._lock:
            self._fd = fd
            self._settled.clear()
        self.syncs_folders = sync_folder(fd)

    def close(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    @contextmanager
    def at(self, folder: str, make: bool = False) -> Iterator[int]:
        """A descriptor of ``folder`` ("" is the root). With ``make`` it and its parents are made, and their
        names are on disk before it is used: also those that an earlier run made and may not have synced."""
        fd = self._duplicate()
        try:
            walked = ""
            for part in folder.split("/") if folder else ():
                walked = f"{walked}/{part}"
                inner = self._step(fd, part, walked, make)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    def _duplicate(self) -> int:
        # Each call has a descriptor of its own: closing the store under it cannot hand it another folder.
        with self._lock:
            if self._fd < 0:
                raise Unavailable(f"the folder {self.path} is not open")
            return os.dup(self._fd)

    def _step(self, fd: int, part: str, walked: str, make: bool) -> int:
        if make and walked not in self._settled:
            with suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=fd)
            sync_folder(fd)
            self._settled.add(walked)
        try:
            return os.open(part, DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        except FileNotFoundError:
            self._settled.discard(walked)
            raise

    def open_object(self, name: str) -> tuple[int, int]:
        """(descriptor, size) of an object in either form, for reading."""
        folder, last = split(name)
        with self.at(folder) as parent:
            fd = os.open(last, os.O_RDONLY | os.O_NONBLOCK | _NO_LINK, dir_fd=parent)
        try:
            found = os.fstat(fd)
            if stat.S_ISDIR(found.st_mode):
                inner = os.open(CONTENT, os.O_RDONLY | os.O_NONBLOCK | _NO_LINK, dir_fd=fd)
                os.close(fd)
                fd = inner
                found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.ENOENT, "there is no such file")
            return fd, found.st_size
        except BaseException:
            os.close(fd)
            raise

    def size(self, name: str) -> int:
        """Size of an object in either form; FileNotFoundError if there is none (a plain folder is none)."""
        folder, last = split(name)
        with self.at(folder) as parent:
            size = object_size(parent, last)
        if size is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return size

    def stands(self, name: str) -> bool:
        """Whether anything at all has this name."""
        folder, last = split(name)
        try:
            with self.at(folder) as parent:
                os.stat(last, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def new_file(self, name: str) -> int:
        """Descriptor of a new file ``name``, for writing; its folder is made."""
        folder, last = split(name)
        with self.at(folder, make=True) as parent:
            return os.open(last, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o600, dir_fd=parent)

    def remove(self, name: str) -> None:
        """Unlink a file, or a folder of the second form; the parent is synced."""
        folder, last = split(name)
        with self.at(folder) as parent:
            try:
                os.unlink(last, dir_fd=parent)
            except (IsADirectoryError, PermissionError):
                if not stat.S_ISDIR(os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode):
                    raise
                with suppress(FileNotFoundError):
                    os.unlink(f"{last}/{CONTENT}", dir_fd=parent)
                os.rmdir(last, dir_fd=parent)
            sync_folder(parent)

    def sync_parent(self, name: str) -> None:
        """The folder of ``name`` is on disk after this."""
        with self.at(split(name)[0]) as parent:
            sync_folder(parent)

    def forget(self, name: str) -> None:
        """Unlink a temporary file if it is there, without any promise."""
        with suppress(OSError, Unavailable):
            folder, last = split(name)
            with self.at(folder) as parent:
                os.unlink(last, dir_fd=parent)

    def link_new(self, source: str, target: str) -> bool:
        """Give ``source`` a second name ``target`` exclusively, synced. False: no links here."""
        return self._pair(source, target, _link)

    def rename_new(self, source: str, target: str) -> bool:
        """Rename without ever overwriting, synced. False: the kernel or file system cannot do that."""
        return self._pair(source, target, _rename_noreplace)

    def rename_checked(self, source: str, target: str) -> None:
        """The last resort: look, then rename. Only for names that a single writer gives to the same bytes."""
        if self.stands(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        self._pair(source, target, _rename)

    def _pair(self, source: str, target: str, call: Callable[[str, str, int, int], None]) -> bool:
        (from_folder, from_name), (to_folder, to_name) = split(source), split(target)
        with self.at(from_folder) as origin:
            os.stat(from_name, dir_fd=origin, follow_symlinks=False)
            with self.at(to_folder, make=True) as goal:
                try:
                    call(from_name, to_name, origin, goal)
                except OSError as error:
                    if error.errno in _NOT_HERE and call is not _rename:
                        return False
                    raise
                sync_folder(goal)
            if call is not _link and from_folder != "tmp":
                sync_folder(origin)
        return True


def split(name: str) -> tuple[str, str]:
    """(folder, last part) of a name."""
    folder, _, last = name.rpartition("/")
    return folder, last


def object_size(parent: int, last: str) -> int | None:
    """Size of the object ``last`` in either form, or None if there is no such object."""
    try:
        found = os.stat(last, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            found = os.stat(f"{last}/{CONTENT}", dir_fd=parent, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def sync_folder(fd: int) -> bool:
    """fsync of a folder. False where it is not offered (SMB answers EINVAL): not power-safe, but no fault."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise
    return True


def write_all(fd: int, data: memoryview) -> None:
    """Every byte of ``data``; a short write (a file system that fills up) goes on until it says why."""
    while data:
        data = data[os.write(fd, data) :]


def _make_durably(path: str) -> None:
    missing = []
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        parent = os.open(os.path.dirname(folder), DIRECTORY)
        try:
            sync_folder(parent)
        finally:
            os.close(parent)


def _link(source: str, target: str, origin: int, goal: int) -> None:
    os.link(source, target, src_dir_fd=origin, dst_dir_fd=goal, follow_symlinks=False)


def _rename(source: str, target: str, origin: int, goal: int) -> None:
    os.rename(source, target, src_dir_fd=origin, dst_dir_fd=goal)


def _rename_noreplace(source: str, target: str, origin: int, goal: int) -> None:
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, "renameat2 is not offered here")
    if call(origin, source.encode(), goal, target.encode(), _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
