"""Power cuts: an ext4 of its own on a loop device that is shut down under running programs, and comes back.

FS_IOC_SHUTDOWN with NOLOGFLUSH stops the file system at once without writing its journal or any dirty page:
what was not synced is gone, as with a pulled plug. After it programs get EIO from the cut file system;
`restore_power` unmounts and mounts it again, which replays the journal. ext4's own guard for renames
without fsync is turned off (noauto_da_alloc), since other file systems have no such thing.

Needs root, loop devices and mkfs.ext4; `why_not` names what is missing. It does not model disks that
acknowledge a flush and drop the data, nor torn sectors.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import sys
import time
from types import TracebackType

_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32): EXT4_IOC_SHUTDOWN, the same number as XFS's
_NO_LOG_FLUSH = 2
_MOUNT_OPTIONS = "loop,noauto_da_alloc"
_UNMOUNT_SECONDS = 10.0


def why_not() -> str | None:
    """What is missing here for power cuts, or None."""
    if not sys.platform.startswith("linux"):
        return "power cuts need Linux"
    if os.geteuid() != 0:
        return "power cuts need root, to mount a loop device"
    for tool in ("mkfs.ext4", "mount", "umount", "losetup"):
        if shutil.which(tool) is None:
            return f"power cuts need {tool}"
    found = subprocess.run(["losetup", "--find"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        return f"power cuts need a loop device: {found.stderr.strip()}"
    return None


class CutDisk:
    """One ext4 in an image file below `folder`, mounted at `.root`. A context manager; leaves nothing behind.

    Errors: subprocess.CalledProcessError when mkfs, mount or umount fail.
    """

    def __init__(self, folder: str, megabytes: int = 512) -> None:
        """Makes the file system (sparse image, so `megabytes` costs only what is used) and mounts it."""
        self._image = os.path.join(folder, "disk.img")
        self.root = os.path.join(folder, "disk")
        os.makedirs(self.root)
        with open(self._image, "wb") as image:
            image.truncate(megabytes << 20)
        _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1", self._image)
        self._handle: int | None = None
        self._mount()
        self.cuts = 0

    def cut(self) -> None:
        """The power goes, now. Programs that use the disk get EIO; `restore_power` comes after they ended."""
        if self._handle is None:
            raise RuntimeError("the power is already cut")
        fcntl.ioctl(self._handle, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        os.close(self._handle)
        self._handle = None
        self.cuts += 1

    def restore_power(self) -> None:
        """Mounts the disk again as a machine does after a power cut. All programs that used it must have
        ended.
        """
        if self._handle is not None:
            raise RuntimeError("the power is on")
        self._unmount()
        self._mount()

    def flush(self) -> None:
        """Writes everything out, as the kernel does by itself from time to time (syncfs)."""
        if self._handle is not None and _libc().syncfs(self._handle) != 0:
            raise OSError(ctypes.get_errno(), "syncfs failed", self.root)

    def close(self) -> None:
        """Unmounts and removes the image."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        if os.path.ismount(self.root):
            self._unmount()
        os.unlink(self._image)
        os.rmdir(self.root)

    def __enter__(self) -> CutDisk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _mount(self) -> None:
        _run("mount", "-t", "ext4", "-o", _MOUNT_OPTIONS, self._image, self.root)
        self._handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)

    def _unmount(self) -> None:
        """A killed program can hold the mount for a moment while the kernel takes it apart: tries until it
        lets go.
        """
        end = time.monotonic() + _UNMOUNT_SECONDS
        while True:
            done = subprocess.run(["umount", self.root], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            if time.monotonic() > end:
                raise subprocess.CalledProcessError(done.returncode, "umount", done.stdout, done.stderr)
            time.sleep(0.01)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
