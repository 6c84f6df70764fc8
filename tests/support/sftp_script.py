"""A scripted SFTP server in memory, to be given to `Requests` as its link: it can lie in any way.

A subclass overrides what it wants to lie about; the rest answers as an honest server with the files of
``files``. Nothing blocks: where a real server would be silent, the wait ends as a deadline does.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from paramiko import sftp

from tandem_protocol.errors import Unavailable
from tandem_protocol.store import Buffer
from tandem_protocol.stores.sftp_folder import SftpFolder
from tandem_protocol.stores.sftp_messages import Reply
from tandem_protocol.stores.sftp_requests import Requests

FOLDER, FILE = 0o040700, 0o100600
IN_ORDER = b"expand-path@openssh.com"
"""What OpenSSH's server says, which carries out one request after another."""

EXTENSIONS = (b"hardlink@openssh.com", b"fsync@openssh.com", b"statvfs@openssh.com", IN_ORDER)


def packet(kind: int, number: int, body: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(body) + 5, kind, number) + body


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def status(number: int, code: int, text: bytes = b"") -> bytes:
    return packet(sftp.CMD_STATUS, number, struct.pack(">I", code) + string(text) + string(b"en"))


def attributes(size: int, mode: int) -> bytes:
    return struct.pack(">IQI", 0x5, size, mode)


def listing(number: int, names: Sequence[bytes], size: int = 1, mode: int = FILE) -> bytes:
    entries = b"".join(string(name) + string(b"") + attributes(size, mode) for name in names)
    return packet(sftp.CMD_NAME, number, struct.pack(">I", len(names)) + entries)


class ScriptedServer:
    """The link and the server behind it. ``asked`` records every (kind, first string field)."""

    extensions: Sequence[bytes] = EXTENSIONS

    def __init__(self) -> None:
        self.files: dict[bytes, bytearray] = {}
        self.folders = {b"/root"}
        self.asked: list[tuple[int, bytes]] = []
        self.trips = 0
        """How often the client has waited for answers to what it sent."""
        self._heard = True
        self._in = bytearray()
        self.out = bytearray()
        self._listed: set[bytes] = set()

    def folder(self, deadline_s: float = 60) -> SftpFolder:
        """A new session with this server, in its folder ``/root``."""
        self._in.clear()
        self.out.clear()
        self._listed.clear()
        return SftpFolder(Requests(self, deadline_s), "/root", "sftp://somewhere/root")

    def send(self, buffers: Sequence[Buffer], seconds: float) -> None:
        self._heard = False
        for part in buffers:
            self._in += part
        while len(self._in) >= 4 and len(self._in) >= 4 + int.from_bytes(self._in[:4]):
            length = int.from_bytes(self._in[:4])
            body, self._in = bytes(self._in[4 : 4 + length]), self._in[4 + length :]
            self.out += self.answer(body[0], int.from_bytes(body[1:5]), Reply(0, body[5:]))

    def receive_into(self, view: memoryview, seconds: float) -> int:
        if not self.out:
            raise TimeoutError
        self.trips += not self._heard
        self._heard = True
        count = min(len(view), len(self.out))
        view[:count] = self.out[:count]
        del self.out[:count]
        return count

    def reason(self, what: str) -> Exception:
        return Unavailable(what)

    def answer(self, kind: int, number: int, fields: Reply) -> bytes:
        """The bytes that answer one request."""
        if kind == sftp.CMD_INIT:
            extensions = b"".join(string(name) + string(b"1") for name in self.extensions)
            return packet(sftp.CMD_VERSION, 3, extensions)
        first = fields.string()
        self.asked.append((kind, first))
        reply: bytes = getattr(self, f"on_{sftp.CMD_NAMES[kind]}")(number, first, fields)
        return reply

    def on_stat(self, number: int, path: bytes, fields: Reply) -> bytes:
        if path in self.folders:
            return packet(sftp.CMD_ATTRS, number, attributes(0, FOLDER))
        if path in self.files:
            return packet(sftp.CMD_ATTRS, number, attributes(len(self.files[path]), FILE))
        return status(number, sftp.SFTP_NO_SUCH_FILE)

    on_lstat = on_fstat = on_stat

    def on_open(self, number: int, path: bytes, fields: Reply) -> bytes:
        flags = fields.int32()
        if path.rpartition(b"/")[0] not in self.folders:
            return status(number, sftp.SFTP_NO_SUCH_FILE)
        if flags & sftp.SFTP_FLAG_EXCL and path in self.files:
            return status(number, sftp.SFTP_FAILURE)
        if flags & sftp.SFTP_FLAG_CREATE:
            self.files.setdefault(path, bytearray())
        if path not in self.files:
            return status(number, sftp.SFTP_NO_SUCH_FILE)
        return packet(sftp.CMD_HANDLE, number, string(path))

    def on_close(self, number: int, handle: bytes, fields: Reply) -> bytes:
        return status(number, sftp.SFTP_OK)

    def on_write(self, number: int, handle: bytes, fields: Reply) -> bytes:
        offset, data = fields.int64(), fields.string()
        self.files[handle][offset : offset + len(data)] = data
        return status(number, sftp.SFTP_OK)

    def on_read(self, number: int, handle: bytes, fields: Reply) -> bytes:
        offset, length = fields.int64(), fields.int32()
        data = bytes(self.files[handle][offset : offset + length])
        if not data:
            return status(number, sftp.SFTP_EOF)
        return packet(sftp.CMD_DATA, number, string(data))

    def on_mkdir(self, number: int, path: bytes, fields: Reply) -> bytes:
        self.folders.add(path)
        return status(number, sftp.SFTP_OK)

    def on_remove(self, number: int, path: bytes, fields: Reply) -> bytes:
        there = self.files.pop(path, None) is not None
        return status(number, sftp.SFTP_OK if there else sftp.SFTP_NO_SUCH_FILE)

    def on_rename(self, number: int, source: bytes, fields: Reply) -> bytes:
        target = fields.string()
        if target in self.files:
            return status(number, sftp.SFTP_FAILURE)
        if source not in self.files or target.rpartition(b"/")[0] not in self.folders:
            return status(number, sftp.SFTP_NO_SUCH_FILE)
        self.files[target] = self.files.pop(source)
        return status(number, sftp.SFTP_OK)

    def on_opendir(self, number: int, path: bytes, fields: Reply) -> bytes:
        self._listed.discard(path)
        return packet(sftp.CMD_HANDLE, number, string(path))

    def on_readdir(self, number: int, handle: bytes, fields: Reply) -> bytes:
        if handle in self._listed:
            return status(number, sftp.SFTP_EOF)
        self._listed.add(handle)
        below = [path for path in self.files if path.rpartition(b"/")[0] == handle]
        entries = [
            string(path.rpartition(b"/")[2]) + string(b"") + attributes(len(self.files[path]), FILE)
            for path in below
        ]
        return packet(sftp.CMD_NAME, number, struct.pack(">I", len(entries)) + b"".join(entries))

    def on_extended(self, number: int, name: bytes, fields: Reply) -> bytes:
        if name == b"statvfs@openssh.com":
            return packet(sftp.CMD_EXTENDED_REPLY, number, self.statvfs())
        if name == b"hardlink@openssh.com":
            source, target = fields.string(), fields.string()
            if target in self.files:
                return status(number, sftp.SFTP_FAILURE)
            if target.rpartition(b"/")[0] not in self.folders:
                return status(number, sftp.SFTP_NO_SUCH_FILE)
            self.files[target] = self.files[source]
        return status(number, sftp.SFTP_OK)

    def statvfs(self, free_blocks: int = 10**6, free_files: int = 10**6, flags: int = 0) -> bytes:
        free = (free_blocks, free_blocks, 10**6, free_files, free_files)
        return struct.pack(">11Q", 4096, 4096, 10**6, *free, 0, flags, 255)
