"""Where the conformance suite runs: each kind of place gives sessions to one root, and lets tests plant files."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from tests.support.ftpservers import FtpServer

from tandem_protocol.store import Store
from tandem_protocol.stores.ftp import FtpStore
from tandem_protocol.stores.memory import MemoryStore


class Place:
    """One place. ``make`` gives a new unopened store for it; ``make_at`` one for another root there."""

    def __init__(self, root: Path, make_at: Callable[[Path, bool], Store], resumes: bool = False) -> None:
        self.root = root
        self.make_at = make_at
        self.resumes = resumes

    def make(self) -> Store:
        return self.make_at(self.root, False)

    def plant(self, name: str | bytes, data: bytes) -> None:
        """Put a file there behind the store's back, under any name."""
        path = os.path.join(os.fsencode(self.root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(data)

    def plant_folder(self, name: str) -> None:
        (self.root / name).mkdir(parents=True)

    def names(self) -> set[str]:
        """Every file that is there."""
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}


class FtpPlace(Place):
    """A folder of a running FTP server. What is planted there belongs to the user who serves."""

    def __init__(self, server: FtpServer, name: str) -> None:
        self.server = server
        super().__init__(
            server.folder_for(name), lambda path, make: FtpStore(server.target(path), make), resumes=True
        )

    def plant(self, name: str | bytes, data: bytes) -> None:
        super().plant(name, data)
        self.server.give(self.root / os.fsdecode(name))

    def plant_folder(self, name: str) -> None:
        super().plant_folder(name)
        self.server.give(self.root / name)


class MemoryPlace(Place):
    """The dictionary that several memory stores share."""

    def __init__(self) -> None:
        self.shared: dict[str, bytes] = {}
        super().__init__(Path("/nowhere"), lambda _root, _make: MemoryStore(self.shared))

    def plant(self, name: str | bytes, data: bytes) -> None:
        self.shared[os.fsdecode(name)] = data

    def plant_folder(self, name: str) -> None:
        self.shared[f"{name}/unrelated"] = b""

    def names(self) -> set[str]:
        return set(self.shared)


async def opened(store: Store, closing: AsyncExitStack) -> Store:
    """``store`` opened, and closed when the test ends."""
    closing.push_async_callback(store.close)
    await store.open()
    return store
