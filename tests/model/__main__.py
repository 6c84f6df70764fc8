"""`python -m tests.model --mutants`: each rule taken out, with the shortest run that breaks a promise;
`python -m tests.model --states 5000000`: the rules as they are. Exit 1 if a mutant is missed or a promise broken."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.model.mutants import BUDGETS
from tests.model.sweep import campaign, is_found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--mutants", nargs="*", metavar="RULE", help="take out these rules, or each in turn")
    parser.add_argument("--states", type=int, help="states in all, of the rules as they are")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seconds", type=float, default=300.0, help="most for one mutant")
    options = parser.parse_args(arguments)
    if options.mutants is None and options.states is None:
        parser.error("say what to do: --mutants or --states")
    good = True
    if options.mutants is not None:
        for rule in options.mutants or BUDGETS:
            good &= is_found(rule, options.seconds)
    if options.states:
        good &= campaign(options.states, options.jobs)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
