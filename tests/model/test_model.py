"""Issue 4, "Must show" 1: the rules of the tier protocol searched breadth-first. The quick form: the first states of
every configuration break no promise, and every rule that is found soon is found as a mutant.

`python -m tests.soak --model 5000000` and `python -m tests.model --mutants` are the long form.
"""

from __future__ import annotations

import pytest
from tests.model.configurations import ALL, Configuration
from tests.model.mutants import BUDGETS, SLOW, configuration_for
from tests.model.rules import FOUND, LIST, NAMES, TABLE, Rules
from tests.model.search import search

STATES = 2_500
"""Of each configuration; some 100,000 in all."""


@pytest.mark.parametrize("configuration", ALL, ids=lambda one: one.name)
def test_the_rules_as_they_are_break_no_promise(configuration: Configuration) -> None:
    outcome = search(configuration, Rules(), STATES)
    assert not outcome.broken, "\n".join([*outcome.run, outcome.broken])
    assert outcome.whole or outcome.states >= STATES


@pytest.mark.parametrize("rule", [rule for rule in BUDGETS if rule not in SLOW])
def test_a_rule_taken_out_is_missed(rule: str) -> None:
    """Something breaks without it, and in the same states nothing breaks with it."""
    configuration = configuration_for(rule)
    without = search(configuration, Rules(rule))
    assert without.broken and without.run, f"nothing breaks without: {NAMES[rule]}"
    kept = search(configuration, Rules(), min(without.states, STATES))
    assert not kept.broken, "\n".join([*kept.run, kept.broken])


def test_every_line_of_the_protocol_is_a_mutant() -> None:
    assert (len(TABLE), len(LIST)) == (25, 18)
    assert set(BUDGETS) == set(TABLE) | set(LIST) | set(FOUND)


def test_the_shortest_run_is_told() -> None:
    outcome = search(configuration_for("intent"), Rules("intent"))
    assert outcome.run == ["0 begins backup", "0 intends 2 (backup) on 0+1", "0 claims 2 on 0, crash"]
    assert outcome.broken == "P2: installation 0 sees a second installation on tier 0, and there is none"
