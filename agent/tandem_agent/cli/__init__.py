"""The command line of the agent: `tandem`. Names, exit codes and JSON fields are a contract with scripts.

Commands turn arguments into a call of one use case and its result into text or JSON; they decide nothing
else. Start-up time counts, so everything is imported by the command that needs it.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import signal
import sys
from typing import NoReturn

_NEW_OBJECTS = 50_000
"""How many there are before the garbage collector looks for cycles among them. With Python's 700, a first backup of
100,000 small files spent a tenth of its processor time on looking, at the entries of folders over and over; there are
hardly any."""


def main() -> None:
    """Entry point of the program; ends the process."""
    _open_streams()
    if sys.argv[1:] == ["--version"]:
        from tandem_protocol import __version__

        print(f"tandem {__version__}")
        _end(0)
    gc.set_threshold(_NEW_OBJECTS)
    # Where whoever started this ignores it, no child can be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    from .app import run

    _end(run(sys.argv[1:]))


def _open_streams() -> None:
    """Whoever closed a standard stream wants nothing of it. The next file that is opened, a database maybe, would get
    its number, and with it whatever a library writes there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (for as long as the process lives)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Also with PYTHONUNBUFFERED: that results cannot be printed is seen when the work is done.
        sys.stdout.reconfigure(write_through=False)


def _end(code: int) -> NoReturn:
    """End the process now. Python would wait for threads, of which one may hang in a dead disk's or share's system
    call, and then take everything apart, which takes 0.1 s; what is to last is synced already."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has gone
        pass
    except OSError as error:
        if not code:  # else there is a line already
            said = f"what it printed could not be written ({error.strerror}); the rest is done"
            print(f"tandem: {said}", file=sys.stderr)
            code = 1
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)
