"""Every exception to one line on stderr and an exit code: the only place that does so.

Expected errors say what and what to do. Anything else is a bug of Tandem: its traceback goes to a file in
the state folder, and the line says where.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from typing import TYPE_CHECKING

import click

from tandem_protocol.errors import TandemError, printable

from .common import StopRequestedError

if TYPE_CHECKING:
    from .common import Settings

FAILED, USAGE, INTERRUPTED = 1, 2, 130
# Where several tiers failed at once, the code that asks most of the user wins.
_SEVERITY = (4, 6, 7, 2, 5, 1)


def report(error: BaseException, settings: Settings) -> int:
    """Say what happened, once, and return the exit code."""
    code, what, remedy = describe(error, settings)
    if what:
        line = f"tandem: {what}: {remedy}" if remedy else f"tandem: {what}"
        with contextlib.suppress(OSError):  # which may be what it is about
            print(line, file=sys.stderr)
            if settings.json:
                print(json.dumps({"error": what, "remedy": remedy, "exit_code": code}), flush=True)
    return code


def describe(error: BaseException, settings: Settings) -> tuple[int, str, str]:
    """(exit code, what happened, what to do) of ``error``; an empty text where all is said already."""
    if isinstance(error, TandemError):
        return error.exit_code, error.what, error.remedy
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.ctx.get_help(), err=True)
        return USAGE, "", ""
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else "tandem"
        what = error.format_message().strip().rstrip(".")
        return USAGE, printable(what[:1].lower() + what[1:]), f"see '{where} --help'"
    if isinstance(error, click.ClickException):
        return USAGE, printable(error.format_message()), ""
    if isinstance(error, KeyboardInterrupt | click.Abort | StopRequestedError) or _is_cancelled(error):
        return INTERRUPTED, "interrupted", "run it again to go on from where it was"
    if isinstance(error, BaseExceptionGroup):
        return min((describe(e, settings) for e in error.exceptions), key=lambda d: _rank(d[0]))
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else FAILED, "", ""
    return _unexpected(error, settings)


def _is_cancelled(error: BaseException) -> bool:
    asyncio = sys.modules.get("asyncio")  # if it was never imported, nothing was cancelled
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


def _rank(code: int) -> int:
    return _SEVERITY.index(code) if code in _SEVERITY else len(_SEVERITY)


def _unexpected(error: BaseException, settings: Settings) -> tuple[int, str, str]:
    import sqlite3

    if type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError):  # the others are misuse
        what = f"local state{_at(settings.state_dir)}: {error}"
        return FAILED, printable(what), "make sure its disk has room, works and may be written"
    if isinstance(error, OSError) and error.strerror:
        name = error.filename if error.filename is not None else ""
        shown = os.fsdecode(name) if isinstance(name, str | bytes) else ""
        what = f"{shown}: {error.strerror}" if shown else error.strerror
        return FAILED, printable(what), "put that right and run it again"
    log = _write_log(error, settings)
    what = f"unexpected error {type(error).__name__}, a fault of Tandem"
    return (
        FAILED,
        what,
        f"please report it with {log}" if log else "its details could not be written to a log",
    )


def _at(folder: str | None) -> str:
    return f" in {folder}" if folder else ""


def _write_log(error: BaseException, settings: Settings) -> str:
    """Write the traceback of ``error`` (code lines, no values) to the state folder; the file's name."""
    import tempfile

    from ..config import default_state_dir

    text = "".join(traceback.format_exception(error))
    name = time.strftime("error-%Y%m%d-%H%M%S-", time.gmtime()) + f"{os.getpid()}.log"
    for folder in (settings.state_dir, default_state_dir(), tempfile.gettempdir()):
        if not folder:
            continue
        path = os.path.join(folder, name)
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            with open(
                os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", errors="replace"
            ) as file:
                file.write(text)
        except OSError:
            continue
        return path
    return ""
