"""`tandem tiers` and `tandem sync`: the state of each tier, and bringing the lagging ones up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tandem_protocol.errors import Busy

from . import output
from .common import Settings, common_options, run_async

if TYPE_CHECKING:
    from ..config import Config
    from ..resync import SyncResult
    from ..tiers.status import TiersStatus

NO_TIER = 5
DAMAGED = 6


@click.command(epilog="\b\nExample:\n  tandem tiers\n  tandem tiers --json")
@common_options
@click.pass_obj
def tiers(settings: Settings) -> int:
    """Show the state of each tier: its revision, and what it lacks."""
    config = settings.load()
    status = run_async(_tiers(settings, config))
    if settings.json:
        output.emit_json(status)
        return 0
    print(f"Head: revision {status.head}")
    rows = [
        [
            tier.name,
            str(tier.state),
            str(tier.revision),
            _lacks(tier.missing_revisions, tier.missing_objects, tier.missing_bytes),
            output.shown(tier.url),
        ]
        for tier in status.tiers
    ]
    output.emit_table(["NAME", "STATE", "REVISION", "LACKS", "URL"], rows, right=[2])
    for tier in status.tiers:
        if tier.state != "online":
            reason = output.why(tier.reason, tier.trouble)
            print(f"{tier.name}: {tier.state} since {output.local_time(tier.since)}: {reason}")
    return 0


async def _tiers(settings: Settings, config: Config) -> TiersStatus:
    from ..progress import Progress
    from ..tiers.status import remembered_status, tiers_status
    from ..wiring import open_agent, open_state
    from .progress import followed

    progress = Progress(phase="contacting tiers")
    try:
        async with (
            open_agent(config, settings.passphrase(config)) as agent,
            # Too short for a live picture; but one that does not answer is waited for.
            followed(progress, agent.tiers.tiers, quiet=True),
        ):
            return await tiers_status(agent)
    except Busy:
        output.notice("notice: another tandem process is at work; this is what it saw last")
        with open_state(config) as state:
            return remembered_status(state, {tier.name: tier.url for tier in config.tiers})


def _lacks(revisions: int | None, objects: int | None, size: int | None) -> str:
    if not revisions and not objects:
        return "nothing" if revisions == 0 else "-"
    parts = [output.counted(revisions or 0, "revision"), output.counted(objects or 0, "object")]
    return f"{', '.join(parts)}, {output.size(size or 0)}"


@click.command(epilog="\b\nExample:\n  tandem sync\n  tandem sync remote --full")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--full", is_flag=True, help="Compare everything a tier has with what it should have.")
@common_options
@click.pass_obj
def sync(settings: Settings, names: tuple[str, ...], full: bool) -> int:
    """Bring tier NAME (else all) up to date. Stopped half-way, it goes on there the next time."""
    return run_sync_command(settings, names, full=full)


def run_sync_command(settings: Settings, names: tuple[str, ...], *, full: bool) -> int:
    """Synchronise, show what came of it; the exit code."""
    config = settings.load()
    known = [tier.name for tier in config.tiers]
    for name in names:
        if name not in known:
            raise click.BadParameter(
                f"no tier is called {name!r}; there are: {', '.join(known)}", param_hint="NAME"
            )
    result = run_async(_sync(settings, config, list(names), full))
    behind = [tier for tier in result.tiers if tier.state != "online"]
    if settings.json:
        output.emit_json(result)
    elif not settings.quiet:
        _show_sync(result)
    for tier in behind if settings.quiet else ():
        output.notice(f"tandem: {tier.name} is {tier.state}: {output.shown(tier.reason)}")
    if result.lost:
        named = ", ".join(result.damaged) or "none"
        output.notice(
            f"tandem: {output.counted(result.lost, 'object')} good on no tier, given up; backups concerned: {named}: "
            "what is left of these restores; the next backup stores what is still on the disk again"
        )
        return DAMAGED
    return NO_TIER if behind else 0


def _show_sync(result: SyncResult) -> None:
    rows = [
        [
            tier.name,
            str(tier.state),
            str(tier.revisions),
            str(tier.objects),
            output.size(tier.bytes),
            output.duration(tier.seconds),
        ]
        for tier in result.tiers
    ]
    output.emit_table(["NAME", "STATE", "REVISIONS", "OBJECTS", "SENT", "TIME"], rows, right=[2, 3, 4, 5])
    output.emit_reasons((tier.name, output.shown(tier.reason)) for tier in result.tiers)


async def _sync(settings: Settings, config: Config, names: list[str], full: bool) -> SyncResult:
    from ..progress import Progress
    from ..resync import sync as run_sync
    from ..wiring import open_agent
    from .progress import followed

    progress = Progress()
    async with (
        open_agent(config, settings.passphrase(config)) as agent,
        followed(progress, agent.tiers.tiers, quiet=settings.quiet),
    ):
        return await run_sync(agent, names, full, progress)
