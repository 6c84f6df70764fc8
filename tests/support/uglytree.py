"""Makes a tree with everything that a Linux file system can hold, the same for the same seed.

Names of any byte, of 255 bytes, with newlines, terminal escapes and leading dashes; deep paths; modes,
owners, times before 1970 and far ahead; symlinks to nowhere and out; hard links across folders, also of
symlinks and FIFOs; sparse files; extended attributes and access lists; FIFOs, sockets, devices. What needs
root is left out without it, and what the file system lacks is named in ``skipped``.
"""

from __future__ import annotations

import os
import random
import socket
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

KIB, MIB = 1024, 1024 * 1024
_ACL_ENTRY = struct.Struct("<HHI")
_UNDEFINED = 0xFFFFFFFF


@dataclass
class Ugly:
    """What was made below ``root``: how many entries, and what this machine could not do."""

    root: bytes
    entries: int = 0
    skipped: list[str] = field(default_factory=list)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """The value of ``system.posix_acl_*``: (tag, permission, id) in order; 1 owner, 2 user, 4 group of the
    file, 8 group, 16 mask, 32 others."""
    return struct.pack("<I", 2) + b"".join(_ACL_ENTRY.pack(*entry) for entry in entries)


_OTHERS = ((16, 5, _UNDEFINED), (32, 0, _UNDEFINED))
ACCESS = acl((1, 6, _UNDEFINED), (2, 7, 1234), (4, 4, _UNDEFINED), (8, 5, 4321), *_OTHERS)
DEFAULT = acl((1, 7, _UNDEFINED), (2, 5, 1234), (4, 5, _UNDEFINED), *_OTHERS)


def make(root: str | bytes, seed: int = 1, files: int = 200, extreme: bool = True) -> Ugly:
    """Make the tree in the folder ``root``, which is made; ``files`` ordinary files besides the ugly ones.
    Without ``extreme`` there are no paths beyond PATH_MAX and no file of 1 TiB: other programs stumble."""
    made = Ugly(os.fsencode(root))
    os.makedirs(made.root)
    builder = _Builder(made, random.Random(seed), extreme)
    for part in (
        builder.names,
        builder.ordinary,
        builder.deep,
        builder.symlinks,
        builder.hard_links,
        builder.sparse,
        builder.attributes,
        builder.specials,
        builder.modes_and_owners,
        builder.times,
    ):
        part()
    builder.settle(files)
    made.entries = sum(len(folders) + len(names) for _, folders, names in os.walk(made.root))
    return made


class _Builder:
    def __init__(self, made: Ugly, chance: random.Random, extreme: bool) -> None:
        self._made, self._chance, self._extreme = made, chance, extreme

    def _folder(self, name: bytes) -> bytes:
        path = self._made.root + b"/" + name
        os.mkdir(path)
        return path

    def _file(self, path: bytes, size: int | None = None) -> bytes:
        with open(path, "xb") as file:
            file.write(self._chance.randbytes(self._chance.randrange(3000) if size is None else size))
        return path

    def _try(self, what: str, act: Callable[[], object]) -> None:
        """Do what this machine may be unable to do."""
        try:
            act()
        except (OSError, AttributeError) as error:
            self._made.skipped.append(f"{what}: {error}")

    def names(self) -> None:
        at = self._folder(b"names")
        ugly = [
            b"-rf", b"--", b"-", b" ", b"  two  ", b"new\nline", b"\x1b[31mred\x1b[0m", b"\x07bell", b"tab\there",
            b"quote'\"`$(id)", b"back\\slash", b"*?[x]", b"...", b"..a", b".hidden", b"\xff\xfe\x80", b"caf\xe9",
            "cafe\u0301".encode(), "caf\u00e9".encode(), "\u202egnp.exe".encode(), b"x" * 255, b"\xf0" * 255,
            "\U0001f600".encode() * 63, b"CON", b"con", b"a:b", b"#", b"~", b"%s%n", b"{}", b"\r", b"\x7f",
        ]  # fmt: skip
        ugly += [bytes([byte]) for byte in range(1, 256) if byte not in b"./" and bytes([byte]) not in ugly]
        for name in ugly:
            self._file(at + b"/" + name)
        inside = self._folder(b"names/in\x1b[2Jside\n")
        self._file(inside + b"/\x80")

    def ordinary(self) -> None:
        at = self._folder(b"content")
        for size in (0, 1, 4095, 4096, 128 * KIB - 1, 128 * KIB, 128 * KIB + 1, 3 * MIB + 17):
            self._file(at + b"/%d" % size, size)
        with open(at + b"/zeros", "xb") as file:
            file.write(bytes(2 * MIB))
        with open(at + b"/text", "xb") as file:
            file.write(b"the same line over and over\n" * 40_000)
        same = self._chance.randbytes(300 * KIB)
        for name in (b"/twin1", b"/twin2"):
            with open(at + name, "xb") as file:
                file.write(same)
        self._folder(b"content/empty")
        self._folder(b"content/empty/in")

    def deep(self) -> None:
        """Deeper than PATH_MAX: made from inside, one folder at a time."""
        levels = [os.open(self._folder(b"deep"), os.O_RDONLY)]
        for level in range(40 if self._extreme else 6):
            name = b"%03d-" % level + b"d" * 200
            os.mkdir(name, dir_fd=levels[-1])
            levels.append(os.open(name, os.O_RDONLY, dir_fd=levels[-1]))
        fd = os.open(b"at the bottom", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=levels[-1])
        os.write(fd, b"made it")
        levels.append(fd)
        while levels:
            os.utime(levels[-1], ns=(len(levels), 10**18 + len(levels)))
            os.close(levels.pop())
        path = self._folder(b"nested")
        for level in range(300):
            path += b"/n%d" % (level % 10)
            os.mkdir(path)
        self._file(path + b"/f")

    def symlinks(self) -> None:
        at = self._folder(b"symlinks")
        targets = [
            b"../content/1",
            b"/etc/passwd",
            b"nowhere",
            b"..",
            b".",
            b"loop",
            b"\xff\n\x1b",
            b"t" * 4095,
        ]
        for number, target in enumerate(targets):
            os.symlink(target, at + b"/s%d" % number)
        os.symlink(b"loop", at + b"/loop")
        os.symlink(b"../content", at + b"/folder")

    def hard_links(self) -> None:
        one, two = self._folder(b"links1"), self._folder(b"links2")
        first = self._file(one + b"/a", 200 * KIB)
        for path in (one + b"/b", two + b"/a", two + b"/z"):
            os.link(first, path)
        small = self._file(two + b"/small", 10)
        os.link(small, one + b"/small")
        empty = self._file(two + b"/nothing", 0)
        os.link(empty, one + b"/nothing")
        os.symlink(b"x", one + b"/link")
        os.link(one + b"/link", two + b"/link", follow_symlinks=False)
        os.mkfifo(one + b"/fifo")
        os.link(one + b"/fifo", two + b"/fifo")

    def sparse(self) -> None:
        at = self._folder(b"sparse")
        for name, size, parts in (
            (b"/hole", 64 * MIB, []),
            (b"/begin", 40 * MIB, [0]),
            (b"/end", 40 * MIB, [40 * MIB - 4096]),
            (b"/many", 80 * MIB, [i * 5 * MIB for i in range(16)]),
            (b"/huge", 1 << 40 if self._extreme else 1 << 28, [0, 1 << 27]),
        ):
            with open(at + name, "xb") as file:
                file.truncate(size)
                for offset in parts:
                    file.seek(offset)
                    file.write(self._chance.randbytes(4096))
        with open(at + b"/large parts", "xb") as file:
            for i in range(3):
                file.seek(i * 20 * MIB)
                file.write(self._chance.randbytes(3 * MIB))
            file.truncate(100 * MIB)

    def attributes(self) -> None:
        at = self._folder(b"attributes")
        path = self._file(at + b"/user")
        for name, value in ((b"user.text", b"value"), (b"user.bin", bytes(range(256))), (b"user.empty", b"")):
            self._try("user attributes", lambda p=path, n=name, v=value: os.setxattr(p, n, v))
        self._try("user attributes", lambda: os.setxattr(at, b"user.folder", b"x" * 1000))
        with_acl = self._file(at + b"/acl")
        self._try("access lists", lambda: os.setxattr(with_acl, "system.posix_acl_access", ACCESS))
        folder = self._folder(b"attributes/default")
        self._file(folder + b"/before")
        self._try("access lists", lambda: os.setxattr(folder, "system.posix_acl_default", DEFAULT))
        self._try("access lists", lambda: os.setxattr(folder, "system.posix_acl_access", DEFAULT))
        self._file(folder + b"/inherits")
        os.mkdir(folder + b"/inherits too")
        readonly = self._file(at + b"/read-only")
        self._try("user attributes", lambda: os.setxattr(readonly, b"user.a", b"b"))
        os.chmod(readonly, 0o400)
        if os.geteuid() == 0:
            capable = self._file(at + b"/capable")
            value = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
            self._try("capabilities", lambda: os.setxattr(capable, b"security.capability", value))
            os.symlink(b"x", at + b"/trusted")
            self._try(
                "trusted attributes",
                lambda: os.setxattr(at + b"/trusted", b"trusted.t", b"v", follow_symlinks=False),
            )

    def specials(self) -> None:
        at = self._folder(b"specials")
        os.mkfifo(at + b"/fifo", 0o640)
        server = socket.socket(socket.AF_UNIX)
        self._try("sockets", lambda: _bind(server, at))
        server.close()
        if os.geteuid() == 0:
            self._try("devices", lambda: os.mknod(at + b"/null", stat.S_IFCHR | 0o666, os.makedev(1, 3)))
            self._try(
                "devices", lambda: os.mknod(at + b"/block", stat.S_IFBLK | 0o660, os.makedev(259, 1_000_001))
            )

    def modes_and_owners(self) -> None:
        at = self._folder(b"modes")
        for mode in (0, 0o400, 0o444, 0o600, 0o644, 0o755, 0o777, 0o1777, 0o4755, 0o2755, 0o6711, 0o7777):
            if not mode & 0o400 and os.geteuid() != 0:
                continue  # nobody but root could read it
            os.chmod(self._file(at + b"/f%04o" % mode), mode)
            if mode & 0o700 == 0o700 or os.geteuid() == 0:
                folder = at + b"/d%04o" % mode
                os.mkdir(folder)
                self._file(folder + b"/in")
                os.chmod(folder, mode)
        if os.geteuid() != 0:
            return
        at = self._folder(b"owners")
        for uid, gid in ((0, 1), (1, 0), (1000, 1000), (65534, 65534), (2**31, 2**32 - 2), (123456, 7)):
            path = self._file(at + b"/%d-%d" % (uid, gid))
            os.chown(path, uid, gid)
            os.chmod(path, 0o6755)
            link = at + b"/l%d-%d" % (uid, gid)
            os.symlink(b"x", link)
            os.chown(link, uid, gid, follow_symlinks=False)
        os.mkdir(at + b"/folder")
        os.chown(at + b"/folder", 1000, 2000)
        os.chmod(at + b"/folder", 0o3775)

    def times(self) -> None:
        at = self._folder(b"times")
        for ns in (0, 1, 999_999_999, -1, -(10**18), 1_700_000_000_123_456_789, 4_000_000_000 * 10**9 + 5):
            path = self._file(at + b"/%d" % ns)
            self._try(f"time {ns}", lambda p=path, n=ns: os.utime(p, ns=(n, n)))

    def settle(self, files: int) -> None:
        """Ordinary files in ordinary folders, then a known time for everything that has none of its own."""
        for number in range(files):
            folder = self._made.root + b"/many/%02d" % (number % 13)
            os.makedirs(folder, exist_ok=True)
            self._file(folder + b"/%d.txt" % number)
        with os.scandir(self._made.root) as tops:
            names = sorted(entry.path for entry in tops if entry.name != b"deep")
        for top in names:
            for path, folders, others in os.walk(top, topdown=False):
                for name in sorted(folders) + (sorted(others) if not top.endswith(b"/times") else []):
                    self._stamp(path + b"/" + name)
            self._stamp(top)
        self._stamp(self._made.root)

    def _stamp(self, path: bytes) -> None:
        ns = 1_500_000_000 * 10**9 + self._chance.randrange(10**17)
        os.utime(path, ns=(ns, ns), follow_symlinks=False)


def _bind(server: socket.socket, folder: bytes) -> None:
    """Bind by a short path: addresses of sockets are limited to 108 bytes."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        server.bind(f"/proc/self/fd/{fd}/socket")
    finally:
        os.close(fd)
