"""The few Linux calls that Python's os module lacks, through ctypes, with a plain way where one is missing.

Nothing here decides anything: same arguments, same errors (`OSError`) as the system calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os

_libc = ctypes.CDLL(None, use_errno=True)
_RENAME_NOREPLACE = 1
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


def rename_new(source: bytes, target: bytes, folder: int) -> None:
    """Rename inside one open folder, `FileExistsError` if ``target`` is there, whatever it is."""
    call = getattr(_libc, "renameat2", None)
    if call is not None:
        if call(folder, source, folder, target, _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _UNSUPPORTED:
            raise OSError(number, os.strerror(number), target)
    os.link(source, target, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    os.unlink(source, dir_fd=folder)


def sync_file_system(fd: int) -> None:
    """Make everything written to the file system of ``fd`` durable; all of them where syncfs is missing."""
    call = getattr(_libc, "syncfs", None)
    if call is None:
        os.sync()
        return
    if call(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def start_writeback(fd: int) -> None:
    """Ask the kernel to begin writing the file out now, so that the last sync finds little; a hint only."""
    call = getattr(_libc, "sync_file_range", None)
    if call is not None:
        with contextlib.suppress(OSError):
            call(fd, ctypes.c_int64(0), ctypes.c_int64(0), 2)
