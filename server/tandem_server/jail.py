"""The file system below one folder, and no way out of it.

Every path of a client is cut into parts here, ``.`` and ``..`` are resolved on the text (the kernel never
sees them), and the parts are walked from a descriptor of the root with O_NOFOLLOW, so a symbolic link is
never followed, wherever it came from and whenever it was put there. Only regular files are opened, only
regular files and folders are linked or renamed. What changes names is made durable before it returns.
It knows nothing of SFTP; all calls block and raise OSError with errno alone.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from .exclusive import rename_exclusive
from .limits import MAX_PATH

_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def failure(number: int) -> OSError:
    """An OSError with the system's text for ``number`` and no path in it."""
    return OSError(number, os.strerror(number))


def parts_of(path: bytes) -> list[bytes]:
    """The parts of a client's path below the root; absolute and relative paths mean the same, and ``..``
    at the root stays there. EINVAL for NUL, ENAMETOOLONG above the cap."""
    if b"\0" in path:
        raise failure(errno.EINVAL)
    if len(path) > MAX_PATH:
        raise failure(errno.ENAMETOOLONG)
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return parts


class Scan:
    """The entries of one open folder, one after the other: (name, attributes of the name itself)."""

    def __init__(self, fd: int) -> None:
        """Takes over ``fd``, a readable descriptor of a folder."""
        self._fd = fd
        try:
            self._entries = os.scandir(fd)
        except OSError:
            os.close(fd)
            raise

    def __iter__(self) -> Iterator[tuple[bytes, os.stat_result]]:
        return self

    def __next__(self) -> tuple[bytes, os.stat_result]:
        for entry in self._entries:
            try:
                return os.fsencode(entry.name), entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # removed since it was listed
        raise StopIteration

    def close(self) -> None:
        self._entries.close()
        os.close(self._fd)


class Jail:
    """One root folder. Thread-safe: it holds a descriptor and nothing that changes."""

    def __init__(self, root: str) -> None:
        self._root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._root)

    def open_file(self, path: bytes, flags: int, mode: int) -> int:
        """A descriptor of a regular file. ``flags`` are access, O_CREAT, O_EXCL, O_TRUNC and O_APPEND;
        a new file gets ``mode`` less its set-id and sticky bits and the umask."""
        with self._parent(path) as (folder, name):
            # Truncation comes after the check of the type, so that nothing but a file is ever touched.
            fd = os.open(name, (flags & ~os.O_TRUNC) | _FILE, mode & 0o777, dir_fd=folder)
        try:
            info = os.fstat(fd)
            if stat.S_ISDIR(info.st_mode):
                raise failure(errno.EISDIR)
            if not stat.S_ISREG(info.st_mode):
                raise failure(errno.EACCES)
            if flags & os.O_TRUNC and info.st_size:
                os.ftruncate(fd, 0)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def open_any(self, path: bytes) -> int:
        """A readable descriptor of a file or folder, to ask or change its attributes."""
        parts = parts_of(path)
        if not parts:
            return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root)
        with self._parent(path) as (folder, name):
            fd = os.open(name, os.O_RDONLY | _FILE, dir_fd=folder)
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            os.close(fd)
            raise failure(errno.EACCES)
        return fd

    def lstat(self, path: bytes) -> os.stat_result:
        """Attributes of the name itself; a symbolic link is shown, not followed."""
        if not parts_of(path):
            return os.fstat(self._root)
        with self._parent(path) as (folder, name):
            return os.stat(name, dir_fd=folder, follow_symlinks=False)

    def stat(self, path: bytes) -> os.stat_result:
        """As `lstat`, but ELOOP for a symbolic link."""
        info = self.lstat(path)
        if stat.S_ISLNK(info.st_mode):
            raise failure(errno.ELOOP)
        return info

    def scan(self, path: bytes) -> Scan:
        """A listing of a folder, to be closed."""
        with self._folder(parts_of(path)) as folder:
            return Scan(os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder))

    def mkdir(self, path: bytes, mode: int) -> None:
        with self._parent(path) as (folder, name):
            os.mkdir(name, mode & 0o777, dir_fd=folder)
            _sync(folder)

    def rmdir(self, path: bytes) -> None:
        with self._parent(path) as (folder, name):
            os.rmdir(name, dir_fd=folder)
            _sync(folder)

    def remove(self, path: bytes) -> None:
        with self._parent(path) as (folder, name):
            names = os.stat(name, dir_fd=folder, follow_symlinks=False).st_nlink
            os.unlink(name, dir_fd=folder)
            # Losing one of several names loses nothing, and each create ends with that: it need not wait.
            if names == 1:
                _sync(folder)

    def rename(self, source: bytes, target: bytes) -> None:
        """Move a file or folder to a name that is not there: EEXIST otherwise, atomically."""
        with self._parent(source) as (old_folder, old), self._parent(target) as (new_folder, new):
            _only_plain(old_folder, old)
            rename_exclusive(old_folder, old, new_folder, new)
            _sync(new_folder, old_folder)

    def replace(self, source: bytes, target: bytes) -> None:
        """Move a file or folder over whatever has the name, as rename(2) does."""
        with self._parent(source) as (old_folder, old), self._parent(target) as (new_folder, new):
            _only_plain(old_folder, old)
            os.rename(old, new, src_dir_fd=old_folder, dst_dir_fd=new_folder)
            _sync(new_folder, old_folder)

    def link(self, source: bytes, target: bytes) -> None:
        """Give a regular file a second name: EEXIST if the name is taken."""
        with self._parent(source) as (old_folder, old), self._parent(target) as (new_folder, new):
            if not stat.S_ISREG(os.stat(old, dir_fd=old_folder, follow_symlinks=False).st_mode):
                raise failure(errno.EACCES)
            os.link(old, new, src_dir_fd=old_folder, dst_dir_fd=new_folder, follow_symlinks=False)
            _sync(new_folder)

    def statvfs(self, path: bytes) -> os.statvfs_result:
        fd = self.open_any(path)
        try:
            return os.fstatvfs(fd)
        finally:
            os.close(fd)

    @contextmanager
    def _folder(self, parts: list[bytes]) -> Iterator[int]:
        """An O_PATH descriptor of a folder, every part opened below the one before, links refused."""
        fd = os.dup(self._root)
        try:
            for part in parts:
                below = os.open(part, _WALK, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """The folder that holds ``path``, and the last part. The root itself has none: EACCES."""
        parts = parts_of(path)
        if not parts:
            raise failure(errno.EACCES)
        with self._folder(parts[:-1]) as folder:
            yield folder, parts[-1]


def _only_plain(folder: int, name: bytes) -> None:
    mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise failure(errno.EACCES)


def _sync(*folders: int) -> None:
    """Make changed names durable. A client has no other way: SFTP cannot fsync a folder."""
    done: set[tuple[int, int]] = set()
    for folder in folders:
        info = os.fstat(folder)
        if (info.st_dev, info.st_ino) in done:
            continue
        done.add((info.st_dev, info.st_ino))
        fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
