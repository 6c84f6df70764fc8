"""The root command: the list of commands, each imported when called, and the one place that runs them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import click

from . import errors
from .common import Settings, common_options

_COMMANDS = {
    "init": ".init:init",
    "backup": ".backup:backup",
    "backups": ".backups:backups",
    "ls": ".ls:ls",
    "restore": ".restore:restore",
    "tiers": ".tiers:tiers",
    "tier": ".tier:tier",
    "sync": ".tiers:sync",
    "takeover": ".takeover:takeover",
    "key": ".key:key",
}


class LazyGroup(click.Group):
    """A group whose commands are modules of this package, imported on demand."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module, __package__), name)
        return command


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        from tandem_protocol import __version__

        click.echo(f"tandem {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExample:\n  tandem init /srv/data --tier vault=/mnt/nas/tandem "
    "--tier remote=sftp://branch7@backup.example.net/tandem\n  tandem backup\n"
    "  tandem restore latest --to /tmp/back",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show it."
)
@common_options
def root() -> None:
    """Two-tier backup: sealed once, written to a local vault and a remote server, restorable from either."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code (README.md, Exit codes). Never raises."""
    settings = Settings()
    try:
        result = root.main(args=list(arguments), prog_name="tandem", standalone_mode=False, obj=settings)
    except BrokenPipeError:  # whoever read our output has gone (`tandem ls … | head`)
        return 1
    except BaseException as error:
        return errors.report(error, settings)
    return result if isinstance(result, int) else 0
