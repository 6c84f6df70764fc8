"""What is live and good on no tier: found out by reading, named by a record of kind repair, and told.

Only when every tier of the repository can be looked at in one go: a tier that is away may have it. What is lost is
removed from what is live, so that the tiers can be level again, later backups store it afresh, and no backup that
needs it is said to be on a tier.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tandem_agent.catalog import Listed, damaged_by
from tandem_agent.engine.blobindex import BlobIndex
from tandem_agent.engine.fetch import Fetcher, Place
from tandem_agent.engine.treewalk import TreeWalker, is_indirect
from tandem_agent.noting import note_found
from tandem_agent.progress import Progress
from tandem_agent.reading import entry_from_trailer, open_index
from tandem_agent.restore import read_snapshot
from tandem_agent.tiers.readers import readers
from tandem_agent.tiers.targets import reachable_targets
from tandem_agent.tiers.writing import Revision
from tandem_agent.wiring import Agent
from tandem_protocol.errors import Corrupt, Missing
from tandem_protocol.history import LiveObject
from tandem_protocol.index import PackEntry, decode_segment, encode_segment, split_entries
from tandem_protocol.names import ObjectType
from tandem_protocol.replicate import is_good
from tandem_protocol.revision import Kind, Record, Removal
from tandem_protocol.tree import DIR, FILE

log = logging.getLogger(__name__)

AT_ONCE = 8_000
"""Objects that one record gives up."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What a repair gave up: ``objects``, and the names of the ``backups`` that need them."""

    objects: int
    backups: list[str] = field(default_factory=list)


async def give_up_lost(agent: Agent, progress: Progress) -> Loss | None:
    """Name what is live and good nowhere; None if there is nothing, or some tier cannot be asked now."""
    lost = await _lost(agent)
    if not lost:
        return None
    progress.phase = "looking for what needs what is lost"
    entries = await _nowhere_named(agent, lost)
    damaged = await _damaged(agent, lost, entries)
    for start in range(0, len(lost), AT_ONCE):
        await _repair(agent, lost[start : start + AT_ONCE], damaged, entries if start == 0 else [])
    return Loss(len(lost), [str(about["name"]) for _, about in damaged])


async def _lost(agent: Agent) -> list[LiveObject]:
    tiers, state = agent.tiers.tiers, agent.state
    asked = {tier.id for tier in tiers if tier.reachable and not tier.row.to_compare}
    if asked != {row.id for row in state.tiers()}:
        return []
    facts = [tier.facts() for tier in tiers]
    doubtful = {o.name: o for tier in tiers for o in state.lacked(tier.id).values() if o.live_on(tier.id)}
    doubtful = {name: o for name, o in doubtful.items() if not any(f.holds_last(o) for f in facts)}
    lost = []
    for found in doubtful.values():
        # By reading, on every tier: where it is dead, or its revision is missing, it may be all the same.
        if not any([await is_good(tier.store, found) for tier in tiers]):
            lost.append(found)
    return sorted(lost, key=lambda o: (o.added, o.name))


async def _nowhere_named(agent: Agent, lost: Sequence[LiveObject]) -> list[PackEntry]:
    """What an index segment that is lost alone said of packs that are there, from the packs themselves: without it
    nobody would find what is in them. A pack that cannot be read then is lacking from now on."""
    if not any(found.type is ObjectType.INDEX for found in lost):
        return []
    names = {found.name for found in lost}
    live = {name: o for name, o in agent.state.live().items() if name not in names}
    fetcher = Fetcher(agent.ring, readers(agent.tiers))
    named: set[bytes] = set()
    for found in live.values():
        if found.type is ObjectType.INDEX:
            try:
                data = await fetcher.whole(ObjectType.INDEX, found.name)
                told = await asyncio.to_thread(decode_segment, agent.ring, data)
            except (Corrupt, Missing):
                continue  # what it names is named again
            # Where it is dead it names nothing: it counts for a pack if it is live wherever that is.
            named |= {e.name for e in told if e.name in live and found.dead <= live[e.name].dead}
    packs = [o for o in live.values() if o.type is ObjectType.PACK and o.name not in named]
    entries: list[PackEntry] = []
    for pack in packs:
        try:
            entries.append(await entry_from_trailer(fetcher, pack))
        except (Corrupt, Missing) as fault:
            log.warning("pack %s cannot be read for the index: %s", pack.name.hex()[:12], fault)
    note_found(agent.tiers, fetcher.damage)
    return entries


async def _repair(
    agent: Agent, lost: Sequence[LiveObject], damaged: Sequence[Listed], entries: Sequence[PackEntry]
) -> None:
    targets = await reachable_targets(agent.tiers, 0.0)
    details = {"damaged": [about["id"] for _, about in damaged]}

    def within(_record: Record) -> None:
        for number, about in damaged:
            agent.state.list_backup(number, damaged_by(about))

    form = agent.state.requires().index_form
    async with await Revision.begin(agent.tiers, targets, Progress()) as revision:
        for group in split_entries(entries):
            await revision.add(ObjectType.INDEX, encode_segment(agent.ring, group, form))
        removed = [Removal(found.type, found.name) for found in lost]
        await revision.commit(Kind.REPAIR, details, removed=removed, within=within)


async def _damaged(agent: Agent, lost: Sequence[LiveObject], entries: Iterable[PackEntry]) -> list[Listed]:
    """The backups that need something of ``lost``. ``entries``: packs that are there, and that nothing which is left
    names until the repair does."""
    names = {found.name for found in lost}
    backups = [b for b in agent.state.backups() if b[1].get("snapshot") and not b[1].get("damaged")]
    gone: list[Listed] = [b for b in backups if bytes.fromhex(b[1]["snapshot"]) in names]
    if not any(found.type is ObjectType.PACK for found in lost):
        return gone
    live = {name: o for name, o in agent.state.live().items() if name not in names}
    index, _ = await open_index(
        os.path.join(agent.cache_dir, "index"), agent.ring, live, readers(agent.tiers)
    )
    try:
        for entry in entries:
            index.add_pack(entry)
        trees = _Trees(Fetcher(agent.ring, readers(agent.tiers), _LiveIndex(index, live)))
        return [b for b in backups if b in gone or await trees.needs_lost(bytes.fromhex(b[1]["snapshot"]))]
    finally:
        index.close()


class _LiveIndex:
    """Where each blob is, in the packs that are ``live``: from one that is given up, nobody will read."""

    def __init__(self, index: BlobIndex, live: Mapping[bytes, LiveObject]) -> None:
        self._index = index
        self._live = live
        self.pack, self.frame = index.pack, index.frame

    def lookup(self, content_id: bytes, /) -> Iterator[Place]:
        return (p for p in self._index.lookup(content_id) if self._index.pack(p[0]).name in self._live)


class _Trees:
    """The trees of all backups as one graph: a folder that many share is read once."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._walker = TreeWalker(fetcher.blob)
        self._folders: dict[tuple[bytes, bool], tuple[bool, list[tuple[bytes, bool]]]] = {}

    async def needs_lost(self, snapshot: bytes) -> bool:
        """Whether a block of this backup is in no pack that is live."""
        try:
            root = (await read_snapshot(self._fetcher, snapshot)).root
        except (Corrupt, Missing):
            return True
        waiting = [(root, False)]
        seen = set(waiting)
        while waiting:
            key = waiting.pop()
            if key not in self._folders:
                self._folders[key] = await self._read(*key)
            is_damaged, below = self._folders[key]
            if is_damaged:
                return True
            waiting += [child for child in below if child not in seen]
            seen.update(below)
            await asyncio.sleep(0)
        return False

    async def _read(self, content: bytes, indirect: bool) -> tuple[bool, list[tuple[bytes, bool]]]:
        """Whether something directly in a folder is lost, and the folders in it."""
        below = []
        try:
            async for page in self._walker.pages(content, indirect):
                for entry in page.entries:
                    if entry[0] == DIR:
                        below.append((entry[8], is_indirect(entry)))
                    elif entry[0] == FILE and not await self._is_there(entry):
                        return True, []
        except (Corrupt, Missing):
            return True, []
        return False, below

    async def _is_there(self, entry: Any) -> bool:
        async for block in self._walker.content_ids(entry):
            if not self._fetcher.places(block):
                return False
        return True
