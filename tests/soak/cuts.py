"""Power cuts under backup, init, sync, tier add and takeover, with vault and local state on the disk that is cut.

The second tier stays powered, as a remote does: so it knows of revisions that the local state may have
lost, which is where a false second installation would come from. Before some cuts the kernel has written
out what it had (a moment at random), so that parts of what was not synced are on the disk; after some, the
program lives on for a while on a dead disk.
"""

from __future__ import annotations

import os
import random
from subprocess import Popen, TimeoutExpired

from tests.support.campaign import Campaign, Hands, Plug, Tally, seeds
from tests.support.lab import Lab, Place
from tests.support.powercut import CutDisk

CUTS_PER_EPISODE = 40


class Cutter:
    """The hands of this campaign."""

    def __init__(self, disk: CutDisk, steady: str, seed: int) -> None:
        self._disk, self._steady = disk, steady
        self._rng = random.Random(f"cutter {seed}")

    def strike(self, process: Popen[str]) -> None:
        """Cuts the power, ends the program, brings the power back."""
        if self._rng.random() < 0.4:
            self._disk.flush()
            self._linger(process, self._rng.uniform(0, 0.02))
        self._disk.cut()
        if self._rng.random() < 0.25:
            self._linger(process, self._rng.uniform(0, 1.0))
        process.kill()
        process.wait()
        self._disk.restore_power()

    def unplug(self) -> None:
        """Takes the other tier away, as an unmounted share is."""
        os.rename(self._steady, self._steady + ".away")

    def plug(self) -> None:
        """And back."""
        os.rename(self._steady + ".away", self._steady)

    @staticmethod
    def _linger(process: Popen[str], seconds: float) -> None:
        try:
            process.wait(seconds)
        except TimeoutExpired:
            return


def campaign(folder: str, cuts: int, seed: int, quick: bool = False) -> list[Tally]:
    """Runs `cuts` power cuts below `folder` (absolute, must be there); one tally for each repository used.
    `quick` restores only at the end of each.

    Errors: LabFailure.
    """
    tallies = []
    left = cuts
    for each in seeds(seed, -(-cuts // CUTS_PER_EPISODE)):
        with CutDisk(folder, megabytes=2048) as disk:
            steady = os.path.join(folder, "steady")
            vault = os.path.join(disk.root, "vault")
            home = os.path.join(disk.root, "home")
            for path in (steady, vault, home):
                os.makedirs(path, exist_ok=True)
            places = [Place("vault", f"file://{vault}", vault), Place("steady", f"file://{steady}", steady)]
            lab = Lab(folder, places, home)
            cutter = Cutter(disk, steady, each)
            one = Campaign(
                lab, Hands(cutter.strike, {"steady": Plug(cutter.unplug, cutter.plug)}), each, quick
            )
            one.episode(min(left, CUTS_PER_EPISODE))
            tallies.append(one.tally)
        left -= CUTS_PER_EPISODE
    return tallies
