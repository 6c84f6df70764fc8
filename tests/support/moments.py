"""When to strike: moments of a running command, at random or just as a protocol step becomes visible in a
folder.

A moment is waited for from outside, by looking at the tier's folder as it is on this machine; the program
that runs knows nothing of it. Waiting ends early when the program ends.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_GLANCE_SECONDS = 0.0005


@dataclass(frozen=True)
class Step:
    """A step of a write as it shows in a tier's folder: the first new name of this kind."""

    what: str
    below: str
    suffix: str = ""


STEPS = (
    Step("claim", "revisions", ".claim"),
    Step("record", "revisions", ".record"),
    Step("upload", "tmp"),
    Step("pack", "packs"),
    Step("index segment", "index"),
    Step("snapshot", "snapshots"),
)
INIT_STEPS = (
    Step("identity", ".", "tandem"),
    Step("epoch", "epochs"),
    Step("key slot", "keys"),
    *STEPS[:2],
)


@dataclass(frozen=True)
class Moment:
    """Wait for `step` to show on the tier of `place` (None: from the start), then `delay` seconds more."""

    delay: float
    place: str = ""
    step: Step | None = None

    def __str__(self) -> str:
        if self.step is None:
            return f"{self.delay * 1000:.1f} ms after the start"
        return f"{self.delay * 1000:.1f} ms after the {self.step.what} on {self.place}"


def choose(
    rng: random.Random, duration: float, places: Sequence[str], steps: tuple[Step, ...] = STEPS
) -> Moment:
    """A moment of a run that takes about `duration` seconds: a third of them anywhere in it (the first tenths are
    the program's start, where nothing has happened yet), the others at a step or soon after."""
    if rng.random() < 0.35:
        return Moment(rng.uniform(0.25, 0.9) * duration)
    delay = rng.choice((0.0, rng.uniform(0, 0.02), rng.uniform(0, 0.2 * duration)))
    return Moment(delay, rng.choice(places), rng.choice(steps))


class Watch:
    """Knows what a tier's folder held before the run, so that the first new name of a kind can be seen."""

    def __init__(self, root: str, step: Step) -> None:
        """`root`: the tier's folder on this machine, which need not be there yet."""
        self._root, self._step = root, step
        self._before = frozenset(self._names())

    def seen(self) -> bool:
        """Whether a new name has come since."""
        return any(name not in self._before for name in self._names())

    def _names(self) -> list[str]:
        found: list[str] = []
        _collect(os.path.join(self._root, self._step.below), self._step, found)
        return found


def wait_for(moment: Moment, ended: Callable[[], bool], watch: Watch | None) -> bool:
    """Waits for the moment; False when the run ended first. `watch` was made before the run started."""
    if watch is not None:
        while not watch.seen():
            if ended():
                return False
            time.sleep(_GLANCE_SECONDS)
    end = time.monotonic() + moment.delay
    while (left := end - time.monotonic()) > 0:
        if ended():
            return False
        time.sleep(min(left, 0.005))
    return not ended()


def watch_for(moment: Moment, folders: dict[str, str]) -> Watch | None:
    """The watch that a moment needs, to be made before the run. `folders`: tier name -> folder here."""
    return None if moment.step is None else Watch(folders[moment.place], moment.step)


def _collect(folder: str, step: Step, found: list[str]) -> None:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        # On FTP what is created exclusively is a folder with one file.
        named = bool(step.suffix) and entry.name.endswith(step.suffix)
        if not named and step.below != "." and entry.is_dir(follow_symlinks=False):
            _collect(entry.path, step, found)
        elif named or not step.suffix:
            found.append(entry.path)
