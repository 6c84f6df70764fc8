"""`tandem backups`: all backups, also failed ones; `backups show` is everything known about one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from tandem_protocol.errors import Missing, Usage

from . import output
from .common import Settings, common_options, run_async
from .reading import open_view, reading_options

if TYPE_CHECKING:
    from ..backups import BackupInfo
    from ..reading import RepositoryView


@click.group(
    invoke_without_command=True,
    epilog="\b\nExample:\n  tandem backups\n  tandem backups --json\n  tandem backups show latest",
)
@reading_options
@common_options
@click.pass_context
def backups(ctx: click.Context, /, **where: Any) -> int:
    """List all backups, also failed ones, oldest first."""
    if ctx.invoked_subcommand is not None:
        return 0
    settings: Settings = ctx.obj
    found = _read(settings, where)
    if settings.json:
        output.emit_json(found)
    else:
        rows = [
            [
                b.name,
                b.status,
                output.shown(b.started),
                output.number(b.files),
                output.size(b.bytes),
                ", ".join(b.tiers) or "no tier",
                output.shown(b.error),
            ]
            for b in found
        ]
        output.emit_table(["NAME", "STATUS", "STARTED", "FILES", "SIZE", "ON", ""], rows, right=[3, 4])
    return 0


@backups.command(
    "show",
    short_help="Show all that is known about the backup ID.",
    epilog="\b\nExample:\n  tandem backups show latest\n  tandem backups show 26112201 --json",
)
@click.argument("backup_id", metavar="ID")
@reading_options
@common_options
@click.pass_obj
def backups_show(settings: Settings, /, backup_id: str, **where: Any) -> int:
    """Show all that is known about the backup ID (a name, `latest`, or the start of its id)."""
    backup = find_backup(_read(settings, where), backup_id)
    if settings.json:
        output.emit_json(backup)
        return 0
    shown = output.plain(backup)
    width = max(len(name) for name in shown)
    for name, value in shown.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
        print(f"{name:<{width}}  {output.shown(text)}".rstrip())
    return 0


def find_backup(backups: Sequence[BackupInfo], wanted: str) -> BackupInfo:
    """The one backup called ``wanted``: its name, "latest" (the newest that did not fail and is on some
    tier), or the start (8 hex digits or more) of its id. `Missing` or `Usage` otherwise."""
    if wanted == "latest":
        good = [b for b in backups if b.status in ("complete", "partial")]
        good = [b for b in good if b.tiers] or good
        if not good:
            raise Missing("there is no backup yet", "make one with 'tandem backup'")
        return max(good, key=lambda b: b.age)
    found = [b for b in backups if b.name == wanted]
    if not found and len(wanted) >= 8:
        found = [b for b in backups if b.id.hex().startswith(wanted.lower())]
    if not found:
        raise Missing(f"there is no backup {wanted}", "see 'tandem backups'")
    if len(found) > 1:
        raise Usage(
            f"{len(found)} backups are called {wanted}", "give more of the id from 'tandem backups --json'"
        )
    return found[0]


def snapshot_to_read(view: RepositoryView, wanted: str, tier: str | None) -> bytes:
    """The name of the snapshot of the backup called ``wanted``, which is to be read from ``tier`` alone (None: from
    all). `Missing` for one that failed, and for one that never reached this tier, where another has it: one that is
    damaged there by now did, and is read as far as it goes."""
    backups = view.backups
    came = view.came | {b.id for b in backups if tier in b.tiers}
    if wanted == "latest" and tier is not None:
        backups = [b for b in backups if b.id in came] or backups
    backup = find_backup(backups, wanted)
    if tier is not None and backup.tiers and backup.id not in came:
        raise Missing(
            f"the backup {backup.name} is not on {tier} yet, but on {' and '.join(backup.tiers)}",
            f"leave --tier out, or bring it there with 'tandem sync {tier}'",
        )
    if backup.snapshot is None:
        raise Missing(f"the backup {backup.name} failed and holds nothing", "see 'tandem backups' for others")
    return backup.snapshot


def _read(settings: Settings, where: dict[str, Any]) -> list[BackupInfo]:
    """From local state without asking any tier; from a place that is named, as it is there."""
    if where["url"] or where["tier"]:
        return run_async(_from_place(settings, where))
    from ..backups import list_backups
    from ..wiring import open_state

    with open_state(settings.load()) as state:
        return list_backups(state)


async def _from_place(settings: Settings, where: dict[str, Any]) -> list[BackupInfo]:
    async with open_view(settings, where) as view:
        return [b for b in view.backups if where["tier"] is None or where["tier"] in b.tiers]
