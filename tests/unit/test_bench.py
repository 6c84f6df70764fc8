"""The benchmark's arithmetic (issue 3, Must show 2 to 4): medians, targets, tables, results that come back
the same."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bench import groups, report
from bench.amounts import Amounts
from bench.costs import COST_ROWS, Timing, cost_regressions, cost_verdicts, medians
from bench.figures import Figure
from bench.measure import CommandFailed, folder_bytes, measure
from bench.rows import regressions, verdicts
from bench.samples import Sample, summarise
from bench.targets import PeakBelow, RateOrBeat
from bench.work import Bench, NotPossible

MB = 1_000_000


def sample(row, tool, wall, number=1, peak=100 * MB, cpu=1.0, work=1_000 * MB):
    return Sample(row, tool, number, wall, cpu, peak, 400 * MB, 0.1, work)


def rounds(row, tool, walls, **more):
    return [sample(row, tool, wall, number, **more) for number, wall in enumerate(walls, 1)]


def test_medians_and_the_largest_peak():
    samples = [
        sample("tree-first", "tandem", 9.0, 1, peak=100 * MB),
        sample("tree-first", "tandem", 3.0, 2, peak=310 * MB),
        sample("tree-first", "tandem", 4.0, 3, peak=120 * MB),
    ]
    found = summarise(samples)["tree-first", "tandem"]
    assert (found.wall, found.fastest, found.slowest, found.peak) == (4.0, 3.0, 9.0, 310 * MB)
    assert found.rate == 250 * MB


@pytest.mark.parametrize(("peak", "met"), [(299 * MB, True), (300 * MB, False)])
def test_peak_is_below(peak, met):
    samples = rounds("big-first", "tandem", [1], peak=peak)
    assert PeakBelow(300).judge("big-first", summarise(samples)).met is met


@pytest.mark.parametrize(
    ("ours", "theirs", "met"),
    [(6.0, 1.0, True), (7.0, 6.9, False), (7.0, 7.0, True), (8.0, 9.0, True)],
)
def test_rate_or_the_other_ones_speed(ours, theirs, met):
    samples = rounds("sftp-first", "tandem", [ours]) + rounds("sftp-first", "sftp", [theirs])
    assert RateOrBeat(150, "sftp").judge("sftp-first", summarise(samples)).met is met


def test_what_was_not_measured_is_neither_met_nor_missed():
    assert {verdict.met for verdict in verdicts({})} == {None}


def test_regressions_are_ratios_to_the_rival_of_the_same_run():
    before = summarise(rounds("tree-first", "tandem", [4]) + rounds("tree-first", "restic", [10]))
    slow_machine = summarise(rounds("tree-first", "tandem", [8]) + rounds("tree-first", "restic", [20]))
    slower = summarise(rounds("tree-first", "tandem", [6]) + rounds("tree-first", "restic", [10]))
    larger = summarise(
        rounds("tree-first", "tandem", [4], peak=200 * MB) + rounds("tree-first", "restic", [10])
    )
    assert regressions(slow_machine, before) == []
    assert regressions(slower, before) == ["tree-first: 0.60 of restic's time, was 0.40 of restic's time"]
    assert regressions(larger, before) == ["tree-first: peak 200 MB, was 100 MB"]
    assert regressions(slower, {}) == []
    more = summarise([replace(one, stored=500 * MB) for one in rounds("tree-first", "tandem", [4])])
    assert regressions(more, before) == ["tree-first: stored 500 MB, was 400 MB"]


def run(settings=None):
    samples = rounds("tree-first", "tandem", [4, 5, 6]) + rounds("tree-first", "restic", [10, 11, 12])
    return report.Run(settings or {"files": 5}, {"processor": "a | b"}, "2026-01-01 00:00 UTC", samples)


def test_results_come_back_the_same(tmp_path):
    path = str(tmp_path / "results.json")
    assert report.load(path) is None
    report.save(run(), path)
    assert report.load(path) == run()
    assert report.changes_since(run(), report.load(path)) == []


def test_what_is_known_of_missed_targets_is_of_rows_that_there_are(tmp_path):
    report.known_limits(str(Path(report.__file__).parent / "limits.toml"))
    (tmp_path / "limits").write_text('tree-again = "ours"\nnone = "whose?"\n')
    with pytest.raises(AssertionError, match="no such row: none"):
        report.known_limits(str(tmp_path / "limits"))


def test_results_of_other_settings_are_not_compared():
    slow = run({"files": 6})
    slow.samples[:] = [sample("tree-first", "tandem", 50)]
    assert report.changes_since(slow, run()) == []
    assert report.changes_since(report.Run(run().settings, {}, "", slow.samples), run()) != []


def test_a_setting_that_is_new_leaves_the_rest_comparable():
    slow = run({"files": 5, "image": 7})
    slow.samples[:] = [sample("tree-first", "tandem", 50)]
    assert report.changes_since(slow, run()) != []
    assert report.changes_since(run(), slow) == []


def test_tables_name_every_measured_row_and_verdict():
    cells = report.table(summarise(run().samples))
    assert [line[:3] for line in cells] == [
        ("work", "tool", "wall s"),
        ("first backup, tree", "tandem", "5.00"),
        ("first backup, tree", "restic", "11.00"),
    ]
    text = report.markdown(run(), ["tree-first: slower"], {"tree-first": "the disk"})
    wanted = "at most 1/3 of the faster of restic and borg"
    assert f"| first backup, tree | {wanted} | 0.45 of restic, borg not measured | MISSED |" in text
    assert "not measured" in text
    assert "- tree-first: slower" in text
    assert "- first backup, tree: the disk\n" in text
    assert "- first backup, tree: not looked into yet\n" in report.markdown(run(), [], {})
    assert "0.45 of restic, borg not measured  MISSED" in report.terminal(run(), [])


GROW = """
import os, sys, time
memory = bytearray(80_000_000)
open(sys.argv[1], "w").close()
while not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
time.sleep(0.5)
"""


def test_measure_counts_descendants_and_reports_failure(tmp_path):
    log, one, two = (str(tmp_path / name) for name in ("log", "one", "two"))
    script = '"$1" -c "$2" "$3" "$4" & "$1" -c "$2" "$4" "$3"; wait'
    cost = measure(["sh", "-c", script, "sh", sys.executable, GROW, one, two], log)
    assert 150 * MB < cost.peak < 300 * MB
    assert cost.wall >= 0.5
    with pytest.raises(CommandFailed, match="ended with 3: sorry"):
        measure(["sh", "-c", "echo sorry; exit 3"], log)


def test_folder_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 10)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(b"x" * 5)
    (tmp_path / "b" / "link").symlink_to(tmp_path / "a")
    assert folder_bytes(str(tmp_path)) == 15


def test_a_full_disk_is_seen_before_anything_is_made(tmp_path):
    bench = Bench(str(tmp_path), Amounts(files=10**9), False, lambda folder: None, print)
    with pytest.raises(NotPossible, match="are needed"):
        groups.run(bench, ["tree"])
    assert list(tmp_path.iterdir()) == []


def timings(row, seconds, questions=16):
    return [Timing(row, number, 0.3, found, questions) for number, found in enumerate(seconds, 1)]


def test_costs_of_contact_are_medians_with_targets_in_seconds():
    costs = medians(timings("contact-10", [0.5, 0.19, 0.1]) + timings("resync", [2.0, 2.0, 9.0]))
    assert (costs["contact-10"].seconds, costs["contact-10"].slowest) == (0.19, 0.5)
    met = {verdict.row: verdict.met for verdict in cost_verdicts(costs)}
    assert (met.pop("contact-10"), met.pop("resync")) == (True, False)
    assert set(met.values()) == {None} and len(met) == len(COST_ROWS) - 2


def test_more_questions_than_before_are_told_and_so_is_what_is_slower_beyond_noise():
    before = medians(timings("contact-10", [0.02]) + timings("resync", [1.0]))
    now = medians(timings("contact-10", [0.03], questions=18) + timings("resync", [1.3]))
    assert cost_regressions(now, before) == [
        "contact-10: 18 questions, was 16",
        "resync: 1300 ms, was 1000 ms",
    ]
    assert cost_regressions(before, before) == []


def test_figures_are_written_and_come_back(tmp_path):
    path = str(tmp_path / "results.json")
    made = report.Run({}, {}, "2026-01-01 00:00 UTC", [], [], [Figure("start-version", 1, 0.2)])
    report.save(made, path)
    assert report.load(path) == made
    assert "| tandem --version | 0.200 s | 0.200 0.200 |" in report.markdown(made, [], {})
    assert "0.200 s  MISSED" in report.terminal(made, [])


def test_costs_are_written_and_come_back(tmp_path):
    path = str(tmp_path / "results.json")
    made = report.Run({}, {}, "2026-01-01 00:00 UTC", [], timings("resync", [0.25]))
    report.save(made, path)
    assert report.load(path) == made
    text = report.markdown(made, [], {})
    assert "| one missed revision of 10 objects, of 1,000,000 | 16 | 300 | 250 | 250 250 |" in text
    assert "0.250 s  met" in report.terminal(made, [])


def test_a_part_that_fails_leaves_the_others_going_and_nothing_behind(tmp_path, monkeypatch):
    bench = Bench(
        str(tmp_path), Amounts(files=10, million=10, big=10, image=10), False, lambda folder: None, print
    )

    def fails(bench):
        (tmp_path / "restored").mkdir()
        (tmp_path / "source-big").mkdir()
        raise CommandFailed("it said no")

    monkeypatch.setattr(
        groups, "RUNNERS", {"tree": fails, "big": lambda bench: bench.figure("one-time", 1, 2.0)}
    )
    assert groups.run(bench, ["big", "tree"]) == {"tree": "it said no"}
    assert [figure.value for figure in bench.figures] == [2.0]
    assert list(tmp_path.iterdir()) == []


def measured(*groups_, date="2026-01-01", **more):
    samples = {"tree": rounds("tree-first", "tandem", [3]), "big": rounds("big-first", "tandem", [5])}
    figures = [Figure("index-open", 1, 0.1)] if "index" in groups_ else []
    found = [one for group in groups_ for one in samples.get(group, ())]
    fields = {"settings": {"rounds": 1}, "machine": {"processor": "p", report.LOAD: date}, **more}
    return report.Run(date=date, samples=found, figures=figures, dates=dict.fromkeys(groups_, date), **fields)


def test_parts_measured_one_by_one_are_told_together():
    """Tools are compared within a part."""
    before = measured("tree", "index", "big")
    after = measured("tree", date="2026-02-02").with_earlier(before)
    assert after.dates == {"tree": "2026-02-02", "index": "2026-01-01", "big": "2026-01-01"}
    assert [sample.row for sample in after.samples] == ["big-first", "tree-first"]
    assert after.figures == before.figures
    text = report.markdown(after, (), {})
    assert "- measured 2026-02-02: tree\n" in text and "- measured 2026-01-01: index, big\n" in text


@pytest.mark.parametrize("other", [{"settings": {"rounds": 3}}, {"machine": {"processor": "another"}}])
def test_results_of_other_settings_or_machines_are_not_told_with_it(other):
    now = measured("tree")
    assert now.with_earlier(measured("big", **other)) == now


def test_a_part_that_failed_is_not_kept():
    assert measured("tree", "big").only({"tree"}).dates == {"tree": "2026-01-01"}
    assert {sample.row for sample in measured("tree", "big").only({"tree"}).samples} == {"tree-first"}
