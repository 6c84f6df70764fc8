"""SFTP version 3 on the wire: bytes to fields and back, with every length checked first. No I/O.

Version 3 is what OpenSSH and every client in use speak. Names and their order are those of
draft-ietf-secsh-filexfer-02 and of OpenSSH's PROTOCOL file for the extensions.
"""

from __future__ import annotations

import os
import stat
import struct
import time
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from .limits import MAX_PACKET

VERSION = 3


class Kind(IntEnum):
    """Packet types."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    REALPATH = 16
    STAT = 17
    RENAME = 18
    READLINK = 19
    SYMLINK = 20
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class Status(IntEnum):
    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    BAD_MESSAGE = 5
    OP_UNSUPPORTED = 8


class Open(IntFlag):
    """Flags of OPEN."""

    READ = 1
    WRITE = 2
    APPEND = 4
    CREAT = 8
    TRUNC = 16
    EXCL = 32


_SIZE, _UIDGID, _PERMISSIONS, _TIMES, _EXTENDED = 1, 2, 4, 8, 0x80000000


class BadPacketError(Exception):
    """Bytes that are not SFTP. The session ends or, inside one request, that request fails."""


@dataclass(frozen=True, slots=True)
class Attrs:
    """Attributes of a request; None where the client did not send one. Times are whole seconds."""

    size: int | None = None
    owner: tuple[int, int] | None = None
    mode: int | None = None
    times: tuple[int, int] | None = None


class Fields:
    """Takes fields off the front of one packet. Raises `BadPacketError` when they are not all there."""

    def __init__(self, packet: bytes) -> None:
        self._data = packet
        self._at = 0

    def byte(self) -> int:
        return self._take(1)[0]

    def u32(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self._take(8), "big")

    def string(self) -> bytes:
        return bytes(self.data())

    def data(self) -> memoryview:
        """A string without a copy."""
        return self._take(self.u32())

    def attrs(self) -> Attrs:
        flags = self.u32()
        size = self.u64() if flags & _SIZE else None
        owner = (self.u32(), self.u32()) if flags & _UIDGID else None
        mode = self.u32() if flags & _PERMISSIONS else None
        times = (self.u32(), self.u32()) if flags & _TIMES else None
        if flags & _EXTENDED:
            for _ in range(self.u32()):
                self.data()
                self.data()
        return Attrs(size, owner, mode, times)

    def _take(self, count: int) -> memoryview:
        end = self._at + count
        if end > len(self._data):
            raise BadPacketError("a field ends behind its packet")
        piece = memoryview(self._data)[self._at : end]
        self._at = end
        return piece


class Splitter:
    """Cuts the byte stream of a session into packets."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The packets that ``data`` completes, without their lengths. `BadPacketError` above the cap."""
        buffer = self._buffer
        buffer += data
        packets: list[bytes] = []
        at = 0
        with memoryview(buffer) as view:
            while len(buffer) - at >= 4:
                size = int.from_bytes(view[at : at + 4], "big")
                if not 0 < size <= MAX_PACKET:
                    raise BadPacketError("a packet with a length out of range")
                if len(buffer) - at - 4 < size:
                    break
                packets.append(bytes(view[at + 4 : at + 4 + size]))
                at += 4 + size
        del buffer[:at]
        return packets


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def packet(kind: Kind, request: int, *parts: bytes) -> bytes:
    """A whole reply, with its length."""
    size = 5 + sum(map(len, parts))
    return b"".join((struct.pack(">IBI", size, kind, request), *parts))


def version(extensions: list[tuple[bytes, bytes]]) -> bytes:
    body = struct.pack(">BI", Kind.VERSION, VERSION)
    body += b"".join(string(name) + string(value) for name, value in extensions)
    return string(body)


def status(request: int, code: Status, text: str = "") -> bytes:
    message = text or ("Success" if code is Status.OK else code.name.replace("_", " ").capitalize())
    return packet(Kind.STATUS, request, code.to_bytes(4, "big"), string(message.encode()), string(b"en"))


def attrs(info: os.stat_result) -> bytes:
    flags = _SIZE | _UIDGID | _PERMISSIONS | _TIMES
    times = _seconds(info.st_atime), _seconds(info.st_mtime)
    return struct.pack(">IQIIIII", flags, info.st_size, info.st_uid, info.st_gid, info.st_mode, *times)


def _seconds(moment: float) -> int:
    """What of a time fits into the 32 bits version 3 has for it."""
    return max(0, min(int(moment), 0xFFFFFFFF))


def name(filename: bytes, info: os.stat_result) -> bytes:
    """One entry of a NAME reply, with the line that ``ls -l`` of a client shows."""
    when = time.strftime("%b %d %H:%M %Y", time.gmtime(_seconds(info.st_mtime)))
    left = f"{stat.filemode(info.st_mode)} {info.st_nlink} {info.st_uid} {info.st_gid} {info.st_size} {when} "
    return string(filename) + string(left.encode() + filename) + attrs(info)


def bare_name(filename: bytes) -> bytes:
    """The entry of a REALPATH reply, which has no attributes."""
    return string(filename) + string(filename) + bytes(4)


def filesystem(info: os.statvfs_result) -> bytes:
    """The reply to statvfs@openssh.com."""
    return struct.pack(
        ">11Q",
        info.f_bsize,
        info.f_frsize,
        info.f_blocks,
        info.f_bfree,
        info.f_bavail,
        info.f_files,
        info.f_ffree,
        info.f_favail,
        0,  # which of the host's file systems it is does not concern a client
        info.f_flag & 3,
        info.f_namemax,
    )
