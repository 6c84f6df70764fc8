"""Runs a backup's data path: a thread that scans, reads and builds the tree, several that compress and seal;
the caller's event loop takes the finished packs.

Batches of 1 to 8 MiB go from thread to thread over bounded channels, so memory is fixed, and a slow sink
slows everything down instead of filling it. The first error of any thread stops all of them and is raised
once. Revisions, tiers and what becomes of the packs are the caller's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from tandem_agent.engine.channel import Channel, Stopped
from tandem_agent.engine.chunkreader import CHUNK_BUFFER
from tandem_agent.engine.filereader import SMALL_BUFFER, FileReader
from tandem_agent.engine.filescache import CacheDamaged, FilesCache
from tandem_agent.engine.forerunners import Forerunners
from tandem_agent.engine.options import ScanOptions
from tandem_agent.engine.packer import Batch, Packer, Pool, RunIds, SmallBatch
from tandem_agent.engine.scan import Counted, Scanner
from tandem_agent.engine.sources import SourceWalk
from tandem_agent.engine.sourcetree import source_tree
from tandem_agent.engine.treebuilder import TreeBuilder, TreeStore
from tandem_agent.engine.troubles import Warnings
from tandem_agent.progress import Progress
from tandem_protocol.envelope import DocType
from tandem_protocol.keys import KeyRing
from tandem_protocol.pack import DEFAULT_CAPACITY, SealedPack

_JOIN_SECONDS = 1.0

Sink = Callable[[SealedPack], Awaitable[asyncio.Future[None] | None]]


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """``root``: ids of the root folder's pages, for the snapshot. ``stats``: files, folders, others, bytes (of
    all files), files_read, bytes_read, bytes_stored, packs, blobs. ``warnings``: lines for people; any of them
    makes the backup partial."""

    root: bytes
    stats: dict[str, int]
    warnings: list[str]


async def run_backup_pipeline(
    *,
    sources: Sequence[bytes],
    options: ScanOptions,
    ring: KeyRing,
    known: Callable[[bytes], bool],
    cache: FilesCache,
    trusted: Callable[[int], bool],
    sink: Sink,
    progress: Progress,
    workers: int = 2,
    ahead: int = 0,
    forerunners: Forerunners | None = None,
) -> PipelineResult:
    """Scan ``sources`` and hand every new blob and page to ``sink`` in sealed packs.

    ``known``: whether a blob is where every target of this backup has it; asked by several threads, and
    for the blobs of a pack again after ``sink`` took it. ``trusted``: whether everything up to a revision is on
    every target. ``sink`` is called for one pack at a time; its ``data`` may not be looked at any more after it
    returned, or, where it gives a future, after that is done. ``ahead``: packs that it may keep so beyond the usual
    few, each in a buffer of its own. ``forerunners`` look at what the sources
    hold ahead of the scan. When this returns, every pack has been taken. The caller then calls
    ``cache.commit`` or ``cache.discard``. Raises `Missing` if no source is there, `Usage` for a bad pattern, and
    whatever ``sink`` or ``known`` raise. Cancelling it stops the threads.
    """
    before = progress.files, progress.dirs, progress.bytes_read
    seen = forerunners or Forerunners()
    try:
        run = _Run(sources, options, ring, known, cache, trusted, progress, workers, ahead, seen)
        return await run.work(sink)
    except CacheDamaged:
        cache.discard()
        progress.files, progress.dirs, progress.bytes_read = before
        run = _Run(sources, options, ring, known, cache, trusted, progress, workers, ahead, seen)
        return await run.work(sink)


class _Run:
    """One run's threads and what they share."""

    def __init__(
        self,
        sources: Sequence[bytes],
        options: ScanOptions,
        ring: KeyRing,
        known: Callable[[bytes], bool],
        cache: FilesCache,
        trusted: Callable[[int], bool],
        progress: Progress,
        workers: int,
        ahead: int,
        forerunners: Forerunners,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._packs: asyncio.Queue[SealedPack | None] = asyncio.Queue()
        self._ring = ring
        self._progress = progress
        self._workers = workers
        self._stopped = False
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._running = 0
        self._root = b""
        self._warnings = Warnings()
        self._counted = Counted()
        self._ids = RunIds(known)
        self._jobs: Channel[Batch] = Channel(2 * workers)
        self._pack_pool = Pool(DEFAULT_CAPACITY, workers + 2 + ahead)
        self._small_pool = Pool(SMALL_BUFFER, 4 * workers + 2)
        self._large_pool = Pool(CHUNK_BUFFER, workers + 4)
        self._sources = source_tree(sources)
        tree_packer = Packer(ring, DocType.TREE_PACK, self._pack_pool, self._post)
        trees = TreeStore(ring, self._ids, tree_packer)
        self._builder = TreeBuilder(trees, cache, self._warnings, lambda: self._stopped)
        reader = FileReader(
            ring,
            self._ids,
            self._jobs,
            self._small_pool,
            self._large_pool,
            self._warnings,
            self._counted,
            progress,
        )
        self._reader = reader
        self._scanner = Scanner(
            options,
            cache,
            trusted,
            self._ids.has,
            reader,
            self._builder.offer,
            progress,
            self._warnings,
            self._counted,
            lambda: self._stopped,
            forerunners,
        )

    async def work(self, sink: Sink) -> PipelineResult:
        """Start the threads, feed ``sink``, and wait for the end."""
        bodies = [self._scan, *[self._seal] * self._workers]
        threads = [threading.Thread(target=self._thread, args=(body,), daemon=True) for body in bodies]
        self._running = len(threads)
        for thread in threads:
            thread.start()
        packs = blobs = stored = 0
        try:
            while (pack := await self._packs.get()) is not None:
                freed = await sink(pack)
                packs += 1
                blobs += sum(len(frame.lengths) for frame in pack.frames)
                stored += len(pack.data)
                self._ids.handed_over(pack)
                if freed is None:
                    self._give_back(memoryview(pack.buffer))
                else:
                    freed.add_done_callback(partial(self._give_back, memoryview(pack.buffer)))
        finally:
            self._stop()
            await asyncio.shield(asyncio.to_thread(_join, threads))
        if self._error is not None:
            raise self._error
        stats = {**asdict(self._counted), "packs": packs, "blobs": blobs, "bytes_stored": stored}
        return PipelineResult(self._root, stats, self._warnings.lines())

    def _give_back(self, buffer: memoryview, _freed: asyncio.Future[None] | None = None) -> None:
        self._pack_pool.give(buffer)

    # In threads

    def _thread(self, body: Callable[[], None]) -> None:
        try:
            body()
        except Stopped:
            pass
        except BaseException as error:
            with self._lock:
                self._error = self._error or error
            self._stop()
        finally:
            with self._lock:
                self._running -= 1
                last = self._running == 0
            if last or self._error is not None:
                self._post(None)

    def _post(self, pack: SealedPack | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._packs.put_nowait, pack)
        except RuntimeError:  # the loop is closed: whoever ran this has gone
            self._stop()

    def _stop(self) -> None:
        self._stopped = True
        self._jobs.stop()
        for pool in (self._pack_pool, self._small_pool, self._large_pool):
            pool.stop()

    def _scan(self) -> None:
        try:
            SourceWalk(self._scanner, self._builder.offer, self._warnings).run(self._sources)
        finally:
            self._reader.close()
        self._reader.flush()
        self._jobs.end()
        self._root = self._builder.finish()

    def _seal(self) -> None:
        packer = Packer(self._ring, DocType.DATA_PACK, self._pack_pool, self._post)
        key = self._ring.content_id_key[1]
        while (batch := self._jobs.get()) is not None:
            batch.store(packer, self._ids, key)
            pool = self._small_pool if isinstance(batch, SmallBatch) else self._large_pool
            pool.give(batch.buffer)
        packer.finish()


def _join(threads: Sequence[threading.Thread]) -> None:
    """Wait for threads that were told to stop; one that hangs in the kernel is left behind."""
    for thread in threads:
        thread.join(_JOIN_SECONDS)
