"""`tandem takeover`: become the installation that may write."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from tandem_protocol.errors import Usage

from . import output
from .common import Settings, common_options, confirmed, run_async
from .configuring import configuration, host_key_check, repository_options, written

if TYPE_CHECKING:
    from ..config import Config
    from ..outlook import Outlook
    from ..takeover import TakeoverResult


@click.command(
    short_help="Become the installation that may write to a repository.",
    epilog="\b\nExample:\n  tandem takeover\n  tandem takeover /srv/data --tier vault=/mnt/nas/tandem \\\n"
    "      --tier remote=sftp://branch7@backup.example.net/tandem --identity-file ~/.ssh/id_ed25519",
)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@repository_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@common_options
@click.pass_obj
def takeover(
    settings: Settings, /, sources: tuple[str, ...], accepted: tuple[str, ...], yes: bool, **arguments: Any
) -> int:
    """Become the installation that may write to a repository that is there already.

    For a new machine in place of a lost one, for a clone or a restored image that shall go on, and after exit
    code 4. Whoever wrote before is stopped at its next contact; what it had acknowledged is kept. Without a
    configuration, SOURCE and --tier make one, as with init. Needs the passphrase. Stopped half-way, run it again.
    """
    config, text = configuration(settings, sources, arguments)
    result = run_async(_run(settings, config, text, set(accepted), yes))
    if settings.json:
        output.emit_json(result)
    elif not settings.quiet:
        _show(result)
    return 0


async def _run(
    settings: Settings, config: Config, text: str, accepted: set[str], yes: bool
) -> TakeoverResult:
    from ..progress import Progress
    from ..takeover import take_over

    agree = (lambda _: True) if yes else _ask
    result = await take_over(config, settings.passphrase(config), host_key_check(accepted), agree, Progress())
    written(config, text)
    return result


def _ask(outlook: Outlook) -> bool:
    """Say what is going to happen, and ask."""
    output.notice(f"Repository {outlook.repository_id.hex()}, revision {outlook.last}")
    if outlook.writer:
        output.notice(f"Last written by {output.shown(outlook.writer)}")
    for tier in outlook.tiers:
        away = f"not reachable ({output.shown(tier.reason)}): joined when it is back"
        output.notice(f"  {tier.name}: {away if tier.reason else 'reachable, taken over now'}")
    output.notice(
        "This installation will be the only one that writes. The other one stops at its next contact."
    )
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Usage("nobody is there to agree to the takeover", "give --yes if that is what you want")
    return confirmed("Take over?")


def _show(result: TakeoverResult) -> None:
    print(
        f"Taken over with revision {result.revision}, epoch {result.epoch}: {output.counted(result.backups, 'backup')}."
    )
    if result.recovered:
        print(f"{result.recovered} of them were found by their snapshots: their records could not be read.")
    for notice in result.notices:
        output.notice(f"notice: {output.shown(notice)}")
    rows = [[tier.name, tier.state, "yes" if tier.imported else "no"] for tier in result.tiers]
    output.emit_table(["NAME", "STATE", "TAKEN OVER"], rows)
    output.emit_reasons((tier.name, output.shown(tier.reason)) for tier in result.tiers)
    print("Next: tandem sync, then tandem backup.")
