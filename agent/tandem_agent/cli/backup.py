"""`tandem backup`: one backup now."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from . import output
from .common import Settings, common_options, run_async
from .sources import checked_sources, configured_sources

if TYPE_CHECKING:
    from ..backup import BackupResult
    from ..config import Config
    from ..engine.forerunners import Forerunners

WARNINGS, NO_TIER = 3, 5


class Require(click.ParamType[object]):
    """A number of tiers, or "all"."""

    name = "N|all"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> object:
        if value == "all" or (isinstance(value, str) and value.isdecimal() and int(value) > 0):
            return value
        return self.fail(f"{value!r} is neither a number from 1 nor 'all'", param, ctx)


@click.command(
    short_help="Back up SOURCE (else the configured sources) to every tier.",
    epilog="\b\nExample:\n  tandem backup\n  tandem backup /srv/data --wait 600 --require all --json",
)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option(
    "--wait", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait so long for a tier (else for ever)."
)
@click.option(
    "--require", type=Require(), metavar="N|all", help="Fail (5) unless so many tiers have the backup."
)
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave this out too (as in .gitignore).")
@click.option("--one-file-system", is_flag=True, help="Do not go into file systems mounted inside a source.")
@common_options
@click.pass_obj
def backup(
    settings: Settings,
    sources: tuple[str, ...],
    wait: float | None,
    require: str | None,
    exclude: tuple[str, ...],
    one_file_system: bool,
) -> int:
    """Back up SOURCE (else the configured sources) to every tier that can be reached.

    A tier that cannot be reached catches up later (tandem sync); one tier is enough, unless --require asks
    for more. Exit code 3: done, but something could not be read.
    """
    config = settings.load()
    config = dataclasses.replace(
        config, exclude=(*config.exclude, *exclude), one_file_system=config.one_file_system or one_file_system
    )
    folders = checked_sources(sources) if sources else configured_sources(config.sources)
    needed = _needed(require, config)
    from ..scanning import looking_ahead

    with looking_ahead(config, folders) as seen:  # before anything else is loaded
        result = run_async(_backup(settings, config, folders, wait, seen))
    if settings.json:
        output.emit_json(result)
    else:
        output.warn_all(result.warnings)
        if not settings.quiet:
            _show(result)
    if settings.quiet:
        _tell_of_trouble(result)
    return _exit_code(result, needed)


def _needed(require: str | None, config: Config) -> int | None:
    if require is None:
        return None
    count = len(config.tiers) if require == "all" else int(require)
    if count > len(config.tiers):
        there = output.counted(len(config.tiers), "tier")
        raise click.BadParameter(f"the configuration has {there}, not {count}", param_hint="'--require'")
    return count


async def _backup(
    settings: Settings, config: Config, sources: list[bytes], wait: float | None, seen: Forerunners
) -> BackupResult:
    import contextlib

    from ..backup import backup as run_backup
    from ..estimate import counted_ahead
    from ..progress import Progress
    from ..wiring import open_agent
    from .progress import followed, watched

    progress = Progress()
    async with open_agent(config, settings.passphrase(config)) as agent:
        with contextlib.ExitStack() as stack:
            if watched(settings.quiet):
                stack.enter_context(counted_ahead(sources, config.exclude, config.one_file_system, progress))
            async with followed(progress, agent.tiers.tiers, quiet=settings.quiet):
                return await run_backup(agent, sources, wait_s=wait, progress=progress, seen=seen)


def _exit_code(result: BackupResult, needed: int | None) -> int:
    if result.status == "pending":
        output.notice("tandem: no tier holds this backup yet: run 'tandem sync' when one can be reached")
        return NO_TIER
    holders = sum(1 for tier in result.tiers if tier.has_it)
    if needed is not None and holders < needed:
        output.notice(f"tandem: {holders} of {needed} tiers asked for have it: see 'tandem tiers'")
        return NO_TIER
    return WARNINGS if result.status == "partial" or result.warnings else 0


def _show(result: BackupResult) -> None:
    if (upgrade := result.index_upgrade) is not None:
        print(
            f"Index converted to form 2: {output.counted(upgrade.entries, 'entry', 'entries')} of "
            f"{output.counted(upgrade.packs, 'pack')}; instead of "
            f"{output.counted(upgrade.segments_before, 'segment')} of {output.size(upgrade.bytes_before)} now "
            f"{output.number(upgrade.segments_after)} of {output.size(upgrade.bytes_after)} "
            f"(revision {upgrade.revision})"
        )
        if upgrade.remaining:
            left = output.counted(upgrade.remaining, "old segment")
            print(f"  {left} cannot be read now, and will be converted when a tier has what is missing")
    print(
        f"Backup {result.name} {result.status}: {output.counted(result.files, 'file')}, "
        f"{output.size(result.bytes)}, {output.size(result.bytes_read)} read, "
        f"{output.size(result.bytes_stored)} stored in {output.duration(result.seconds)} (revision {result.revision})"
    )
    output.emit_table(["TIER", "STATE"], [[t.name, "has it" if t.has_it else t.state] for t in result.tiers])
    output.emit_reasons((t.name, output.why(t.reason, t.trouble)) for t in result.tiers if not t.has_it)


def _tell_of_trouble(result: BackupResult) -> None:
    """What somebody must look at though the backup is done: without this cron would mail nothing of a full disk or
    another host key, or no more after the first night. A tier that is just away or lags comes back or is synchronised;
    so it is not named."""
    for tier in result.tiers:
        if tier.trouble and not tier.has_it and tier.state != "offline":
            reason = output.why(tier.reason, tier.trouble)
            output.notice(f"tandem: {tier.name} is {tier.state} and has not got the backup: {reason}")
