"""What has to come out of a row: targets that judge the medians of one run. Pure.

A target that needs a tool which was not measured is neither met nor missed, unless what was measured settles it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from bench.samples import MB, Summaries

OURS = "tandem"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Verdict:
    """A target and how it came out; `met` is None where it was not measured."""

    row: str
    target: str
    found: str
    met: bool | None


class Target(Protocol):
    """A promise about Tandem's side of a row."""

    def judge(self, row: str, summaries: Summaries) -> Verdict:
        """How it came out in the row of that name."""
        ...


@dataclass(frozen=True)
class OrCopy:
    """The way out of a `TimeShare`: at most `times` of what copy and fsync of the same bytes took in `row`."""

    times: Fraction
    row: str


@dataclass(frozen=True)
class TimeShare:
    """At most `most` of the wall time of the fastest of `rivals` in the same row; or, with `or_copy`, of a copy."""

    most: Fraction
    rivals: tuple[str, ...]
    or_copy: OrCopy | None = None

    def judge(self, row: str, summaries: Summaries) -> Verdict:
        """A rival that is missing could only have been faster: what is missed without it stays missed."""
        ours = summaries.get((row, OURS))
        walls = {rival: summaries[row, rival].wall for rival in self.rivals if (row, rival) in summaries}
        if ours is None:
            return Verdict(row, self._words(), NOT_MEASURED, None)
        found: list[str] = []
        met: bool | None = None
        if walls:
            fastest = min(walls, key=walls.__getitem__)
            share = ours.wall / walls[fastest]
            found.append(f"{share:.2f} of {fastest}")
            met = False if share > self.most else True if len(walls) == len(self.rivals) else None
        copy = summaries.get((self.or_copy.row, "copy")) if self.or_copy else None
        if copy is not None and self.or_copy is not None:
            times = ours.wall / copy.wall
            found.append(f"{times:.2f} of copy")
            met = True if times <= self.or_copy.times else met
        elif self.or_copy is not None and not met:
            met = None
        missing = [f"{rival} {NOT_MEASURED}" for rival in self.rivals if rival not in walls]
        return Verdict(row, self._words(), ", ".join(found + missing), met)

    def _words(self) -> str:
        whose = f"{self.rivals[0]}'s time"
        if len(self.rivals) > 1:
            whose = f"the faster of {' and '.join(self.rivals)}"
        words = f"at most {_number(self.most)} of {whose}"
        return f"{words}, or {_number(self.or_copy.times)} of copy + fsync" if self.or_copy else words


@dataclass(frozen=True)
class PeakBelow:
    """Less than `megabytes` (10^6 bytes) of memory at any time, in any round."""

    megabytes: int

    def judge(self, row: str, summaries: Summaries) -> Verdict:
        """Looks at the largest peak of all rounds."""
        target = f"peak below {self.megabytes} MB"
        ours = summaries.get((row, OURS))
        if ours is None:
            return Verdict(row, target, NOT_MEASURED, None)
        return Verdict(row, target, f"{ours.peak / MB:.0f} MB", ours.peak < self.megabytes * MB)


@dataclass(frozen=True)
class NoLarger:
    """A repository of at most the size of another tool's, to the byte."""

    rival: str

    def judge(self, row: str, summaries: Summaries) -> Verdict:
        """Compares what was stored."""
        target = f"repository at most {self.rival}'s"
        ours, theirs = summaries.get((row, OURS)), summaries.get((row, self.rival))
        if ours is None or theirs is None:
            return Verdict(row, target, NOT_MEASURED, None)
        share = ours.stored / theirs.stored
        return Verdict(row, target, f"{share:.4f}", ours.stored <= theirs.stored)


@dataclass(frozen=True)
class NoSlowerThan:
    """As much work a second as in another row, whose files are of the same size: so, per file no slower."""

    row: str

    def judge(self, row: str, summaries: Summaries) -> Verdict:
        """Compares the seconds for a byte of work."""
        target = f"per file no slower than in {self.row}"
        ours, other = summaries.get((row, OURS)), summaries.get((self.row, OURS))
        if ours is None or other is None:
            return Verdict(row, target, NOT_MEASURED, None)
        times = other.rate / ours.rate
        return Verdict(row, target, f"{times:.2f} times as long", times <= 1)


@dataclass(frozen=True)
class RateOrBeat:
    """`megabytes` a second, or at least the speed of another tool in the same run."""

    megabytes: int
    rival: str

    def judge(self, row: str, summaries: Summaries) -> Verdict:
        """One of the two is enough."""
        target = f"{self.megabytes} MB/s, or {self.rival}'s speed"
        ours, theirs = summaries.get((row, OURS)), summaries.get((row, self.rival))
        if ours is None:
            return Verdict(row, target, NOT_MEASURED, None)
        found = f"{ours.rate / MB:.0f} MB/s"
        if theirs is not None:
            found += f" ({self.rival} {theirs.rate / MB:.0f})"
        fast = ours.rate >= self.megabytes * MB or (theirs is not None and ours.rate >= theirs.rate)
        return Verdict(row, target, found, fast)


def _number(share: Fraction) -> str:
    """1/3 as such, the rest as a decimal."""
    return str(share) if share.numerator == 1 and share < 1 else f"{float(share):g}"
