"""Makes what has no content of its own in a target: symlinks, FIFOs, sockets, devices, hard links.

Each is made under a temporary name, given its metadata and renamed, like a file. Called from worker
threads; trouble with one of them is a warning, a full disk ends the restore.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from tandem_agent.engine.metadata import MetadataWriter, Spot, Troubles
from tandem_agent.engine.target import Target, no_room, translated
from tandem_agent.engine.treewalk import join
from tandem_protocol.tree import BLOCK, CHAR, FIFO, FILE, SOCKET, SYMLINK, Entry

_MODES = {FIFO: stat.S_IFIFO, CHAR: stat.S_IFCHR, BLOCK: stat.S_IFBLK, SOCKET: stat.S_IFSOCK}
_COPY = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Node:
    """Something to make: an entry without content, in its folder, with its owner."""

    spot: Spot
    entry: Entry
    owner: tuple[int, int]


class NodeWriter:
    """Makes nodes and links in one target. Safe for several threads at once."""

    def __init__(self, target: Target, metadata: MetadataWriter, troubles: Troubles) -> None:
        self._target, self._metadata, self._troubles = target, metadata, troubles

    def make(self, node: Node) -> bool:
        """True if it is there now; otherwise a warning says why not."""
        path = join(node.spot.path, node.entry[1])
        if node.entry[0] in (CHAR, BLOCK) and os.geteuid() != 0:
            self._troubles.add("device left out (only root may make one)", path)
            return False
        try:
            self._make(node)
            return True
        except FileExistsError:
            self._troubles.add("is there already, not overwritten", path)
        except OSError as error:
            if no_room(error):
                raise translated(error, f"cannot write to {self._target.shown}") from None
            self._troubles.add(f"could not be made ({error.strerror})", path)
        except OverflowError:
            self._troubles.add("could not be made (no such device number here)", path)
        return False

    def _make(self, node: Node) -> None:
        entry, target = node.entry, self._target
        folder, temporary = target.folder(node.spot.path), target.temporary()
        if entry[0] == SYMLINK:
            os.symlink(entry[8], temporary, dir_fd=folder)
        else:
            device = os.makedev(*((entry[9] or {}).get("r") or (0, 0)))
            os.mknod(temporary, _MODES[entry[0]] | 0o600, device, dir_fd=folder)
        try:
            self._metadata.apply_named(folder, temporary, entry, node.owner, node.spot)
        except BaseException:
            target.discard(folder, temporary)
            raise
        target.publish(node.spot, folder, temporary, entry[1])

    def link(self, first: tuple[bytes, bytes], node: Node) -> bool:
        """Make a hard link to ``first`` (folder path, name), restored before; a copy of it where the target's
        file system cannot link. True if it is there now."""
        path = join(node.spot.path, node.entry[1])
        try:
            self._target.link(first, node.spot, node.entry[1])
            return True
        except FileExistsError:
            self._troubles.add("is there already, not overwritten", path)
            return False
        except OSError as error:
            if no_room(error):
                raise translated(error, f"cannot write to {self._target.shown}") from None
            reason = error.strerror or str(error)
        if node.entry[0] != FILE:
            self._troubles.add(f"hard link could not be made ({reason})", path)
            return False
        self._troubles.add(f"hard link could not be made ({reason}), restored as a copy", path)
        return self._copy(first, node, path)

    def _copy(self, first: tuple[bytes, bytes], node: Node, path: bytes) -> bool:
        target, entry = self._target, node.entry
        try:
            source = os.open(
                first[1], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target.folder(first[0])
            )
        except OSError as error:
            self._troubles.add(f"could not be copied ({error.strerror})", path)
            return False
        folder = target.folder(node.spot.path)
        try:
            fd, temporary = target.create(folder, 0o600)
            try:
                os.ftruncate(fd, entry[7])
                for offset, length in (entry[9] or {}).get("s") or ((0, entry[7]),):
                    _copy_part(source, fd, offset, length)
                self._metadata.apply(fd, entry, node.owner, node.spot)
            except BaseException:
                target.discard(folder, temporary)
                raise
            finally:
                os.close(fd)
            target.publish(node.spot, folder, temporary, entry[1])
            return True
        except OSError as error:
            if no_room(error):
                raise translated(error, f"cannot write to {target.shown}") from None
            self._troubles.add(f"could not be copied ({error.strerror})", path)
            return False
        finally:
            os.close(source)

    def left_out(self, node: Node) -> None:
        """A hard link whose first name could not be written."""
        self._troubles.add("hard link of a file that was not restored", join(node.spot.path, node.entry[1]))

    def finish_folder(self, node: Node) -> None:
        """Metadata of a folder in which everything is done. ``node.spot`` is the folder itself."""
        above = Spot(node.spot.path.rpartition(b"/")[0], node.spot.fresh, node.spot.inherits)
        try:
            self._metadata.apply(self._target.folder(node.spot.path), node.entry, node.owner, above)
        except OSError as error:
            if no_room(error):
                raise translated(error, f"cannot write to {self._target.shown}") from None
            self._troubles.add(f"folder could not be completed ({error.strerror})", node.spot.path)


def _copy_part(source: int, fd: int, offset: int, length: int) -> None:
    while length:
        data = os.pread(source, min(length, _COPY), offset)
        if not data:
            raise OSError(0, "it became shorter meanwhile")
        done = os.pwrite(fd, data, offset)
        offset, length = offset + done, length - done
