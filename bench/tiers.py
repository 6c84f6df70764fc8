"""`python -m bench.tiers FOLDER REVISIONS OBJECTS ROUNDS SEED`: what contact and synchronisation cost with a long
history and very many objects, over loopback sshd.

The repository is made by the tests' generator, metadata only (see there what of it is real): what the tiers are asked
for is on the disk, the rest of the objects is only in the local state. Both tiers are folders behind OpenSSH's server.
Each round begins as a new process would: state opened, links not yet. Prints a line of JSON for each measurement.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from pathlib import Path

from tests.support.bigrepo import BigRepo
from tests.support.sshd import Sshd, running_sshd

from bench.costs import Timing
from tandem_agent.config import Config
from tandem_agent.progress import Progress
from tandem_agent.resync import sync
from tandem_agent.state import State
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.tierset import TierSet
from tandem_agent.wiring import Agent
from tandem_protocol.store import Buffer, Entry
from tandem_protocol.stores.retrying import RetryingStore
from tandem_protocol.stores.sftp import SftpStore


class Counters:
    """Questions asked of all tiers, folders listed, and when the last link was up."""

    def __init__(self) -> None:
        self.questions = 0
        self.connected = 0.0


class CountedStore(SftpStore):
    """An SFTP store that counts what it is asked for."""

    counters: Counters

    async def open(self) -> None:
        await super().open()
        self.counters.connected = time.perf_counter()

    async def create(self, name: str, data: Buffer) -> None:
        self.counters.questions += 1
        await super().create(name, data)

    async def put(self, name: str, data: Buffer, sent: Callable[[int], None] | None = None) -> None:
        self.counters.questions += 1
        await super().put(name, data, sent)

    async def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        self.counters.questions += 1
        return await super().read(name, offset, length)

    async def size(self, name: str) -> int:
        self.counters.questions += 1
        return await super().size(name)

    async def list(self, folder: str) -> AsyncIterator[Entry]:
        self.counters.questions += 1
        async for entry in super().list(folder):
            yield entry


class Bench:
    """The repository in ``folder``; both tiers hold all, or ``remote`` all but the last revision."""

    def __init__(self, folder: Path, revisions: int, objects: int, seed: int, remote_lags: bool) -> None:
        level = revisions - 1 if remote_lags else None
        repo = BigRepo(folder / "made", revisions, objects, {"vault": None, "remote": level}, seed=seed)
        repo.state.close()
        self.folder, self.repo = folder, repo

    def reset(self) -> None:
        """State and tiers as they were made."""
        for name in ("state", *(plan.name for plan in self.repo.tiers)):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        shutil.copytree(self.folder / "made", self.folder / "state")
        for plan in self.repo.tiers:
            self.repo.write_folder(plan, self.folder / plan.name)

    def open(self, server: Sshd) -> tuple[Agent, Counters]:
        """The agent of a new process, with its links not yet up."""
        state = State.open(str(self.folder / "state"))
        counters = Counters()
        tiers = []
        for plan in self.repo.tiers:
            tier = Tier(
                state.tier(plan.identity.tier_id),
                "",
                RetryingStore(lambda name=plan.name: self._store(server, name, counters)),  # type: ignore[misc]
                state,
                self.repo.ring,
            )
            tiers.append(tier)
        return Agent(
            Config((), str(self.folder)), state, self.repo.ring, TierSet(tiers, state, self.repo.ring)
        ), counters

    def _store(self, server: Sshd, name: str, counters: Counters) -> CountedStore:
        store = CountedStore(server.target(self.folder / name))
        store.counters = counters
        return store

    async def contact(self, server: Sshd, row: str, number: int) -> Timing:
        """Contact with nothing to do: connection, and what comes after the last link is up."""
        agent, counters = self.open(server)
        try:
            began = time.perf_counter()
            await agent.tiers.contact()
            ended = time.perf_counter()
            assert all(tier.is_complete and tier.reachable for tier in agent.tiers.tiers)
        finally:
            await agent.tiers.close()
            agent.state.close()
        connect = counters.connected - began
        return Timing(row, number, connect, ended - counters.connected, counters.questions)

    async def resync(self, server: Sshd, row: str, number: int) -> Timing:
        """From nothing to both tiers level; the connection is within the time."""
        self.reset()
        agent, counters = self.open(server)
        try:
            began = time.perf_counter()
            result = await sync(agent, (), False, Progress())
            ended = time.perf_counter()
            assert [tier.objects for tier in result.tiers] == [0, 10], result
            assert all(tier.is_complete for tier in agent.tiers.tiers)
        finally:
            await agent.tiers.close()
            agent.state.close()
        return Timing(row, number, counters.connected - began, ended - began, counters.questions)


async def run(folder: str, revisions: int, objects: int, rounds: int, seed: int, rows: list[str]) -> None:
    """``rows``: the name of the row of contact and, if the remote tier is to miss a revision, of its
    synchronisation."""
    bench = Bench(Path(folder), revisions, objects, seed, len(rows) > 1)
    with running_sshd(Path(folder) / "sshd") as server:
        bench.reset()
        for number in range(1, rounds + 1):
            if len(rows) > 1:
                print(json.dumps(asdict(await bench.resync(server, rows[1], number))), flush=True)
            print(json.dumps(asdict(await bench.contact(server, rows[0], number))), flush=True)


def main(folder: str, *arguments: str) -> None:
    """Makes the repository and measures."""
    revisions, objects, rounds, seed = map(int, arguments[:4])
    asyncio.run(run(folder, revisions, objects, rounds, seed, list(arguments[4:])))


if __name__ == "__main__":
    main(*sys.argv[1:])
