"""Does the measuring: makes the sources, lets the tools take turns, checks every kind of restore once.

A round goes through the rows; in each row the tools follow one another, so that a noisy minute hits them
alike. Repositories and restored files are removed as soon as no later row needs them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from bench import measure
from bench.costs import COST_GROUPS, COST_ROWS, CostRow, Timing
from bench.rows import ROWS, Row
from bench.samples import Sample
from bench.tools import Copy, Job, Remote, Restic, Sftp, Tandem

SPARE_BYTES = 1 << 30
BIG_NAME = "random.bin"


class NotPossible(Exception):
    """The benchmark can't be run here; the message says what is missing."""


@dataclass(frozen=True)
class Amounts:
    """How much work: files in the tree, bytes in the random file, rounds, seed of both sources; by which number the
    million of generated objects is divided."""

    files: int = 100_000
    big: int = 2 << 30
    rounds: int = 3
    seed: int = 1
    tree_file: int = 14_000
    shrink: int = 1

    @property
    def tree(self) -> int:
        """About how many bytes the tree takes on a disk, blocks counted."""
        return self.files * self.tree_file

    def disk(self, groups: Iterable[str]) -> int:
        """About how many bytes are needed at the worst moment."""
        wanted = set(groups)
        tree = self.tree * 7 // 2 if "tree" in wanted else 0
        big = self.big * 4 if "big" in wanted else self.big * 2 if "sftp" in wanted else 0
        return max(tree, big) + SPARE_BYTES


class Tool(Protocol):
    """What tools.py offers of each tool."""

    name: str

    def prepare(self) -> None: ...
    def backup(self) -> Job: ...
    def stored(self) -> int: ...
    def remove(self) -> None: ...


class Keeper(Tool, Protocol):
    """A tool that can also give back what it took."""

    def restore(self, target: str) -> Job: ...


# Starts an SSH server that serves the given folder; gives its log-in (path and folder are that folder).
Server = Callable[[str], AbstractContextManager[Remote]]


class Bench:
    """One run in the folder `root`, which must be new. `say` gets a line per measurement."""

    def __init__(
        self, root: str, amounts: Amounts, drop_cache: bool, server: Server, say: Callable[[str], None]
    ) -> None:
        self._root, self._amounts, self._drop, self._server, self._say = (
            root,
            amounts,
            drop_cache,
            server,
            say,
        )
        self._checked: set[tuple[str, str]] = set()
        self.samples: list[Sample] = []
        self.timings: list[Timing] = []
        self.versions = {"tandem": Tandem.version(), "restic": Restic.version()}

    def run(self, groups: Iterable[str]) -> None:
        """All rounds of the groups "tree", "big", "sftp", "contact", "resync". Raises NotPossible,
        measure.CommandFailed."""
        wanted = [group for group in ("tree", "big", "sftp") if group in set(groups)]
        free = shutil.disk_usage(self._root).free
        need = self._amounts.disk(wanted)
        if free < need:
            raise NotPossible(f"{self._root} has {free / 1e9:.1f} GB free, {need / 1e9:.1f} GB are needed")
        for group in wanted:
            source = self._make_source("tree" if group == "tree" else "big")
            for number in range(1, self._amounts.rounds + 1):
                if group == "sftp":
                    self._sftp_round(number, source)
                else:
                    self._local_round(number, group, source)
            if group != "big" or "sftp" not in wanted:
                self._forget_source(source)
        for measured in COST_GROUPS:
            if measured in set(groups):
                self._cost_rounds(measured)

    def _cost_rounds(self, group: str) -> None:
        """Rows of one size share one generated repository."""
        sizes: dict[tuple[int, int], list[CostRow]] = {}
        for row in COST_ROWS:
            if row.group == group:
                sizes.setdefault((row.revisions, row.objects), []).append(row)
        for (revisions, objects), rows in sizes.items():
            if objects >= 1_000_000:
                objects //= self._amounts.shrink
            folder = os.path.join(self._root, "tiers")
            self._say(f"making a repository of {revisions} revisions and {objects} objects")
            amounts = (revisions, objects, self._amounts.rounds, self._amounts.seed)
            command = [sys.executable, "-m", "bench.tiers", folder, *map(str, amounts)]
            done = subprocess.run(
                [*command, *(row.name for row in rows)], check=False, capture_output=True, text=True
            )
            if done.returncode != 0:
                raise measure.CommandFailed(f"`{' '.join(command)}`: {done.stderr.strip()[-2_000:]}")
            for line in done.stdout.splitlines():
                timing = Timing(**json.loads(line))
                self.timings.append(timing)
                self._say(
                    f"round {timing.round}  {timing.row:20} {timing.seconds * 1000:6.0f} ms  "
                    f"connection {timing.connect * 1000:5.0f} ms  {timing.questions} questions"
                )
            shutil.rmtree(folder)

    def _local_round(self, number: int, group: str, source: str) -> None:
        there = self._present(source)
        baseline = Copy(os.path.join(self._root, "copy"), source)
        work = measure.folder_bytes(source)
        for tool in there:
            tool.prepare()
            self._measure(f"{group}-first", tool.name, number, tool.backup(), work, tool)
        baseline.prepare()
        self._measure(f"{group}-first", baseline.name, number, baseline.backup(), work, baseline)
        baseline.remove()
        if group == "tree":
            for tool in there:
                self._measure("tree-again", tool.name, number, tool.backup(), work, tool)
            for tool in there:
                self._warm(tool.backup())
                self._measure("tree-warm", tool.name, number, tool.backup(), work, tool, drop=False)
        for tool in there:
            target = os.path.join(self._root, "restored")
            self._measure(f"{group}-restore", tool.name, number, tool.restore(target), work, None)
            self._check(group, tool.name, source, target)
            shutil.rmtree(target)
            tool.remove()

    def _sftp_round(self, number: int, source: str) -> None:
        served = os.path.join(self._root, "served")
        file = os.path.join(source, BIG_NAME)
        os.makedirs(served, exist_ok=True)
        with self._server(served) as remote:
            ours = _below(remote, "tandem")
            tools: list[Tool] = [
                Sftp(os.path.join(self._root, "sftp"), file, _below(remote, "put"), f) for f in (False, True)
            ]
            if self.versions["tandem"]:
                tools.insert(0, Tandem(os.path.join(self._root, "tandem"), source, ours))
            for tool in tools:
                tool.prepare()
                self._measure(
                    "sftp-first", tool.name, number, tool.backup(), measure.folder_bytes(source), tool
                )
                tool.remove()

    def _present(self, source: str) -> list[Keeper]:
        tools: list[Keeper] = []
        if self.versions["tandem"]:
            tools.append(Tandem(os.path.join(self._root, "tandem"), source))
        if self.versions["restic"]:
            tools.append(Restic(os.path.join(self._root, "restic"), source))
        return tools

    def _measure(
        self, row: str, tool: str, number: int, job: Job, work: int, keeps: Tool | None, drop: bool = True
    ) -> None:
        measure.settle(self._drop and drop)
        cost = measure.measure(job.command, os.path.join(self._root, "log"), job.environment)
        stored = keeps.stored() if keeps else 0
        self.samples.append(
            Sample(row, tool, number, cost.wall, cost.cpu, cost.peak, stored, cost.others, work)
        )
        self._say(
            f"round {number}  {_row(row).title:32} {tool:8} {cost.wall:8.2f} s  cpu {cost.cpu:7.2f} s  "
            f"peak {cost.peak / 1e6:5.0f} MB  {work / cost.wall / 1e6:6.0f} MB/s  "
            f"others {cost.others * 100:3.0f} %"
        )

    def _warm(self, job: Job) -> None:
        """The same command once before, untimed."""
        measure.measure(job.command, os.path.join(self._root, "log"), job.environment)

    def _check(self, group: str, tool: str, source: str, target: str) -> None:
        """Compares what a tool restored with the source, the first time; NotPossible if it differs."""
        if (group, tool) in self._checked:
            return
        self._checked.add((group, tool))
        command = [sys.executable, "-m", "bench.sources", "compare", source, target + source]
        wrong = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        if wrong:
            raise NotPossible(f"{tool} restored something else: {wrong}")

    def _make_source(self, kind: str) -> str:
        """The folder with the tree, or the folder with the one random file."""
        folder = os.path.join(self._root, f"source-{kind}")
        if os.path.exists(folder):
            return folder
        self._say(f"making the source: {kind}")
        os.makedirs(folder)
        path = folder if kind == "tree" else os.path.join(folder, BIG_NAME)
        amount = self._amounts.files if kind == "tree" else self._amounts.big
        command = [sys.executable, "-m", "bench.sources", kind, path, str(amount), str(self._amounts.seed)]
        subprocess.run(command, check=True)
        return folder

    def _forget_source(self, source: str) -> None:
        shutil.rmtree(source)


def _below(remote: Remote, name: str) -> Remote:
    fields = vars(remote) | {"path": f"{remote.path}/{name}", "folder": os.path.join(remote.folder, name)}
    return Remote(**fields)


def _row(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)
