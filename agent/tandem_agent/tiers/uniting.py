"""The backups of several sides together: from the records, from the catalogues of bases, and, where a record cannot
be read, from the snapshots themselves. Reads only."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tandem_agent.catalog import Listed, recovered, told_backups
from tandem_agent.engine.fetch import Fetcher, NamedStore
from tandem_agent.engine.treewalk import Broken, Entries, TreeWalker
from tandem_agent.reading import open_index, read_entries
from tandem_agent.restore import read_snapshot
from tandem_protocol.errors import Corrupt, Missing
from tandem_protocol.history import Live, LiveObject
from tandem_protocol.index import PackEntry, encode_segment, split_entries
from tandem_protocol.joining import Union
from tandem_protocol.keys import KeyRing
from tandem_protocol.names import ObjectType
from tandem_protocol.revision import Record
from tandem_protocol.snapshot import Snapshot
from tandem_protocol.store import Store
from tandem_protocol.tree import FILE


@dataclass(frozen=True, slots=True)
class FoundBackups:
    """``listed`` oldest first; ``recovered``: how many of them were found by their snapshots alone, with what is
    ``unnamed``: packs that no index segment names; ``notices`` for people."""

    listed: list[Listed]
    recovered: int = 0
    unnamed: list[PackEntry] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def segments(self, ring: KeyRing, number: int, form: int) -> list[bytes]:
        """Index segments of what is ``unnamed``, for the base ``number``: nobody would find it otherwise."""
        entries = [replace(entry, revision=number) for entry in self.unnamed]
        return [encode_segment(ring, group, form) for group in split_entries(entries)]


async def found_backups(
    ring: KeyRing, records: Iterable[Record], union: Union, ours: Live, stores: Mapping[str, Store]
) -> FoundBackups:
    """The backups that are known once ``union`` is decided. ``ours``: what is live in our own history, blocks of which
    they may share. ``stores`` by the tiers' names."""
    listed = told_backups(ring, records, union.live)
    told = {about.get("snapshot") for _, about in listed}
    snapshots = [o for _, o in sorted(union.live.items()) if o.type is ObjectType.SNAPSHOT]
    lost = [o for o in snapshots if o.name.hex() not in told]
    if not lost:
        return FoundBackups(listed)
    live = {**ours, **union.live}
    back, entries, notices = await _recover(ring, lost, live, stores)
    unnamed = [entry for entry in entries if entry.name in union.kept]
    # Where one backup was tried several times, its record tells which attempt it is; else the last one is.
    known = {about["id"] for _, about in listed if about.get("snapshot")}
    last = {snapshot.backup_id.hex(): (found, snapshot) for found, snapshot in back}
    new = [pair for id, pair in last.items() if id not in known]
    listed = [row for row in listed if row[1]["id"] in known or row[1]["id"] not in last]
    for found, snapshot in new:
        taken = [str(about["name"]) for _, about in listed]
        listed.append((0, recovered(found.name, snapshot, taken)))
    return FoundBackups(listed, len(new), unnamed if new else [], notices)


async def _recover(
    ring: KeyRing, lost: Sequence[LiveObject], live: Live, stores: Mapping[str, Store]
) -> tuple[list[tuple[LiveObject, Snapshot]], list[PackEntry], list[str]]:
    """Those of the snapshots ``lost`` all of whose blocks are there; the packs that no segment names; notices."""
    folder = tempfile.mkdtemp(prefix="tandem-index-")
    named = [NamedStore(name, store, live.__contains__) for name, store in stores.items()]
    back: list[tuple[LiveObject, Snapshot]] = []
    notices: list[str] = []
    try:
        index, _ = await open_index(os.path.join(folder, "index"), ring, live, named, packs=dict)
        try:
            fetcher = Fetcher(ring, named, index)
            packs = [o for o in live.values() if o.type is ObjectType.PACK]
            entries = await read_entries(fetcher, [o for o in packs if index.number_of(o.name) is None])
            for entry in entries:
                index.add_pack(entry)
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
    back.sort(key=lambda pair: (pair[1].started_ns, pair[1].ended_ns))
    return back, entries, notices


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
