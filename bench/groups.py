"""Which part of the benchmark measures what, in the order in which the parts run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from functools import partial

from bench.amounts import needed_later
from bench.inside import cost_rounds, index_rounds, start_rounds
from bench.local import local_rounds, million_rounds
from bench.measure import CommandFailed
from bench.remote import both_rounds, mirror_rounds, sftp_rounds
from bench.work import Bench, NotPossible

RUNNERS: dict[str, Callable[[Bench], None]] = {
    "start": start_rounds,
    "index": index_rounds,
    "tree": partial(local_rounds, kind="tree"),
    "image": partial(local_rounds, kind="image"),
    "million": million_rounds,
    "big": partial(local_rounds, kind="big"),
    "sftp": sftp_rounds,
    "both": both_rounds,
    "mirror": mirror_rounds,
    "contact": partial(cost_rounds, group="contact"),
    "resync": partial(cost_rounds, group="resync"),
}


def run(bench: Bench, groups: Iterable[str]) -> dict[str, str]:
    """All rounds of these groups. By group, why one could not be measured to its end: the others go on. Raises
    NotPossible, before anything is made, if there is too little space."""
    asked = set(groups)
    wanted = [group for group in RUNNERS if group in asked]
    free = shutil.disk_usage(bench.root).free
    need = bench.amounts.disk(wanted)
    if free < need:
        raise NotPossible(f"{bench.root} has {free / 1e9:.1f} GB free, {need / 1e9:.1f} GB are needed")
    failed = {}
    for at, group in enumerate(wanted):
        began = time.monotonic()
        try:
            RUNNERS[group](bench)
        except (NotPossible, CommandFailed) as problem:
            failed[group] = str(problem)
            bench.say(f"{group}: {problem}")
        bench.tidy(keep=needed_later(wanted[at + 1 :]))
        bench.say(f"{group}: {(time.monotonic() - began) / 60:.1f} minutes")
    return failed
