"""Translates what the operating system reports into the project's kinds of error, once, for every store.

It decides what is permanent (no retries) and what a new session may cure. It knows no protocol: what an
SFTP status means is judged in sftp_errors.py.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import Exists, Full, Missing, Refused, TandemError, Unavailable
from ..names import valid

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {
    errno.EACCES: "check the owner and permissions of that folder",
    errno.EPERM: "check the owner and permissions of that folder",
    errno.EROFS: "mount it for writing",
    errno.ENOTDIR: "something else stands where a folder belongs; move it away",
    errno.EISDIR: "a folder stands where a file belongs; move it away",
    errno.ELOOP: "a link stands where a plain file or folder belongs; links are never followed",
    errno.ENAMETOOLONG: "this file system does not take names of 80 characters; choose another place",
    errno.EFBIG: "this file system does not take files of this size; choose another place",
    errno.EXDEV: "the folders of one store must be on one file system",
    errno.ENOTEMPTY: "a folder with unknown content stands where a file belongs; move it away",
}


def check_name(name: str) -> str:
    """``name`` itself if a store may use it, else `Refused`: nothing else ever reaches a path."""
    if not valid(name):
        raise Refused(f"{name!r} is not a name that a store takes")
    return name


def from_oserror(error: OSError, doing: str) -> TandemError:
    """The project's error for ``error``; ``doing`` says what was done to what ("write /mnt/x/tmp/y")."""
    text = f"cannot {doing}: {error.strerror or error}"
    if error.errno in _FULL:
        return Full(text, "make room there or raise the quota; nothing was lost")
    if error.errno == errno.ENOENT:
        return Missing(text)
    if error.errno == errno.EEXIST:
        return Exists(text)
    if error.errno in _REFUSED:
        return Refused(text, _REFUSED[error.errno])
    return Unavailable(text)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Any OSError inside leaves as one of the project's kinds."""
    try:
        yield
    except OSError as error:
        raise from_oserror(error, doing) from error


def temporary_name(name: str) -> str:
    """A name in ``tmp/`` that no other writer uses, for the object that will be ``name``."""
    last = name.rsplit("/", 1)[-1]
    return f"tmp/{last[:200]}.{os.urandom(8).hex()}"


def unasked(work: asyncio.Future[Any]) -> None:
    """For a verb that was cancelled, and whose thread ends with a fault that nobody asks for: it is no error to log."""
    if not work.cancelled():
        work.exception()
