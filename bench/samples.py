"""One measured command, and what several rounds of it come to: medians per row and tool. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

MB = 1_000_000


@dataclass(frozen=True)
class Sample:
    """One measured run. Seconds and bytes; `work` is the size of what was read or restored."""

    row: str
    tool: str
    round: int
    wall: float
    cpu: float
    peak: int
    stored: int
    others: float
    work: int


@dataclass(frozen=True)
class Summary:
    """The rounds of one tool in one row: medians, but the largest peak."""

    wall: float
    fastest: float
    slowest: float
    cpu: float
    peak: int
    stored: int
    others: float
    work: int

    @property
    def rate(self) -> float:
        """Bytes of work a second."""
        return self.work / self.wall


Summaries: TypeAlias = Mapping[tuple[str, str], Summary]


def summarise(samples: Iterable[Sample]) -> dict[tuple[str, str], Summary]:
    """Medians per row and tool."""
    rounds: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        rounds.setdefault((sample.row, sample.tool), []).append(sample)
    return {key: _summary(group) for key, group in rounds.items()}


def _summary(group: Sequence[Sample]) -> Summary:
    walls = [sample.wall for sample in group]
    return Summary(
        wall=statistics.median(walls),
        fastest=min(walls),
        slowest=max(walls),
        cpu=statistics.median(sample.cpu for sample in group),
        peak=max(sample.peak for sample in group),
        stored=round(statistics.median(sample.stored for sample in group)),
        others=statistics.median(sample.others for sample in group),
        work=group[0].work,
    )
