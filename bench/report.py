"""Results as a table for people, a Markdown file and a JSON document; reading earlier results. No measuring
here."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bench.costs import COST_ROWS, Timing, cost_regressions, cost_table, cost_verdicts, medians
from bench.figures import (
    FIGURE_ROWS,
    Figure,
    figure_medians,
    figure_regressions,
    figure_table,
    figure_verdicts,
)
from bench.rows import ROWS, Row, regressions, verdicts
from bench.samples import MB, Sample, Summaries, summarise
from bench.targets import Verdict

FORMAT = 1
LOAD = "load before"
"""What of a machine's description changes all the time."""

_HEADS = ("work", "tool", "wall s", "(from to)", "CPU s", "peak MB", "stored MB", "MB/s", "others CPU %")


@dataclass(frozen=True)
class Run:
    """One run of the benchmark: what was asked for, where, and every sample, timing and figure. ``dates``: by group,
    when it was measured."""

    settings: dict[str, Any]
    machine: dict[str, str]
    date: str
    samples: list[Sample]
    timings: list[Timing] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    dates: dict[str, str] = field(default_factory=dict)

    def only(self, groups: Collection[str]) -> Run:
        """What it says of these groups."""
        rows = {row.name for kind in (ROWS, FIGURE_ROWS, COST_ROWS) for row in kind if row.group in groups}
        return replace(
            self,
            samples=[sample for sample in self.samples if sample.row in rows],
            timings=[timing for timing in self.timings if timing.row in rows],
            figures=[figure for figure in self.figures if figure.row in rows],
            dates={group: date for group, date in self.dates.items() if group in groups},
        )

    def with_earlier(self, before: Run | None) -> Run:
        """With what was measured before of other groups, by the same settings on the same machine: tools are compared
        within a group, so groups may be measured one by one."""
        if before is None or before.settings != self.settings or _place(before) != _place(self):
            return self
        others = before.only(before.dates.keys() - self.dates.keys())
        return replace(
            self,
            samples=[*others.samples, *self.samples],
            timings=[*others.timings, *self.timings],
            figures=[*others.figures, *self.figures],
            dates={**others.dates, **self.dates},
        )

    def verdicts(self) -> list[Verdict]:
        """Every target of every row, of all kinds."""
        return [
            *verdicts(summarise(self.samples)),
            *figure_verdicts(figure_medians(self.figures)),
            *cost_verdicts(medians(self.timings)),
        ]


def _place(run: Run) -> dict[str, str]:
    return {name: value for name, value in run.machine.items() if name != LOAD}


def table(summaries: Summaries, rows: Sequence[Row] = ROWS) -> list[tuple[str, ...]]:
    """Cells, head first; a line per row and tool that was measured."""
    lines: list[tuple[str, ...]] = [_HEADS]
    for row in rows:
        for tool in row.tools:
            found = summaries.get((row.name, tool))
            if found is None:
                continue
            lines.append(
                (
                    row.title,
                    tool,
                    f"{found.wall:.2f}",
                    f"{found.fastest:.2f} {found.slowest:.2f}",
                    f"{found.cpu:.2f}",
                    f"{found.peak / MB:.0f}",
                    f"{found.stored / MB:.0f}" if found.stored else "",
                    f"{found.rate / MB:.0f}",
                    f"{found.others * 100:.0f}",
                )
            )
    return lines


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns of even width, the first two to the left, for a terminal."""
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(run: Run, changes: Sequence[str], limits: Mapping[str, str]) -> str:
    """The whole of RESULTS.md. `limits`: by row, what is known of why a target is missed."""
    summaries = summarise(run.samples)
    cells = table(summaries)
    costs = cost_table(medians(run.timings))
    parts = [
        "# Benchmark results",
        "",
        "Written by `make bench`; medians, tools in turn within each round. Absolute times are this",
        "machine's; compare the tools of one row. All backup programs encrypt, and compress with zstd. Lines that",
        "are far or narrow are a proxy of the benchmark (bench/link.py) before an OpenSSH server on loopback.",
        "",
        *(f"- {name}: {value}" for name, value in {**run.machine, **run.settings}.items()),
        *(f"- measured {date}: {', '.join(groups)}" for date, groups in _by_date(run).items()),
        "",
        "wall s: median of the rounds, and in brackets the fastest and the slowest. CPU s: of the program and the",
        "processes that it waited for. peak MB: the largest of all rounds, summed over its processes, so shared memory",
        "counts several times. MB are 10^6 bytes; MB/s: size of the source (for resync, of what was missing) by wall",
        "time. others CPU %: what everything else used; over sshd most of it is the server. copy: cp -a and sync;",
        "sftp -f: with fsync.",
        "",
        _row(cells[0]),
        _row(["---", "---", *["--:"] * (len(cells[0]) - 2)]),
        *(_row(line) for line in cells[1:]),
        "",
        *_markdown_figures(figure_table(figure_medians(run.figures))),
        *_markdown_costs(costs),
        "| work | target | found | |",
        "| --- | --- | --- | --- |",
        *(_row([_title(v), v.target, v.found, _word(v)]) for v in run.verdicts()),
        "",
    ]
    parts += _missed(run.verdicts(), limits)
    if changes:
        parts += ["Slower or larger than the last results:", "", *(f"- {line}" for line in changes), ""]
    return "\n".join(parts)


def _by_date(run: Run) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for group, date in run.dates.items():
        found.setdefault(date, []).append(group)
    return dict(sorted(found.items()))


def _markdown_costs(costs: Sequence[Sequence[str]]) -> list[str]:
    if len(costs) == 1:
        return []
    return [
        "Tiers over loopback sshd, repository made by a generator (metadata only); contact and synchronisation",
        "are with two tiers where nothing else is said, and a question is one verb of a store, all tiers together.",
        "Contact without, synchronisation with the time of the connection.",
        "",
        _row(costs[0]),
        _row(["---", *["--:"] * (len(costs[0]) - 1)]),
        *(_row(line) for line in costs[1:]),
        "",
    ]


def _missed(judged: Sequence[Verdict], limits: Mapping[str, str]) -> list[str]:
    rows = {verdict.row: _title(verdict) for verdict in judged if verdict.met is False}
    if not rows:
        return []
    told = [f"- {title}: {limits.get(row, 'not looked into yet')}" for row, title in rows.items()]
    return ["Where the time goes where a target is missed:", "", *told, ""]


def _markdown_figures(figures: Sequence[Sequence[str]]) -> list[str]:
    if len(figures) == 1:
        return []
    rule = _row(["---", *["--:"] * (len(figures[0]) - 1)])
    return [_row(figures[0]), rule, *(_row(line) for line in figures[1:]), ""]


def terminal(run: Run, changes: Sequence[str]) -> str:
    """What the command prints at its end."""
    judged = [(_title(v), v.target, v.found, _word(v)) for v in run.verdicts() if v.met is not None]
    tables: list[list[tuple[str, ...]]] = [
        table(summarise(run.samples)),
        figure_table(figure_medians(run.figures)),
        cost_table(medians(run.timings)),
    ]
    parts = [part for lines in tables if len(lines) > 1 for part in (aligned(lines), "")]
    parts.append(aligned(judged) if judged else "no target was measured")
    if changes:
        parts += ["", "slower or larger than the last results:", *(f"  {line}" for line in changes)]
    return "\n".join(parts)


def changes_since(run: Run, before: Run | None) -> list[str]:
    """Regressions against earlier results of the same settings on such a machine; nothing when there are none to
    compare with. A setting that the earlier run did not have yet concerns only what it did not measure."""
    if before is None or any(run.settings.get(name) != value for name, value in before.settings.items()):
        return []
    processors = {run.machine.get("processor"), before.machine.get("processor")} - {None}
    if len(processors) > 1:
        return []
    return [
        *regressions(summarise(run.samples), summarise(before.samples)),
        *figure_regressions(figure_medians(run.figures), figure_medians(before.figures)),
        *cost_regressions(medians(run.timings), medians(before.timings)),
    ]


def save(run: Run, path: str) -> None:
    """Writes the machine-readable results, whole or not at all."""
    document = {
        "format": FORMAT,
        "settings": run.settings,
        "machine": run.machine,
        "date": run.date,
        "dates": run.dates,
        "targets": [asdict(verdict) for verdict in run.verdicts()],
        "samples": [asdict(sample) for sample in run.samples],
        "timings": [asdict(timing) for timing in run.timings],
        "figures": [asdict(figure) for figure in run.figures],
    }
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.write("\n")
    os.replace(path + ".new", path)


def known_limits(path: str) -> dict[str, str]:
    """What is known of why targets are missed, by row."""
    with open(path, "rb") as file:
        found: dict[str, str] = tomllib.load(file)
    unknown = set(found) - {row.name for kind in (ROWS, FIGURE_ROWS, COST_ROWS) for row in kind}
    assert not unknown, f"{path}: there is no such row: {', '.join(sorted(unknown))}"
    return found


def load(path: str) -> Run | None:
    """Earlier results; None when there are none or they are of another format."""
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except FileNotFoundError:
        return None
    if document.get("format") != FORMAT:
        return None
    samples = [Sample(**sample) for sample in document["samples"]]
    timings = [Timing(**timing) for timing in document.get("timings", ())]
    figures = [Figure(**figure) for figure in document.get("figures", ())]
    dates = document.get("dates", {})
    return Run(document["settings"], document["machine"], document["date"], samples, timings, figures, dates)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _title(verdict: Verdict) -> str:
    rows = ([(row.name, row.title) for row in kind] for kind in (ROWS, FIGURE_ROWS, COST_ROWS))
    titles = dict(pair for pairs in rows for pair in pairs)
    return titles.get(verdict.row, verdict.row)


def _word(verdict: Verdict) -> str:
    return {True: "met", False: "MISSED", None: "not measured"}[verdict.met]
