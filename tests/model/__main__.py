"""`python -m tests.model --mutants`: each rule taken out, with the shortest run that breaks a promise;
`python -m tests.model --states N`: the rules as they are, N states in all over all configurations."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.model.mutants import BUDGETS, configuration_for
from tests.model.rules import NAMES, Rules
from tests.model.search import search


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if every mutant is found, and no promise is broken without one."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--mutants", nargs="*", metavar="RULE", help="take out these rules, or each in turn")
    parser.add_argument("--seconds", type=float, default=120.0, help="most for one mutant")
    options = parser.parse_args(arguments)
    missed = 0
    for rule in options.mutants or list(BUDGETS):
        outcome = search(configuration_for(rule), Rules(rule), seconds=options.seconds)
        print(f"without {rule} ({NAMES[rule]}): {outcome.states} states, {outcome.seconds:.1f} s")
        if outcome.broken:
            print("".join(f"    {n:2}. {label}\n" for n, label in enumerate(outcome.run, 1)), end="")
            print(f"    {outcome.broken}", flush=True)
        else:
            missed += 1
            print("    NOT FOUND", "in all states" if outcome.whole else "", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
