"""`python -m bench`: measures, prints the table, writes RESULTS.md and results.json. Exit 1 if a target is
missed."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime

from bench import machine, report
from bench.costs import COST_GROUPS
from bench.measure import CommandFailed
from bench.rows import GROUPS
from bench.servers import openssh
from bench.work import Amounts, Bench, NotPossible

HERE = os.path.dirname(os.path.abspath(__file__))
QUICK = Amounts(files=5_000, big=128 << 20, rounds=1, shrink=20)
ALL_GROUPS = (*GROUPS, *COST_GROUPS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark as the command line says."""
    options = _options(arguments)
    amounts = _amounts(options)
    drop = os.geteuid() == 0 and options.cache == "cold"
    if options.nice:
        machine.prefer(options.nice)
    root = tempfile.mkdtemp(prefix="tandem-bench-", dir=options.workdir)
    try:
        bench = Bench(root, amounts, drop, openssh, lambda line: print(line, flush=True))
        for name in options.without or ():
            bench.versions[name] = None
        for name, version in bench.versions.items():
            if version is None and name not in (options.without or ()):
                print(f"{name} is not installed: its side is left out")
        settings = {
            "files": amounts.files,
            "big": amounts.big,
            "rounds": amounts.rounds,
            "seed": amounts.seed,
            "cache": "cold" if drop else "warm",
            "nice": options.nice,
        }
        about = machine.describe(root, {**bench.versions, "ssh": machine.ssh_version()})
        about["load before"] = f"{machine.others_at_work():.2f}"
        bench.run(options.only or ALL_GROUPS)
    except (NotPossible, CommandFailed) as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(root, ignore_errors=True)
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return _conclude(report.Run(settings, about, date, bench.samples, bench.timings), options)


def _conclude(run: report.Run, options: argparse.Namespace) -> int:
    """Prints, writes what is to be written, and says by the exit code whether every measured target was
    met."""
    results = os.path.join(options.results, "results.json")
    changes = report.changes_since(run, report.load(results))
    print(f"\n{report.terminal(run, changes)}")
    whole = not options.only and not options.without
    if whole and (options.write or not options.quick):
        report.save(run, results)
        with open(os.path.join(options.results, "RESULTS.md"), "w", encoding="utf-8") as file:
            file.write(report.markdown(run, changes))
        print(f"\nwritten: {results} and RESULTS.md beside it")
    return 0 if all(verdict.met is not False for verdict in run.verdicts()) else 1


def _amounts(options: argparse.Namespace) -> Amounts:
    base = QUICK if options.quick else Amounts()
    return Amounts(
        files=options.files or base.files,
        big=options.big_mib << 20 if options.big_mib else base.big,
        rounds=options.rounds or base.rounds,
        seed=options.seed,
        shrink=base.shrink,
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small amounts, one round, nothing written")
    parser.add_argument("--rounds", type=int, help="rounds whose medians count (3)")
    parser.add_argument("--only", action="append", choices=ALL_GROUPS, help="just this part; nothing written")
    parser.add_argument(
        "--without", action="append", choices=("tandem", "restic"), help="leave it out; nothing written"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the generated sources")
    parser.add_argument("--files", type=int, help="files in the tree")
    parser.add_argument("--big-mib", type=int, help="size of the random file")
    parser.add_argument(
        "--cache", choices=("cold", "warm"), default="cold", help="empty the page cache before each"
    )
    parser.add_argument(
        "--nice", type=int, default=0, help="priority of everything measured; -15 on a busy machine (as root)"
    )
    parser.add_argument("--workdir", type=os.path.abspath, help="where the work folder is made (/tmp)")
    parser.add_argument(
        "--results", type=os.path.abspath, default=HERE, help="where results are read and written"
    )
    parser.add_argument("--write", action="store_true", help="write results after --quick, too")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
