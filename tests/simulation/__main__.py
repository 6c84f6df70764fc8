"""`python -m tests.simulation SEED [STEPS]`: one run again, with its whole trace; exit 1 if it shows something."""

from __future__ import annotations

import sys

from tests.simulation import simulate

if __name__ == "__main__":
    simulate.LAST_LINES = 1_000_000
    try:
        print(*simulate.simulate(*map(int, sys.argv[1:3])), sep="\n")
    except simulate.Failed as failure:
        print(failure)
        sys.exit(1)
