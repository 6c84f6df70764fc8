"""A rename that refuses an existing target in one step of the kernel.

Linux has renameat2(RENAME_NOREPLACE); some network file systems refuse the flag, and there a file is linked
and unlinked, and a folder is renamed over an empty one made for it. In each of the three ways exactly one
of two racing callers wins.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

_RENAME_NOREPLACE = 1
_NOT_HERE = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}

_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = getattr(_libc, "renameat2", None)
if _renameat2 is not None:
    _renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    _renameat2.restype = ctypes.c_int


def rename_exclusive(old_folder: int, old: bytes, new_folder: int, new: bytes) -> None:
    """Rename ``old`` in one open folder to ``new`` in another. Raises OSError; EEXIST if ``new`` is there."""
    number = _by_kernel(old_folder, old, new_folder, new)
    if number in _NOT_HERE:
        rename_by_hand(old_folder, old, new_folder, new)
    elif number:
        raise OSError(number, os.strerror(number))


def _by_kernel(old_folder: int, old: bytes, new_folder: int, new: bytes) -> int:
    """0 or the errno."""
    if _renameat2 is None:
        return errno.ENOSYS
    if _renameat2(old_folder, old, new_folder, new, _RENAME_NOREPLACE) == 0:
        return 0
    return ctypes.get_errno()


def rename_by_hand(old_folder: int, old: bytes, new_folder: int, new: bytes) -> None:
    """The same without the kernel's help. Stopped between its two steps it leaves a file with both names,
    or an empty folder under the new one; never a lost or overwritten one."""
    if not stat.S_ISDIR(os.stat(old, dir_fd=old_folder, follow_symlinks=False).st_mode):
        os.link(old, new, src_dir_fd=old_folder, dst_dir_fd=new_folder, follow_symlinks=False)
        os.unlink(old, dir_fd=old_folder)
        return
    os.mkdir(new, 0o700, dir_fd=new_folder)
    try:
        os.rename(old, new, src_dir_fd=old_folder, dst_dir_fd=new_folder)
    except OSError:
        os.rmdir(new, dir_fd=new_folder)
        raise
