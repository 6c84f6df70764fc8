"""Runs the simulation of one seed, in this process, and says how to run it again when something is wrong."""

from __future__ import annotations

import logging
import os
import random
import shlex
import tempfile
from collections.abc import Collection
from unittest.mock import patch

from tests.simulation.content import inline_pipeline
from tests.simulation.loop import Deadlock, VirtualLoop
from tests.simulation.scenario import Scenario
from tests.simulation.seams import deterministic
from tests.simulation.world import Violation, World

from tandem_agent import backup, reading, wiring
from tandem_agent.database import Database
from tandem_agent.tiers import importing
from tandem_protocol import planning
from tandem_protocol.errors import TandemError

STEPS = 10
LAST_LINES = 120


class Failed(AssertionError):
    """A seed that shows something wrong; the message has the end of the trace and the command to repeat it."""


def simulate(seed: int, steps: int = STEPS, faults: Collection[str] = ()) -> list[str]:
    """The trace of ``seed``; with ``faults`` of these kinds only. Raises `Failed`."""
    loop = VirtualLoop(random.Random(f"order {seed}"))
    names = ("vault", "remote", "third")[: 3 if seed % 3 == 0 else 2]
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    quiet = logging.root.manager.disable
    with tempfile.TemporaryDirectory(prefix="tandem-sim-", dir=memory) as folder:
        world = World(seed, folder, loop, names)
        logging.disable(logging.CRITICAL)
        try:
            with (
                deterministic(seed, loop.time),
                patch.object(backup, "run_backup_pipeline", inline_pipeline),
                patch.object(Database, "open", world.disks.open),
                patch.object(wiring, "make_store", world.store),
                patch.object(importing, "object_folders", world.folders),
                patch.object(reading, "object_folders", world.folders),
                patch.object(planning, "BASE_OFTEN", 4 if seed % 4 == 1 else planning.BASE_OFTEN),
            ):
                loop.run_until_complete(Scenario(world, steps, faults).run())
        except (Violation, Deadlock, TandemError) as fault:
            last = "\n".join(world.trace[-LAST_LINES:])
            again = shlex.join([str(seed), str(steps), *faults])
            raise Failed(
                f"{last}\n\nseed {seed}: {fault}\n"
                f"Again, with the whole trace: python -m tests.simulation {again}"
            ) from fault
        finally:
            logging.disable(quiet)
            loop.close()
    return world.trace
