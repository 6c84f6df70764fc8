"""The folder that a restore writes into, and nothing outside of it.

Every name is opened from an open folder with O_NOFOLLOW, one part at a time, so whatever a tree says and
whatever symlinks are in the target already, nothing leaves it. Files get a temporary name first and are
renamed when whole; ``sweep`` removes temporary names that an interrupted restore left. What goes into files
is not known here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import re
import secrets
import stat
import threading
from collections import OrderedDict

from tandem_agent.engine.linux import rename_new, sync_file_system
from tandem_agent.engine.metadata import ACL_DEFAULT, Spot
from tandem_agent.engine.treewalk import join
from tandem_protocol.errors import Busy, Full, Refused, TandemError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TEMPORARY = re.compile(rb"\.tandem-part-[0-9a-f]{12}-[0-9a-f]+")
_OPEN_FOLDERS = 64
_LANDING = 8  # On a long way down every so many folders stay open, so that the way back up is short.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


class Conflict(Exception):
    """Something of another kind is where a folder should be; ``str()`` says what."""


class Target:
    """An open target folder. One restore at a time: a second one is `Busy`. ``root``: it is open already, by the
    restore that this process writes for."""

    def __init__(self, path: str, overwrite: bool = False, root: int | None = None) -> None:
        self.shown = path
        self.overwrite = overwrite
        self.umask = _umask()
        self._token = secrets.token_hex(6).encode()
        self._numbers = itertools.count()
        self._local = threading.local()
        self._caches: list[_OpenFolders] = []
        self._lock = threading.Lock()
        self._devices: dict[int, int] = {}
        self.root = self._open_root(path) if root is None else root

    def _open_root(self, path: str) -> int:
        try:
            os.makedirs(path, exist_ok=True)
            # The target itself may be a symlink: the user named it.
            root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (NotADirectoryError, FileExistsError):
            raise Refused(f"not a folder: {path}", "give a folder with --to") from None
        except OSError as error:
            raise translated(error, f"cannot use {path}") from None
        try:
            fcntl.flock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(root)
            raise Busy(
                f"another restore is writing to {path}", "wait for it, or choose another folder"
            ) from None
        except OSError:
            pass  # A network share without locks: two restores at once are then the user's to avoid.
        if not os.access(path, os.W_OK | os.X_OK):
            os.close(root)
            raise Refused(f"no permission to write to {path}", "choose another folder with --to")
        self._devices[os.fstat(root).st_dev] = root
        return root

    def close(self) -> None:
        with self._lock:
            caches, self._caches = self._caches, []
        for cache in caches:
            cache.close()
        for fd in self._devices.values():
            os.close(fd)
        self._devices = {}

    def top(self) -> Spot:
        self.sweep(b"")
        return Spot(b"", fresh=False, inherits=_has_default_acl(self.root))

    def folder(self, path: bytes) -> int:
        """The open folder at ``path``; belongs to the calling thread's cache, so use it at once."""
        if not path:
            return self.root
        cache = getattr(self._local, "cache", None)
        if cache is None:
            cache = self._local.cache = _OpenFolders(self.root)
            with self._lock:
                self._caches.append(cache)
        return cache.get(path)

    def make_folder(self, parent: Spot, name: bytes) -> Spot:
        """The folder ``name`` in ``parent``, made (for us alone until it is complete) or found there.
        `Conflict` if something else has the name and may not be replaced."""
        at = self.folder(parent.path)
        path = join(parent.path, name)
        try:
            os.mkdir(name, 0o700, dir_fd=at)
            return Spot(path, fresh=True, inherits=parent.inherits)
        except FileExistsError:
            pass
        about = os.stat(name, dir_fd=at, follow_symlinks=False)
        if not stat.S_ISDIR(about.st_mode):
            if not self.overwrite:
                raise Conflict("something else has the name of a folder")
            os.unlink(name, dir_fd=at)
            os.mkdir(name, 0o700, dir_fd=at)
            return Spot(path, fresh=True, inherits=parent.inherits)
        _make_usable(at, name, about)
        fd = self.folder(path)
        self._remember_device(fd, about.st_dev)
        self.sweep(path)
        return Spot(path, fresh=False, inherits=_has_default_acl(fd))

    def _remember_device(self, fd: int, device: int) -> None:
        if device not in self._devices:
            self._devices[device] = os.dup(fd)

    def sweep(self, path: bytes) -> None:
        """Remove temporary files of earlier, interrupted restores from a folder that was there before."""
        fd = self.folder(path)
        with contextlib.suppress(OSError), os.scandir(fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if _TEMPORARY.fullmatch(name) and not entry.is_dir(follow_symlinks=False):
                    os.unlink(name, dir_fd=fd)

    def about(self, spot: Spot, name: bytes) -> os.stat_result | None:
        """What has this name now, without following it; None for nothing."""
        if spot.fresh:
            return None
        try:
            return os.stat(name, dir_fd=self.folder(spot.path), follow_symlinks=False)
        except OSError:
            return None  # Not there, or a name that this file system cannot have: making it will tell.

    def temporary(self) -> bytes:
        """A new temporary name; not to be guessed by others who can write to the folder."""
        return b".tandem-part-%b-%x" % (self._token, next(self._numbers))

    def create(self, folder: int, mode: int) -> tuple[int, bytes]:
        """A new temporary file, open for writing: (descriptor, name)."""
        name = self.temporary()
        return os.open(name, _NEW_FILE, mode, dir_fd=folder), name

    def reopen(self, folder: int, temporary: bytes, identity: tuple[int, int], how: int = 0) -> int:
        """Open a temporary file again; `FileNotFoundError` if it is another one now."""
        fd = os.open(temporary, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | how, dir_fd=folder)
        about = os.fstat(fd)
        if (about.st_dev, about.st_ino) != identity:
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, "the temporary file was replaced by another")
        return fd

    def past_cache(self, folder: int, temporary: bytes, identity: tuple[int, int]) -> int | None:
        """A second descriptor of a temporary file, whose writes go to the disk past the page cache. None where there
        is no such way, or where the cache is better: on file systems without a device of their own (network)."""
        if os.major(identity[0]) == 0:
            return None
        try:
            return self.reopen(folder, temporary, identity, os.O_DIRECT)
        except OSError:
            return None

    def publish(self, spot: Spot, folder: int, temporary: bytes, name: bytes) -> None:
        """Give a whole file its name. `FileExistsError` if the name is taken and may not be replaced."""
        try:
            if spot.fresh or self.overwrite:
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            else:
                rename_new(temporary, name, folder)
        except OSError:
            self.discard(folder, temporary)
            raise

    def discard(self, folder: int, temporary: bytes) -> None:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)

    def link(self, first: tuple[bytes, bytes], spot: Spot, name: bytes) -> None:
        """Make ``name`` a hard link of ``first`` (folder path, name), both in the target."""
        new = self.temporary() if self.overwrite and not spot.fresh else name
        source = os.dup(self.folder(first[0]))  # Our own: opening the second folder may close the first.
        try:
            folder = self.folder(spot.path)
            os.link(first[1], new, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(source)
        if new != name:
            self.publish(spot, folder, new, name)
            self.discard(folder, new)  # Renaming one link of a file over another does nothing.

    def sync(self) -> None:
        """Make all of it durable that is written: one call for each file system. Any thread, at any time."""
        for fd in list(self._devices.values()):
            try:
                sync_file_system(fd)
            except OSError as error:
                raise translated(error, f"cannot make the files in {self.shown} durable") from None


class _OpenFolders:
    """One thread's open folders below the target, least recently used closed first."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._open: OrderedDict[bytes, int] = OrderedDict()

    def get(self, path: bytes) -> int:
        found = self._open.get(path)
        if found is not None:
            self._open.move_to_end(path)
            return found
        fd = self._walk(path)
        self._open[path] = fd
        while len(self._open) > _OPEN_FOLDERS:
            os.close(self._open.popitem(last=False)[1])
        return fd

    def _walk(self, path: bytes) -> int:
        """Open ``path`` from the nearest folder that is open, part by part, following no symlink."""
        above, start = path, self._root
        while above := above.rpartition(b"/")[0]:
            if above in self._open:
                start = self._open[above]
                break
        at, depth = start, above.count(b"/")
        try:
            for part in path[len(above) :].lstrip(b"/").split(b"/"):
                below = os.open(part, _FOLDER, dir_fd=at)
                above, depth = join(above, part), depth + 1
                self._pass(at, start)
                at = below
                if depth % _LANDING == 0 and above != path:
                    self._open[above] = start = at
        except BaseException:
            self._pass(at, start)
            raise
        return at

    @staticmethod
    def _pass(at: int, start: int) -> None:
        """Close a folder on the way, but for the one that stays open anyway."""
        if at != start:
            os.close(at)

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


def translated(error: OSError, doing: str) -> TandemError:
    """The error kind of a fault of the target's file system."""
    if error.errno in _NO_ROOM:
        return Full(f"{doing}: no space left", "make room and run the same command again")
    return Refused(f"{doing}: {error.strerror or error}", "see to it, or choose another folder with --to")


def no_room(error: OSError) -> bool:
    return error.errno in _NO_ROOM


def _umask() -> int:
    """The process's umask, read without changing it."""
    with contextlib.suppress(OSError, ValueError), open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    return 0o777  # Unknown: every mode is then set explicitly.


def _has_default_acl(folder: int) -> bool:
    try:
        return ACL_DEFAULT in os.listxattr(folder)
    except OSError:
        return False


def _make_usable(at: int, name: bytes, about: os.stat_result) -> None:
    """Let ourselves into a folder of our own that an earlier run left read-only, until it is complete."""
    if os.geteuid() == 0 or about.st_uid != os.geteuid() or about.st_mode & 0o700 == 0o700:
        return
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        os.chmod(f"/proc/self/fd/{handle}", stat.S_IMODE(about.st_mode) | 0o700)
    finally:
        os.close(handle)
