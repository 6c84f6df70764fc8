"""`tandem key`: the passphrases (and the agent's own key) that open the repository."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from . import output
from .common import Settings, common_options, run_async

if TYPE_CHECKING:
    from ..wiring import Agent


@click.group(epilog="\b\nExample:\n  tandem key add --label 'printed, in the safe'\n  tandem key list")
@common_options
def key() -> None:
    """Add, list and remove the passphrases that open this repository."""


def _with_agent(settings: Settings, use: Callable[[Agent], Awaitable[Any]]) -> Any:
    config = settings.load()

    async def run() -> Any:
        from ..wiring import open_agent

        async with open_agent(config, settings.passphrase(config)) as agent:
            return await use(agent)

    return run_async(run())


@key.command(
    "add",
    epilog="\b\nExample:\n  tandem key add --label 'printed, in the safe'\n"
    "  tandem key add --new-passphrase-file /run/secrets/second",
)
@click.option("--label", default="", metavar="TEXT", help="What this passphrase is for. Stored readable.")
@click.option(
    "--new-passphrase-file", metavar="FILE", help="Read the new passphrase from FILE instead of asking."
)
@common_options
@click.pass_obj
def key_add(settings: Settings, label: str, new_passphrase_file: str | None) -> int:
    """Add a passphrase. Asks for one that holds already."""
    from ..passphrase import new_passphrase

    config = settings.load()
    current = settings.passphrase(config)()
    new = new_passphrase(new_passphrase_file)

    async def add(agent: Agent) -> Any:
        from ..keyslots import key_add as run

        return await run(agent, current, new, label)

    added = _with_agent(settings, add)
    if settings.json:
        output.emit_json(added)
    else:
        print(f"Added key {added.id[:16]}.")
    return 0


@key.command("list", epilog="\b\nExample:\n  tandem key list --json")
@common_options
@click.pass_obj
def key_list(settings: Settings) -> int:
    """List the keys: their ids, kinds and labels. Secrets are never shown."""

    from ..keyslots import key_list as read
    from ..wiring import open_state

    with open_state(settings.load()) as state:
        keys = read(state)
    if settings.json:
        output.emit_json(keys)
    else:
        output.emit_table(
            ["ID", "KIND", "CREATED", "LABEL"],
            [[k.id[:16], str(k.kind), _day(k.created), output.shown(k.label)] for k in keys],
        )
    return 0


def _day(seconds: int) -> str:
    import time

    return time.strftime("%Y-%m-%d", time.localtime(seconds))


@key.command("remove", epilog="\b\nExample:\n  tandem key remove 3f9a6c0d")
@click.argument("key_id", metavar="ID")
@common_options
@click.pass_obj
def key_remove(settings: Settings, key_id: str) -> int:
    """Remove the key whose id begins with ID. It cannot take back a copy that somebody has made."""
    config = settings.load()
    current = settings.passphrase(config)()

    async def remove(agent: Agent) -> Any:
        from ..keyslots import key_remove as run

        return await run(agent, current, key_id)

    removed = _with_agent(settings, remove)
    if settings.json:
        output.emit_json(removed)
    else:
        print(f"Removed key {removed.id[:16]}. Whoever copied it before can still read what is there now.")
    return 0
