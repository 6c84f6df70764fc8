"""`tandem ls`: look inside a backup."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from .backups import snapshot_to_read
from .common import Settings, common_options, run_async
from .reading import open_view, reading_options


@click.command(
    short_help="List PATH (else the top) in the backup ID.",
    epilog="\b\nExample:\n  tandem ls latest /srv/data\n  tandem ls 26112201 /srv/data/reports --recursive\n"
    "  tandem ls latest --from sftp://branch7@backup.example.net/tandem",
)
@click.argument("backup_id", metavar="ID")
@click.argument("path", default="/", metavar="[PATH]")
@click.option("-R", "--recursive", is_flag=True, help="Folders below it too.")
@reading_options
@common_options
@click.pass_obj
def ls(settings: Settings, /, backup_id: str, path: str, recursive: bool, **where: Any) -> int:
    """List PATH (else the top) in the backup ID, which may be a name, `latest` or the start of an id."""
    run_async(_ls(settings, backup_id, os.fsencode(path), recursive, where))
    return 0


async def _ls(settings: Settings, wanted: str, path: bytes, recursive: bool, where: dict[str, Any]) -> None:
    """Entries are printed as they are read: a million of them take no memory."""
    from ..listing import list_backup

    async with open_view(settings, where) as view:
        snapshot = snapshot_to_read(view, wanted, where["tier"])
        opened = False
        try:
            async for entry in list_backup(view, snapshot, path, recursive=recursive):
                if not settings.json:
                    print(entry.line(None if recursive else entry.path.rsplit(b"/", 1)[1]))
                    continue
                print(",\n" if opened else "[\n", json.dumps(entry.as_json()), sep="", end="")
                opened = True
        except BaseException:
            if opened:  # one document, whole as far as it goes; what went wrong is said on stderr
                print("\n]")
                settings.json = False
            raise
        if settings.json:
            print("\n]" if opened else "[]")
