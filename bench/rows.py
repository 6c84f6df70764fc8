"""What commands are measured, with which tools, and what must come out: the targets for large data. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from bench.samples import MB, Summaries
from bench.targets import (
    NoLarger,
    NoSlowerThan,
    OrCopy,
    PeakBelow,
    RateOrBeat,
    Target,
    TimeShare,
    Verdict,
)

WORSE = 1.2
RIVALS = ("restic", "borg")
THIRD, FIFTH, HALF = Fraction(1, 3), Fraction(1, 5), Fraction(1, 2)
QUARTER_MORE, TENTH_MORE = Fraction(5, 4), Fraction(11, 10)


@dataclass(frozen=True)
class Row:
    """A line of the table: what is done, by which tools in which order, and what must come out."""

    name: str
    title: str
    group: str
    tools: tuple[str, ...]
    targets: tuple[Target, ...] = ()


KEEPERS = ("tandem", *RIVALS)
FIRST = (*KEEPERS, "copy")


def _or_copy(row: str) -> OrCopy:
    return OrCopy(QUARTER_MORE, row)


def _restore(kind: str, title: str) -> Row:
    target = TimeShare(HALF, RIVALS, _or_copy(f"{kind}-first"))
    return Row(f"{kind}-restore", f"restore, {title}", kind, KEEPERS, (target,))


def _large(kind: str, title: str) -> Row:
    targets = (TimeShare(THIRD, RIVALS, _or_copy(f"{kind}-first")), NoLarger("restic"), PeakBelow(300))
    return Row(f"{kind}-first", f"first backup, {title}", kind, FIRST, targets)


def _far(milliseconds: int) -> Row:
    title = f"random file over sftp, {milliseconds} ms round trip"
    return Row(
        f"sftp-{milliseconds}", title, "sftp", ("tandem", "ssh cat"), (TimeShare(Fraction(1), ("ssh cat",)),)
    )


ROWS = (
    Row(
        "tree-first",
        "first backup, tree",
        "tree",
        FIRST,
        (TimeShare(THIRD, RIVALS), NoLarger("restic"), PeakBelow(300)),
    ),
    Row(
        "tree-again",
        "second backup, nothing changed",
        "tree",
        KEEPERS,
        (TimeShare(FIFTH, RIVALS), TimeShare(FIFTH, ("restic",))),
    ),
    Row("tree-warm", "the same, page cache warm", "tree", KEEPERS, (TimeShare(FIFTH, RIVALS),)),
    Row("tree-changed", "1 % of the files changed", "tree", KEEPERS, (TimeShare(THIRD, RIVALS),)),
    _restore("tree", "tree"),
    _large("big", "random file"),
    _restore("big", "random file"),
    _large("image", "disk image"),
    Row("image-changed", "1 % of the image changed", "image", KEEPERS, (TimeShare(THIRD, RIVALS),)),
    _restore("image", "disk image"),
    Row("small-first", "files of 4 KiB, a tenth as many", "million", ("tandem",)),
    Row(
        "million-first",
        "files of 4 KiB",
        "million",
        ("tandem",),
        (PeakBelow(500), NoSlowerThan("small-first")),
    ),
    Row(
        "sftp-first",
        "random file to loopback sshd",
        "sftp",
        ("tandem", "ssh cat", "sftp", "sftp -f"),
        (TimeShare(QUARTER_MORE, ("ssh cat",)), RateOrBeat(150, "sftp")),
    ),
    _far(20),
    _far(100),
    Row(
        "both-remote",
        "both tiers, remote at 20 MB/s",
        "both",
        ("tandem", "remote alone"),
        (TimeShare(TENTH_MORE, ("remote alone",)),),
    ),
    Row(
        "both-lag",
        "both tiers, lag budget of zero",
        "both",
        ("tandem", "vault alone"),
        (TimeShare(TENTH_MORE, ("vault alone",)),),
    ),
    Row(
        "mirror-sync",
        "resync of a copy on sftp",
        "mirror",
        ("tandem", "rclone"),
        (TimeShare(QUARTER_MORE, ("rclone",)),),  # 0.8 of its speed
    ),
)


def verdicts(summaries: Summaries, rows: Sequence[Row] = ROWS) -> list[Verdict]:
    """Every target of every row."""
    return [target.judge(row.name, summaries) for row in rows for target in row.targets]


def regressions(now: Summaries, before: Summaries, worse: float = WORSE) -> list[str]:
    """Where Tandem has become slower, or larger in memory or on the disk, by the factor `worse`: a line each.

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
        for word, larger, was in (("peak", ours.peak, then.peak), ("stored", ours.stored, then.stored)):
            if larger > was * worse:
                lines.append(f"{row}: {word} {larger / MB:.0f} MB, was {was / MB:.0f} MB")
    return lines
