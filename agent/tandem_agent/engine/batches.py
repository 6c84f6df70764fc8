"""Turns the walk through a snapshot's tree into batches of work for a restore.

For each entry it decides, with a look at what is in the target already, whether it is kept, left alone or
written, and for files which blobs go where. It makes folders at once, since everything else needs them, and
leaves their metadata for the end of the batch in which they are complete. Reading packs, decoding and
writing are not done here.
"""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass, field
from typing import Protocol

from tandem_agent.engine.fetch import Fetcher, Place
from tandem_agent.engine.filejob import AWAY, DAMAGED, FileJob, Piece
from tandem_agent.engine.metadata import Owners, Spot, Troubles, same_already
from tandem_agent.engine.nodes import Node
from tandem_agent.engine.plan import Limits, Window
from tandem_agent.engine.target import Conflict, Target, no_room, translated
from tandem_agent.engine.treewalk import (
    Broken,
    Enter,
    Entries,
    Folder,
    Leave,
    Selection,
    TreeWalker,
    join,
)
from tandem_protocol.errors import Corrupt, Missing, TandemError, Unavailable
from tandem_protocol.seal import ID_SIZE
from tandem_protocol.tree import FILE, SYMLINK, Entry

_MAX_NODES = 20_000
_MAX_CHECKED = 64 << 30  # Larger files are written again rather than compared: their plan is held meanwhile.

_FIRST_SHARE = 16  # The first window is small, so that reading starts at once; each is twice the one before.
_BREATH = 256

Group = tuple[int, int] | None
First = tuple[bytes, bytes, FileJob | None]
"""The first of a group of hard links: folder path, name, and the job that writes it (None: it is there)."""


@dataclass(slots=True)
class Batch:
    """Work for some thousand entries, in this order: content (``window``, ``empty``, ``nodes``, in any
    order), then ``links``, then metadata of ``folders`` (deepest first)."""

    window: Window[Piece]
    empty: list[FileJob] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    links: list[tuple[First, Node]] = field(default_factory=list)
    folders: list[Node] = field(default_factory=list)

    @property
    def full(self) -> bool:
        others = len(self.empty) + len(self.nodes) + len(self.links) + len(self.folders)
        return self.window.full or others > _MAX_NODES


class Orders(Protocol):
    """What the planner needs of whoever carries its batches out."""

    async def emit(self, batch: Batch) -> None:
        """Take a batch; waits while enough is under way."""

    def planned(self, job: FileJob) -> None:
        """All pieces of a file of several have been given out."""

    def lose(self, job: FileJob, why: str, detail: str) -> None:
        """A file that cannot be had."""

    def lose_path(self, path: bytes, why: str, detail: str) -> None:
        """Something else that cannot be had, with all below it."""

    def kept(self, entry: Entry) -> None:
        """An entry that an earlier run has restored already."""

    async def matches(self, job: FileJob, pieces: list[Piece]) -> bool:
        """Whether the file that has the name now has this very content; its metadata is then set."""


class Planner:
    """Plans one restore, in one task."""

    def __init__(
        self,
        fetcher: Fetcher,
        target: Target,
        owners: Owners,
        troubles: Troubles,
        orders: Orders,
        limits: Limits | None = None,
    ) -> None:
        self._fetcher, self._target, self._owners, self._troubles = fetcher, target, owners, troubles
        self._orders = orders
        self._limits = limits or Limits()
        self._walker = TreeWalker(fetcher.blob)
        self._firsts: dict[tuple[int, int], First] = {}
        self._spots: list[Spot | None] = []
        self._share = _FIRST_SHARE
        self._batch = Batch(Window(self._limits.part(self._share)))

    async def run(self, root: bytes, selection: Selection) -> None:
        """Plan everything selected below ``root`` and give it out."""
        for path in selection.paths:
            await self._walker.find(root, path)
        async for event in self._walker.walk(root, selection):
            match event:
                case Enter(folder):
                    self._spots.append(self._enter(folder))
                case Entries(_, entries, page):
                    await self._entries(entries, page.users, page.groups)
                case Leave(folder):
                    self._leave(folder, self._spots.pop())
                case Broken(path, error):
                    self._orders.lose_path(
                        path, AWAY if isinstance(error, Unavailable) else DAMAGED, error.what
                    )
            if self._batch.full:
                await self._give_out()
        await self._give_out()

    async def _give_out(self) -> None:
        self._share = max(1, self._share // 2)
        batch, self._batch = self._batch, Batch(Window(self._limits.part(self._share)))
        await self._orders.emit(batch)

    def _enter(self, folder: Folder) -> Spot | None:
        if folder.entry is None:
            return self._target.top()
        parent = self._spots[-1]
        if parent is None:
            return None
        try:
            return self._target.make_folder(parent, folder.entry[1])
        except Conflict as conflict:
            self._troubles.add(f"{conflict}, left out with all below it", folder.path)
        except OSError as error:
            if no_room(error):
                raise translated(error, f"cannot write to {self._target.shown}") from None
            self._troubles.add(
                f"folder could not be made ({error.strerror}), left out with all below it", folder.path
            )
        return None

    def _leave(self, folder: Folder, spot: Spot | None) -> None:
        """A folder that was only passed through and was there before keeps what it has."""
        if spot is None or folder.entry is None or not (folder.wanted or spot.fresh):
            return
        owner = self._owners.of(folder.entry, folder.users, folder.groups)
        self._batch.folders.append(Node(spot, folder.entry, owner))

    async def _entries(self, entries: list[Entry], users: dict[int, str], groups: dict[int, str]) -> None:
        spot = self._spots[-1]
        if spot is None:
            return
        for number, entry in enumerate(entries):
            if number % _BREATH == 0:
                await asyncio.sleep(0)  # Reads that have come meanwhile go to the workers first.
            owner = self._owners.of(entry, users, groups)
            linked = (entry[9] or {}).get("l")
            group = None if linked is None else (linked[0], linked[1])
            if group is not None and group in self._firsts:
                self._link(self._firsts[group], Node(spot, entry, owner))
            elif entry[0] == FILE:
                await self._file(spot, entry, owner, group)
            else:
                self._node(Node(spot, entry, owner), group)
            if self._batch.full:
                await self._give_out()

    def _link(self, first: First, node: Node) -> None:
        name = node.entry[1]
        about = self._target.about(node.spot, name)
        if about is not None:
            there = self._target.about(Spot(first[0], fresh=False), first[1])
            if there is not None and (there.st_dev, there.st_ino) == (about.st_dev, about.st_ino):
                self._orders.kept(node.entry)
                return
        self._batch.links.append((first, node))

    def _node(self, node: Node, group: Group) -> None:
        about = self._target.about(node.spot, node.entry[1])
        if group is not None:
            self._firsts[group] = (node.spot.path, node.entry[1], None)
        if about is not None and same_already(node.entry, about) and self._same_target(node):
            self._orders.kept(node.entry)
        else:
            self._batch.nodes.append(node)

    def _same_target(self, node: Node) -> bool:
        if node.entry[0] != SYMLINK:
            return not self._target.overwrite
        name = node.entry[1]
        try:
            return os.readlink(name, dir_fd=self._target.folder(node.spot.path)) == node.entry[8]
        except OSError:
            return False

    async def _file(self, spot: Spot, entry: Entry, owner: tuple[int, int], group: Group) -> None:
        about = self._target.about(spot, entry[1])
        check = False
        if about is not None:
            same = same_already(entry, about)
            if same and not self._target.overwrite:
                if group is not None:
                    self._firsts[group] = (spot.path, entry[1], None)
                self._orders.kept(entry)
                return
            if not self._target.overwrite:
                self._troubles.add("is there already, not overwritten", join(spot.path, entry[1]))
                return
            check = same and entry[7] <= _MAX_CHECKED
        job = FileJob(spot, entry, owner)
        if group is not None:
            self._firsts[group] = (spot.path, entry[1], job)
        if not entry[8]:
            self._batch.empty.append(job)
        elif len(entry[8]) == ID_SIZE and not check and _is_plain(entry):
            self._single(job)
        else:
            await self._pieces(job, check)

    def _place(self, job: FileJob, block: bytes) -> Place | None:
        place = self._fetcher.place(block)
        if place is None:
            self._orders.lose(job, DAMAGED, f"block {block.hex()[:16]} is in no index")
        return place

    def _single(self, job: FileJob) -> None:
        """The way of nearly all files: one blob, no holes."""
        place = self._place(job, job.entry[8])
        if place is None:
            return
        if place[3] != job.entry[7]:
            self._orders.lose(job, DAMAGED, "its blocks have another length than it")
            return
        self._want(place, Piece(job, job.entry[8], place[2], place[3], 0, True))

    def _want(self, place: Place, piece: Piece) -> None:
        window = self._batch.window
        use = window.frame(place[0], place[1])
        if use is None:
            frame = self._fetcher.index.frame(place[0], place[1])
            use = window.add_frame(place[0], place[1], frame.offset, frame.sealed_length)
        window.add_use(use, piece, piece.length)

    async def _pieces(self, job: FileJob, check: bool) -> None:
        """A file of several blobs, with holes, or with one that is there already to ``check`` first."""
        job.lock = threading.Lock()
        held: list[tuple[Place, Piece]] = []
        position = 0
        try:
            async for block in self._walker.content_ids(job.entry):
                place = self._place(job, block)
                if place is None:
                    return
                piece = Piece(job, block, place[2], place[3], position, False)
                position += place[3]
                if position > job.content_length:
                    break
                if check:
                    held.append((place, piece))
                else:
                    await self._want_part(place, piece)
        except (Corrupt, Missing, Unavailable) as error:
            self._lose_list(job, error)
            return
        if position != job.content_length:
            self._orders.lose(job, DAMAGED, "its blocks have another length than it")
            return
        if check and await self._orders.matches(job, [piece for _, piece in held]):
            return
        for place, piece in held:
            await self._want_part(place, piece)
        self._orders.planned(job)

    async def _want_part(self, place: Place, piece: Piece) -> None:
        lock = piece.job.lock
        assert lock is not None, "a file of several pieces has a lock"
        with lock:
            piece.job.missing += 1
        self._want(place, piece)
        if self._batch.full:
            await self._give_out()

    def _lose_list(self, job: FileJob, error: TandemError) -> None:
        self._orders.lose(job, _reason(error), f"the list of its blocks: {error.what}")


def _is_plain(entry: Entry) -> bool:
    """Whether a file's content is what its one id names: no holes, no list of ids."""
    extras = entry[9]
    return extras is None or not ("s" in extras or "indirect" in extras)


def _reason(error: TandemError) -> str:
    return AWAY if isinstance(error, Unavailable) else DAMAGED
