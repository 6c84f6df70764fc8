"""What is measured and what has to come out: rows, targets, medians, verdicts. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

MB = 1_000_000
WORSE = 1.2


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


@dataclass(frozen=True)
class Verdict:
    """A target and how it came out; `met` is None where it was not measured."""

    row: str
    target: str
    found: str
    met: bool | None


@dataclass(frozen=True)
class WallShare:
    """At most `most` of another tool's wall time."""

    most: float
    other: str = "restic"

    def judge(self, row: str, summaries: Summaries) -> Verdict:
        """Compares medians of the same run."""
        target = f"at most {self.most:g} of {self.other}'s time"
        ours, theirs = summaries.get((row, "tandem")), summaries.get((row, self.other))
        if ours is None or theirs is None:
            return Verdict(row, target, "not measured", None)
        share = ours.wall / theirs.wall
        return Verdict(row, target, f"{share:.2f}", share <= self.most)


@dataclass(frozen=True)
class PeakBelow:
    """Less than `megabytes` (10^6 bytes) of memory at any time, in any round."""

    megabytes: int

    def judge(self, row: str, summaries: Summaries) -> Verdict:
        """Looks at the largest peak of all rounds."""
        target = f"peak below {self.megabytes} MB"
        ours = summaries.get((row, "tandem"))
        if ours is None:
            return Verdict(row, target, "not measured", None)
        return Verdict(row, target, f"{ours.peak / MB:.0f} MB", ours.peak < self.megabytes * MB)


@dataclass(frozen=True)
class RateOrBeat:
    """`megabytes` a second, or at least the speed of another tool in the same run."""

    megabytes: int
    other: str

    def judge(self, row: str, summaries: Summaries) -> Verdict:
        """One of the two is enough."""
        target = f"{self.megabytes} MB/s, or {self.other}'s speed"
        ours, theirs = summaries.get((row, "tandem")), summaries.get((row, self.other))
        if ours is None:
            return Verdict(row, target, "not measured", None)
        found = f"{ours.rate / MB:.0f} MB/s"
        if theirs is not None:
            found += f" ({self.other} {theirs.rate / MB:.0f})"
        fast = ours.rate >= self.megabytes * MB or (theirs is not None and ours.rate >= theirs.rate)
        return Verdict(row, target, found, fast)


@dataclass(frozen=True)
class Row:
    """A line of the table: what is done, by which tools in which order, and what must come out."""

    name: str
    title: str
    group: str
    tools: tuple[str, ...]
    targets: tuple[WallShare | PeakBelow | RateOrBeat, ...] = ()


ROWS = (
    Row(
        "tree-first",
        "first backup, tree",
        "tree",
        ("tandem", "restic", "copy"),
        (WallShare(0.5), PeakBelow(300)),
    ),
    Row("tree-again", "second backup, nothing changed", "tree", ("tandem", "restic"), (WallShare(0.5),)),
    Row("tree-warm", "the same, page cache warm", "tree", ("tandem", "restic"), (WallShare(0.5),)),
    Row("tree-restore", "restore, tree", "tree", ("tandem", "restic")),
    Row(
        "big-first",
        "first backup, random file",
        "big",
        ("tandem", "restic", "copy"),
        (WallShare(0.5), PeakBelow(300)),
    ),
    Row("big-restore", "restore, random file", "big", ("tandem", "restic")),
    Row(
        "sftp-first",
        "random file to loopback sshd",
        "sftp",
        ("tandem", "sftp", "sftp -f"),
        (RateOrBeat(150, "sftp"),),
    ),
)
GROUPS = tuple(dict.fromkeys(row.group for row in ROWS))


def summarise(samples: Iterable[Sample]) -> dict[tuple[str, str], Summary]:
    """Medians per row and tool."""
    rounds: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        rounds.setdefault((sample.row, sample.tool), []).append(sample)
    return {key: _summary(group) for key, group in rounds.items()}


def verdicts(summaries: Summaries, rows: Sequence[Row] = ROWS) -> list[Verdict]:
    """Every target of every row."""
    return [target.judge(row.name, summaries) for row in rows for target in row.targets]


def regressions(now: Summaries, before: Summaries, worse: float = WORSE) -> list[str]:
    """Where Tandem has become slower, or larger in memory, by the factor `worse`: a line each.

    Times are compared as ratios to a rival of the same run where there is one, since machines differ and
    are noisy.
    """
    lines = []
    for (row, tool), ours in now.items():
        then = before.get((row, tool))
        if tool != "tandem" or then is None:
            continue
        rival = next((key for key in now if key[0] == row and key[1] != "tandem" and key in before), None)
        new, old = ours.wall, then.wall
        if rival is not None:
            new, old = new / now[rival].wall, old / before[rival].wall
        if new > old * worse:
            what = "s" if rival is None else f" of {rival[1]}'s time"
            lines.append(f"{row}: {new:.2f}{what}, was {old:.2f}{what}")
        if ours.peak > then.peak * worse:
            lines.append(f"{row}: peak {ours.peak / MB:.0f} MB, was {then.peak / MB:.0f} MB")
    return lines


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
