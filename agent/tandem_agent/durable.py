"""Small private files that survive a power cut."""

from __future__ import annotations

import os


def write_durably(path: str, data: bytes, append: bool = False) -> None:
    """Write a small file (0600) so that it and its name are on the disk when this returns."""
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(path, "ab" if append else "wb", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.fsync(folder)
    finally:
        os.close(folder)
