"""Breadth-first search over the states of a configuration, with the shortest run to what breaks a promise.

Visited states are kept by hash (64 bits), the way to each as an index and a label: some 100 bytes a state.
"""

from __future__ import annotations

import gc
import time
from array import array
from collections import deque
from dataclasses import dataclass, field

from tests.model import agent, faults
from tests.model.configurations import Configuration
from tests.model.context import Context
from tests.model.properties import broken_promise
from tests.model.rules import Rules
from tests.model.steps import Step
from tests.model.world import State


@dataclass(slots=True)
class Outcome:
    """``states`` seen; ``whole``: there are no more; ``broken``: the promise, and the shortest ``run`` to it."""

    states: int
    seconds: float
    whole: bool
    depth: int
    broken: str = ""
    run: list[str] = field(default_factory=list)


def successors(ctx: Context, state: State, in_turn: bool = False) -> list[Step]:
    """All that can happen next."""
    steps = faults.faults(ctx, state)
    at_work = [i for i, inst in enumerate(state.insts) if inst.run is not None] if in_turn else []
    for i in at_work or range(len(state.insts)):
        steps += agent.steps_of(ctx, state, i)
    return steps


def search(configuration: Configuration, rules: Rules, most: int = 10**9, seconds: float = 1e9) -> Outcome:
    """Visit at most ``most`` states, for at most so many seconds; stops at the first broken promise."""
    collecting = gc.isenabled()
    gc.disable()  # tuples of tuples have no cycles, and looking for some takes half of the time
    try:
        return _search(configuration, rules, most, seconds)
    finally:
        if collecting:
            gc.enable()


def _search(configuration: Configuration, rules: Rules, most: int, seconds: float) -> Outcome:
    ctx = agent.make_context(configuration.tiers, rules)
    started = time.monotonic()
    first = configuration.first_state()
    seen = {hash(first)}
    queue: deque[tuple[State, int, int]] = deque([(first, 0, 0)])
    labels: dict[str, int] = {}
    texts: list[str] = []
    parents, actions = array("l", [-1]), array("l", [-1])
    depth = 0

    def way(index: int) -> list[str]:
        run = []
        while index > 0:
            run.append(texts[actions[index]])
            index = parents[index]
        return run[::-1]

    broken = broken_promise(ctx, first)
    if broken:
        return Outcome(1, 0.0, True, 0, broken)
    while queue:
        state, index, depth = queue.popleft()
        for label, after in successors(ctx, state, configuration.in_turn):
            if isinstance(after, str):
                return Outcome(
                    len(parents), time.monotonic() - started, False, depth + 1, after, [*way(index), label]
                )
            key = hash(after)
            if key in seen:
                continue
            seen.add(key)
            place = labels.get(label)
            if place is None:
                place = labels[label] = len(texts)
                texts.append(label)
            parents.append(index)
            actions.append(place)
            broken = broken_promise(ctx, after)
            if broken:
                run = way(len(parents) - 1)
                return Outcome(len(parents), time.monotonic() - started, False, depth + 1, broken, run)
            queue.append((after, len(parents) - 1, depth + 1))
        if len(parents) >= most or time.monotonic() - started > seconds:
            break
    return Outcome(len(parents), time.monotonic() - started, not queue, depth)
