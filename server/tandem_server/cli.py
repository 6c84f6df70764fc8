"""The command ``tandem-server``: arguments in, exit code and one line out."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
from dataclasses import replace

import click

from tandem_protocol import __version__
from tandem_protocol.errors import TandemError, Usage, printable

from .limits import Limits

INTERRUPTED = 130


def address(text: str) -> tuple[str, int]:
    """(host, port) of HOST:PORT; an empty host is every address, [..] holds an IPv6 one."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise Usage(f"{text} is not HOST:PORT", "for example --listen 0.0.0.0:2022")
    if ":" in host.strip("[]") and not (host.startswith("[") and host.endswith("]")):
        raise Usage(f"{text} is not HOST:PORT", "write an IPv6 address in brackets: [::1]:2022")
    return host.strip("[]"), int(port)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tandem-server")
def cli() -> None:
    """The provider's side of Tandem: an SFTP server for backups."""


@cli.command(epilog="\b\nExample:\n  tandem-server run --root /srv/tandem --listen 0.0.0.0:2022 \\\n"
             "      --authorized-keys /etc/tandem/authorized_keys")  # fmt: skip
@click.option(
    "--root", required=True, metavar="DIR", help="The folder clients see as /; nothing else is reachable."
)
@click.option(
    "--listen", default="0.0.0.0:2022", show_default=True, metavar="HOST:PORT", help="Port 0: any free one."
)
@click.option(
    "--authorized-keys", required=True, metavar="FILE", help="Public keys that may log in, one a line."
)
@click.option(
    "--host-key", metavar="FILE", help="Made if it is not there.  [default: DIR.host_key, beside DIR]"
)
def run(root: str, listen: str, authorized_keys: str, host_key: str | None) -> None:
    """Serve a folder over SFTP: jailed, public keys only, no shell, no commands, no forwarding.

    Prints the host key's fingerprint and, when clients can connect, "listening on HOST:PORT".
    Runs in the foreground until SIGTERM or Ctrl-C.
    """
    for option, value in (("--root", root), ("--host-key", host_key)):
        if value == "":  # a variable that is not set must not come to mean the current folder
            raise Usage(f"{option} is empty", "name it (a variable that is not set?)")
    sys.exit(asyncio.run(_serve(root, listen, authorized_keys, host_key)))


async def _serve(root: str, listen: str, authorized_keys: str, host_key: str | None) -> int:
    """Serve until a signal; returns the exit code. Raises `TandemError` when it cannot begin."""
    from . import access
    from .listener import Listener, Setup

    host, port = address(listen)
    real_root = access.open_root(root)
    key_file = host_key or f"{real_root}.host_key"
    access.check_outside(real_root, authorized_keys, "--authorized-keys")
    access.check_outside(real_root, key_file, "--host-key")
    access.authorized_keys(authorized_keys)
    key = access.host_key(key_file)
    os.umask(0o077)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    listener = Listener(Setup(real_root, host, port, authorized_keys, key, _limits()))
    stop: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, INTERRUPTED)):
        asyncio.get_running_loop().add_signal_handler(number, _finish, stop, code)
    try:
        port = await listener.start()
        click.echo(f"host key {key.get_fingerprint()} ({key_file})")
        click.echo(f"listening on {f'[{host}]' if ':' in host else host}:{port}")
        sys.stdout.flush()
        return await stop
    finally:
        await listener.stop()


def _finish(stop: asyncio.Future[int], code: int) -> None:
    if not stop.done():
        stop.set_result(code)


def _limits() -> Limits:
    """The usual limits; fewer handles where the system allows fewer open files (the soft limit is raised)."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limits = Limits()
    if hard == resource.RLIM_INFINITY:
        return limits
    room = hard - limits.connections - limits.waiting - 8 * limits.threads - 64
    return replace(limits, all_handles=max(16, min(limits.all_handles, room)))


def main() -> None:
    """Entry point: every expected error is one line on stderr and its exit code."""
    try:
        cli(prog_name="tandem-server")
    except TandemError as error:
        click.echo(f"tandem-server: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"tandem-server: {printable(str(error))}", err=True)
        sys.exit(1)
