"""`python -m bench`: measures, prints the table, writes RESULTS.md and results.json. Exit 1 if a target is
missed."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime

from bench import borg, groups, machine, report, tools
from bench.amounts import QUICK, Amounts
from bench.servers import openssh
from bench.work import Bench, NotPossible

HERE = os.path.dirname(os.path.abspath(__file__))
ALL_GROUPS = tuple(groups.RUNNERS)
NOT_QUICK = {"million"}
BORG = {"tree", "big", "image"}
RIVALS = ("restic", "borg", "rclone")
MEBIBYTES = {
    "big": "size of the random file",
    "image": "size of the disk image",
    "far": "size of the random file that goes over far lines",
    "narrow": "size of the random file that goes over a narrow line",
}
COUNTS = {
    "files": "files in the tree",
    "million": "small files, of which there are a million",
    "history": "backups, for the start of a command",
    "chunks": "chunks in the index",
    "rounds": "rounds whose medians count",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark as the command line says."""
    options = _options(arguments)
    limits = report.known_limits(os.path.join(HERE, "limits.toml"))
    if options.report:
        return _rewritten(options, limits)
    # An installed program is compiled once, not at every start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if options.nice:
        machine.prefer(options.nice)
    if "borg" not in options.without and _asked(options) & BORG:
        borg.set_up(print)
    tools.as_installed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # with what is to be tidied up
    root = tempfile.mkdtemp(prefix="tandem-bench-", dir=options.workdir)
    try:
        run, failed = _run(root, options)
    except NotPossible as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(root, ignore_errors=True)
    code = _conclude(
        run.only(run.dates.keys() - failed), options, limits, whole=not (options.only or options.without)
    )
    for group, why in failed.items():
        print(f"bench: {group} is not measured to its end: {why}", file=sys.stderr)
    return max(code, bool(failed))


def _run(root: str, options: argparse.Namespace) -> tuple[report.Run, dict[str, str]]:
    """Everything that is to be measured; by group, why it was not."""
    amounts = _amounts(options)
    drop = os.geteuid() == 0 and options.cache == "cold"
    bench = Bench(root, amounts, drop, openssh, lambda line: print(line, flush=True))
    for name in options.without:
        bench.versions[name] = None
    for name, version in bench.versions.items():
        if version is None and name not in options.without:
            print(f"{name} is not there: its side is left out, and what needs it is not measured")
    fields = {name: value for name, value in asdict(amounts).items() if name != "shrink"}
    settings = {**fields, "cache": "cold" if drop else "warm", "nice": options.nice}
    about = machine.describe(root, {**bench.versions, "ssh": machine.ssh_version()})
    about[report.LOAD] = f"{machine.others_at_work():.2f}"
    asked = _asked(options)
    failed = groups.run(bench, asked)
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    dates = {name: date for name in ALL_GROUPS if name in asked}
    return report.Run(settings, about, date, bench.samples, bench.timings, bench.figures, dates), failed


def _asked(options: argparse.Namespace) -> set[str]:
    return set(options.only or ALL_GROUPS) - (NOT_QUICK if options.quick and not options.only else set())


def _rewritten(options: argparse.Namespace, limits: Mapping[str, str]) -> int:
    run = report.load(os.path.join(options.results, "results.json"))
    if run is None:
        print("bench: there are no results to report", file=sys.stderr)
        return 1
    _write(report.markdown(run, (), limits), options)
    return 0


def _write(text: str, options: argparse.Namespace) -> None:
    with open(os.path.join(options.results, "RESULTS.md"), "w", encoding="utf-8") as file:
        file.write(text)


def _conclude(run: report.Run, options: argparse.Namespace, limits: Mapping[str, str], whole: bool) -> int:
    """Prints, writes what is to be written (of a `whole` run, or where that was asked for), and says by the exit code
    whether every measured target was met."""
    results = os.path.join(options.results, "results.json")
    before = report.load(results)
    changes = report.changes_since(run, before)
    print(f"\n{report.terminal(run, changes)}")
    if options.write or (whole and not options.quick):
        joined = run.with_earlier(before)
        _write(report.markdown(joined, changes, limits), options)
        report.save(joined, results)
        print(f"\nwritten: {results} and RESULTS.md beside it")
    return 0 if all(verdict.met is not False for verdict in run.verdicts()) else 1


def _amounts(options: argparse.Namespace) -> Amounts:
    base = QUICK if options.quick else Amounts()
    given = {name: getattr(options, name) for name in COUNTS}
    given |= {name: getattr(options, f"{name}_mib") for name in MEBIBYTES}
    given |= {name: given[name] << 20 for name in MEBIBYTES if given[name]}
    return replace(base, seed=options.seed, **{name: value for name, value in given.items() if value})


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small amounts, one round, nothing written")
    parser.add_argument(
        "--only", action="append", choices=ALL_GROUPS, help="just this part; written with --write alone"
    )
    parser.add_argument(
        "--without", action="append", default=[], choices=RIVALS, help="leave it out; nothing written"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the generated sources")
    usual = asdict(Amounts())
    for name, words in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, help=f"{words} ({usual[name]})")
    for name, words in MEBIBYTES.items():
        parser.add_argument(f"--{name}-mib", type=int, help=f"{words} ({usual[name] >> 20})")
    parser.add_argument(
        "--cache",
        choices=("cold", "warm"),
        default="cold",
        help="cold: empty the page cache before each (as root)",
    )
    parser.add_argument(
        "--nice", type=int, default=0, help="priority of everything measured; -15 on a busy machine (as root)"
    )
    parser.add_argument("--workdir", type=os.path.abspath, help="where the work folder is made (/tmp)")
    parser.add_argument(
        "--results", type=os.path.abspath, default=HERE, help="where results are read and written"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="write results after --quick, too, and after --only, beside the earlier ones of other parts",
    )
    parser.add_argument("--report", action="store_true", help="only write RESULTS.md again from results.json")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
