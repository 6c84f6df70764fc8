"""The long form: many states of the rules as they are, over all configurations, on as many cores as wanted."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

from tests.model.configurations import ALL, Configuration
from tests.model.mutants import BUDGETS, configuration_for
from tests.model.rules import NAMES, Rules
from tests.model.search import Outcome, search

Report = Callable[[Configuration, Outcome], None]


def sweep(states: int, jobs: int, report: Report) -> int:
    """Visit about ``states`` states in all; gives how many it were. Each configuration gets an equal share of what is
    left when its turn comes, so that what small ones leave goes to the others. ``report`` is told of each."""
    waiting = sorted(ALL, key=lambda one: sum(one.budget))
    done = 0
    promised = 0
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        running: dict[Future[Outcome], tuple[Configuration, int]] = {}
        while waiting or running:
            while waiting and len(running) < jobs:
                one = waiting.pop(0)
                share = max(1, (states - done - promised) // (len(waiting) + 1))
                promised += share
                running[pool.submit(search, one, Rules(), share)] = one, share
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                one, share = running.pop(future)
                outcome = future.result()
                promised -= share
                done += outcome.states
                report(one, outcome)
    return done


def printed_run(outcome: Outcome) -> Iterator[str]:
    """The shortest run to a broken promise, a line each."""
    for number, label in enumerate(outcome.run, 1):
        yield f"    {number:2}. {label}"
    yield f"    {outcome.broken}"


def campaign(states: int, jobs: int = 2) -> bool:
    """`sweep` with a line for each configuration; whether every promise held."""
    held = True

    def tell(one: Configuration, outcome: Outcome) -> None:
        nonlocal held
        extent = "all of them" if outcome.whole else f"up to {outcome.depth} steps"
        rate = int(outcome.states / max(outcome.seconds, 0.001))
        print(f"  {one.name}: {outcome.states} states, {extent}, {rate} a second", flush=True)
        if outcome.broken:
            held = False
            print("\n".join(printed_run(outcome)), flush=True)

    done = sweep(states, jobs, tell)
    print(f"model: {done} states, {'no promise broken' if held else 'A PROMISE IS BROKEN'}", flush=True)
    return held


def missed_mutants(seconds: float = 600.0) -> list[str]:
    """The rules that nothing breaks without, as far as is found in so many seconds each."""
    return [rule for rule in BUDGETS if not is_found(rule, seconds)]


def is_found(rule: str, seconds: float) -> bool:
    """Take a rule out and print the shortest run that breaks a promise."""
    outcome = search(configuration_for(rule), Rules(rule), seconds=seconds)
    print(f"without {rule} ({NAMES[rule]}): {outcome.states} states, {outcome.seconds:.1f} s")
    if not outcome.broken:
        print("    NOT FOUND" + (" in all states" if outcome.whole else ""), flush=True)
        return False
    print("\n".join(printed_run(outcome)), flush=True)
    return True
