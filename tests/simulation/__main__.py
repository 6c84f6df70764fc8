"""`python -m tests.simulation SEED STEPS [FAULT]...`: one run again, its whole trace; exit 1 if it shows something."""

from __future__ import annotations

import sys

from tests.simulation import simulate

if __name__ == "__main__":
    simulate.LAST_LINES = 1_000_000
    try:
        seed, steps, *faults = sys.argv[1:]
        print(*simulate.simulate(int(seed), int(steps), faults), sep="\n")
    except simulate.Failed as failure:
        print(failure)
        sys.exit(1)
