"""Compares two trees in content and every piece of metadata; knows nothing of Tandem.

Gives a list of lines, empty when equal. Covers names, kinds, permission bits, owners, mtimes to the
nanosecond, content, symlink targets, which names are hard links of each other, extended attributes with
access lists, device numbers, and roughly which parts of a file are holes. Not covered: atime and ctime,
which a restore cannot or should not bring back.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

_BLOCK = 1 << 20
_HOLE_SLACK = 256 * 1024
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "FIFO",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFSOCK: "socket",
}


@dataclass
class Tree:
    """Everything below a folder: path relative to it -> lstat. ``links`` groups paths by (device, inode)."""

    root: bytes
    entries: dict[bytes, os.stat_result] = field(default_factory=dict)
    links: dict[tuple[int, int], set[bytes]] = field(default_factory=dict)


def compare(
    expected: str | bytes, found: str | bytes, *, owners: bool = True, root: bool = True
) -> list[str]:
    """How ``found`` differs from ``expected``. ``owners=False`` leaves owners out (for a user who is not
    root), ``root=False`` the metadata of the two folders themselves."""
    one, two = _read(os.fsencode(expected)), _read(os.fsencode(found))
    lines = [f"{_say(p)}: only in {_say(one.root)}" for p in sorted(one.entries.keys() - two.entries.keys())]
    lines += [f"{_say(p)}: only in {_say(two.root)}" for p in sorted(two.entries.keys() - one.entries.keys())]
    for path in sorted(one.entries.keys() & two.entries.keys()):
        if path != b"." or root:
            lines += [f"{_say(path)}: {line}" for line in _differences(one, two, path, owners)]
    return lines + _link_differences(one, two)


def _read(root: bytes) -> Tree:
    """Walks with folder descriptors, so that paths of any length can be reached."""
    tree = Tree(root)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        tree.entries[b"."] = os.fstat(fd)
        waiting = [(b"", os.dup(fd))]
        while waiting:
            folder, at = waiting.pop()
            try:
                for name in sorted(map(os.fsencode, os.listdir(at))):
                    path = folder + name
                    about = os.stat(name, dir_fd=at, follow_symlinks=False)
                    tree.entries[path] = about
                    if stat.S_ISDIR(about.st_mode):
                        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                        waiting.append((path + b"/", os.open(name, flags, dir_fd=at)))
                    elif about.st_nlink > 1:
                        tree.links.setdefault((about.st_dev, about.st_ino), set()).add(path)
            finally:
                os.close(at)
    finally:
        os.close(fd)
    return tree


def _differences(one: Tree, two: Tree, path: bytes, owners: bool) -> Iterator[str]:
    a, b = one.entries[path], two.entries[path]
    kind = stat.S_IFMT(a.st_mode)
    if kind != stat.S_IFMT(b.st_mode):
        yield f"kind {_KINDS.get(kind)} became {_KINDS.get(stat.S_IFMT(b.st_mode))}"
        return
    if stat.S_IMODE(a.st_mode) != stat.S_IMODE(b.st_mode):
        yield f"mode {stat.S_IMODE(a.st_mode):04o} became {stat.S_IMODE(b.st_mode):04o}"
    if owners and (a.st_uid, a.st_gid) != (b.st_uid, b.st_gid):
        yield f"owner {a.st_uid}:{a.st_gid} became {b.st_uid}:{b.st_gid}"
    if a.st_mtime_ns != b.st_mtime_ns:
        yield f"mtime {a.st_mtime_ns} became {b.st_mtime_ns}"
    if a.st_rdev != b.st_rdev:
        yield f"device {os.major(a.st_rdev)}:{os.minor(a.st_rdev)} became {os.major(b.st_rdev)}:{os.minor(b.st_rdev)}"
    with _Handle(one.root, path) as first, _Handle(two.root, path) as second:
        yield from _attribute_differences(first, second)
        if kind == stat.S_IFLNK and first.target() != second.target():
            yield f"target {first.target()!r} became {second.target()!r}"
        if kind == stat.S_IFREG:
            yield from _content_differences(first, second, a, b)


class _Handle:
    """An O_PATH descriptor of a path of any length, for calls that follow nothing and open nothing."""

    def __init__(self, root: bytes, path: bytes) -> None:
        self._fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
        for part in path.split(b"/") if path != b"." else []:
            below = os.open(part, os.O_PATH | os.O_NOFOLLOW, dir_fd=self._fd)
            os.close(self._fd)
            self._fd = below
        self._path = f"/proc/self/fd/{self._fd}"

    def __enter__(self) -> _Handle:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def attributes(self) -> dict[str, bytes]:
        return {name: os.getxattr(self._path, name) for name in os.listxattr(self._path)}

    def target(self) -> bytes:
        return os.readlink(b"", dir_fd=self._fd)

    def open(self) -> int:
        return os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)


def _attribute_differences(first: _Handle, second: _Handle) -> Iterator[str]:
    one, two = first.attributes(), second.attributes()
    for name in sorted(one.keys() | two.keys()):
        if one.get(name) != two.get(name):
            yield f"attribute {name} {one.get(name)!r} became {two.get(name)!r}"


def _content_differences(
    first: _Handle, second: _Handle, a: os.stat_result, b: os.stat_result
) -> Iterator[str]:
    if a.st_size != b.st_size:
        yield f"size {a.st_size} became {b.st_size}"
        return
    one, two = first.open(), second.open()
    try:
        holes, more = _data(one, a.st_size), _data(two, b.st_size)
        if abs(_total(holes) - _total(more)) > _HOLE_SLACK:
            yield f"data (the rest is holes) {_total(holes)} bytes became {_total(more)}"
        for start, end in _union(holes, more):
            at = start
            while at < end:
                length = min(_BLOCK, end - at)
                if os.pread(one, length, at) != os.pread(two, length, at):
                    yield f"content differs from byte {at} to {at + length}"
                    return
                at += length
    finally:
        os.close(one)
        os.close(two)


def _data(fd: int, size: int) -> list[tuple[int, int]]:
    """(start, end) of every part that is no hole."""
    found, at = [], 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            break
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        found.append((start, at))
    return found


def _total(parts: list[tuple[int, int]]) -> int:
    return sum(end - start for start, end in parts)


def _union(one: list[tuple[int, int]], two: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is data in either: holes of both need no reading."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(one + two):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _link_differences(one: Tree, two: Tree) -> list[str]:
    groups, others = ({frozenset(group) for group in tree.links.values()} for tree in (one, two))
    lines = [f"hard links {_names(group)}: only in {_say(one.root)}" for group in groups - others]
    lines += [f"hard links {_names(group)}: only in {_say(two.root)}" for group in others - groups]
    return sorted(lines)


def _names(group: frozenset[bytes]) -> str:
    return ", ".join(_say(path) for path in sorted(group))


def _say(path: bytes) -> str:
    return repr(path)[1:][-200:]
