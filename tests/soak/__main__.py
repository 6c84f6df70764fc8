"""`python -m tests.soak --kills 300 --cuts 200 --simulation 10000 --seed N`: the long campaigns; exit 1 at the first
thing lost. Without any count, all of them."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.soak import cuts, kills, model, proxy, simulation
from tests.support import powercut
from tests.support.lab import LabFailure
from tests.support.treegen import remove_tree

KILLS, CUTS, PROXY, MODEL, SIMULATION = 300, 200, 200, 5_000_000, 10_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what was asked for; prints a line per strike and a summary per campaign."""
    options = _options(arguments)
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    wanted: list[tuple[str, int, Callable[[str, int, int], list[Any]], str | None]] = [
        ("kills", options.kills, kills.campaign, kills.why_not()),
        ("cuts", options.cuts, cuts.campaign, powercut.why_not()),
        ("proxy", options.proxy, proxy.campaign, proxy.why_not()),
        ("model", options.model, model.campaign, model.why_not()),
        ("simulation", options.simulation, simulation.campaign, simulation.why_not()),
    ]
    for name, count, campaign, obstacle in wanted:
        if not count:
            continue
        if obstacle:
            print(f"{name}: not possible here: {obstacle}")
            return 1
        if not _run(name, count, campaign, seed, options.workdir):
            return 1
    return 0


def _run(
    name: str, count: int, campaign: Callable[[str, int, int], list[Any]], seed: int, workdir: str | None
) -> bool:
    start = time.monotonic()
    print(f"{name}: {count}, seed {seed}", flush=True)
    folder = tempfile.mkdtemp(prefix=f"tandem-{name}-", dir=workdir)
    try:
        tallies = campaign(folder, count, seed)
    except LabFailure as failure:
        print(f"\nFAILED: {failure}\nAgain: python -m tests.soak --{name} {count} --seed {seed}", flush=True)
        return False
    finally:
        remove_tree(folder)
    for tally in tallies:
        print(f"  {tally}")
    print(f"{name}: {count} done in {time.monotonic() - start:.0f} s, nothing lost", flush=True)
    return True


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument(
        "--kills",
        type=int,
        help=f"SIGKILLs, with a vault, a real sshd and a real vsftpd ({KILLS})",
    )
    parser.add_argument("--cuts", type=int, help=f"power cuts of the disk with vault and state ({CUTS})")
    parser.add_argument("--proxy", type=int, help=f"runs through links that fail, to real servers ({PROXY})")
    parser.add_argument("--model", type=int, help=f"states of the protocol's rules searched ({MODEL})")
    parser.add_argument(
        "--simulation", type=int, help=f"runs of the agent on virtual time, with faults ({SIMULATION})"
    )
    parser.add_argument("--seed", type=int, help="default: a random one, printed")
    parser.add_argument("--workdir", type=os.path.abspath, help="where work folders are made (default: /tmp)")
    options = parser.parse_args(arguments)
    counts = {"kills": KILLS, "cuts": CUTS, "proxy": PROXY, "model": MODEL, "simulation": SIMULATION}
    if all(getattr(options, name) is None for name in counts):
        vars(options).update(counts)
    return options


if __name__ == "__main__":
    sys.exit(main())
