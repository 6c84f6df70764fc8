"""The list of all backups, also failed ones, and on which tiers each of them is. From local state alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tandem_agent.state import State, TierRow


@dataclass(frozen=True, slots=True)
class BackupInfo:
    """One backup. ``name`` is ``YYMMDDnn``, or ``YYMMDD**`` for a failed one; ``status`` is complete, partial or
    failed; ``tiers`` are the names of those it is on; ``snapshot`` is None for a failed one."""

    id: bytes
    name: str
    revision: int
    trigger: str
    started: str
    ended: str
    by: str
    status: str
    error: str
    area: str
    files: int
    snapshot: bytes | None
    bytes: int
    tiers: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    own: bool = True
    """Written after the last takeover or join. Numbers of before are of several histories, and say nothing of what
    came first."""

    @property
    def age(self) -> tuple[bool, int, float]:
        """What orders backups from the oldest to the newest: our own by number, those of before by their clocks."""
        return (True, self.revision, 0.0) if self.own else (False, 0, _seconds(self.started))


def _seconds(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def list_backups(state: State) -> list[BackupInfo]:
    """All backups known here, oldest first."""
    rows = state.tiers()
    found = []
    for number, info in state.backups():
        held_by = info.get("united", number)
        tiers = [row.name for row in rows if state.is_on(held_by, row.id)]
        found.append(info_of(number, info, tiers, own="united" not in info))
    return sorted(found, key=lambda backup: backup.age)


def came_to(state: State, tier: TierRow) -> set[bytes]:
    """The ids of the backups that reached ``tier`` at some time: also those of which something is damaged or lacking
    there now, so that they do not count as on it."""
    return {
        bytes.fromhex(info["id"]) for number, info in state.backups() if _reached(state, tier, number, info)
    }


def _reached(state: State, tier: TierRow, number: int, info: Mapping[str, Any]) -> bool:
    if not info.get("snapshot") or state.is_missing(tier.id, max(info.get("united", number), tier.start)):
        return False
    # What came with a base may never have been there: the base counts as held all the same.
    with_base = "united" in info or number < tier.start
    return not (with_base and state.is_lacking(tier.id, bytes.fromhex(info["snapshot"])))


def info_of(revision: int, info: Mapping[str, Any], tiers: list[str], own: bool = True) -> BackupInfo:
    """From what a record of kind backup (or an aborted one) has under seal. A failed one, and one of which a part was
    given up, is on none of ``tiers``."""
    if info["status"] == "failed" or info.get("damaged"):
        tiers = []
    snapshot = info.get("snapshot")
    return BackupInfo(
        id=bytes.fromhex(info["id"]),
        name=info["name"],
        revision=revision,
        trigger=info.get("trigger", ""),
        started=info.get("started", ""),
        ended=info.get("ended", ""),
        by=info.get("by", ""),
        status=info["status"],
        error=info.get("error", ""),
        area=info.get("area", ""),
        files=info.get("files", 0),
        snapshot=bytes.fromhex(snapshot) if snapshot else None,
        bytes=info.get("bytes", 0),
        tiers=tiers,
        warnings=list(info.get("warnings", [])),
        own=own,
    )
