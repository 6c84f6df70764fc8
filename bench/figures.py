"""Figures that are not a comparison of tools: seconds of a start, bytes read, lookups a second. Rows, medians, what
has to come out. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bench.rows import WORSE
from bench.samples import MB
from bench.targets import NOT_MEASURED, Verdict

MIB = 1 << 20


@dataclass(frozen=True)
class Figure:
    """One measured value, in seconds, bytes, or pieces a second."""

    row: str
    round: int
    value: float


@dataclass(frozen=True)
class FigureRow:
    """A line of the table. Values are shown divided by `scale` in `unit`; `below` or `above` is what the median has
    to be, in that unit too; neither: it is only told."""

    name: str
    title: str
    group: str
    unit: str
    scale: float = 1.0
    below: float | None = None
    above: float | None = None

    def words(self, value: float) -> str:
        """The value as shown."""
        return f"{value / self.scale:,.{3 if self.unit == 's' else 1}f} {self.unit}"

    def judge(self, value: float | None) -> Verdict | None:
        """Nothing for a row that is only told."""
        limit = self.above if self.below is None else self.below
        if limit is None:
            return None
        target = f"{'above' if self.below is None else 'below'} {limit:,g} {self.unit}"
        if value is None:
            return Verdict(self.name, target, NOT_MEASURED, None)
        shown = value / self.scale
        return Verdict(
            self.name, target, self.words(value), shown > limit if self.below is None else shown < limit
        )


FIGURE_ROWS = (
    FigureRow("start-version", "tandem --version", "start", "s", below=0.15),
    FigureRow("start-backups", "tandem backups on a long history", "start", "s", below=0.5),
    FigureRow("one-time", "one of the small files, index warm", "million", "s", below=1.0),
    FigureRow("one-read", "the same, read from the vault", "million", "MiB", MIB, below=8.0),
    FigureRow("one-bare-time", "one of the small files, no local state", "million", "s"),
    FigureRow("one-bare-read", "the same, read from all files", "million", "MiB", MIB),
    FigureRow("index-open", "index of many chunks, open", "index", "s", below=1.0),
    FigureRow("index-hits", "the same, lookups that find", "index", "thousand/s", 1_000, above=300),
    FigureRow("index-misses", "the same, lookups that do not", "index", "thousand/s", 1_000, above=300),
    FigureRow("index-heap", "the same, heap", "index", "MB", MB, below=150),
    FigureRow("index-make", "the same, taken in from segments", "index", "s"),
    FigureRow("index-make-heap", "the same, heap meanwhile", "index", "MB", MB),
)
FIGURE_HEADS = ("figure", "median", "(from to)")


@dataclass(frozen=True)
class Spread:
    """The rounds of one row."""

    median: float
    lowest: float
    highest: float


def figure_medians(figures: Iterable[Figure]) -> dict[str, Spread]:
    """By row."""
    rounds: dict[str, list[float]] = {}
    for figure in figures:
        rounds.setdefault(figure.row, []).append(figure.value)
    return {row: Spread(statistics.median(found), min(found), max(found)) for row, found in rounds.items()}


def figure_verdicts(found: Mapping[str, Spread]) -> list[Verdict]:
    """Every target of every row that has one."""
    judged = [row.judge(found[row.name].median if row.name in found else None) for row in FIGURE_ROWS]
    return [verdict for verdict in judged if verdict is not None]


def figure_table(found: Mapping[str, Spread]) -> list[tuple[str, ...]]:
    """Cells, head first; just the head if nothing was measured."""
    lines: list[tuple[str, ...]] = [FIGURE_HEADS]
    for row in FIGURE_ROWS:
        if row.name in found:
            spread = found[row.name]
            lowest, highest = row.words(spread.lowest), row.words(spread.highest)
            lines.append((row.title, row.words(spread.median), f"{lowest.split()[0]} {highest.split()[0]}"))
    return lines


def figure_regressions(now: Mapping[str, Spread], before: Mapping[str, Spread]) -> list[str]:
    """Where a median is worse than before by more than the usual factor."""
    lines = []
    for row in FIGURE_ROWS:
        if row.name in now and row.name in before:
            new, old = now[row.name].median, before[row.name].median
            better, worse = (new, old) if row.above is not None else (old, new)
            if worse > better * WORSE:
                lines.append(f"{row.name}: {row.words(new)}, was {row.words(old)}")
    return lines
