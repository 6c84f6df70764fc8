"""What the reading commands share: from where they read, and the repository opened for reading.

With local state from the configured tiers; with ``--from URL`` from that place alone, with nothing but the
passphrase. Nothing is written to any tier, and nothing is claimed.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tandem_protocol.errors import NoTierReachable, Refused, Unavailable, Usage

from . import output
from .common import Settings
from .configuring import host_key_check, login_options

if TYPE_CHECKING:
    from ..config import Config, TierConfig
    from ..reading import RepositoryView

F = TypeVar("F", bound=Callable[..., Any])

_MAX_NOTICES = 20
"""Lines that people still read: of a badly damaged tier there is one for each document."""

_OPTIONS = (
    click.option("--tier", metavar="NAME", help="Read from this tier alone."),
    click.option(
        "--from", "url", metavar="URL", help="Read from here, without configuration or local state."
    ),
    login_options,
)


def reading_options(function: F) -> F:
    """Add ``--tier``, ``--from`` and how to log in there."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@asynccontextmanager
async def open_view(settings: Settings, where: Mapping[str, Any]) -> AsyncIterator[RepositoryView]:
    """The repository that the options of `reading_options` (``where``) name. Its notices are shown."""
    from ..opening import open_place, open_reader

    if where["url"] and where["tier"]:
        raise Usage("--from and --tier do not go together", "--from reads from that place alone anyway")
    if where["url"]:
        config = await _place_alone(where)
        opened = open_place(config, settings.passphrase(None, account=config.tiers[0].url))
    else:
        config = settings.load()
        _check_tier(config, where["tier"])
        opened = open_reader(config, settings.passphrase(config), only=where["tier"])
    async with opened as view:
        shown = _show(view.notices)
        try:
            yield view
        finally:
            _show(view.notices[shown:])  # tiers are contacted when they are first asked


def _show(notices: Sequence[str]) -> int:
    """One line each for the first of ``notices``; how many there are."""
    for notice in notices[:_MAX_NOTICES]:
        output.notice(f"notice: {output.shown(notice)}")
    if len(notices) > _MAX_NOTICES:
        output.notice(f"notice: and {len(notices) - _MAX_NOTICES} more like these")
    return len(notices)


def _check_tier(config: Config, wanted: str | None) -> None:
    names = [tier.name for tier in config.tiers]
    if wanted is not None and wanted not in names:
        raise click.BadParameter(
            f"no tier is called {wanted!r}; there are: {', '.join(names)}", param_hint="'--tier'"
        )


async def _place_alone(where: Mapping[str, Any]) -> Config:
    """A configuration with one tier, called by its URL, and no repository of its own. A server whose key
    was confirmed by ``init`` for this user's usual repository is known."""
    from ..config import Config, TierConfig, default_state_dir
    from ..places import parse_place, read_fingerprint

    place = parse_place(where["url"], os.getcwd())
    tier = TierConfig(
        name=place.url,
        place=place,
        identity_file=_absolute(where["identity_file"]),
        password_file=_absolute(where["password_file"]),
        password_command=tuple(shlex.split(where["password_command"] or "")) or None,
        host_keys=tuple(where["accepted"]),
        ca_file=_absolute(where["ca_file"]),
        certificate_fingerprint=read_fingerprint(where["certificate_fingerprint"])
        if where["certificate_fingerprint"]
        else None,
        insecure=where["insecure"],
    )
    config = Config(tiers=(tier,), state_dir=default_state_dir())
    if tier.place.scheme == "sftp" and not tier.host_keys:
        tier = await _confirmed(config, tier)
    return Config(tiers=(tier,), state_dir=config.state_dir)


async def _confirmed(config: Config, tier: TierConfig) -> TierConfig:
    """``tier`` with the host keys that its server shows, once a person has said that they are right."""
    import dataclasses

    from tandem_protocol.stores.host_keys import fetch_host_keys

    from ..wiring import pinned_lines

    if pinned_lines(config, tier.place):
        return tier
    try:
        keys = await fetch_host_keys(tier.place.host, tier.place.port)
    except Unavailable as fault:
        raise NoTierReachable(fault.what, fault.remedy) from fault
    if not host_key_check(set())(tier.name, keys):
        raise Refused("the server's host key was not confirmed", "ask the server's owner for it")
    return dataclasses.replace(tier, host_keys=tuple(key.fingerprint for key in keys))


def _absolute(name: str | None) -> str | None:
    return os.path.abspath(os.path.expanduser(name)) if name else None
