"""The benchmark's targets (issue 5, Must show by `make bench`): shares of the fastest rival or of a copy, sizes, peaks,
figures; met, MISSED and not measured."""

from fractions import Fraction

import pytest
from bench.figures import (
    FIGURE_ROWS,
    Figure,
    figure_medians,
    figure_regressions,
    figure_table,
    figure_verdicts,
)
from bench.rows import RIVALS, ROWS
from bench.samples import Sample, summarise
from bench.targets import NoLarger, NoSlowerThan, OrCopy, PeakBelow, RateOrBeat, TimeShare

MB = 1_000_000
THIRD = TimeShare(Fraction(1, 3), RIVALS)
THIRD_OR_COPY = TimeShare(Fraction(1, 3), RIVALS, OrCopy(Fraction(5, 4), "big-first"))


def found(**walls):
    return summarise(measured("big-first", wall, tool) for tool, wall in walls.items())


def measured(row, wall, tool="tandem", peak=100 * MB, stored=400 * MB, work=1_000 * MB):
    return Sample(row, tool, 1, wall, 1.0, peak, stored, 0.1, work)


@pytest.mark.parametrize(
    ("walls", "met"),
    [
        ({"tandem": 1.0, "restic": 3.0, "borg": 9.0}, True),
        ({"tandem": 1.0, "restic": 9.0, "borg": 3.0}, True),
        ({"tandem": 1.1, "restic": 9.0, "borg": 3.0}, False),
        ({"tandem": 1.0, "restic": 9.0}, None),  # borg might be faster than restic
        ({"tandem": 1.1, "restic": 3.0}, False),  # whatever borg does
        ({"restic": 3.0, "borg": 9.0}, None),
        ({"tandem": 1.0}, None),
    ],
)
def test_a_share_is_of_the_fastest_rival(walls, met):
    assert THIRD.judge("big-first", found(**walls)).met is met


@pytest.mark.parametrize(
    ("walls", "met"),
    [
        ({"tandem": 2.0, "restic": 3.0, "borg": 3.0, "copy": 1.6}, True),
        ({"tandem": 2.0, "restic": 3.0, "borg": 3.0, "copy": 1.5}, False),
        ({"tandem": 1.0, "restic": 3.0, "borg": 3.0, "copy": 0.1}, True),
        ({"tandem": 2.0, "restic": 3.0, "borg": 3.0}, None),  # a copy might have been slow
        ({"tandem": 1.0, "restic": 3.0, "borg": 3.0}, True),
        ({"tandem": 2.0, "copy": 1.6}, True),
        ({"tandem": 2.0, "copy": 1.5}, None),
    ],
)
def test_a_share_or_so_many_times_the_copy(walls, met):
    assert THIRD_OR_COPY.judge("big-first", found(**walls)).met is met


def test_a_share_says_what_it_was_compared_with():
    verdict = THIRD_OR_COPY.judge("big-first", found(tandem=2.0, restic=4.0, copy=1.0))
    assert verdict.target == "at most 1/3 of the faster of restic and borg, or 1.25 of copy + fsync"
    assert verdict.found == "0.50 of restic, 2.00 of copy, borg not measured"


def test_a_repository_is_compared_to_the_byte():
    ours, theirs = measured("big-first", 1, stored=401), measured("big-first", 1, "restic", stored=400)
    assert NoLarger("restic").judge("big-first", summarise([ours, theirs])).met is False
    assert (
        NoLarger("restic").judge("big-first", summarise([theirs, measured("big-first", 1, stored=400)])).met
    )


@pytest.mark.parametrize(("wall", "met"), [(10.0, True), (10.1, False)])
def test_a_million_files_take_as_long_each_as_a_tenth_of_them(wall, met):
    samples = [measured("million-first", wall, work=1_000), measured("small-first", 1.0, work=100)]
    assert NoSlowerThan("small-first").judge("million-first", summarise(samples)).met is met


def test_every_row_is_measured_by_the_tools_that_its_targets_name():
    names = {row.name: row for row in ROWS}
    for row in ROWS:
        for target in row.targets:
            if isinstance(target, TimeShare):
                assert set(target.rivals) <= set(row.tools), row.name
                assert target.or_copy is None or "copy" in names[target.or_copy.row].tools
            elif isinstance(target, NoLarger | RateOrBeat):
                assert target.rival in row.tools, row.name
            elif isinstance(target, NoSlowerThan):
                assert target.row in names


def test_the_targets_are_those_of_the_issue():
    fifth, third, half = Fraction(1, 5), Fraction(1, 3), Fraction(1, 2)

    def or_copy(kind):
        return OrCopy(Fraction(5, 4), f"{kind}-first")

    def large(kind):
        return (TimeShare(third, RIVALS, or_copy(kind)), NoLarger("restic"), PeakBelow(300))

    assert {row.name: row.targets for row in ROWS if row.targets} == {
        "tree-first": (TimeShare(third, RIVALS), NoLarger("restic"), PeakBelow(300)),
        "tree-again": (TimeShare(fifth, RIVALS), TimeShare(fifth, ("restic",))),
        "tree-warm": (TimeShare(fifth, RIVALS),),
        "tree-changed": (TimeShare(third, RIVALS),),
        "tree-restore": (TimeShare(half, RIVALS, or_copy("tree")),),
        "big-first": large("big"),
        "big-restore": (TimeShare(half, RIVALS, or_copy("big")),),
        "image-first": large("image"),
        "image-changed": (TimeShare(third, RIVALS),),
        "image-restore": (TimeShare(half, RIVALS, or_copy("image")),),
        "million-first": (PeakBelow(500), NoSlowerThan("small-first")),
        "sftp-first": (TimeShare(Fraction(5, 4), ("ssh cat",)), RateOrBeat(150, "sftp")),
        "sftp-20": (TimeShare(Fraction(1), ("ssh cat",)),),
        "sftp-100": (TimeShare(Fraction(1), ("ssh cat",)),),
        "both-remote": (TimeShare(Fraction(11, 10), ("remote alone",)),),
        "both-lag": (TimeShare(Fraction(11, 10), ("vault alone",)),),
        "mirror-sync": (TimeShare(Fraction(5, 4), ("rclone",)),),
    }
    assert {row.name: row.below or row.above for row in FIGURE_ROWS if row.below or row.above} == {
        "start-version": 0.15,
        "start-backups": 0.5,
        "one-time": 1.0,
        "one-read": 8.0,
        "index-open": 1.0,
        "index-hits": 300,
        "index-misses": 300,
        "index-heap": 150,
    }


def figures(row, values):
    return [Figure(row, number, value) for number, value in enumerate(values, 1)]


def test_figures_are_medians_above_or_below_a_limit():
    made = figure_medians(
        [
            *figures("start-version", [0.1, 0.14, 9.0]),
            *figures("index-hits", [299_000]),
            *figures("one-bare-time", [3]),
        ]
    )
    met = {verdict.row: verdict.met for verdict in figure_verdicts(made)}
    assert (met["start-version"], met["index-hits"], met["one-time"]) == (True, False, None)
    assert "one-bare-time" not in met
    assert figure_table(made)[1:] == [
        ("tandem --version", "0.140 s", "0.100 9.000"),
        ("one of the small files, no local state", "3.000 s", "3.000 3.000"),
        ("the same, lookups that find", "299.0 thousand/s", "299.0 299.0"),
    ]


def test_a_figure_that_became_worse_is_told():
    before = figure_medians([*figures("start-version", [0.1]), *figures("index-hits", [400_000])])
    now = figure_medians([*figures("start-version", [0.13]), *figures("index-hits", [300_000])])
    assert figure_regressions(now, before) == [
        "start-version: 0.130 s, was 0.100 s",
        "index-hits: 300.0 thousand/s, was 400.0 thousand/s",
    ]
    assert figure_regressions(before, now) == []
