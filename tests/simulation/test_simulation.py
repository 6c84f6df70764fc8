"""Issue 4, "Must show" 2: the real agent's backup, synchronisation, prune records, on virtual time with memory stores
and seeded faults. Nothing acknowledged is lost, nobody is falsely taken for a second installation, every real one
is found before its second acknowledgement, tiers are equal after the faults end; the same seed, the same trace.

`python -m tests.soak --simulation 10000 --seed N` is the long form.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tests.simulation.simulate import simulate

SEEDS = 500
AT_ONCE = 20


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_whatever_goes_wrong_what_was_promised_holds(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        simulate(seed)


@pytest.mark.parametrize("seed", [3, 71, 1234])
def test_the_same_seed_gives_the_same_trace(seed: int) -> None:
    assert simulate(seed) == simulate(seed)


def test_another_process_runs_a_seed_in_the_same_way() -> None:
    """Nothing depends on addresses, on the hashes of strings, or on the machine's clock."""
    script = "from tests.simulation.simulate import simulate\nprint(*simulate(12), sep='\\n')"
    found = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hashes, "PYTHONPATH": os.pathsep.join(["."])},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hashes in ("1", "2")
    ]
    assert found[0] == found[1]
    assert found[0].count("\n") > 100
