"""Reading a repository: what a reader needs of it, and the index of where every block is.

Also opens one from a single store and the passphrase alone (``--from URL``); with local state, that is done in
``opening``. Nothing is written to a tier and nothing is claimed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tandem_agent.backups import BackupInfo, info_of
from tandem_agent.catalog import recovered, told_backups
from tandem_agent.engine.blobindex import BlobIndex
from tandem_agent.engine.fetch import Damage, Fetcher, NamedStore
from tandem_agent.segments import read_segments
from tandem_protocol.browse import StoredHistory, history_from_store
from tandem_protocol.errors import Corrupt, Missing, TandemError, Unavailable, Unsupported
from tandem_protocol.history import LiveObject
from tandem_protocol.index import PackEntry
from tandem_protocol.keys import KeyRing, check_ring_matches
from tandem_protocol.names import ObjectType, object_folders, parse_object_name
from tandem_protocol.pack import read_trailer, trailer_span
from tandem_protocol.revision import UNITING
from tandem_protocol.snapshot import decode_snapshot
from tandem_protocol.store import Store

__all__ = ["NamedStore", "RepositoryView", "open_index", "open_store", "update_index"]

_AT_ONCE = 4
_REBUILT_AT_ONCE = 64
_TAIL = 64 * 1024

Objects = Mapping[bytes, LiveObject]


@dataclass
class RepositoryView:
    """What reading needs. ``tiers`` in configured order; ``notices`` for people: what was damaged and passed
    over. ``index`` knows every block that is live. ``damage``: whoever reads adds what was bad on a tier. ``came``:
    where one tier alone is read, the ids of the backups that reached it, whatever is damaged there now. ``remedy``:
    what to do about what is not good there, where others were left out; else ""."""

    ring: KeyRing
    live: Objects
    backups: list[BackupInfo]
    tiers: list[NamedStore]
    index: BlobIndex
    notices: list[str] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    came: set[bytes] = field(default_factory=set)
    remedy: str = ""


async def update_index(
    index: BlobIndex,
    ring: KeyRing,
    segments: Objects,
    tiers: Sequence[NamedStore],
    packs: Callable[[], Objects] | None = None,
    damage: list[Damage] | None = None,
) -> list[str]:
    """Take into ``index`` every live segment that it has not seen, and forget those that are live no more. A damaged
    one is tried on the next tier; where no tier has it good it is passed over, and what it named is read from the packs
    themselves if ``packs`` (the live ones) is given. Returns notices, and adds what was bad on a tier to ``damage``.
    Raises `NoTierReachable` if all tiers fail."""
    fetcher = Fetcher(ring, tiers, found=damage)
    seen = index.segments_seen()
    index.forget_segments(seen - segments.keys())
    wanted = [o for o in segments.values() if o.name not in seen]
    wanted.sort(key=lambda o: (-o.added, o.name))
    lost, newer = 0, False
    async for segment, entries in read_segments(fetcher, wanted):
        if isinstance(entries, TandemError):
            lost += 1
            newer = newer or isinstance(entries, Unsupported)
        else:
            await asyncio.to_thread(index.add_segment, segment.name, entries)
        del entries  # tens of megabytes, as the next one has
    notices = [f"index segment {d.name.hex()[:16]} is {d.what} on {d.tier}" for d in fetcher.damage]
    why = (
        f"are of a newer program (upgrade tandem), or {fetcher.nowhere}"
        if newer
        else f"are {fetcher.nowhere}"
    )
    if lost and packs is None:
        notices.append(f"{lost} index segments {why}; what they name cannot be found")
    elif lost and packs is not None:
        missing = [o for o in packs().values() if index.number_of(o.name) is None]
        notices.append(f"{lost} index segments {why}; {len(missing)} packs are read instead")
        notices += await _rebuild(index, fetcher, missing)
    return notices


async def _rebuild(index: BlobIndex, fetcher: Fetcher, packs: list[LiveObject]) -> list[str]:
    """Take packs into the index from their own trailers."""
    lost = 0
    for start in range(0, len(packs), _REBUILT_AT_ONCE):
        part = packs[start : start + _REBUILT_AT_ONCE]
        entries = await read_entries(fetcher, part)
        lost += len(part) - len(entries)
        for entry in entries:
            index.add_pack(entry)
    return [f"{lost} packs could not be read for the index: what is in them cannot be found"] if lost else []


async def read_entries(fetcher: Fetcher, packs: Sequence[LiveObject]) -> list[PackEntry]:
    """The entries of those of ``packs`` whose trailers some tier has good."""

    async def one(pack: LiveObject) -> list[PackEntry]:
        try:
            return [await entry_from_trailer(fetcher, pack)]
        except (Missing, Corrupt, Unavailable, Unsupported):
            return []

    found: list[PackEntry] = []
    for start in range(0, len(packs), _AT_ONCE):
        for entries in await asyncio.gather(*map(one, packs[start : start + _AT_ONCE])):
            found += entries
    return found


async def entry_from_trailer(fetcher: Fetcher, pack: LiveObject) -> PackEntry:
    """A pack's entry from its own end, from the first tier where that is good."""
    avoid: set[str] = set()
    while True:
        length = min(_TAIL, pack.size)
        offset = pack.size - length
        tail, tier = await fetcher.read(ObjectType.PACK, pack.name, offset, length, avoid)
        try:
            span = trailer_span(tail, pack.size)
            if span > length:
                others = {name for name in fetcher.read_from if name != tier}
                offset = pack.size - span
                tail, _ = await fetcher.read(ObjectType.PACK, pack.name, offset, span, others | avoid)
            found = await asyncio.to_thread(read_trailer, fetcher.ring, tail, pack.size)
        except (Corrupt, Missing):
            fetcher.note(tier, ObjectType.PACK, pack.name, "damaged")
            avoid.add(tier)
            continue
        return PackEntry(pack.name, pack.size, pack.added, found.kind, found.key_number, found.frames)


async def open_index(
    folder: str,
    ring: KeyRing,
    live: Objects,
    tiers: Sequence[NamedStore],
    damage: list[Damage] | None = None,
    packs: Callable[[], Objects] | None = None,
) -> tuple[BlobIndex, list[str]]:
    """The blob index in ``folder``, up to date with ``live``; one that is damaged is made afresh. Also notices;
    ``damage`` is as in `update_index`. ``packs`` gives the live packs where ``live`` has only the segments: they are
    needed only if segments were lost."""
    notices: list[str] = []
    try:
        index = BlobIndex(folder)
    except Corrupt:
        BlobIndex.wipe(folder)
        index = BlobIndex(folder)
        notices.append("the local index was damaged and is made again")
    try:
        segments = {n: o for n, o in live.items() if o.type is ObjectType.INDEX}
        notices += await update_index(
            index,
            ring,
            segments,
            tiers,
            packs or (lambda: {n: o for n, o in live.items() if o.type is ObjectType.PACK}),
            damage,
        )
        await asyncio.to_thread(index.flush)
    except BaseException:
        index.close()
        raise
    return index, notices


@asynccontextmanager
async def open_store(
    name: str, store: Store, open_ring: Callable[[Iterable[bytes]], KeyRing]
) -> AsyncIterator[RepositoryView]:
    """A repository as one store alone shows it; ``open_ring`` opens one of the key slots it is given.

    The keys say which repository and root they belong to; a store that claims otherwise is `Corrupt`.
    """
    await store.open()
    folder = tempfile.mkdtemp(prefix="tandem-index-")
    try:
        history = await history_from_store(store)
        ring = await asyncio.to_thread(open_ring, list(history.slots.values()))
        check_ring_matches(ring, history.identity.repository_id, history.identity.root_public)
        live = await _with_listed(store, history)
        tiers = [NamedStore(name, store, live.__contains__)]
        index, notices = await open_index(os.path.join(folder, "index"), ring, live, tiers)
        try:
            backups = await _stored_backups(Fetcher(ring, tiers), history, live, name)
            yield RepositoryView(ring, live, backups, tiers, index, [*history.notices, *notices])
        finally:
            index.close()
    finally:
        await store.close()
        with contextlib.suppress(OSError):
            await asyncio.to_thread(shutil.rmtree, folder)


async def _with_listed(store: Store, history: StoredHistory) -> Objects:
    """What is live. Where documents were damaged that say so, also what is simply there and that nobody is known to
    have removed: nothing is taken on trust, and a removed pack is in quarantine, or does no harm."""
    if not history.notices:
        return history.live
    live = dict(history.live)
    removed = {r.name for record in history.records for r in record.removed if r.type is ObjectType.SNAPSHOT}
    for kind in (ObjectType.INDEX, ObjectType.PACK, ObjectType.SNAPSHOT):
        for folder in object_folders(kind):
            async for entry in store.list(folder):
                name = parse_object_name(entry.name)
                if name is not None and name not in live and name not in removed:
                    live[name] = LiveObject(kind, name, entry.size, 1)
    return live


async def _stored_backups(
    fetcher: Fetcher, history: StoredHistory, live: Objects, tier: str
) -> list[BackupInfo]:
    """The backups that one tier tells of, oldest first, also failed ones; then those that only a snapshot tells of,
    where documents were damaged."""
    told = told_backups(fetcher.ring, history.records, live)
    named = {about.get("snapshot") for _, about in told}
    known = {about["id"] for _, about in told if about.get("snapshot")}
    for found in live.values() if history.notices else ():
        if found.type is ObjectType.SNAPSHOT and found.name.hex() not in named:
            try:
                snapshot = decode_snapshot(fetcher.ring, await fetcher.whole(found.type, found.name))
            except (Corrupt, Missing, Unsupported):
                continue
            # Another one of a backup that is known is of an attempt that failed.
            if snapshot.backup_id.hex() not in known:
                known.add(snapshot.backup_id.hex())
                told.append((0, recovered(found.name, snapshot, [str(about["name"]) for _, about in told])))
    united = max((r.number for r in history.records if r.kind in UNITING), default=0)
    backups = [info_of(number, about, [tier], own=number > united) for number, about in told]
    return sorted(backups, key=lambda backup: backup.age)
