"""Small file systems of the test's own, for full disks: tmpfs with a size. Needs root."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.requirements import need, require_program, require_root


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    """``folder`` (made if missing) as a tmpfs with mount options such as ``size=4m`` or ``nr_inodes=16``."""
    require_root()
    mount = require_program("mount", "mount")
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True
    )
    need(f"no tmpfs can be mounted here: {done.stderr.strip()}" if done.returncode else None)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
