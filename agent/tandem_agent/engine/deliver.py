"""Carries out the batches of a restore: reads ranges across tiers, has workers decode and write them.

Ranges are read a few ahead, decoded and written in worker threads in whatever order they come; the links and
folders of a batch follow when all of its content is there. What is bad in the bytes of one tier is asked of
the next, frame by frame, then of other places of each blob. A file whose data nobody has is named, not
written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from tandem_agent.engine.batches import Batch, First
from tandem_agent.engine.fetch import Fetcher, Place
from tandem_agent.engine.filejob import AWAY, DAMAGED, FAILED, FileJob, Outcome, Piece
from tandem_agent.engine.metadata import Troubles
from tandem_agent.engine.nodes import Node, NodeWriter
from tandem_agent.engine.orders import Work, is_small
from tandem_agent.engine.plan import FrameUse, ReadRange
from tandem_agent.engine.treewalk import join, show
from tandem_agent.engine.writer import FileWriter
from tandem_agent.engine.writerprocesses import WriterProcesses
from tandem_agent.progress import Progress
from tandem_protocol.errors import Corrupt, Missing, TandemError, Unavailable
from tandem_protocol.names import ObjectType
from tandem_protocol.tree import FILE, Entry

READS_AHEAD = 6
_AT_ONCE = 256
_WORTH_SENDING = 64
_SYNC_EACH = 256 * 1024 * 1024
_MAX_LOST = 100_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Lost:
    """A path that was not restored because its data could not be had, and why, for people."""

    path: bytes
    reason: str

    def __str__(self) -> str:
        return f"{show(self.path)}: {self.reason}"


@dataclass(slots=True)
class Delivered:
    """What came of it. ``files`` counts all but folders; ``bytes`` what was written; ``damaged``: no tier has
    it good; ``away``: a tier that may have it failed. Both lists end at `_MAX_LOST`."""

    files: int = 0
    kept: int = 0
    folders: int = 0
    bytes: int = 0
    damaged: list[Lost] = field(default_factory=list)
    away: list[Lost] = field(default_factory=list)


class Delivery:
    """The `Orders` of one restore's planner. Runs its work in ``tasks``, whose failure ends the restore."""

    def __init__(
        self,
        fetcher: Fetcher,
        files: FileWriter,
        nodes: NodeWriter,
        pool: ThreadPoolExecutor,
        tasks: asyncio.TaskGroup,
        progress: Progress,
        processes: WriterProcesses | None = None,
        troubles: Troubles | None = None,
        sync: Callable[[], None] | None = None,
    ) -> None:
        self._processes, self._troubles = processes or None, troubles or Troubles()
        self._fetcher, self._files, self._nodes = fetcher, files, nodes
        self._pool, self._tasks, self._progress = pool, tasks, progress
        self._slots = asyncio.Semaphore(READS_AHEAD)
        self._last: asyncio.Task[None] | None = None
        self._begun: asyncio.Event | None = None
        self._sync, self._syncing = sync, False
        self._unsynced = 0
        self.delivered = Delivered()

    def _work(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        return self._tasks.create_task(work)

    async def emit(self, batch: Batch) -> None:
        """Start a batch's work; on return no batch before it is unfinished. So one is planned while one is carried
        out, whose reads begin when those before have all begun."""
        before, begun = self._last, self._begun
        self._begun = asyncio.Event()
        self._last = self._start(self._carry_out(batch, begun, self._begun, before))
        if before is not None:
            await asyncio.wait([before])

    async def _carry_out(
        self,
        batch: Batch,
        turn: asyncio.Event | None,
        begun: asyncio.Event,
        before: asyncio.Task[None] | None,
    ) -> None:
        if turn is not None:
            await turn.wait()
        tasks = []
        for i in range(0, len(batch.empty), _AT_ONCE):
            tasks.append(self._start(self._empty(batch.empty[i : i + _AT_ONCE])))
        for i in range(0, len(batch.nodes), _AT_ONCE):
            tasks.append(self._start(self._make(batch.nodes[i : i + _AT_ONCE])))
        for read in batch.window.ranges():
            await self._slots.acquire()
            tasks.append(self._start(self._range(read)))
        begun.set()
        for task in [*tasks, *([before] if before is not None else [])]:
            await task
        if batch.links:
            self._count(await self._work(self._link_all, batch.links))
        if batch.folders:
            await self._work(self._finish_folders, batch.folders)
            self.delivered.folders += len(batch.folders)
            self._progress.dirs += len(batch.folders)

    def _count(self, outcome: Outcome) -> None:
        self.delivered.files += outcome.files
        self.delivered.bytes += outcome.bytes
        self._progress.files += outcome.files
        self._progress.bytes_read += outcome.bytes
        self._unsynced += outcome.bytes
        if self._unsynced >= _SYNC_EACH and self._sync is not None and not self._syncing:
            self._unsynced, self._syncing = 0, True
            self._start(self._sync_so_far(self._sync))

    async def _sync_so_far(self, sync: Callable[[], None]) -> None:
        """What is written meanwhile, the last sync need not wait for. It is as true: an error of the disk is told once,
        to whoever syncs first."""
        await asyncio.to_thread(sync)
        self._syncing = False

    # Reading and rescuing

    async def _range(self, read: ReadRange[Piece]) -> None:
        """Read, decode and write one range; then see to what was not good in it."""
        pack = self._fetcher.index.pack(read.pack)
        try:
            failed, tier = read.frames, ""
            try:
                data, tier = await self._fetcher.read(ObjectType.PACK, pack.name, read.offset, read.length)
                failed = await self._decode(read, data)
            except (Missing, Unavailable):
                pass  # Frame by frame, then: the range may be bad only in part.
            self._progress.current_path = read.frames[-1].uses[-1].job.path
            if failed and tier:
                self._fetcher.note(tier, ObjectType.PACK, pack.name, "damaged")
            for use in failed:
                await self._rescue(use, {tier} if tier else set())
        finally:
            self._slots.release()

    async def _decode(self, read: ReadRange[Piece], data: bytes) -> list[FrameUse[Piece]]:
        pack = self._fetcher.index.pack(read.pack)
        small, others = self._shared_out(read)
        failed = []
        for part in filter(None, (small, others)):
            frames = [self._fetcher.index.frame(use.pack, use.frame) for use in part.frames]
            work = part, pack.kind, pack.key_number, frames
            outcome = await self._work(self._write, work, data, part is small)
            self._count(outcome)
            failed += outcome.failed
        return failed

    def _shared_out(self, read: ReadRange[Piece]) -> tuple[ReadRange[Piece] | None, ReadRange[Piece] | None]:
        """What of it processes write, if there are any, and what threads do. Pieces of larger files belong together."""
        if self._processes is None or sum(len(use.uses) for use in read.frames) < _WORTH_SENDING:
            return None, read
        small = [use for use in read.frames if is_small(use)]
        others = [use for use in read.frames if not is_small(use)]
        return (
            replace(read, frames=small) if small else None,
            replace(read, frames=others) if others else None,
        )

    def _write(self, work: Work, data: bytes, elsewhere: bool) -> Outcome:
        if elsewhere and self._processes is not None:
            return self._processes.write(work, data, self._troubles)
        read, kind, key_number, frames = work
        return self._files.write_range(read, data, kind, key_number, frames)

    async def _rescue(self, use: FrameUse[Piece], avoid: set[str]) -> None:
        """Get a frame's wanted blobs from other tiers than those in ``avoid``, then from other places."""
        pack = self._fetcher.index.pack(use.pack)
        trouble: TandemError = Corrupt(self._fetcher.nowhere)
        while True:
            try:
                data, tier = await self._fetcher.read(
                    ObjectType.PACK, pack.name, use.offset, use.sealed_length, avoid
                )
            except (Missing, Unavailable) as error:
                trouble = error if isinstance(error, Unavailable) or not avoid else trouble
                break
            failed = await self._decode(ReadRange(use.pack, use.offset, use.sealed_length, [use]), data)
            if not failed:
                return
            self._fetcher.note(tier, ObjectType.PACK, pack.name, "damaged")
            avoid.add(tier)
            use = failed[0]
        for piece in use.uses:
            await self._elsewhere(piece, (use.pack, use.frame, piece.offset, piece.length), trouble)

    async def _elsewhere(self, piece: Piece, place: Place, trouble: TandemError) -> None:
        """A blob from other places than the one where it was not good."""
        if piece.job.lost:
            return
        try:
            blob = await self._fetcher.blob(piece.content_id, without=place)
        except (Missing, Corrupt, Unavailable) as error:
            away = isinstance(trouble, Unavailable) or isinstance(error, Unavailable)
            self.lose(piece.job, AWAY if away else DAMAGED, trouble.what)
            return
        outcome = Outcome()
        await self._work(self._files.write_piece, piece, blob, outcome)
        self._count(outcome)

    # What the planner tells

    def planned(self, job: FileJob) -> None:
        """All pieces of a file of several have been given out."""
        outcome = Outcome()
        self._files.planned(job, outcome)
        self._count(outcome)

    def lose(self, job: FileJob, why: str, detail: str) -> None:
        """A file that cannot be had: named once."""
        if not job.lost:
            self._files.lose(job, why)
            self.lose_path(job.path, why, detail)

    def lose_path(self, path: bytes, why: str, detail: str) -> None:
        """A path that cannot be had, with all below it."""
        lost = self.delivered.away if why == AWAY else self.delivered.damaged
        if len(lost) < _MAX_LOST:
            lost.append(Lost(path, detail))

    def kept(self, entry: Entry) -> None:
        """An entry that an earlier run has restored already."""
        self.delivered.kept += 1
        self._count(Outcome(files=1))
        if entry[0] == FILE:
            self._progress.bytes_read += entry[7]

    async def matches(self, job: FileJob, pieces: list[Piece]) -> bool:
        """Whether the file that has the name now has this very content; its metadata is then set."""
        found = await self._work(self._files.matches, job, pieces)
        if found:
            self.kept(job.entry)
        return found

    # In worker threads

    async def _empty(self, jobs: list[FileJob]) -> None:
        def write() -> Outcome:
            outcome = Outcome()
            for job in jobs:
                self._files.write_empty(job, outcome)
            return outcome

        self._count(await self._work(write))

    async def _make(self, nodes: list[Node]) -> None:
        def make() -> Outcome:
            return Outcome(files=sum(self._nodes.make(node) for node in nodes))

        self._count(await self._work(make))

    def _link_all(self, links: list[tuple[First, Node]]) -> Outcome:
        outcome = Outcome()
        for (folder, name, job), node in links:
            if job is not None and job.lost == FAILED:
                self._nodes.left_out(node)
            elif job is not None and job.lost:
                path = join(node.spot.path, node.entry[1])
                self.lose_path(path, job.lost, f"a hard link of {show(job.path)}, which was not restored")
            else:
                outcome.files += self._nodes.link((folder, name), node)
        return outcome

    def _finish_folders(self, folders: list[Node]) -> None:
        for node in folders:
            self._nodes.finish_folder(node)
