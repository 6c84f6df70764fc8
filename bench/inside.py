"""Figures, and what contact and synchronisation cost: repositories, histories and an index made for it, measured in
processes of their own."""

from __future__ import annotations

import json
import os
import shutil

from bench import measure
from bench.costs import COST_ROWS, CostRow, Timing
from bench.tools import Job
from bench.work import Bench

STARTS = 5


def cost_rounds(bench: Bench, group: str) -> None:
    """Contact and synchronisation: rows of one size share one generated repository."""
    sizes: dict[tuple[int, int], list[CostRow]] = {}
    for row in COST_ROWS:
        if row.group == group:
            sizes.setdefault((row.revisions, row.objects), []).append(row)
    for (revisions, objects), rows in sizes.items():
        if objects >= 1_000_000:
            objects //= bench.amounts.shrink
        folder = bench.path("tiers")
        bench.say(f"making a repository of {revisions} revisions and {objects} objects")
        amounts = (revisions, objects, bench.amounts.rounds, bench.amounts.seed)
        for found in bench.own("tiers", folder, *amounts, *(row.name for row in rows)).splitlines():
            timing = Timing(**json.loads(found))
            bench.timings.append(timing)
            bench.say(
                f"round {timing.round}  {timing.row:40} {timing.seconds * 1000:6.0f} ms  "
                f"connection {timing.connect * 1000:5.0f} ms  {timing.questions} questions"
            )
        shutil.rmtree(folder)


def start_rounds(bench: Bench) -> None:
    """How long a command takes that does little, the page cache warm; the second one with a long history."""
    source = bench.path("little")
    os.makedirs(source)
    tool = bench.tandem(source)
    tool.prepare()
    bench.say(f"making {bench.amounts.history} backups")
    job = tool.job("backups")
    bench.own("history", source, bench.amounts.history, environment=job.environment)
    for number in bench.rounds:
        for row, command in (("start-version", tool.job("--version")), ("start-backups", job)):
            bench.figure(row, number, _start(command))
    tool.remove()
    shutil.rmtree(source)


def _start(job: Job) -> float:
    """The median of several starts after one that does not count."""
    found = [measure.quickly(job.command, job.environment) for _ in range(STARTS + 1)]
    return sorted(found[1:])[STARTS // 2]


def index_rounds(bench: Bench) -> None:
    """An index made once, asked by a new process in each round."""
    folder = bench.path("index")
    bench.say(f"making an index of {bench.amounts.chunks} chunks")
    for number, verb in [(bench.rounds[0], "make"), *((number, "ask") for number in bench.rounds)]:
        found = json.loads(bench.own("bigindex", verb, folder, bench.amounts.chunks, bench.amounts.seed))
        for row, value in found.items():
            bench.figure(f"index-{row}", number, value)
    shutil.rmtree(folder)
