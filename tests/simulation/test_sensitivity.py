"""The simulation's checks are checked: each rule that is taken out of the agent is found within 200 seeds (issue 4,
"Must show" 2)."""

from __future__ import annotations

import pytest
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.simulate import Failed, simulate

SEEDS = 200
STEPS = 24


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_rule_taken_out_is_found(mutant: Mutant) -> None:
    simulate(mutant.first, STEPS, mutant.faults)  # it is the mutant that fails
    with mutant.make():
        for seed in range(mutant.first, mutant.first + SEEDS):
            try:
                simulate(seed, STEPS, mutant.faults)
            except Failed:
                return
    pytest.fail(f"not found within {SEEDS} seeds: {mutant.name}")
