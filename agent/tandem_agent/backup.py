"""One backup now: what is new is sealed once and written to every target, then acknowledged by name.

The data path is the engine's, the write protocol is in ``tiers``; this is the order in which they act, the
checkpoints of a long backup, and what is told of it afterwards.
"""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tandem_agent.backup_writer import BackupWriter
from tandem_agent.engine.filescache import FilesCache
from tandem_agent.engine.forerunners import Forerunners
from tandem_agent.engine.pipeline import PipelineResult, run_backup_pipeline
from tandem_agent.indexcheck import check_index
from tandem_agent.progress import Progress
from tandem_agent.reading import open_index
from tandem_agent.scanning import files_cache, scan_options
from tandem_agent.tiers.readers import readers
from tandem_agent.tiers.targets import reachable_targets, wait_until_held
from tandem_agent.tiers.tier import Tier
from tandem_agent.upgrading import IndexUpgrade, upgrade_index, upgrade_is_due
from tandem_agent.wiring import Agent
from tandem_protocol.errors import NoTierReachable, TandemError, printable
from tandem_protocol.names import ObjectType, object_name
from tandem_protocol.planning import trusted_up_to
from tandem_protocol.revision import UNITING, Kind
from tandem_protocol.snapshot import Snapshot, encode_snapshot

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often in a row a backup begins that loses every tier without having saved anything."""

REMOVING = (Kind.PRUNE, Kind.CHECK, Kind.REPAIR, *UNITING)
"""Kinds after which content that a files cache remembers may be gone."""


@dataclass(frozen=True, slots=True)
class BackupTier:
    """Where the backup stands on one tier: ``has_it`` only if the tier confirmed it. ``trouble``: what blocks the tier,
    or did before, where it is not online again since."""

    name: str
    state: str
    has_it: bool
    reason: str
    trouble: str


@dataclass(frozen=True, slots=True)
class BackupResult:
    """What `backup` did. Sizes in bytes: ``bytes`` of all files in it, ``bytes_read`` of those that were read
    (not unchanged), ``bytes_stored`` of what was new, sealed; ``status`` is complete, partial (something could
    not be read) or pending (decided, but no tier confirmed it before all were lost)."""

    id: str
    name: str
    revision: int
    files: int
    bytes: int
    bytes_read: int
    bytes_stored: int
    seconds: float
    status: str
    tiers: list[BackupTier]
    warnings: list[str] = field(default_factory=list)
    index_upgrade: IndexUpgrade | None = None
    """The conversion of the index that came first, where there was one."""


class _AllLostError(Exception):
    """An attempt lost every tier before it had decided: the next one may go to others. ``saved_some``: a checkpoint of
    it counts."""

    def __init__(self, fault: NoTierReachable, saved_some: bool) -> None:
        super().__init__(str(fault))
        self.fault = fault
        self.saved_some = saved_some


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One that came to its decision, and what is told of the backup."""

    writer: BackupWriter
    result: PipelineResult
    about: dict[str, Any]


async def backup(
    agent: Agent,
    sources: Sequence[bytes],
    *,
    wait_s: float | None,
    progress: Progress,
    seen: Forerunners | None = None,
) -> BackupResult:
    """Back up ``sources`` (absolute paths), waiting ``wait_s`` seconds for a tier (None: for ever); where all are lost
    it waits again, and goes on from what checkpoints saved on those that are there then. ``seen``: what forerunners
    see of the sources. Raises `NoTierReachable`, `SecondInstallation` and what the engine does."""
    started = time.time_ns()
    clock = time.monotonic()
    about = _about(started)
    counted = progress.files, progress.dirs, progress.bytes_read
    attempts = 0
    done: _Attempt | None = None
    upgrade = _Upgrade()
    while done is None:
        progress.phase = "contacting tiers"
        targets = await reachable_targets(agent.tiers, wait_s, progress=progress)
        try:
            if await upgrade.made(agent, targets, progress):
                targets = await reachable_targets(agent.tiers, wait_s, progress=progress)
            await upgrade.checked(agent, targets, progress)
            done = await _attempt(agent, sources, targets, dict(about), started, wait_s, progress, seen)
        except _AllLostError as lost:
            attempts = 1 if lost.saved_some else attempts + 1
            if attempts >= ATTEMPTS:
                raise lost.fault from None
            log.warning("%s: the backup begins again", lost.fault)
            progress.files, progress.dirs, progress.bytes_read = counted
    writer = done.writer
    if not writer.confirmed:
        writer.confirmed = await wait_until_held(
            agent.tiers, writer.revision_number, writer.begun_with, wait_s, progress
        )
    return _result(agent, done, upgrade, time.monotonic() - clock)


@dataclass
class _Upgrade:
    """The conversion of the index before a backup: what it did, and what its check found."""

    done: IndexUpgrade | None = None
    findings: list[str] = field(default_factory=list)

    async def made(self, agent: Agent, targets: Sequence[Tier], progress: Progress) -> bool:
        """Convert the index if that is due."""
        if not upgrade_is_due(agent):
            return False
        try:
            self.done = await upgrade_index(agent, targets, progress)
        except NoTierReachable as fault:
            raise _AllLostError(fault, False) from fault
        return True

    async def checked(self, agent: Agent, targets: Sequence[Tier], progress: Progress) -> None:
        """Check it, also where that was cut off after an earlier conversion."""
        if agent.state.check_due():
            self.findings += await check_index(agent, targets, progress)
            for finding in self.findings:
                log.warning("%s", finding)


async def _attempt(
    agent: Agent,
    sources: Sequence[bytes],
    targets: Sequence[Tier],
    about: dict[str, Any],
    started: int,
    wait_s: float | None,
    progress: Progress,
    seen: Forerunners | None,
) -> _Attempt:
    """From the scan to the decision, on ``targets``. Whatever ends it before is listed as a failed backup, until an
    attempt at the same backup succeeds."""
    index, notices = await open_index(
        os.path.join(agent.cache_dir, "index"),
        agent.ring,
        agent.state.live_of(ObjectType.INDEX),
        readers(agent.tiers),
        packs=lambda: agent.state.live_of(ObjectType.PACK),
    )
    cache = FilesCache(files_cache(agent.config), _cache_owner(agent))
    writer: BackupWriter | None = None
    try:
        writer = await BackupWriter.begin(agent, targets, index, progress, about, wait_s)
        result = await _run(agent, writer, sources, cache, progress, seen)
        _warn_if_empty(result, sources)
        told = await _finish(agent, writer, result, sources, started, about, progress)
        cache.commit(writer.revision_number)
        index.flush()
        for notice in notices:
            log.warning("index: %s", notice)
        return _Attempt(writer, result, told)
    except BaseException as fault:
        cache.discard()
        if writer is not None:
            await writer.abort(_reason(fault))
        if isinstance(fault, NoTierReachable):
            raise _AllLostError(fault, writer is not None and writer.checkpoints > 0) from fault
        raise
    finally:
        cache.close()
        index.close()


def _cache_owner(agent: Agent) -> bytes:
    """Who may believe what a files cache remembers by numbers of revisions: this installation alone. After a takeover
    without the old state the same numbers may mean something else."""
    setup = agent.state.setup()
    assert setup is not None
    return setup.repository_id + setup.installation.id


def _reason(fault: BaseException) -> str:
    if isinstance(fault, asyncio.CancelledError):
        return "interrupted"
    return str(fault) if isinstance(fault, TandemError) else f"{type(fault).__name__}: {fault}"


def _about(started: int) -> dict[str, Any]:
    """What is known of the backup before it begins; kept with the intent, so that a failed one is listed."""
    return {
        "id": os.urandom(16).hex(),
        "name": failed_name(started),
        "trigger": "manual",
        "started": _local_text(started),
        "ended": "",
        "by": getpass.getuser(),
        "host": socket.gethostname(),
        "status": "running",
        "error": "",
        "area": "recent",
        "files": 0,
        "bytes": 0,
    }


async def _run(
    agent: Agent,
    writer: BackupWriter,
    sources: Sequence[bytes],
    cache: FilesCache,
    progress: Progress,
    seen: Forerunners | None,
) -> PipelineResult:
    removed = agent.state.last_of_kinds(REMOVING)
    trusted = trusted_up_to([tier.facts() for tier in writer.targets], agent.state.head)
    progress.phase = "backing up"
    return await run_backup_pipeline(
        sources=list(sources),
        options=scan_options(agent.config),
        ring=agent.ring,
        known=writer.known,
        cache=cache,
        trusted=lambda revision: removed < revision <= trusted,
        sink=writer.take,
        ahead=writer.packs_ahead,
        progress=progress,
        forerunners=seen,
    )


def _warn_if_empty(result: PipelineResult, sources: Sequence[bytes]) -> None:
    """A backup of nothing is never made in silence: most often a disk is not mounted where it belongs."""
    if not result.stats["files"] and not result.stats["others"]:
        places = ", ".join(os.fsdecode(source) for source in sources)
        result.warnings.append(printable(f"nothing is in {places}: is a disk not mounted there?"))


async def _finish(
    agent: Agent,
    writer: BackupWriter,
    result: PipelineResult,
    sources: Sequence[bytes],
    started: int,
    about: dict[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """Steps 6 to 8 for the last revision: the snapshot, the record, and the name it is known by, with all that is
    told of the backup."""
    progress.phase = "finishing"
    ended = time.time_ns()
    local = datetime.fromtimestamp(started / 1e9).astimezone()
    offset = local.utcoffset()
    snapshot = Snapshot(
        backup_id=bytes.fromhex(about["id"]),
        root=result.root,
        host=socket.gethostname(),
        host_id=_host_id(),
        sources=list(sources),
        started_ns=started,
        ended_ns=ended,
        utc_offset_s=int(offset.total_seconds()) if offset is not None else 0,
        zone=_zone(),
        point_in_time=False,
        stats=result.stats,
    )
    data = encode_snapshot(agent.ring, snapshot)
    told = about | {
        "name": next_name(agent, started),
        "ended": _local_text(ended),
        "status": "partial" if result.warnings else "complete",
        "files": result.stats["files"],
        "bytes": result.stats["bytes"],
        "snapshot": object_name(data).hex(),
        "warnings": result.warnings[:100],
    }
    await writer.finish(data, told)
    return told


def _zone() -> str:
    """The machine's IANA time zone, or "" where it has none that is known."""
    from tzlocal import get_localzone_name

    try:
        return get_localzone_name()
    except (LookupError, OSError):
        return ""


def _host_id() -> str:
    """The machine's own id where it has one: tells two machines of one name apart."""
    try:
        with open("/etc/machine-id", encoding="ascii") as file:
            return file.read(64).strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _local_text(ns: int) -> str:
    return datetime.fromtimestamp(ns // 10**9).astimezone().isoformat()


def next_name(agent: Agent, started_ns: int) -> str:
    """``YYMMDDnn``: nn counts the successful backups of a local date from 01; three digits after 99."""
    day = failed_name(started_ns)[:6]
    taken = [int(name[6:]) for name in agent.state.backup_names(day) if _is_of(name, day)]
    return f"{day}{max(taken, default=0) + 1:02d}"


def failed_name(started_ns: int) -> str:
    """``YYMMDD**``: what a backup is called until, and unless, it succeeds."""
    return f"{datetime.fromtimestamp(started_ns // 10**9).astimezone():%y%m%d}**"


def _is_of(name: str, day: str) -> bool:
    return name.startswith(day) and name[6:].isdigit()


def _result(agent: Agent, done: _Attempt, upgrade: _Upgrade, seconds: float) -> BackupResult:
    writer, result, about = done.writer, done.result, done.about
    holders = {tier.id for tier in writer.confirmed}
    tiers = [
        BackupTier(t.name, t.state.value, t.id in holders, "" if t.id in holders else t.reason, t.trouble)
        for t in agent.tiers.tiers
    ]
    return BackupResult(
        id=about["id"],
        name=about["name"],
        revision=writer.revision_number,
        files=about["files"],
        bytes=about["bytes"],
        bytes_read=result.stats["bytes_read"],
        bytes_stored=writer.bytes_stored,
        seconds=round(seconds, 3),
        status=about["status"] if holders else "pending",
        tiers=tiers,
        warnings=[*upgrade.findings, *result.warnings],
        index_upgrade=upgrade.done,
    )
