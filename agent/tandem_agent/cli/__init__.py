"""The command line of the agent: `tandem`. Names, exit codes and JSON fields are a contract with scripts.

Commands turn arguments into a call of one use case and its result into text or JSON; they decide nothing
else. Start-up time counts, so everything is imported by the command that needs it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys

_NEW_OBJECTS = 50_000
"""Of which the garbage collector looks for cycles among them. With Python's 700, a first backup of 100,000 small files
spent a tenth of its processor time on looking, at the entries of folders over and over; there are hardly any."""


def main() -> None:
    """Entry point of the program; ends the process."""
    if sys.argv[1:] == ["--version"]:
        from tandem_protocol import __version__

        print(f"tandem {__version__}")
        sys.exit(0)
    gc.set_threshold(_NEW_OBJECTS)
    signal.signal(
        signal.SIGCHLD, signal.SIG_DFL
    )  # where whoever started this ignores it, no child can be waited for
    from .app import run

    _end(run(sys.argv[1:]))


def _end(code: int) -> None:
    """End the process now. Python would wait for threads, of which one may hang in a dead disk's or share's system
    call, and then take everything apart, which takes 0.1 s; what is to last is synced already."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a reader who has gone; a closed stream
            stream.flush()
    os._exit(code)
