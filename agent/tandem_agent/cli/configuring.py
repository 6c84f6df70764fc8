"""What `init` and `takeover` share: the options that describe a repository's tiers, and the configuration that they
make, or that is there already."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tandem_protocol.errors import Refused, Usage

from . import output
from .common import Settings, confirmed, ftp_options
from .sources import checked_sources

if TYPE_CHECKING:
    from ..config import Config, TierConfig

F = TypeVar("F", bound=Callable[..., Any])

_LOGIN = (
    click.option("--identity-file", metavar="FILE", help="SSH private key for sftp."),
    click.option("--password-file", metavar="FILE", help="File with the login password for the server."),
    click.option("--password-command", metavar="COMMAND", help="Command that prints that password."),
    ftp_options,
    click.option(
        "--accept-host-key",
        "accepted",
        multiple=True,
        metavar="SHA256:…",
        help="Trust a server with this host key, without asking.",
    ),
)
_REPOSITORY = (
    click.option(
        "--tier",
        "tiers",
        multiple=True,
        metavar="NAME=URL",
        help="A folder, file:///FOLDER, or USER@HOST:PORT/FOLDER after sftp://, ftpes:// or ftps://. Repeatable; "
        "read in this order.",
    ),
    click.option(
        "--exclude", multiple=True, metavar="PATTERN", help="Leave out what matches (as in .gitignore)."
    ),
    click.option(
        "--one-file-system", is_flag=True, help="Do not go into file systems mounted inside a source."
    ),
    click.option(
        "--state-dir", metavar="DIR", help="Where the local state is kept (else the user's state folder)."
    ),
)


def login_options(function: F) -> F:
    """Add the options that say how a server is logged in to, and whether it is trusted."""
    for option in reversed(_LOGIN):
        function = option(function)
    return function


def repository_options(function: F) -> F:
    """Add the options that describe a repository's tiers and sources."""
    function = login_options(function)
    for option in reversed(_REPOSITORY):
        function = option(function)
    return function


def tier_config(config: Config, name: str, url: str, arguments: dict[str, Any]) -> TierConfig:
    """One more tier for ``config``, as the command line describes it."""
    from ..config_read import parse_config

    draft = _draft({**arguments, "tiers": (f"{name}={url}",)})
    return parse_config(draft, config.path, where="the command line").tiers[0]


def configuration(
    settings: Settings, sources: Sequence[str], arguments: dict[str, Any]
) -> tuple[Config, str]:
    """The configuration to use, and its text if the file has still to be written (else "")."""
    from ..config import default_config_path

    path = os.path.abspath(os.path.expanduser(settings.config_option or default_config_path()))
    config, text = _configuration(settings, path, checked_sources(sources), arguments)
    settings.state_dir = config.state_dir
    return config, text


def written(config: Config, text: str) -> None:
    """Write the configuration file, if it is a new one."""
    if text:
        from ..config_write import write_new

        write_new(config.path, text)


def _configuration(
    settings: Settings, path: str, sources: Sequence[bytes], arguments: dict[str, Any]
) -> tuple[Config, str]:
    from ..config_read import parse_config
    from ..config_write import render_config

    there = os.path.lexists(path)
    if not arguments["tiers"]:
        if there:
            return _same(settings.load(), sources, None), ""
        raise Usage("no tier given", "add --tier NAME=URL, see --help")
    wanted = parse_config(_draft(arguments), path, where="the command line")
    wanted = _with(wanted, sources, path, arguments)
    if there:
        return _same(settings.load(), sources, wanted), ""
    text = render_config(wanted, write_state_dir=True)
    return parse_config(text, path, where="the command line"), text


def _draft(arguments: dict[str, Any]) -> str:
    """The tiers of the command line as TOML, so that one reader checks them and the file alike."""
    import json

    from ..places import parse_place

    lines = []
    for argument in arguments["tiers"]:
        name, equals, url = argument.partition("=")
        if not equals or not name or not url:
            raise Usage(
                f"--tier {argument} is not NAME=URL", "write for example --tier vault=/mnt/nas/tandem"
            )
        place = parse_place(url, os.getcwd())
        lines += ["[[tier]]", f"name = {json.dumps(name)}", f"url = {json.dumps(place.url)}"]
        if place.scheme == "sftp" and arguments["identity_file"]:
            lines.append(f"identity_file = {json.dumps(_absolute(arguments['identity_file']))}")
        if place.scheme in ("ftpes", "ftps"):
            if arguments["ca_file"]:
                lines.append(f"ca_file = {json.dumps(_absolute(arguments['ca_file']))}")
            if arguments["certificate_fingerprint"]:
                lines.append(f"certificate_fingerprint = {json.dumps(arguments['certificate_fingerprint'])}")
        if place.scheme == "ftp" and arguments["insecure"]:
            lines.append("insecure = true")
        if place.scheme != "file":
            if arguments["password_file"]:
                lines.append(f"password_file = {json.dumps(_absolute(arguments['password_file']))}")
            if arguments["password_command"]:
                lines.append(f"password_command = {json.dumps(shlex.split(arguments['password_command']))}")
    return "\n".join(lines)


def _with(config: Config, sources: Sequence[bytes], path: str, arguments: dict[str, Any]) -> Config:
    import dataclasses

    state = arguments["state_dir"]
    return dataclasses.replace(
        config,
        sources=tuple(sources),
        exclude=tuple(arguments["exclude"]),
        one_file_system=arguments["one_file_system"],
        state_dir=_absolute(state) if state else _state_dir_for(path),
    )


def _state_dir_for(path: str) -> str:
    """The default state folder; for a configuration elsewhere one of its own, since two repositories
    cannot share one."""
    from blake3 import blake3
    from platformdirs import user_config_dir

    from ..config import default_state_dir

    if path == os.path.join(user_config_dir("tandem", appauthor=False), "agent.toml"):
        return default_state_dir()
    stem = os.path.splitext(os.path.basename(path))[0]
    return os.path.join(default_state_dir(), f"{stem}-{blake3(os.fsencode(path)).hexdigest()[:8]}")


def _same(existing: Config, sources: Sequence[bytes], wanted: Config | None) -> Config:
    """``existing`` if it says what the arguments say, else `Usage`: it is not overwritten."""
    differs = [
        name
        for name, differs in (
            ("sources", bool(sources) and tuple(sources) != existing.sources),
            ("tiers", wanted is not None and _tiers(wanted) != _tiers(existing)),
        )
        if differs
    ]
    if differs:
        raise Usage(
            f"{existing.path} is there already with other {' and '.join(differs)}",
            "edit it by hand, or name another file with --config",
        )
    return existing


def _tiers(config: Config) -> list[tuple[str, str]]:
    return [(tier.name, tier.url) for tier in config.tiers]


def _absolute(name: str) -> str:
    return os.path.abspath(os.path.expanduser(name))


def host_key_check(accepted: set[str]) -> Callable[[str, Sequence[Any]], bool]:
    """A function that decides whether to trust a server: by ``accepted`` fingerprints, else by asking."""

    def confirm(tier: str, keys: Sequence[Any]) -> bool:
        fingerprints = {key.fingerprint for key in keys}
        if fingerprints & accepted:
            return True
        listed = ", ".join(sorted(fingerprints))
        if accepted:
            raise Refused(
                f"tier {tier}: the server's host key is {listed}, none that --accept-host-key names",
                "ask the server's owner which is right; if none is, somebody is in between",
            )
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise Usage(
                f"tier {tier}: the server's host key {listed} is not confirmed",
                "compare it with what the server's owner says, then give --accept-host-key SHA256:…",
            )
        output.notice(f"Tier {tier}: the server shows this host key:")
        for key in keys:
            output.notice(f"  {output.shown(key.type)}  {output.shown(key.fingerprint)}")
        return confirmed("Is it what the server's owner told you?")

    return confirm
