"""The few Linux calls that Python's os module lacks, through ctypes, with a plain way where one is missing.

Nothing here decides anything: same arguments, same errors (`OSError`) as the system calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os

_libc = ctypes.CDLL(None, use_errno=True)
_RENAME_NOREPLACE = 1
_mmap = getattr(_libc, "mmap64", _libc.mmap)  # offsets of 64 bits on every machine
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)
_MAP_FAILED = ctypes.c_void_p(-1).value
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


def cached_pages(fd: int, offset: int, length: int) -> int:
    """How many of a file's pages from ``offset`` (a page's) are in the page cache. To whom it may not be told, the
    kernel says that all are."""
    address = _mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, fd, offset)
    if address == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        pages = ctypes.create_string_buffer(-(-length // mmap.PAGESIZE))
        if _libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(length), pages) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return len(pages) - pages.raw.count(0)
    finally:
        _libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(length))


def reserve(fd: int, size: int) -> None:
    """Room on the disk for the first ``size`` bytes of a file, which it then has; nothing where the file system
    cannot do that (glibc's own way would write zeros)."""
    call = getattr(_libc, "fallocate", None)
    if call is not None and call(fd, 0, ctypes.c_int64(0), ctypes.c_int64(size)) != 0:
        number = ctypes.get_errno()
        if number not in _UNSUPPORTED:
            raise OSError(number, os.strerror(number))


def end_with_parent() -> None:
    """Let this process be killed when the thread that started it ends, however it ends; where there is no such thing
    it has to see by itself."""
    call = getattr(_libc, "prctl", None)
    if call is not None:
        call(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
