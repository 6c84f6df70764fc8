"""`python -m bench.history FOLDER COUNT` makes so many backups of a folder with one small file, which changes in
between: real ones, by the configuration of the environment, in one process that opens the repository once."""

from __future__ import annotations

import asyncio
import os
import sys

from bench.tools import PASSPHRASE
from tandem_agent.backup import backup
from tandem_agent.config import load_config
from tandem_agent.progress import Progress
from tandem_agent.wiring import open_agent


async def make(folder: str, count: int) -> None:
    """One backup after the other."""
    config = load_config()
    async with open_agent(config, lambda: PASSPHRASE) as agent:
        for number in range(count):
            _change(folder, number)
            await backup(agent, config.sources, wait_s=None, progress=Progress())


def _change(folder: str, number: int) -> None:
    with open(os.path.join(folder, "file"), "w", encoding="ascii") as file:
        file.write(f"{number}\n")


if __name__ == "__main__":
    asyncio.run(make(sys.argv[1], int(sys.argv[2])))
