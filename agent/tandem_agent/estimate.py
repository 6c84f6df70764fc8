"""How much a backup has to go through, counted ahead of it for whoever watches: the total that an ETA needs.

Only names and sizes are looked at, in a thread of its own at the lowest priority. What the backup leaves out by
patterns is left out here too; what it finds out later (changes, what cannot be read) is not, so this is an
estimate. Nothing depends on it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence

from .engine.excludes import Excluder
from .progress import Progress


@contextlib.contextmanager
def counted_ahead(
    sources: Sequence[bytes], exclude: Sequence[str], one_file_system: bool, progress: Progress
) -> Iterator[None]:
    """Put the total into ``progress`` as soon as it is known, while the body runs."""
    stop = threading.Event()

    def count() -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        total = sum(_sizes(source, Excluder(exclude), one_file_system, stop) for source in sources)
        if not stop.is_set():
            progress.bytes_total_estimate = total

    thread = threading.Thread(target=count, name="tandem-estimate", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _sizes(source: bytes, excluder: Excluder, one_file_system: bool, stop: threading.Event) -> int:
    total = 0
    waiting = [(source, b"")]
    device = _device(source)
    while waiting and not stop.is_set():
        folder, relative = waiting.pop()
        try:
            entries = os.scandir(folder)
        except OSError:  # the backup will say so
            continue
        with entries:
            for entry in entries:
                below = relative + entry.name
                is_folder = entry.is_dir(follow_symlinks=False)
                if excluder.active and excluder.excluded(below, is_folder):
                    continue
                if not is_folder:
                    total += _size(entry)
                elif not one_file_system or _device(entry.path) == device:
                    waiting.append((entry.path, below + b"/"))
    return total


def _size(entry: os.DirEntry[bytes]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size if entry.is_file(follow_symlinks=False) else 0
    except OSError:
        return 0


def _device(folder: bytes) -> int:
    try:
        return os.stat(folder, follow_symlinks=False).st_dev
    except OSError:
        return -1
