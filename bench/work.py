"""One run of the benchmark: its folder, sources, measurements and results. What is measured in which order is in
`local` (tools side by side on this machine), `remote` (over SSH) and `inside` (figures and generated repositories).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

from bench import measure
from bench.amounts import Amounts
from bench.borg import Borg
from bench.carriers import Rclone
from bench.costs import Timing
from bench.figures import FIGURE_ROWS, Figure
from bench.rows import ROWS, Row
from bench.samples import Sample
from bench.tools import Job, Remote, Restic, Tandem

# Starts an SSH server that serves the given folder; gives its log-in (path and folder are that folder).
Server = Callable[[str], AbstractContextManager[Remote]]


class NotPossible(Exception):
    """The benchmark can't be run here; the message says what is missing."""


class Tool(Protocol):
    """What is offered of each tool."""

    name: str

    def prepare(self) -> None: ...
    def backup(self) -> Job: ...
    def stored(self) -> int: ...
    def remove(self) -> None: ...


class Keeper(Tool, Protocol):
    """A tool that can also give back what it took."""

    def restore(self, target: str) -> Job: ...


class Bench:
    """One run in the folder `root`, which must be new. `say` gets a line per measurement. `versions`: by tool, its own
    words; None for one that is left out."""

    def __init__(
        self, root: str, amounts: Amounts, drop_cache: bool, server: Server, say: Callable[[str], None]
    ) -> None:
        self.root, self.amounts, self.server, self.say = root, amounts, server, say
        self._drop = drop_cache
        self._checked: set[tuple[str, str]] = set()
        self.samples: list[Sample] = []
        self.timings: list[Timing] = []
        self.figures: list[Figure] = []
        self.versions = {
            "tandem": Tandem.version(),
            "restic": Restic.version(),
            "borg": Borg.version(),
            "rclone": Rclone.version(),
        }

    @property
    def rounds(self) -> range:
        """The numbers of all rounds."""
        return range(1, self.amounts.rounds + 1)

    def path(self, name: str) -> str:
        """A place in the work folder."""
        return os.path.join(self.root, name)

    def tandem(self, source: str, remote: Remote | None = None, **more: Any) -> Tandem:
        """Tandem in a folder of its own; `more` as its constructor has it."""
        return Tandem(self.path("tandem"), source, remote, **more)

    def keepers(self, source: str) -> list[Keeper]:
        """The backup programs that are there, each with a folder of its own."""
        tools: list[Keeper] = [
            self.tandem(source),
            Restic(self.path("restic"), source),
            Borg(self.path("borg"), source),
        ]
        return [tool for tool in tools if tool.name == "tandem" or self.versions[tool.name]]

    def measure(
        self, row: str, tool: str, number: int, job: Job, work: int, keeps: Tool | None, drop: bool = True
    ) -> None:
        """One timed command; `work`: bytes that it reads or restores; `keeps`: whose repository is measured after."""
        measure.settle(self._drop and drop)
        cost = measure.measure(job.command, self.path("log"), job.environment)
        stored = keeps.stored() if keeps else 0
        self.samples.append(
            Sample(row, tool, number, cost.wall, cost.cpu, cost.peak, stored, cost.others, work)
        )
        self.say(
            f"round {number}  {_row(row).title:40} {tool:12} {cost.wall:8.2f} s  cpu {cost.cpu:7.2f} s  "
            f"peak {cost.peak / 1e6:5.0f} MB  {work / cost.wall / 1e6:6.0f} MB/s  "
            f"others {cost.others * 100:3.0f} %"
        )

    def once(self, job: Job) -> dict[str, Any]:
        """A command that is not timed; what it printed, where that is JSON."""
        log = self.path("log")
        measure.measure(job.command, log, job.environment)
        with open(log, encoding="utf-8", errors="replace") as file:
            text = file.read()
        found: dict[str, Any] = json.loads(text) if text.startswith("{") else {}
        return found

    def figure(self, row: str, number: int, value: float) -> None:
        """Takes in one value of a figure's row."""
        self.figures.append(Figure(row, number, value))
        shown = next(known for known in FIGURE_ROWS if known.name == row)
        self.say(f"round {number}  {shown.title:40} {shown.words(value)}")

    def own(self, module: str, *arguments: object, environment: Mapping[str, str] | None = None) -> str:
        """Runs a module of the benchmark in a process of its own; what it prints."""
        command = [sys.executable, "-m", f"bench.{module}", *map(str, arguments)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            raise measure.CommandFailed(f"`{' '.join(command)}`: {done.stderr.strip()[-2_000:]}")
        return done.stdout

    def check(self, group: str, tool: str, source: str, target: str) -> None:
        """Compares what a tool restored with the source, the first time; NotPossible if it differs."""
        if (group, tool) in self._checked:
            return
        self._checked.add((group, tool))
        wrong = self.own("sources", "compare", source, target + source).strip()
        if wrong:
            raise NotPossible(f"{tool} restored something else: {wrong}")

    def source(self, kind: str) -> str:
        """The folder with a source of this kind, made when it is first asked for."""
        folder = self.path(f"source-{kind}")
        if not os.path.exists(folder):
            self.say(f"making the source: {kind}")
            form, amount = self.amounts.source(kind)
            self.own("sources", form, folder, amount, self.amounts.seed)
        return folder

    def tidy(self, keep: Iterable[str]) -> None:
        """Removes everything but these sources."""
        kept = {f"source-{kind}" for kind in keep}
        for entry in os.scandir(self.root):
            if entry.name not in kept and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)

    def change(self, source: str, number: int) -> None:
        """Changes 1 % of a source, in each round in other places."""
        self.own("sources", "change", source, self.amounts.seed * 1_000 + number)


def below(remote: Remote, name: str) -> Remote:
    """A folder of its own on the server."""
    return replace(remote, path=f"{remote.path}/{name}", folder=os.path.join(remote.folder, name))


def _row(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)
