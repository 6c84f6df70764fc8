"""Makes the tree entries that have no content of their own: folders, symlinks, devices, FIFOs and sockets.

Nothing that is not a folder is opened here, and nothing but the attributes of one is read.
"""

from __future__ import annotations

import os
import stat

from tandem_agent.engine.attributes import KINDS, AttributeReader, extras_of
from tandem_agent.engine.events import Draft
from tandem_agent.engine.folders import open_folder
from tandem_agent.engine.seen import Stat
from tandem_agent.engine.troubles import Warnings
from tandem_protocol.tree import DIR, SYMLINK

_SECOND = 1_000_000_000


class EntryMaker:
    """For the scanner's thread alone. What cannot be read becomes a warning."""

    def __init__(self, attributes: AttributeReader, warnings: Warnings) -> None:
        self._attributes = attributes
        self._warnings = warnings

    def folder(self, name: bytes, st: Stat, fd: int, path: bytes) -> Draft:
        """A folder's entry, with the attributes of the open ``fd`` (none if it is -1)."""
        attributes = None
        if fd >= 0:
            attributes = self._attributes.read(fd, st.st_dev, path)
        return _entry(name, st, 0, None, extras_of(st, DIR, attributes) if attributes else None)

    def leading(self, name: bytes, st: Stat, path: bytes) -> Draft:
        """The entry of a folder that only leads to a source."""
        try:
            fd = open_folder(path, None, follow=True)
        except OSError:  # it may be entered and not listed, which is enough to reach the source
            return self.folder(name, st, -1, path)
        try:
            return self.folder(name, st, fd, path)
        finally:
            os.close(fd)

    def special(self, folder: int, name: bytes, st: Stat, path: bytes) -> Draft | None:
        """A symlink, device, FIFO or socket. It is never opened."""
        kind = KINDS.get(stat.S_IFMT(st.st_mode))
        if kind is None:
            self._warnings.add(path, "is of a kind that cannot be backed up")
            return None
        try:
            content = os.readlink(name, dir_fd=folder) if kind == SYMLINK else b""
        except OSError as error:
            self._warnings.add_error(path, error)
            return None
        attributes = self._attributes.read(b"/proc/self/fd/%d/%s" % (folder, name), st.st_dev, path)
        return _entry(name, st, len(content), content, extras_of(st, kind, attributes))


def _entry(
    name: bytes, st: Stat, size: int, content: bytes | None, extras: dict[str, object] | None
) -> Draft:
    seconds, rest = divmod(st.st_mtime_ns, _SECOND)
    kind = KINDS[stat.S_IFMT(st.st_mode)]
    return (kind, name, st.st_mode & 0o7777, st.st_uid, st.st_gid, seconds, rest, size, content, extras)
