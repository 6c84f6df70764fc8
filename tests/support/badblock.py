"""Files that a disk cannot read any more: reading one gives EIO, everything else goes on."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

import pytest


def bad_blocks(monkeypatch: pytest.MonkeyPatch, files: Iterable[Path]) -> None:
    """These files, as this process reads them through `os.pread`."""
    bad = {str(path) for path in files}
    pread = os.pread

    def read(fd: int, count: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}") in bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(fd, count, offset)

    monkeypatch.setattr(os, "pread", read)
