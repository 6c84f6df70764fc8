"""Tools side by side on this machine: a tree, a random file, a disk image, a million small files.

A round goes through the rows; in each row the tools follow one another, so that a noisy minute hits them
alike. Repositories and restored files are removed as soon as no later row needs them.
"""

from __future__ import annotations

import os
import shutil

from bench import measure
from bench.tools import Copy, Tandem
from bench.work import Bench, Keeper

ONE_TIMES = 3


def local_rounds(bench: Bench, kind: str) -> None:
    """All rounds of the rows of the tree, the random file or the disk image."""
    source = bench.source(kind)
    for number in bench.rounds:
        tools = bench.keepers(source)
        try:
            _first(bench, kind, number, source, tools)
            if kind == "tree":
                _again(bench, number, source, tools)
            if kind != "big":
                _changed(bench, kind, number, source, tools)
            _restore(bench, kind, number, source, tools)
        finally:
            for tool in tools:
                tool.remove()


def _first(bench: Bench, kind: str, number: int, source: str, tools: list[Keeper]) -> None:
    row, work = f"{kind}-first", measure.folder_bytes(source)
    for tool in tools:
        tool.prepare()
        bench.measure(row, tool.name, number, tool.backup(), work, tool)
    baseline = Copy(bench.path("copy"), source)
    baseline.prepare()
    bench.measure(row, baseline.name, number, baseline.backup(), work, baseline)
    baseline.remove()


def _again(bench: Bench, number: int, source: str, tools: list[Keeper]) -> None:
    work = measure.folder_bytes(source)
    for tool in tools:
        bench.measure("tree-again", tool.name, number, tool.backup(), work, tool)
    for tool in tools:
        bench.once(tool.backup())
        bench.measure("tree-warm", tool.name, number, tool.backup(), work, tool, drop=False)


def _changed(bench: Bench, kind: str, number: int, source: str, tools: list[Keeper]) -> None:
    bench.change(source, number)
    work = measure.folder_bytes(source)
    for tool in tools:
        bench.measure(f"{kind}-changed", tool.name, number, tool.backup(), work, tool)


def _restore(bench: Bench, kind: str, number: int, source: str, tools: list[Keeper]) -> None:
    work = measure.folder_bytes(source)
    for tool in tools:
        target = bench.path("restored")
        bench.measure(f"{kind}-restore", tool.name, number, tool.restore(target), work, None)
        bench.check(kind, tool.name, source, target)
        shutil.rmtree(target)
        tool.remove()


def million_rounds(bench: Bench) -> None:
    """First backups of small files and of ten times as many, in turn; then one file out of the larger repository."""
    rows = {"small-first": bench.source("tenth"), "million-first": bench.source("million")}
    work = {row: measure.folder_bytes(source) for row, source in rows.items()}
    for number in bench.rounds:
        for row, source in rows.items():
            tool = bench.tandem(source)
            tool.prepare()
            bench.measure(row, tool.name, number, tool.backup(), work[row], tool)
            if row == "million-first" and number == bench.rounds[-1]:
                _one_file(bench, tool, source)
            tool.remove()


def _one_file(bench: Bench, tool: Tandem, source: str) -> None:
    """With the index of before, and with nothing but the passphrase. Where the result does not tell what was read
    (metadata, for instance), all bytes that the process read are taken from the kernel, its program's included."""
    wanted = _some_file(source)
    target = bench.path("one")
    bench.once(tool.restore(target, wanted))
    for number in range(1, ONE_TIMES + 1):
        for row, job in (
            ("one", tool.restore(target, wanted)),
            ("one-bare", tool.restore_bare(target, wanted)),
        ):
            shutil.rmtree(target)
            measure.settle(drop_cache=False)
            seconds, read, said = measure.reading(job.command, job.environment)
            bench.figure(f"{row}-time", number, seconds)
            bench.figure(
                f"{row}-read", number, read if row == "one-bare" else sum(said["read_from"].values())
            )
    shutil.rmtree(target)
    shutil.rmtree(target + "-home", ignore_errors=True)


def _some_file(source: str) -> str:
    """A file in the middle of the walk's first deep folder: any will do, but always the same."""
    for folder, folders, files in os.walk(source):
        folders.sort()
        if len(files) > 10 and folder != source:
            return os.path.join(folder, sorted(files)[len(files) // 2])
    raise FileNotFoundError(source)
