"""What a scan leaves out, and the one place that decides it: for the scanner and for who looks ahead of it."""

from __future__ import annotations

import stat
from dataclasses import dataclass

from tandem_agent.engine.excludes import Excluder
from tandem_agent.engine.folders import identities
from tandem_agent.engine.seen import Stat


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """``excludes``: gitignore patterns, relative to each source. ``skip``: folders that are never entered or
    recorded (state folder, vaults), by path. ``one_file_system``: mount points are recorded as empty folders."""

    excludes: tuple[str, ...] = ()
    skip: tuple[bytes, ...] = ()
    one_file_system: bool = False


class LeftOut:
    """Which names of a source are neither recorded nor entered. Raises `Usage` for a bad pattern when it is made."""

    def __init__(self, options: ScanOptions) -> None:
        self._excluder = Excluder(options.excludes)
        self._skip = identities(options.skip)
        self._skip_inodes = {inode for _, inode in self._skip}
        self.any = self._excluder.active or bool(self._skip)
        """Whether it is worth asking."""

    def own(self, device: int, inode: int) -> bool:
        """Whether this folder is one of those that are always skipped."""
        return (device, inode) in self._skip

    def name(self, relative: bytes, st: Stat) -> bool:
        """Whether ``relative`` (below its source, no slash in front) is left out."""
        is_folder = stat.S_ISDIR(st.st_mode)
        if is_folder and st.st_ino in self._skip_inodes and (st.st_dev, st.st_ino) in self._skip:
            return True
        return self._excluder.active and self._excluder.excluded(relative, is_folder)
