"""One campaign: a lab whose commands are struck (killed, or the power cut under them) again and again.

After each strike, in this order: what was acknowledged lately restores from a tier that was said to have it,
alone, each tier in its turn; the next backup ends with exit 0 (so never 4, a false second installation) without
any help; mostly a synchronisation follows, else the next strike finds a tier that lags. At the end, after a last
synchronisation, everything that was ever acknowledged is restored from each tier that was said to have it.

The seed decides what changes, which command is struck and when; the kernel's and the disk's timing does not
repeat, so a seed reproduces a kind of run, not each instruction of it.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from subprocess import Popen

from tests.support import manifest, moments, treegen
from tests.support.lab import Acknowledged, Lab, LabFailure, Place

SOURCE = treegen.TreeSpec(120, pool_bytes=2 * treegen.MIB, largest=treegen.MIB)
BIG_BYTES = 12 * treegen.MIB
WHOLE_LIFE = 12
"""Strikes from which on an episode has a tier added and the machine replaced, too."""

TAKEOVER_STEPS = (moments.INIT_STEPS[1], *moments.STEPS[:2])


@dataclass
class Tally:
    """What a campaign has done so far, in numbers."""

    strikes: int = 0
    missed: int = 0
    acknowledged: int = 0
    acknowledged_when_struck: int = 0
    restores: int = 0
    inits: int = 0
    syncs: int = 0
    adds: int = 0
    takeovers: int = 0
    moments: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        where = ", ".join(f"{what} {count}" for what, count in sorted(self.moments.items()))
        return (
            f"{self.strikes} strikes ({self.inits} in init, {self.syncs} in sync, {self.adds} in tier add, "
            f"{self.takeovers} in takeover, {self.missed} too late); "
            f"{self.acknowledged} backups acknowledged ({self.acknowledged_when_struck} of them struck); "
            f"{self.restores} restores from one tier alone, all equal; moments: {where}"
        )


@dataclass(frozen=True)
class Plug:
    """How a tier is taken away, and brought back."""

    out: Callable[[], None]
    back: Callable[[], None]


@dataclass(frozen=True)
class Hands:
    """What a campaign does to its lab. `strike` ends the running process in its way and leaves everything
    usable again; `plugs` are of the tiers that can be away."""

    strike: Callable[[Popen[str]], None]
    plugs: Mapping[str, Plug]


class Campaign:
    """Runs cycles on a lab. `report` gets a line per cycle. `quick`: restores only at the end."""

    def __init__(
        self, lab: Lab, hands: Hands, seed: int, quick: bool = False, report: Callable[[str], None] = print
    ) -> None:
        self._lab, self._hands, self._quick, self._report = lab, hands, quick, report
        self._rng = random.Random(seed)
        self._seed = seed
        self._fresh: list[Acknowledged] = []
        self._seconds = 1.0
        self._turn = 0
        self.tally = Tally()

    def episode(self, strikes: int) -> None:
        """A repository's life: init (struck, too), `strikes` strikes in all, the last synchronisation, all
        restores.

        Errors: LabFailure, which names seed and strike.
        """
        try:
            self._begin()
            done = self._struck_init()
            later = [(strikes // 3, self._struck_add), (2 * strikes // 3, self._struck_takeover)]
            while done < strikes:
                if strikes >= WHOLE_LIFE and later and done >= later[0][0]:
                    done += later.pop(0)[1]()
                    continue
                done += self._struck_sync() if self._rng.random() < 0.2 else self._struck_backup()
            self._end()
        except LabFailure as error:
            raise LabFailure(
                f"seed {self._seed}, strike {self.tally.strikes}: {error}\nso far: {self.tally}"
            ) from error

    def _begin(self) -> None:
        self._lab.forget()
        self._fresh = []
        treegen.remove_tree(self._lab.source)
        treegen.make_tree(
            self._lab.source, treegen.TreeSpec(**{**vars(SOURCE), "seed": self._rng.randrange(1 << 30)})
        )
        self._lab.write_config()

    def _struck_init(self) -> int:
        """Strikes `init` twice, each followed by an init that has to go on where the last was stopped."""
        for _ in range(2):
            self._strike("init", moments.INIT_STEPS)
            self.tally.inits += 1
        self._lab.must("init")
        self._plain_backup()
        return 2

    def _struck_backup(self) -> int:
        self._change()
        self._strike("backup")
        self._afterwards()
        return 1

    def _struck_sync(self) -> int:
        """A tier is away during a backup and comes back; the synchronisation is struck."""
        away = self._rng.choice(sorted(self._hands.plugs))
        self._hands.plugs[away].out()
        self._change()
        self._plain_backup()
        self._hands.plugs[away].back()
        self._strike("sync", places=[away])
        self.tally.syncs += 1
        self._afterwards()
        return 1

    def _struck_add(self) -> int:
        """A folder becomes one more tier; the same command, run again, goes on where it was stopped."""
        disk = os.path.join(self._lab.folder, "added-disk")
        treegen.remove_tree(disk)
        words = ("tier", "add", "disk", disk, "--yes")
        self._strike(words, moments.INIT_STEPS + moments.STEPS[2:], where={"disk": disk})
        self.tally.adds += 1
        self._lab.must(*words)
        self._lab.places["disk"] = Place("disk", f"file://{disk}", disk)
        self._afterwards()
        return 1

    def _struck_takeover(self) -> int:
        """The machine is lost, and with it the local state; a new one takes over, and is struck at that."""
        self._lab.lose_machine()
        self._strike(("takeover", "--yes"), TAKEOVER_STEPS)
        self.tally.takeovers += 1
        self._lab.must("takeover", "--yes")
        self._afterwards()
        return 1

    def _strike(
        self,
        command: str | tuple[str, ...],
        steps: tuple[moments.Step, ...] = moments.STEPS,
        places: Sequence[str] = (),
        where: Mapping[str, str] | None = None,
    ) -> None:
        """One command, struck. ``places`` bounds the tiers at which a step is waited for; ``where`` gives their
        folders, if not those of the lab's tiers."""
        words = (command,) if isinstance(command, str) else command
        command = " ".join(words[:2] if words[0] == "tier" else words[:1])
        before = manifest.take(self._lab.source)
        folders = where or {name: place.folder for name, place in self._lab.places.items()}
        moment = moments.choose(self._rng, self._seconds, places or sorted(folders), steps)
        watch = moments.watch_for(moment, dict(folders))
        process = self._lab.start(*words)
        hit = moments.wait_for(moment, lambda: process.poll() is not None, watch)
        if hit:
            self._hands.strike(process)
        outcome = self._lab.finish(process, words)
        self.tally.strikes += 1
        self.tally.missed += not hit
        self.tally.moments[f"{command} {moment.step.what if moment.step else 'anywhere'}"] += 1
        end = f"exit {outcome.code}" + ("" if hit else ", over before")
        self._report(f"{self.tally.strikes}: {command} struck {moment}: {end}")
        if not hit and outcome.code != 0:
            raise LabFailure(f"not struck at all, but: {outcome}")
        if outcome.code == 4:
            raise LabFailure(f"false second installation: {outcome}")
        if command == "backup" and (noted := self._lab.note(outcome, before)):
            self._acknowledged(noted)
            self.tally.acknowledged_when_struck += hit

    def _afterwards(self) -> None:
        if not self._quick:
            for backup in self._fresh:
                self._lab.check(backup, backup.tiers[self._turn % len(backup.tiers)])
                self._turn += 1
                self.tally.restores += 1
        self._fresh = []
        if self._rng.random() < 0.5:
            self._change()
        self._plain_backup()
        if self._rng.random() < 0.7:
            self._lab.must("sync")

    def _plain_backup(self) -> None:
        start = time.monotonic()
        self._acknowledged(self._lab.backup())
        self._seconds = time.monotonic() - start

    def _acknowledged(self, backup: Acknowledged) -> None:
        self._fresh.append(backup)
        self.tally.acknowledged += 1

    def _end(self) -> None:
        self._lab.must("sync")
        last = self._lab.backup()
        self._acknowledged(last)
        missing = set(self._lab.places) - set(last.tiers)
        if missing:
            raise LabFailure(f"after sync the last backup is not on {sorted(missing)}")
        self.tally.restores += self._lab.check_all(self._lab.ledger)

    def _change(self) -> None:
        treegen.change_some(self._lab.source, 0.05, self._rng.randrange(1 << 30))
        if self._rng.random() < 0.3:
            seed = self._rng.randrange(1 << 30)
            treegen.write_random(os.path.join(self._lab.source, "big.bin"), BIG_BYTES, seed)


def seeds(seed: int, episodes: int) -> Sequence[int]:
    """A seed for each episode of a long run."""
    return [seed * 1_000 + number for number in range(episodes)]
