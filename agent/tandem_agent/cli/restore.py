"""`tandem restore`: get files back from a backup."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from tandem_protocol.errors import Corrupt

from . import output
from .backups import snapshot_to_read
from .common import Settings, common_options, run_async
from .reading import open_view, reading_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..engine.deliver import Lost
    from ..reading import RepositoryView
    from ..restore import RestoreResult


@click.command(
    short_help="Restore PATH (else everything) of the backup ID.",
    epilog="\b\nExample:\n  tandem restore latest --to /tmp/back\n"
    "  tandem restore 26112201 --to /tmp/back /srv/data/reports\n"
    "  tandem restore latest --to /mnt/new --from sftp://branch7@backup.example.net/tandem",
)
@click.argument("backup_id", metavar="ID")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option(
    "--to", "target", required=True, metavar="DIR", help="Where: /srv/data comes to be DIR/srv/data."
)
@click.option("--overwrite", is_flag=True, help="Replace files that exist there and differ.")
@click.option("--owners-by-name", is_flag=True, help="Give files to users of the same name, not number.")
@reading_options
@common_options
@click.pass_obj
def restore(
    settings: Settings,
    /,
    backup_id: str,
    paths: tuple[str, ...],
    target: str,
    overwrite: bool,
    owners_by_name: bool,
    **where: Any,
) -> int:
    """Restore PATH (else everything) of the backup ID, which may be a name, `latest` or the start of an id.

    Blocks come from the first tier that has them good. Existing files are left alone unless --overwrite is
    given. Interrupted, run it again: what is complete is kept.
    """
    options: dict[str, Any] = {
        "paths": [absolute_path(path) for path in paths],
        "overwrite": overwrite,
        "owners_by_name": owners_by_name,
    }
    from ..engine.fetch import nowhere
    from ..engine.writerprocesses import writer_processes

    where_to = os.path.abspath(target)
    with writer_processes() as processes:
        result, view = run_async(
            _restore(settings, backup_id, where_to, options | {"processes": processes}, where)
        )
    if view.index.damaged and (isinstance(result, Corrupt) or result.damaged):
        # That says nothing about the tiers; opened again, the index is made anew.
        result, view = run_async(_restore(settings, backup_id, where_to, options, where))
    if isinstance(result, Corrupt):
        raise result
    if settings.json:
        fields = output.plain(result)
        fields |= {name: [str(lost) for lost in getattr(result, name)] for name in ("damaged", "away")}
        output.emit_json(fields)
    else:
        output.warn_all(result.warnings)
        if not settings.quiet:
            _show(result, target)
    not_good = nowhere([output.shown(tier) for tier in result.read_from])
    _tell_lost(result.damaged, f"{not_good} and not restored", view.remedy or "look in an older backup")
    _tell_lost(result.away, "not restored, a tier is away", "run it again when it is back")
    return result.exit_code


def absolute_path(path: str) -> bytes:
    """A path inside a backup as typed: absolute, as it was on the machine that was backed up."""
    return os.path.normpath(os.path.join(b"/", os.fsencode(path)))


async def _restore(
    settings: Settings, wanted: str, target: str, options: dict[str, Any], where: dict[str, Any]
) -> tuple[RestoreResult | Corrupt, RepositoryView]:
    """What came of it, and what it was read through: the local index may have turned out to be damaged."""
    from ..progress import Progress
    from ..restore import restore as run_restore
    from .progress import followed

    async with open_view(settings, where) as view:
        snapshot = snapshot_to_read(view, wanted, where["tier"])
        progress = Progress()
        async with followed(progress, quiet=settings.quiet):
            try:
                result = await run_restore(view, snapshot, target, progress=progress, **options)
            except Corrupt as fault:
                return fault, view
            return result, view


def _show(result: RestoreResult, target: str) -> None:
    kept = f", {output.number(result.kept)} kept from before" if result.kept else ""
    print(
        f"Restored {output.counted(result.files, 'file')}, {output.size(result.bytes)} to {output.shown(target)} "
        f"in {output.duration(result.seconds)}{kept}"
    )
    for tier, count in result.read_from.items():
        if count:
            print(f"  {output.size(count)} read from {tier}")
    instead = ": other tiers were asked instead" if len(result.read_from) > 1 else ""
    for tier in result.read_from:
        if bad := sum(one.tier == tier for one in result.damage):
            output.notice(f"{output.counted(bad, 'object')} damaged or missing on {tier}{instead}")


def _tell_lost(lost: Sequence[Lost], what: str, remedy: str, most: int = 20) -> None:
    if not lost:
        return
    output.notice(f"tandem: {output.counted(len(lost), 'file')} {what}: {remedy}")
    for one in lost[:most]:
        output.notice(f"  {output.shown(str(one))}")
    if len(lost) > most:
        output.notice(f"  and {output.number(len(lost) - most)} more; --json shows them")
