"""Puts owner, extended attributes, mode and times on what was restored.

Order matters: changing the owner clears setuid bits and capabilities, a read-only file takes no more
attributes, and everything touches the time. What cannot be set is counted and becomes one warning for each
kind, with an example, not one line for each of a million files. Never follows a symlink.
"""

from __future__ import annotations

import grp
import os
import pwd
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tandem_agent.engine.treewalk import join, show
from tandem_protocol.tree import FILE, SYMLINK, Entry

ACL_ACCESS = "system.posix_acl_access"
ACL_DEFAULT = "system.posix_acl_default"
_SET_ID = 0o6000
_UNCHANGED = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Spot:
    """A folder in the target. ``fresh``: made by this run, so nothing else is in it. ``inherits``: new
    things in it get an access list from a folder that was there before."""

    path: bytes
    fresh: bool
    inherits: bool = False


class Owners:
    """Which numeric owner a file gets: the number it had, or with ``by_name`` the number that its owner's
    name has on this machine, and the old number for a name unknown here."""

    def __init__(self, by_name: bool = False) -> None:
        self._by_name = by_name
        self._known: dict[tuple[str, str], int | None] = {}

    def of(self, entry: Entry, users: Mapping[int, str], groups: Mapping[int, str]) -> tuple[int, int]:
        uid, gid = entry[3], entry[4]
        if not self._by_name:
            return uid, gid
        return self._local("user", users.get(uid), uid), self._local("group", groups.get(gid), gid)

    def _local(self, kind: str, name: str | None, number: int) -> int:
        if not name:
            return number
        key = (kind, name)
        if key not in self._known:
            try:
                found = pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid
            except (KeyError, ValueError):
                found = None
            self._known[key] = found
        local = self._known[key]
        return number if local is None else local


@dataclass(slots=True)
class _Count:
    number: int
    example: str


class Troubles:
    """Warnings from any thread. Those of one kind are counted; each kind keeps its first example."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, _Count] = {}

    def add(self, kind: str, path: bytes) -> None:
        """``kind`` is a phrase like "owner could not be set (not root)"."""
        with self._lock:
            found = self._counts.get(kind)
            if found is None:
                self._counts[kind] = _Count(1, show(path))
            else:
                found.number += 1

    def take(self) -> list[tuple[str, int, str]]:
        """All so far, (kind, number, example) each, to be added elsewhere; none are left here."""
        with self._lock:
            counts, self._counts = self._counts, {}
        return [(kind, count.number, count.example) for kind, count in counts.items()]

    def add_all(self, counts: Iterable[tuple[str, int, str]]) -> None:
        """What `take` gave."""
        with self._lock:
            for kind, number, example in counts:
                self._counts.setdefault(kind, _Count(0, example)).number += number

    def lines(self) -> list[str]:
        with self._lock:
            items = list(self._counts.items())
        return [
            f"{kind}: {c.example}" + (f" and {c.number - 1} more" if c.number > 1 else "")
            for kind, c in items
        ]


def _more(number: int) -> str:
    return f" and {number} more" if number else ""


class MetadataWriter:
    """Applies the metadata of tree entries to open files. Safe for several threads at once."""

    def __init__(self, troubles: Troubles) -> None:
        self._troubles = troubles
        self.uid, self.gid = os.geteuid(), os.getegid()

    def apply(self, fd: int, entry: Entry, owner: tuple[int, int], spot: Spot, known: bool = False) -> None:
        """All metadata onto ``fd``, a regular file or folder in ``spot``, open for real. ``known``: it was
        just made by us in a folder of ours, so its owner is ours without asking."""
        wanted_mode = entry[2]
        if not (known and owner == (self.uid, self.gid)) and not self._own(fd, owner, spot, entry):
            wanted_mode &= ~_SET_ID
        self._attributes(fd, entry, spot)
        try:
            os.fchmod(fd, wanted_mode)
        except OSError as error:
            self._trouble(f"mode could not be set ({error.strerror})", spot, entry)
        self.set_time(fd, entry, spot)

    def set_time(self, fd: int, entry: Entry, spot: Spot) -> None:
        mtime = time_of(entry)
        try:
            os.utime(fd, ns=(mtime, mtime))
        except (OSError, OverflowError) as error:
            self._trouble(f"time could not be set ({error})", spot, entry)

    def _trouble(self, kind: str, spot: Spot, entry: Entry) -> None:
        self._troubles.add(kind, join(spot.path, entry[1]))

    def _own(self, fd: int, owner: tuple[int, int], spot: Spot, entry: Entry) -> bool:
        """Set the owner; False if user or group stayed another. A user who is not root may still give a
        file to a group of theirs."""
        try:
            os.fchown(fd, *possible(owner))
            return True
        except (OSError, OverflowError):
            about = os.fstat(fd)
            if (about.st_uid, about.st_gid) == owner:
                return True
            if owner[1] != _UNCHANGED and self._give_to_group(fd, owner[1]) and about.st_uid == owner[0]:
                return True
        self._trouble("owner could not be set (only root may)", spot, entry)
        return False

    @staticmethod
    def _give_to_group(fd: int, gid: int) -> bool:
        try:
            os.fchown(fd, -1, gid)
            return True
        except (OSError, OverflowError):
            return False

    def _attributes(self, target: int | str, entry: Entry, spot: Spot) -> None:
        extras = entry[9]
        wanted: Mapping[bytes, bytes] = (extras or {}).get("x") or {}
        if spot.inherits and entry[0] != SYMLINK:
            self._strip(target, {os.fsdecode(name) for name in wanted}, spot, entry)
        for name, value in wanted.items():
            try:
                os.setxattr(target, name, value)
            except OSError as error:
                kind = f"attribute {show(name)} could not be set ({error.strerror})"
                self._trouble(kind, spot, entry)

    def _strip(self, target: int | str, keep: set[str], spot: Spot, entry: Entry) -> None:
        """Take away access lists that were inherited from a folder that was in the target before."""
        for name in {ACL_ACCESS, ACL_DEFAULT} - keep:
            try:
                if name in os.listxattr(target):
                    os.removexattr(target, name)
            except OSError as error:
                self._trouble(
                    f"an inherited access list could not be removed ({error.strerror})", spot, entry
                )

    def apply_named(self, folder: int, name: bytes, entry: Entry, owner: tuple[int, int], spot: Spot) -> None:
        """All metadata onto what cannot be opened without effects: a symlink, FIFO, socket or device that
        is called ``name`` for now, in the open folder of ``spot``."""
        wanted_mode = entry[2]
        try:
            os.chown(name, *possible(owner), dir_fd=folder, follow_symlinks=False)
        except (OSError, OverflowError):
            about = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if (about.st_uid, about.st_gid) != owner:
                wanted_mode &= ~_SET_ID
                self._trouble("owner could not be set (only root may)", spot, entry)
        if entry[0] != SYMLINK or entry[9] is not None:
            self._by_handle(folder, name, entry, wanted_mode, spot)
        mtime = time_of(entry)
        try:
            os.utime(name, ns=(mtime, mtime), dir_fd=folder, follow_symlinks=False)
        except (OSError, OverflowError) as error:
            self._trouble(f"time could not be set ({error})", spot, entry)

    def _by_handle(self, folder: int, name: bytes, entry: Entry, mode: int, spot: Spot) -> None:
        """Mode and attributes through an O_PATH handle: it stands for this very inode, so nothing that is
        put in its place meanwhile gets them."""
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            same = f"/proc/self/fd/{handle}"
            self._attributes(same, entry, spot)
            if entry[0] != SYMLINK:
                os.chmod(same, mode)
        except OSError as error:
            self._trouble(f"mode could not be set ({error.strerror})", spot, entry)
        finally:
            os.close(handle)


def possible(owner: tuple[int, int]) -> tuple[int, int]:
    """``owner`` itself; `OverflowError` for the number that means "leave it as it is" to the system: a setuid
    file of that owner would stay with whoever restores it."""
    if _UNCHANGED in owner:
        raise OverflowError("no such owner")
    return owner


def time_of(entry: Entry) -> int:
    """The modification time in nanoseconds since 1970; negative before."""
    return entry[5] * 1_000_000_000 + entry[6]


def same_already(entry: Entry, about: os.stat_result) -> bool:
    """Whether what is there looks like what an earlier run of this restore put there: same kind, same time,
    and for files same size. Metadata is set before a file gets its name, so a file like this is whole."""
    return (
        kind_of(about.st_mode) == entry[0]
        and about.st_mtime_ns == time_of(entry)
        and (entry[0] != FILE or about.st_size == entry[7])
    )


def kind_of(mode: int) -> int:
    """The tree's kind for a mode of stat."""
    return _KINDS.get(mode >> 12, -1)


# Of st_mode's top four bits: regular, folder, symlink, FIFO, character device, block device, socket.
_KINDS = {0o10: 0, 0o04: 1, 0o12: 2, 0o01: 3, 0o02: 4, 0o06: 5, 0o14: 6}
