"""`python -m bench.tiers FOLDER REVISIONS OBJECTS ROUNDS SEED ROW…`: what contact and synchronisation cost with a long
history and very many objects, over loopback sshd.

The repository is made by the tests' generator, metadata only (see there what of it is real): what the tiers are asked
for is on the disk, the rest of the objects is only in the local state. All tiers are folders behind OpenSSH's server.
Each round begins as a new process would: state opened, links not yet. Prints a line of JSON for each measurement.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tests.support.bigrepo import BigRepo
from tests.support.sshd import Sshd, running_sshd

from bench.costs import COST_ROWS, CostRow, Timing
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
    """Questions asked of all tiers, and when the last link was up."""

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
    """The repository in ``folder``, with two level tiers, one that misses the last revision, one that misses nine
    tenths, and a new one."""

    def __init__(self, folder: Path, revisions: int, objects: int, seed: int) -> None:
        levels = {"level": None, "level-too": None, "behind": revisions - 1, "far": revisions // 10}
        repo = BigRepo(folder / "made", revisions, objects, levels, seed=seed)
        repo.add_new_tier("new")
        repo.state.close()
        self.folder, self.repo = folder, repo

    def reset(self) -> None:
        """State and tiers as they were made."""
        for name in ("state", *(plan.name for plan in self.repo.tiers)):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        shutil.copytree(self.folder / "made", self.folder / "state")
        for plan in self.repo.tiers:
            self.repo.write_folder(plan, self.folder / plan.name)

    def open(self, server: Sshd, names: Iterable[str]) -> tuple[Agent, Counters]:
        """The agent of a new process that knows these tiers, with its links not yet up."""
        state = State.open(str(self.folder / "state"))
        counters = Counters()
        tiers = []
        for plan in self.repo.tiers:
            if plan.name in names:
                store = RetryingStore(partial(self._store, server, plan.name, counters))
                tiers.append(Tier(state.tier(plan.identity.tier_id), "", store, state, self.repo.ring))
        agent = Agent(
            Config((), str(self.folder)), state, self.repo.ring, TierSet(tiers, state, self.repo.ring)
        )
        return agent, counters

    def _store(self, server: Sshd, name: str, counters: Counters) -> CountedStore:
        store = CountedStore(server.target(self.folder / name))
        store.counters = counters
        return store

    async def measure(self, server: Sshd, row: CostRow, number: int) -> Timing:
        """One round of a row. Contact counts from when the last link is up, synchronisation from the beginning."""
        agent, counters = self.open(server, row.tiers)
        try:
            began = time.perf_counter()
            if row.name == "resync":
                result = await sync(agent, (), False, Progress())
                assert [tier.objects for tier in result.tiers] == [0, 10], result
                assert all(tier.is_complete for tier in agent.tiers.tiers)
            else:
                await agent.tiers.contact()
            ended = time.perf_counter()
            assert all(tier.reachable for tier in agent.tiers.tiers), [t.reason for t in agent.tiers.tiers]
        finally:
            await agent.tiers.close()
            agent.state.close()
        since = began if row.name == "resync" else counters.connected
        return Timing(row.name, number, counters.connected - began, ended - since, counters.questions)


async def run(folder: str, revisions: int, objects: int, rounds: int, seed: int, rows: list[str]) -> None:
    """Measures ``rows`` (their names), each as often as there are ``rounds``."""
    bench = Bench(Path(folder), revisions, objects, seed)
    with running_sshd(Path(folder) / "sshd") as server:
        for number in range(1, rounds + 1):
            bench.reset()
            for row in COST_ROWS:
                if row.name in rows:
                    print(json.dumps(asdict(await bench.measure(server, row, number))), flush=True)


def main(folder: str, *arguments: str) -> None:
    """Makes the repository and measures."""
    revisions, objects, rounds, seed = map(int, arguments[:4])
    asyncio.run(run(folder, revisions, objects, rounds, seed, list(arguments[4:])))


if __name__ == "__main__":
    main(*sys.argv[1:])
