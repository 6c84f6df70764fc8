"""What contact and synchronisation cost: the rows, medians, what has to come out. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.rows import WORSE
from bench.targets import Verdict


@dataclass(frozen=True)
class Timing:
    """One measured run. Seconds: until the last link was up, and what the row is about; how many questions were put
    to all tiers together."""

    row: str
    round: int
    connect: float
    seconds: float
    questions: int


@dataclass(frozen=True)
class CostRow:
    """A line of the table. ``tiers``: the generated ones that are contacted (level: it holds all; behind: all but the
    last revision; far: a tenth; new: nothing). ``below``: seconds that the median has to stay below."""

    name: str
    title: str
    group: str
    revisions: int
    objects: int
    tiers: tuple[str, ...]
    below: float
    what: str = "s beyond the connection"


def _contacts(revisions: int) -> list[CostRow]:
    """Contact with nothing to do, and with one tier that lags."""
    length = f"{revisions:,} revisions"
    each = [
        ("contact", f"contact, {length}", ("level", "level-too")),
        ("lagging", f"contact with a tier that lacks nine tenths of {length}", ("far",)),
        ("new", f"contact with a new tier after {length}", ("new",)),
    ]
    return [
        CostRow(f"{name}-{revisions}", title, "contact", revisions, 10 + revisions, tiers, 0.2)
        for name, title, tiers in each
    ]


MILLION = 1_000_000
COST_ROWS = (
    *(row for revisions in (10, 1_000, 100_000) for row in _contacts(revisions)),
    CostRow(
        "resync",
        "one missed revision of 10 objects, of 1,000,000",
        "resync",
        1_000,
        MILLION,
        ("level", "behind"),
        2.0,
        "s in all",
    ),
    CostRow(
        "contact-objects",
        "contact, 1,000,000 objects",
        "resync",
        1_000,
        MILLION,
        ("level", "level-too"),
        0.2,
    ),
)
HEADS = ("contact and synchronisation", "questions", "connection ms", "ms", "(from to)")


@dataclass(frozen=True)
class Cost:
    """The rounds of one row: medians; seconds."""

    connect: float
    seconds: float
    fastest: float
    slowest: float
    questions: int


def medians(timings: Iterable[Timing]) -> dict[str, Cost]:
    """By row."""
    rounds: dict[str, list[Timing]] = {}
    for timing in timings:
        rounds.setdefault(timing.row, []).append(timing)
    return {name: _cost(group) for name, group in rounds.items()}


def _cost(group: Sequence[Timing]) -> Cost:
    seconds = [timing.seconds for timing in group]
    return Cost(
        statistics.median(timing.connect for timing in group),
        statistics.median(seconds),
        min(seconds),
        max(seconds),
        round(statistics.median(timing.questions for timing in group)),
    )


def cost_verdicts(costs: Mapping[str, Cost]) -> list[Verdict]:
    """Every target, met where it was measured and stayed below."""
    found = []
    for row in COST_ROWS:
        cost = costs.get(row.name)
        target = f"below {row.below:g} {row.what}"
        if cost is None:
            found.append(Verdict(row.name, target, "not measured", None))
        else:
            found.append(Verdict(row.name, target, f"{cost.seconds:.3f} s", cost.seconds < row.below))
    return found


def cost_table(costs: Mapping[str, Cost]) -> list[tuple[str, ...]]:
    """Cells, head first; just the head if nothing was measured."""
    lines: list[tuple[str, ...]] = [HEADS]
    for row in COST_ROWS:
        cost = costs.get(row.name)
        if cost is not None:
            spread = f"{cost.fastest * 1000:.0f} {cost.slowest * 1000:.0f}"
            lines.append(
                (
                    row.title,
                    str(cost.questions),
                    f"{cost.connect * 1000:.0f}",
                    f"{cost.seconds * 1000:.0f}",
                    spread,
                )
            )
    return lines


def cost_regressions(now: Mapping[str, Cost], before: Mapping[str, Cost]) -> list[str]:
    """Where more is asked than before, or where it has become slower by more than the noise of milliseconds."""
    lines = []
    for row in COST_ROWS:
        new, old = now.get(row.name), before.get(row.name)
        if new is None or old is None:
            continue
        if new.questions > old.questions:
            lines.append(f"{row.name}: {new.questions} questions, was {old.questions}")
        if new.seconds > old.seconds * WORSE + 0.02:
            lines.append(f"{row.name}: {new.seconds * 1000:.0f} ms, was {old.seconds * 1000:.0f} ms")
    return lines
