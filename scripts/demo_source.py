"""The folder that the demo plays with: a copy of a real one, and changes of every sort to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

NOT_COPIED = {".git", ".venv", "demo", "node_modules", "__pycache__"}


def copy_tree(source: Path, target: Path, limit: int | None) -> tuple[int, int, bool]:
    """Copy files, folders and links with their metadata: (files, bytes, whether ``limit`` cut it short).
    Devices, pipes and what may not be read are left out: the copy is only something to play with."""
    files = size = 0
    cut = False
    for folder, folders, names in os.walk(os.fsencode(source)):
        folders[:] = sorted(f for f in folders if os.fsdecode(f) not in NOT_COPIED)
        here = os.path.join(os.fsencode(target), os.path.relpath(folder, os.fsencode(source)))
        os.makedirs(here, exist_ok=True)
        links = [f for f in folders if os.path.islink(os.path.join(folder, f))]
        for name in sorted([*names, *links]):
            path = os.path.join(folder, name)
            about = os.lstat(path)
            if limit is not None and size + about.st_size > limit:
                cut = True
                continue
            if stat.S_ISLNK(about.st_mode) or (stat.S_ISREG(about.st_mode) and os.access(path, os.R_OK)):
                shutil.copy2(path, os.path.join(here, name), follow_symlinks=False)
                files, size = files + 1, size + about.st_size
    return files, size, cut


def change(source: Path) -> str:
    """Changes of every sort: files edited, renamed, removed; links, holes, odd names, attributes added.
    Returns a line that says so."""
    files = sorted(p for p in source.rglob("*") if p.is_file() and not p.is_symlink())
    for path in files[::50]:
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
        with path.open("ab") as file:
            file.write(b"\nA line added while the WAN was down.\n")
    for path in files[25::100]:
        path.unlink()
    for path in files[26::100]:
        path.rename(path.with_name(path.name + ".renamed"))
    extras = source / "added by the demo"
    extras.mkdir()
    (extras / "empty folder").mkdir()
    (extras / "one name").write_text("a file with two names\n")
    os.link(extras / "one name", extras / "another name")
    os.symlink("../nowhere", extras / "a link to nothing")
    os.mkfifo(extras / "a pipe")
    with open(os.path.join(os.fsencode(extras), b"not UTF-8: \xff\xfe"), "wb") as file:
        file.write(os.urandom(300_000))
    with (extras / "mostly holes").open("wb") as file:
        file.seek(64 << 20)
        file.write(b"the end")
    (extras / "private").write_text("0400\n")
    (extras / "private").chmod(0o400)
    os.utime(extras / "private", ns=(10**18 + 1, 10**18 + 123_456_789))
    with contextlib.suppress(OSError, AttributeError):  # not every file system has them
        os.setxattr(extras / "one name", "user.demo", b"an attribute")
    counts = (len(files[::50]), len(files[25::100]), len(files[26::100]))
    return "Changed {} files, removed {}, renamed {}, and added some of every sort.".format(*counts)
