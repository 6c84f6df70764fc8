"""What goes over SSH: to an OpenSSH server on loopback, near, far away, or over a narrow line."""

from __future__ import annotations

import os
import shutil

from bench import measure
from bench.carriers import Rclone, Sftp, SshCat
from bench.servers import line
from bench.sources import FILE
from bench.tools import Remote, Tandem
from bench.work import Bench, NotPossible, Tool, below

NARROW = 20_000_000
"""Bytes a second of the narrow line."""

FAR_MS = (20, 100)


def sftp_rounds(bench: Bench) -> None:
    """The random file to a server that is near; another to one that is far away."""
    for number in bench.rounds:
        served = bench.path("served")
        os.makedirs(served, exist_ok=True)
        with bench.server(served) as remote:
            source = bench.source("big")
            file = os.path.join(source, FILE)
            put = below(remote, "put")
            both = [Sftp(bench.path("sftp"), file, put, flush) for flush in (False, True)]
            near: list[Tool] = [SshCat(bench.path("cat"), file, put), *both]
            _turn(bench, "sftp-first", number, source, remote, near)
            for far in FAR_MS:
                with line(remote, far) as away:
                    source = bench.source("far")
                    cat = SshCat(bench.path("cat"), os.path.join(source, FILE), below(away, "put"))
                    _turn(bench, f"sftp-{far}", number, source, away, [cat])


def _turn(bench: Bench, row: str, number: int, source: str, remote: Remote, others: list[Tool]) -> None:
    tools = [bench.tandem(source, below(remote, "tandem")), *others]
    _one_by_one(bench, row, number, source, tools)


def _one_by_one(bench: Bench, row: str, number: int, source: str, tools: list[Tool]) -> None:
    work = measure.folder_bytes(source)
    for tool in tools:
        try:
            tool.prepare()
            bench.measure(row, tool.name, number, tool.backup(), work, tool)
        finally:
            tool.remove()


def both_rounds(bench: Bench) -> None:
    """Vault and remote in one backup, the remote behind a narrow line: against the remote alone, and, where the backup
    never waits for the remote, against the vault alone."""
    for number in bench.rounds:
        served = bench.path("served")
        os.makedirs(served, exist_ok=True)
        with bench.server(served) as remote, line(remote, rate=NARROW) as narrow:
            there = below(narrow, "tandem")
            source = bench.source("narrow")
            tools: list[Tool] = [
                bench.tandem(source, there, with_vault=True),
                bench.tandem(source, there, name="remote alone"),
            ]
            _one_by_one(bench, "both-remote", number, source, tools)
            source = bench.source("big")
            tools = [
                bench.tandem(source, there, with_vault=True, lag=0),
                bench.tandem(source, name="vault alone"),
            ]
            _one_by_one(bench, "both-lag", number, source, tools)


def mirror_rounds(bench: Bench) -> None:
    """A copy that missed a whole backup is brought level; rclone copies the vault to the same server."""
    source = bench.source("big")
    for number in bench.rounds:
        served = bench.path("served")
        os.makedirs(served, exist_ok=True)
        with bench.server(served) as remote:
            tool = bench.tandem(source, below(remote, "tandem"), with_vault=True, attempts=1)
            tool.prepare()
        bench.once(tool.backup())  # nobody listens: the vault alone gets it
        try:
            with bench.server(served) as remote:
                _mirror(bench, number, tool, remote)
        finally:
            tool.remove()


def _mirror(bench: Bench, number: int, tool: Tandem, remote: Remote) -> None:
    tool.remote = below(remote, "tandem")
    tool.configure()
    lacking = measure.folder_bytes(tool.vault) - measure.folder_bytes(tool.remote.folder)
    bench.measure("mirror-sync", tool.name, number, tool.sync(), lacking, tool)
    if measure.folder_bytes(tool.remote.folder) < measure.folder_bytes(tool.vault):
        raise NotPossible("tandem sync has not brought the copy level")
    shutil.rmtree(tool.remote.folder)
    if bench.versions["rclone"]:
        rclone = Rclone(bench.path("rclone"), tool.vault, below(remote, "put"))
        try:
            rclone.prepare()
            bench.measure("mirror-sync", rclone.name, number, rclone.backup(), lacking, rclone)
        finally:
            rclone.remove()
