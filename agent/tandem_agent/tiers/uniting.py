"""The backups of several sides together: from the records, from the catalogues of bases, and, where a record cannot
be read, from the snapshots themselves. Reads only."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tandem_agent.catalog import Listed, recovered, told_backups
from tandem_agent.engine.fetch import Fetcher, NamedStore
from tandem_agent.engine.treewalk import Broken, Entries, TreeWalker
from tandem_agent.reading import open_index
from tandem_agent.restore import read_snapshot
from tandem_protocol.errors import Corrupt, Missing
from tandem_protocol.history import Live, LiveObject
from tandem_protocol.joining import Union
from tandem_protocol.keys import KeyRing
from tandem_protocol.names import ObjectType
from tandem_protocol.revision import Record
from tandem_protocol.snapshot import Snapshot
from tandem_protocol.store import Store
from tandem_protocol.tree import FILE


@dataclass(frozen=True, slots=True)
class FoundBackups:
    """``listed`` oldest first; ``recovered``: how many of them were found by their snapshots alone; ``notices`` for
    people."""

    listed: list[Listed]
    recovered: int = 0
    notices: list[str] = field(default_factory=list)


async def found_backups(
    ring: KeyRing, records: Iterable[Record], union: Union, stores: Mapping[str, Store]
) -> FoundBackups:
    """The backups that are known once ``union`` is decided; ``stores`` by the tiers' names."""
    listed = told_backups(ring, records, union.live)
    lost = [union.live[name] for name in sorted(union.kept) if union.live[name].type is ObjectType.SNAPSHOT]
    if not lost:
        return FoundBackups(listed)
    back, notices = await _recover(ring, lost, union.live, stores)
    for found, snapshot in back:
        taken = [str(about["name"]) for _, about in listed]
        listed.append((0, recovered(found.name, snapshot, taken)))
    return FoundBackups(listed, len(back), notices)


async def _recover(
    ring: KeyRing, lost: Sequence[LiveObject], live: Live, stores: Mapping[str, Store]
) -> tuple[list[tuple[LiveObject, Snapshot]], list[str]]:
    """Those of the snapshots ``lost`` all of whose blocks are there."""
    folder = tempfile.mkdtemp(prefix="tandem-index-")
    named = [NamedStore(name, store, live.__contains__) for name, store in stores.items()]
    back: list[tuple[LiveObject, Snapshot]] = []
    notices: list[str] = []
    try:
        index, _ = await open_index(os.path.join(folder, "index"), ring, live, named)
        try:
            fetcher = Fetcher(ring, named, index)
            for found in lost:
                snapshot = await _whole(fetcher, found, live)
                if snapshot is None:
                    notices.append(
                        f"snapshot {found.name.hex()[:12]} has no record, and not all of it is there"
                    )
                else:
                    back.append((found, snapshot))
        finally:
            index.close()
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    return sorted(back, key=lambda pair: pair[1].started_ns), notices


async def _whole(fetcher: Fetcher, found: LiveObject, live: Live) -> Snapshot | None:
    """The snapshot, if every block that it needs is in a pack that is there."""
    try:
        snapshot = await read_snapshot(fetcher, found.name)
    except (Corrupt, Missing):
        return None
    walker = TreeWalker(fetcher.blob)
    try:
        async for event in walker.walk(snapshot.root):
            if isinstance(event, Broken):
                return None
            if isinstance(event, Entries):
                for entry in event.entries:
                    if entry[0] == FILE and not await _has_all(fetcher, walker, entry, live):
                        return None
    except (Corrupt, Missing):
        return None
    return snapshot


async def _has_all(fetcher: Fetcher, walker: TreeWalker, entry: Any, live: Live) -> bool:
    async for block in walker.content_ids(entry):
        if not any(fetcher.index.pack(place[0]).name in live for place in fetcher.places(block)):
            return False
    return True
