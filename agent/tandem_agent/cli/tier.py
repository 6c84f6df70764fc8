"""`tandem tier`: add, remove, replace and retire tiers. Says what it is going to do, and asks."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from tandem_protocol.errors import Refused, Usage

from . import output
from .common import Settings, common_options, confirmed, run_async
from .configuring import host_key_check, login_options, tier_config

if TYPE_CHECKING:
    from ..config import Config, TierConfig
    from ..tier_changes import Change
    from ..wiring import Agent

_YES = click.option("--yes", is_flag=True, help="Do not ask.")
_FORCE = click.option("--force", is_flag=True, help="Give up what only the tier that goes is known to hold.")
_NO_SYNC = click.option("--no-sync", is_flag=True, help="Leave filling it to the next synchronisation.")
_WAIT = click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0),
    default=0,
    metavar="SECONDS",
    help="Wait so long for a tier.",
)


@click.group(
    epilog="\b\nExample:\n  tandem tier add disk /media/backup/tandem\n  tandem tier replace vault\n"
    "  tandem tier retire disk"
)
@common_options
def tier() -> None:
    """Add, remove, replace and retire tiers of this repository."""


@tier.command(
    "add",
    short_help="Make the place URL a tier called NAME, and fill it.",
    epilog="\b\nExample:\n  tandem tier add disk /media/backup/tandem\n"
    "  tandem tier add remote sftp://branch7@backup.example.net/tandem --identity-file ~/.ssh/id_ed25519",
)
@click.argument("name")
@click.argument("url")
@login_options
@_WAIT
@_NO_SYNC
@_YES
@common_options
@click.pass_obj
def add(
    settings: Settings, /, name: str, url: str, accepted: tuple[str, ...], no_sync: bool, **arguments: Any
) -> int:
    """Make the place URL a tier called NAME, and fill it from the others.

    Two disks that take turns at one place are two tiers with one URL: plug the second one in and add it.
    Stopped half-way, run it again.
    """
    config = settings.load()
    new = tier_config(config, name, url, arguments)

    async def change(agent: Agent) -> Any:
        from ..tier_changes import add_tier

        agree = _agreement(arguments["yes"], f"Add tier {name}?")
        identity = await add_tier(agent, new, host_key_check(set(accepted)), agree, arguments["wait_s"])
        ids = _turns(config, agent, new, identity.tier_id)
        if all(tier.name != name for tier in config.tiers):
            from ..config_edit import add_tier as add_to_file

            add_to_file(config.path, new, ids)

    return _changed(settings, config, change, name, f"Tier {name} is added.", None if no_sync else (name,))


@tier.command(
    "replace",
    short_help="Put a new disk or server in the place of the tier NAME.",
    epilog="\b\nExample:\n  tandem tier replace vault\n  tandem tier replace vault /mnt/newnas/tandem",
)
@click.argument("name")
@click.argument("url", required=False)
@login_options
@_FORCE
@_WAIT
@_NO_SYNC
@_YES
@common_options
@click.pass_obj
def replace(
    settings: Settings,
    /,
    name: str,
    url: str | None,
    accepted: tuple[str, ...],
    force: bool,
    no_sync: bool,
    **arguments: Any,
) -> int:
    """Put a new disk or server in the place of the tier NAME, which is lost or wiped, and fill it.

    Without URL it is where the old one was. The old one is retired: should it come back, it is not used.
    """
    config = settings.load()
    old = _configured(config, name)
    new = old if url is None else tier_config(config, name, url, arguments)

    async def change(agent: Agent) -> Any:
        from ..config_edit import change_tier
        from ..tier_changes import replace_tier

        agree = _agreement(
            arguments["yes"], f"Retire what is called {name} now for good, and put this in its place?"
        )
        identity = await replace_tier(
            agent, new, host_key_check(set(accepted)), agree, force, arguments["wait_s"]
        )
        ids = _turns(config, agent, new, identity.tier_id)
        change_tier(config.path, name, None if url is None else new.url, ids)

    # With --force also what is good nowhere any more is told and given up, for which all tiers are asked.
    fill = () if force else (name,)
    return _changed(settings, config, change, name, f"Tier {name} is replaced.", None if no_sync else fill)


@tier.command("remove", epilog="\b\nExample:\n  tandem tier remove disk")
@click.argument("name")
@_YES
@common_options
@click.pass_obj
def remove(settings: Settings, name: str, yes: bool) -> int:
    """Take the tier NAME out of this configuration. It stays a tier of the repository.

    What it holds is left alone and still counts as there; `tier add` brings it back, `tier retire` ends it.
    """
    config = settings.load()
    _configured(config, name)
    if len(config.tiers) == 1:
        raise Refused(f"{name} is the only tier in {config.path}", "add another one first: tandem tier add")
    from ..config_edit import remove_tier
    from ..tier_changes import Change

    if not _agreement(yes, f"Take {name} out of {config.path}?")(Change(name)):
        raise Usage("nothing was changed", "run it again when you are sure")
    remove_tier(config.path, name)
    return _said(
        settings, name, f"Tier {name} is not used here any more. It still belongs to the repository."
    )


@tier.command("retire", epilog="\b\nExample:\n  tandem tier retire disk")
@click.argument("name")
@_FORCE
@_WAIT
@_YES
@common_options
@click.pass_obj
def retire(settings: Settings, name: str, force: bool, wait_s: float, yes: bool) -> int:
    """Take the tier NAME out of the repository for good.

    What it holds is left alone, and counts no more. Should it come back, it is not used.
    """
    config = settings.load()
    if [tier.name for tier in config.tiers] == [name]:
        raise Refused(f"{name} is the only tier in {config.path}", "add another one first: tandem tier add")

    async def change(agent: Agent) -> Any:
        from ..config_edit import remove_tier
        from ..tier_changes import retire_tier

        await retire_tier(
            agent,
            name,
            _agreement(yes, f"Retire tier {name} for good?"),
            force,
            wait_s,
            lambda: remove_tier(config.path, name),
        )

    return _changed(settings, config, change, name, f"Tier {name} is retired.", None)


def _configured(config: Config, name: str) -> TierConfig:
    for tier in config.tiers:
        if tier.name == name:
            return tier
    known = ", ".join(tier.name for tier in config.tiers)
    raise Usage(f"no tier is called {name} in {config.path}", f"there are: {known}")


def _turns(config: Config, agent: Agent, new: TierConfig, new_id: bytes) -> dict[str, bytes]:
    """The tier ids that the file has to name: of all tiers at the URL of ``new``, if it is not the only one there."""
    rows = {row.name: row.id for row in agent.state.tiers()}
    others = [tier.name for tier in config.tiers if tier.url == new.url and tier.name != new.name]
    if not others and new.tier_id is None:
        return {}
    return {new.name: new_id} | {name: rows[name] for name in others if name in rows}


def _agreement(yes: bool, question: str) -> Callable[[Change], bool]:
    def agree(change: Change) -> bool:
        _explain(change)
        if yes:
            return True
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise Usage("nobody is there to agree to the change", "give --yes if that is what you want")
        return confirmed(question)

    return agree


def _explain(change: Change) -> None:
    """What is going to happen, before it does."""
    if change.url:
        where = output.shown(change.url)
        output.notice(
            f"Tier {change.name} at {where}: {output.counted(change.objects, 'object')}, "
            f"{output.size(change.bytes)} to copy"
        )
    if change.lost_objects:
        output.notice(
            f"{output.counted(change.lost_objects, 'object')} ({output.size(change.lost_bytes)}) known to be on the "
            "old one only: what needs that cannot be restored afterwards"
        )
    if change.others:
        output.notice(f"Other tiers of the repository: {', '.join(change.others)}")


def _changed(
    settings: Settings,
    config: Config,
    change: Callable[[Agent], Awaitable[Any]],
    name: str,
    text: str,
    fill: tuple[str, ...] | None,
) -> int:
    """Do ``change``, then synchronise the tiers ``fill`` (all for none, not at all for None)."""

    async def run() -> None:
        from ..wiring import open_agent

        async with open_agent(config, settings.passphrase(config)) as agent:
            await change(agent)

    run_async(run())
    if fill is None:
        return _said(settings, name, text)
    if not settings.json and not settings.quiet:
        print(text)
    from .tiers import run_sync_command

    return run_sync_command(settings, fill, full=False)


def _said(settings: Settings, name: str, text: str) -> int:
    if settings.json:
        output.emit_json({"name": name})
    elif not settings.quiet:
        print(text)
    return 0
