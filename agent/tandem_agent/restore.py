"""The use case of restoring: a snapshot, or a part of it, into a folder.

Batches come from the planner, are read range by range across tiers, decoded and written by worker threads (small
files by processes, where there are any), and completed in order. What one tier has damaged or not at all comes
from the next, block by block; what no tier has good is named in the result and never restored in part. A restore
that was interrupted is simply run again: files with the right size and time are kept (they got their names only
when complete).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tandem_agent.engine.batches import Planner
from tandem_agent.engine.deliver import Delivered, Delivery, Lost
from tandem_agent.engine.fetch import Damage, Fetcher
from tandem_agent.engine.metadata import MetadataWriter, Owners, Troubles
from tandem_agent.engine.nodes import NodeWriter
from tandem_agent.engine.plan import Limits
from tandem_agent.engine.target import Target
from tandem_agent.engine.treewalk import Selection
from tandem_agent.engine.writer import FileWriter
from tandem_agent.engine.writerprocesses import WriterProcesses
from tandem_agent.progress import Progress
from tandem_protocol.errors import Corrupt, Full, Missing, TandemError
from tandem_protocol.names import ObjectType
from tandem_protocol.snapshot import Snapshot, decode_snapshot

if TYPE_CHECKING:
    from tandem_agent.reading import RepositoryView

WORKERS = 2


@dataclass(slots=True)
class RestoreResult:
    """``files`` counts all but folders, those kept from an earlier run too; ``bytes`` what was written.
    ``read_from``: bytes by tier. ``damaged``: no tier has it good; ``away``: a tier that may have it failed.
    ``damage``: bad objects seen on tiers, for a repair, also where another tier had them good."""

    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    read_from: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    damaged: list[Lost] = field(default_factory=list)
    away: list[Lost] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    folders: int = 0
    kept: int = 0

    @property
    def exit_code(self) -> int:
        """6 damaged data, 5 a tier was away, 3 warnings, 0 done."""
        if self.damaged:
            return 6
        if self.away:
            return 5
        return 3 if self.warnings else 0


async def restore(
    view: RepositoryView,
    snapshot_name: bytes,
    target: str,
    *,
    paths: Iterable[bytes] = (),
    overwrite: bool = False,
    owners_by_name: bool = False,
    progress: Progress | None = None,
    limits: Limits | None = None,
    durable: bool = True,
    processes: WriterProcesses | None = None,
) -> RestoreResult:
    """Restore ``paths`` (all without any) of a snapshot below the folder ``target``, which is made if need
    be: ``/srv/data`` comes to be ``target/srv/data``. Unless ``durable`` is False it is all on disk on return.

    Raises `Missing` for a path that is not in the backup, `Full` when the target has no room left (with what
    was done; run it again to go on), `NoTierReachable` when every tier failed, `Corrupt` when the snapshot
    itself is good nowhere, `Busy` and `Refused` for a target that cannot be used.
    """
    started = time.monotonic()
    progress = progress or Progress()
    progress.phase = "restoring"
    selection = Selection(paths)
    fetcher = Fetcher(view.ring, view.tiers, view.index, view.damage, view.remedy)
    progress.read_from = lambda: fetcher.read_from
    snapshot = await read_snapshot(fetcher, snapshot_name)
    if not selection.paths:
        progress.bytes_total_estimate = snapshot.stats.get("bytes", 0)
    troubles = Troubles()
    run = _Run(
        fetcher, Target(target, overwrite), Owners(owners_by_name), troubles, progress, limits, processes
    )
    try:
        await run.all(snapshot.root, selection, durable)
        if durable:
            await run.make_durable()
    except Full as error:
        raise _with_rest(error, run.done, snapshot, selection) from None
    finally:
        await asyncio.shield(asyncio.to_thread(run.close))
    done = run.done
    progress.phase = "done"
    return RestoreResult(
        files=done.files,
        bytes=done.bytes,
        seconds=time.monotonic() - started,
        read_from=fetcher.read_from,
        warnings=[*fetcher.notices, *troubles.lines()],
        damaged=done.damaged,
        away=done.away,
        damage=fetcher.damage,
        folders=done.folders,
        kept=done.kept,
    )


async def read_snapshot(fetcher: Fetcher, name: bytes) -> Snapshot:
    """The manifest of a backup, from the first tier that has it good."""
    try:
        return decode_snapshot(fetcher.ring, await fetcher.whole(ObjectType.SNAPSHOT, name))
    except Missing as error:
        remedy = "`tandem backups` lists the others; connect the other tiers and restore again"
        raise Corrupt(f"the manifest of this backup is gone: {error.what}", error.remedy or remedy) from None


class _Run:
    """The parts of one restore, and their end."""

    def __init__(
        self,
        fetcher: Fetcher,
        target: Target,
        owners: Owners,
        troubles: Troubles,
        progress: Progress,
        limits: Limits | None,
        processes: WriterProcesses | None,
    ) -> None:
        self._fetcher, self._target, self._owners = fetcher, target, owners
        self._troubles, self._progress, self._limits = troubles, progress, limits
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="tandem-restore")
        metadata = MetadataWriter(troubles)
        self._processes = processes
        stop = None if processes is None else processes.stop
        self._files = FileWriter(target, metadata, troubles, fetcher.ring, stop)
        self._nodes = NodeWriter(target, metadata, troubles)
        self.done = Delivered()

    async def all(self, root: bytes, selection: Selection, durable: bool) -> None:
        """Plan and deliver everything."""
        if self._processes:
            self._processes.begin(self._target, self._fetcher.ring)
        try:
            async with asyncio.TaskGroup() as tasks:
                delivery = Delivery(
                    self._fetcher,
                    self._files,
                    self._nodes,
                    self._pool,
                    tasks,
                    self._progress,
                    self._processes,
                    self._troubles,
                    self._target.sync if durable else None,
                )
                self.done = delivery.delivered
                planner = Planner(
                    self._fetcher, self._target, self._owners, self._troubles, delivery, self._limits
                )
                await planner.run(root, selection)
        except BaseExceptionGroup as group:
            raise _most_telling(group) from None

    async def make_durable(self) -> None:
        """One sync at the end costs far less than one for each file."""
        self._progress.phase = "making durable"
        await asyncio.get_running_loop().run_in_executor(self._pool, self._target.sync)

    def close(self) -> None:
        """Let the workers end, then remove what is not complete."""
        self._files.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._files.abandon()
        self._target.close()


def _with_rest(error: Full, done: Delivered, snapshot: Snapshot, selection: Selection) -> Full:
    total = snapshot.stats.get("files", 0)
    of = f" of {total}" if total and not selection.paths else ""
    return Full(f"{error.what}; {done.files}{of} files are restored", error.remedy)


def _most_telling(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of several failures at once the first expected one; a bug before all."""
    leaves: list[BaseException] = []
    waiting: list[BaseException] = [group]
    while waiting:
        error = waiting.pop(0)
        if isinstance(error, BaseExceptionGroup):
            waiting.extend(error.exceptions)
        else:
            leaves.append(error)
    bugs = [e for e in leaves if not isinstance(e, (TandemError, asyncio.CancelledError))]
    return (bugs or [e for e in leaves if isinstance(e, TandemError)] or leaves)[0]
