"""What every command shares: the common options, the settings they fill, and how a coroutine is run."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from ..config import Config

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class StopRequestedError(Exception):
    """The user or the system asked the running command to stop, and it has."""


@dataclass
class Settings:
    """The common options of one command line. They may stand before or after the command."""

    config_option: str | None = None
    json: bool = False
    quiet: bool = False
    passphrase_file: str | None = None
    state_dir: str | None = None
    """Known once a configuration was loaded: where a log of an unexpected error goes."""

    def load(self) -> Config:
        """The configuration that holds here."""
        from ..config import load_config

        config = load_config(self.config_option)
        self.state_dir = config.state_dir
        return config

    def passphrase(self, config: Config | None, *, new: bool = False, account: str = "") -> Callable[[], str]:
        from ..passphrase import passphrase_source

        return passphrase_source(config, self.passphrase_file, new=new, account=account)


def _setter(field: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def set_field(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        _check_not_empty(ctx, param, value)
        if value is not None and value is not False:
            setattr(ctx.ensure_object(Settings), field, value)

    return set_field


def _check_not_empty(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """An empty text is a variable of a script that is not set: it must not come to mean the current folder, all, or
    what holds for none. Only where it is the default it says something."""
    texts = value if isinstance(value, tuple) else (value,)
    if "" in texts and param.default != "":
        raise click.BadParameter("it is empty (a variable that is not set?)", ctx=ctx, param=param)


_OPTIONS = (
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=_setter("quiet"),
        help="No progress, and no text when all is well.",
    ),
    click.option(
        "--passphrase-file",
        metavar="FILE",
        expose_value=False,
        callback=_setter("passphrase_file"),
        help="Read the passphrase from FILE (- is standard input).",
    ),
    click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_setter("json"),
        help="One JSON document on standard output, nothing else there.",
    ),
    click.option(
        "--config",
        metavar="FILE",
        expose_value=False,
        callback=_setter("config_option"),
        help="Configuration file (else TANDEM_CONFIG, else the user's).",
    ),
)


def common_options(function: F) -> F:
    """Add ``--config``, ``--json``, ``--passphrase-file`` and ``--quiet`` to a command, which is not called with an
    empty argument."""
    function = _refusing_empty(function)
    for option in _OPTIONS:
        function = option(function)
    return function


def _refusing_empty(function: F) -> F:
    @functools.wraps(function)
    def checked(*arguments: Any, **named: Any) -> Any:
        ctx = click.get_current_context()
        for param in ctx.command.params:
            _check_not_empty(ctx, param, ctx.params.get(param.name or ""))
        return function(*arguments, **named)

    return cast("F", checked)


_FTP_OPTIONS = (
    click.option(
        "--insecure", is_flag=True, help="Allow ftp://, which sends passwords in the clear (not contents)."
    ),
    click.option(
        "--certificate-fingerprint",
        metavar="SHA256:…",
        help="The TLS certificate that the server of ftpes:// or ftps:// has to show.",
    ),
    click.option(
        "--ca-file", metavar="FILE", help="Authorities that vouch for it, in place of the system's."
    ),
)


def ftp_options(function: F) -> F:
    """Add what says how far an FTP server is trusted."""
    for option in _FTP_OPTIONS:
        function = option(function)
    return function


def confirmed(question: str) -> bool:
    """Ask on the terminal; no is the answer that is taken for none. Ctrl-C ends the command at once."""
    from ..prompting import interruptible

    with interruptible():
        _forget_what_was_typed()
        return click.confirm(question, default=False, err=True)


def _forget_what_was_typed() -> None:
    """Whoever typed before the question was to be read has not answered it."""
    import termios

    if sys.stdin.isatty():
        termios.tcflush(sys.stdin, termios.TCIFLUSH)


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end. SIGINT, SIGTERM and SIGHUP cancel it; `StopRequestedError` is raised when it
    has cleaned up. A second signal ends the process at once (what is written is safe at every moment)."""
    import asyncio
    import logging

    # Libraries log what their callers are told anyway; without a handler Python would print it.
    logging.getLogger().addHandler(logging.NullHandler())
    with asyncio.Runner() as runner:
        return runner.run(_stoppable(main))


async def _stoppable(main: Coroutine[Any, Any, T]) -> T:
    import asyncio

    loop = asyncio.get_running_loop()
    task = loop.create_task(main)
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if stopping:
            if sys.stderr.isatty():
                sys.stderr.write("\x1b[?25h\n")
                sys.stderr.flush()
            os._exit(130)
        stopping = True
        task.cancel()

    signals = [
        s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN
    ]
    for number in signals:
        loop.add_signal_handler(number, stop)
    try:
        return await task
    except asyncio.CancelledError:
        if stopping:
            raise StopRequestedError from None
        raise
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
