"""`tandem init`: make a repository on its tiers and write the configuration that names them."""

from __future__ import annotations

from typing import Any

import click

from . import output
from .common import Settings, common_options, run_async
from .configuring import configuration, host_key_check, repository_options, written


@click.command(
    epilog="\b\nExample:\n  tandem init /srv/data --tier vault=/mnt/nas/tandem \\\n"
    "      --tier remote=sftp://branch7@backup.example.net:2022/tandem --identity-file ~/.ssh/id_ed25519"
)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@repository_options
@common_options
@click.pass_obj
def init(settings: Settings, /, sources: tuple[str, ...], accepted: tuple[str, ...], **arguments: Any) -> int:
    """Make a repository on every tier, and a configuration for it.

    Stopped half-way, run it again with the same arguments: it goes on where it was. With a configuration
    that is there already, and no arguments, it makes the repository that the configuration describes.
    """
    config, text = configuration(settings, sources, arguments)
    passphrase = settings.passphrase(config, new=True)()
    from ..init import init_repository

    result = run_async(init_repository(config, passphrase, host_key_check(set(accepted))))
    written(config, text)
    if settings.json:
        output.emit_json({"config": config.path, **output.plain(result)})
        return 0
    word = "completed" if result.resumed else "made"
    print(f"Repository {result.repository_id.hex()} {word} on {output.counted(len(config.tiers), 'tier')}.")
    print(f"Configuration: {config.path}")
    print("Keep the passphrase safe: without it nobody can read the backups. Next: tandem backup")
    return 0
