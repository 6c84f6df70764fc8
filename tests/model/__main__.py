"""`python -m tests.model --mutants`: each rule taken out, with the shortest run that breaks a promise;
`python -m tests.model --states 5000000`: the rules as they are. Exit 1 if a mutant is missed or a promise broken."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.model.mutants import BUDGETS, configuration_for
from tests.model.rules import NAMES, Rules
from tests.model.search import search
from tests.model.sweep import campaign, printed_run


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
        good &= all([_is_found(rule, options.seconds) for rule in options.mutants or list(BUDGETS)])
    if options.states:
        good &= campaign(options.states, options.jobs)
    return 0 if good else 1


def _is_found(rule: str, seconds: float) -> bool:
    outcome = search(configuration_for(rule), Rules(rule), seconds=seconds)
    print(f"without {rule} ({NAMES[rule]}): {outcome.states} states, {outcome.seconds:.1f} s")
    if not outcome.broken:
        print("    NOT FOUND" + (" in all states" if outcome.whole else ""), flush=True)
        return False
    print("\n".join(printed_run(outcome)), flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
