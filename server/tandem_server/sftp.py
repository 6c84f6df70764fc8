"""One SFTP session: a request in, its reply out. Blocking and one at a time; it runs in a worker thread.

The server has a request layer of its own, above asyncssh's channels, because a hostile client must meet
limits everywhere (folder handles too), what `limits@openssh.com` says must be true, and a batch of
requests is answered in one visit to a thread. Symbolic links, foreign owners, set-id bits and copying
inside the server are refused. It knows nothing of SSH, users or connections.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from threading import Semaphore

from . import wire
from .jail import Jail, Scan, failure, parts_of
from .limits import BATCH_BYTES, MAX_DATA, MAX_PACKET, NAMES_PER_READDIR
from .wire import Attrs, BadPacketError, Fields, Kind, Open, Status

_MAX_OFFSET = 2**63 - 1

EXTENSIONS = [
    (b"posix-rename@openssh.com", b"1"),
    (b"statvfs@openssh.com", b"2"),
    (b"fstatvfs@openssh.com", b"2"),
    (b"hardlink@openssh.com", b"1"),
    (b"fsync@openssh.com", b"1"),
    (b"limits@openssh.com", b"1"),
]

_CODES = {
    errno.ENOENT: Status.NO_SUCH_FILE,
    errno.ENOTDIR: Status.NO_SUCH_FILE,
    errno.EACCES: Status.PERMISSION_DENIED,
    errno.EPERM: Status.PERMISSION_DENIED,
    errno.ELOOP: Status.PERMISSION_DENIED,
    errno.EROFS: Status.PERMISSION_DENIED,
    errno.EOPNOTSUPP: Status.OP_UNSUPPORTED,
    errno.ENOSYS: Status.OP_UNSUPPORTED,
}


@dataclass(slots=True)
class _File:
    """An open file."""

    fd: int

    def close(self) -> None:
        os.close(self.fd)


class SftpSession:
    """Answers the requests of one client below one jail. Close it when no request is under way."""

    def __init__(self, jail: Jail, max_handles: int, budget: Semaphore) -> None:
        """``max_handles`` is the cap of this session, ``budget`` what all sessions share."""
        self._jail = jail
        self._max_handles = max_handles
        self._budget = budget
        self._handles: dict[bytes, _File | Scan] = {}
        self._next_handle = 0
        self._greeted = False

    def answer(self, packets: list[bytes]) -> tuple[bytes, int]:
        """The replies to the first packets, and how many were answered: fewer than all when the replies
        have become large. `BadPacketError` ends the session."""
        replies: list[bytes] = []
        size = 0
        for packet in packets:
            reply = self._reply(packet)
            replies.append(reply)
            size += len(reply)
            if size >= BATCH_BYTES:
                break
        return b"".join(replies), len(replies)

    def close(self) -> None:
        """Close every handle."""
        while self._handles:
            self._drop(self._handles.popitem()[1])

    def _reply(self, packet: bytes) -> bytes:
        fields = Fields(packet)
        kind = fields.byte()
        if not self._greeted:
            return self._greet(kind, fields)
        request = fields.u32()
        handler = _HANDLERS.get(kind)
        if handler is None:
            return wire.status(request, Status.OP_UNSUPPORTED)
        try:
            return handler(self, request, fields)
        except BadPacketError as error:
            return wire.status(request, Status.BAD_MESSAGE, str(error))
        except OSError as error:
            number = error.errno or errno.EIO
            return wire.status(request, _CODES.get(number, Status.FAILURE), os.strerror(number))

    def _greet(self, kind: int, fields: Fields) -> bytes:
        if kind != Kind.INIT or fields.u32() < wire.VERSION:
            raise BadPacketError("the session does not begin with version 3")
        self._greeted = True
        return wire.version(EXTENSIONS)

    # Handles

    def _add(self, make: Callable[[], _File | Scan]) -> bytes:
        """The name of a new handle; EMFILE when there are too many, before anything is opened."""
        if len(self._handles) >= self._max_handles or not self._budget.acquire(blocking=False):
            raise failure(errno.EMFILE)
        try:
            handle = make()
        except BaseException:
            self._budget.release()
            raise
        name = self._next_handle.to_bytes(8, "big")
        self._next_handle += 1
        self._handles[name] = handle
        return name

    def _drop(self, handle: _File | Scan) -> None:
        self._budget.release()
        handle.close()

    def _file(self, fields: Fields) -> int:
        handle = self._handles.get(fields.string())
        if not isinstance(handle, _File):
            raise failure(errno.EBADF)
        return handle.fd

    # Files

    def _open(self, request: int, fields: Fields) -> bytes:
        path, flags, attrs = fields.string(), Open(fields.u32() & 63), fields.attrs()
        mode = 0o666 if attrs.mode is None else attrs.mode
        handle = self._add(lambda: _File(self._jail.open_file(path, _system_flags(flags), mode)))
        return wire.packet(Kind.HANDLE, request, wire.string(handle))

    def _close(self, request: int, fields: Fields) -> bytes:
        handle = self._handles.pop(fields.string(), None)
        if handle is None:
            raise failure(errno.EBADF)
        self._drop(handle)
        return wire.status(request, Status.OK)

    def _read(self, request: int, fields: Fields) -> bytes:
        fd, offset, length = self._file(fields), fields.u64(), fields.u32()
        data = os.pread(fd, min(length, MAX_DATA), _checked(offset, length))
        if not data and length:
            return wire.status(request, Status.EOF)
        return wire.packet(Kind.DATA, request, len(data).to_bytes(4, "big"), data)

    def _write(self, request: int, fields: Fields) -> bytes:
        fd, offset, data = self._file(fields), fields.u64(), fields.data()
        at = _checked(offset, len(data))
        while data:
            written = os.pwrite(fd, data, at)
            data, at = data[written:], at + written
        return wire.status(request, Status.OK)

    def _fsync(self, request: int, fields: Fields) -> bytes:
        os.fsync(self._file(fields))
        return wire.status(request, Status.OK)

    # Attributes

    def _lstat(self, request: int, fields: Fields) -> bytes:
        return wire.packet(Kind.ATTRS, request, wire.attrs(self._jail.lstat(fields.string())))

    def _stat(self, request: int, fields: Fields) -> bytes:
        return wire.packet(Kind.ATTRS, request, wire.attrs(self._jail.stat(fields.string())))

    def _fstat(self, request: int, fields: Fields) -> bytes:
        return wire.packet(Kind.ATTRS, request, wire.attrs(os.fstat(self._file(fields))))

    def _setstat(self, request: int, fields: Fields) -> bytes:
        path, attrs = fields.string(), fields.attrs()
        _check_allowed(attrs)
        fd = self._jail.open_any(path) if attrs.size is None else self._jail.open_file(path, os.O_WRONLY, 0)
        try:
            _set_attrs(fd, attrs)
        finally:
            os.close(fd)
        return wire.status(request, Status.OK)

    def _fsetstat(self, request: int, fields: Fields) -> bytes:
        fd, attrs = self._file(fields), fields.attrs()
        _check_allowed(attrs)
        _set_attrs(fd, attrs)
        return wire.status(request, Status.OK)

    # Folders and names

    def _opendir(self, request: int, fields: Fields) -> bytes:
        path = fields.string()
        handle = self._add(lambda: self._jail.scan(path))
        return wire.packet(Kind.HANDLE, request, wire.string(handle))

    def _readdir(self, request: int, fields: Fields) -> bytes:
        handle = self._handles.get(fields.string())
        if not isinstance(handle, Scan):
            raise failure(errno.EBADF)
        names = [wire.name(*entry) for entry in islice(handle, NAMES_PER_READDIR)]
        if not names:
            return wire.status(request, Status.EOF)
        return wire.packet(Kind.NAME, request, len(names).to_bytes(4, "big"), *names)

    def _remove(self, request: int, fields: Fields) -> bytes:
        self._jail.remove(fields.string())
        return wire.status(request, Status.OK)

    def _mkdir(self, request: int, fields: Fields) -> bytes:
        path, attrs = fields.string(), fields.attrs()
        self._jail.mkdir(path, 0o777 if attrs.mode is None else attrs.mode)
        return wire.status(request, Status.OK)

    def _rmdir(self, request: int, fields: Fields) -> bytes:
        self._jail.rmdir(fields.string())
        return wire.status(request, Status.OK)

    def _realpath(self, request: int, fields: Fields) -> bytes:
        path = b"/" + b"/".join(parts_of(fields.string()))
        return wire.packet(Kind.NAME, request, (1).to_bytes(4, "big"), wire.bare_name(path))

    def _rename(self, request: int, fields: Fields) -> bytes:
        self._jail.rename(fields.string(), fields.string())
        return wire.status(request, Status.OK)

    def _replace(self, request: int, fields: Fields) -> bytes:
        self._jail.replace(fields.string(), fields.string())
        return wire.status(request, Status.OK)

    def _link(self, request: int, fields: Fields) -> bytes:
        self._jail.link(fields.string(), fields.string())
        return wire.status(request, Status.OK)

    def _no_links(self, request: int, _fields: Fields) -> bytes:
        return wire.status(request, Status.PERMISSION_DENIED, "symbolic links are not kept here")

    # Extensions

    def _extended(self, request: int, fields: Fields) -> bytes:
        handler = _EXTENDED.get(fields.string())
        if handler is None:
            return wire.status(request, Status.OP_UNSUPPORTED)
        return handler(self, request, fields)

    def _statvfs(self, request: int, fields: Fields) -> bytes:
        return wire.packet(Kind.EXTENDED_REPLY, request, wire.filesystem(self._jail.statvfs(fields.string())))

    def _fstatvfs(self, request: int, fields: Fields) -> bytes:
        return wire.packet(Kind.EXTENDED_REPLY, request, wire.filesystem(os.fstatvfs(self._file(fields))))

    def _limits(self, request: int, _fields: Fields) -> bytes:
        limits = struct.pack(">4Q", MAX_PACKET, MAX_DATA, MAX_DATA, self._max_handles)
        return wire.packet(Kind.EXTENDED_REPLY, request, limits)


_Handler = Callable[[SftpSession, int, Fields], bytes]

_HANDLERS: dict[int, _Handler] = {
    Kind.OPEN: SftpSession._open,
    Kind.CLOSE: SftpSession._close,
    Kind.READ: SftpSession._read,
    Kind.WRITE: SftpSession._write,
    Kind.LSTAT: SftpSession._lstat,
    Kind.FSTAT: SftpSession._fstat,
    Kind.SETSTAT: SftpSession._setstat,
    Kind.FSETSTAT: SftpSession._fsetstat,
    Kind.OPENDIR: SftpSession._opendir,
    Kind.READDIR: SftpSession._readdir,
    Kind.REMOVE: SftpSession._remove,
    Kind.MKDIR: SftpSession._mkdir,
    Kind.RMDIR: SftpSession._rmdir,
    Kind.REALPATH: SftpSession._realpath,
    Kind.STAT: SftpSession._stat,
    Kind.RENAME: SftpSession._rename,
    Kind.READLINK: SftpSession._no_links,
    Kind.SYMLINK: SftpSession._no_links,
    Kind.EXTENDED: SftpSession._extended,
}

_EXTENDED: dict[bytes, _Handler] = {
    b"posix-rename@openssh.com": SftpSession._replace,
    b"statvfs@openssh.com": SftpSession._statvfs,
    b"fstatvfs@openssh.com": SftpSession._fstatvfs,
    b"hardlink@openssh.com": SftpSession._link,
    b"fsync@openssh.com": SftpSession._fsync,
    b"limits@openssh.com": SftpSession._limits,
}


def _system_flags(flags: Open) -> int:
    """The access and creation flags of open(2)."""
    if Open.WRITE in flags or Open.APPEND in flags:
        system = os.O_RDWR if Open.READ in flags else os.O_WRONLY
    else:
        system = os.O_RDONLY
    pairs = ((Open.APPEND, os.O_APPEND), (Open.CREAT, os.O_CREAT), (Open.EXCL, os.O_EXCL))
    for flag, bit in (*pairs, (Open.TRUNC, os.O_TRUNC)):
        system |= bit if flag in flags else 0
    if system & os.O_ACCMODE == os.O_RDONLY and system & (os.O_CREAT | os.O_TRUNC):
        raise failure(errno.EINVAL)
    return system


def _checked(offset: int, length: int) -> int:
    """``offset`` where the system can take it, else EFBIG."""
    if offset + length > _MAX_OFFSET:
        raise failure(errno.EFBIG)
    return offset


def _check_allowed(attrs: Attrs) -> None:
    """EACCES for what a client may never set; before anything is changed."""
    if attrs.mode is not None and attrs.mode & 0o7000:
        raise failure(errno.EACCES)
    if attrs.owner is not None:
        raise failure(errno.EACCES)
    if attrs.size is not None:
        _checked(attrs.size, 0)


def _set_attrs(fd: int, attrs: Attrs) -> None:
    if attrs.size is not None:
        os.ftruncate(fd, attrs.size)
    if attrs.mode is not None:
        os.fchmod(fd, attrs.mode & 0o777)
    if attrs.times is not None:
        os.utime(fd, attrs.times)
