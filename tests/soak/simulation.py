"""The simulation in its long form: more seeds than the tests have, and longer runs, on all processors.

Each seed is a run of its own (`tests.simulation`); the first that shows something ends the campaign, with the end of
its trace and the command that repeats it.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from tests.simulation.simulate import Failed, simulate
from tests.support.lab import LabFailure

STEPS = 24
AT_ONCE = 50
WORDS = ("ACKNOWLEDGED", "ALARM", "take_over", "DROPPED", "LOST", "Killed", "STORAGE", "Unavailable")


@dataclass
class SimulationTally:
    """What the runs had in them."""

    runs: int = 0
    lines: int = 0
    words: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        told = ", ".join(f"{self.words[word]} {word.lower()}" for word in WORDS)
        return f"{self.runs} runs, {self.lines} lines of trace: {told}"


def why_not() -> str | None:
    """Nothing is needed."""
    return None


def campaign(_folder: str, runs: int, seed: int) -> list[SimulationTally]:
    """Runs the seeds from ``seed`` on. Raises LabFailure."""
    total = SimulationTally()
    with ProcessPoolExecutor() as pool:
        try:
            for one in pool.map(_some, _parts(seed, runs)):
                total.runs += one.runs
                total.lines += one.lines
                total.words += one.words
        except Failed as failure:
            pool.shutdown(wait=False, cancel_futures=True)
            raise LabFailure(str(failure)) from failure
    return [total]


def _parts(seed: int, runs: int) -> Iterator[range]:
    for first in range(seed, seed + runs, AT_ONCE):
        yield range(first, min(first + AT_ONCE, seed + runs))


def _some(seeds: range) -> SimulationTally:
    tally = SimulationTally()
    for seed in seeds:
        trace = simulate(seed, STEPS)
        tally.runs += 1
        tally.lines += len(trace)
        for line in trace:
            tally.words.update(word for word in line.split()[1:] if word in WORDS)
    gc.collect()
    return tally
