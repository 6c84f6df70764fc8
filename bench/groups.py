"""Which part of the benchmark measures what, in the order in which the parts run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from functools import partial

from bench.amounts import needed_later
from bench.inside import cost_rounds, index_rounds, start_rounds
from bench.local import local_rounds, million_rounds
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


def run(bench: Bench, groups: Iterable[str]) -> None:
    """All rounds of these groups. Raises NotPossible, measure.CommandFailed."""
    asked = set(groups)
    wanted = [group for group in RUNNERS if group in asked]
    free = shutil.disk_usage(bench.root).free
    need = bench.amounts.disk(wanted)
    if free < need:
        raise NotPossible(f"{bench.root} has {free / 1e9:.1f} GB free, {need / 1e9:.1f} GB are needed")
    for at, group in enumerate(wanted):
        RUNNERS[group](bench)
        bench.forget(needed_later([group]) - needed_later(wanted[at + 1 :]))
