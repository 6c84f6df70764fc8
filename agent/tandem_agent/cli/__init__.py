"""The command line of the agent: `tandem`. Names, exit codes and JSON fields are a contract with scripts.

Commands turn arguments into a call of one use case and its result into text or JSON; they decide nothing
else. Start-up time counts, so everything is imported by the command that needs it.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the program; ends the process."""
    if sys.argv[1:] == ["--version"]:
        from tandem_protocol import __version__

        print(f"tandem {__version__}")
        sys.exit(0)
    from .app import run

    sys.exit(run(sys.argv[1:]))
