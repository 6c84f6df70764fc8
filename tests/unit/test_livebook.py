"""What is asked of a million live objects is answered as if all had been read (issue 4, "Must show" 6)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.documents import OTHER_TIER, TIER
from tests.support.statefolder import Folder, decide

from tandem_agent.state import State
from tandem_protocol.history import LiveObject
from tandem_protocol.names import ObjectType
from tandem_protocol.planning import choose_targets, lacks
from tandem_protocol.revision import ObjectRef, Removal

TIERS = [TIER, OTHER_TIER]


@pytest.fixture
def state(memory_path: Path) -> Iterator[State]:
    folder = Folder(memory_path / "state").found()
    yield folder.again()
    folder.close()


def fill(state: State, make: random.Random) -> None:
    """Revisions that add and remove; tiers that hold some of them, lack objects, start at a base."""
    names: list[bytes] = []
    number = 0
    for _ in range(make.randrange(1, 30)):
        number += make.choice([1, 1, 1, 2])
        fresh = [make.randbytes(32) for _ in range(make.randrange(4))]
        again = make.sample(names, min(len(names), make.randrange(3)))
        removed = make.sample(names, min(len(names), make.randrange(3)))
        names += fresh
        decide(
            state,
            number,
            added=tuple(
                ObjectRef(make.choice(list(ObjectType)), n, make.randrange(1, 99)) for n in [*fresh, *again]
            ),
            removed=tuple(
                Removal(
                    ObjectType.PACK,
                    name,
                    make.choice([None, frozenset(make.sample(TIERS, make.randrange(1, 3)))]),
                )
                for name in removed
            ),
        )
    for tier in TIERS:
        held = list(state.journal)
        if make.random() < 0.7:
            held = make.sample(held, make.randrange(len(held) + 1))
        state.confirm(sorted(held), [tier])
        if make.random() < 0.3:
            state.confirm(list(state.journal)[: make.randrange(number + 1)], [tier])
        state.add_lacking(tier, [n for n in state.live() if make.random() < 0.2])
    if make.random() < 0.3:
        floor = make.choice(list(state.journal))
        state._db.change("UPDATE tiers SET floor = ? WHERE id = ?", (floor, TIER))


def by_name(found: list[LiveObject]) -> list[LiveObject]:
    return sorted(found, key=lambda o: o.name)


@pytest.mark.parametrize("seed", range(40))
def test_answers_about_some_are_those_about_all(state: State, seed: int) -> None:
    make = random.Random(seed)
    fill(state, make)
    live = state.live()
    some = make.sample(sorted(live), len(live) // 2)
    assert state.live_among([*some, b"?" * 32]) == {name: live[name] for name in some}, seed
    named = [state.live_named(first) for first in range(256)]
    assert [o for piece in named for o in piece] == by_name(list(live.values())), seed
    assert state.live_keys() == state.live_of(ObjectType.KEY), seed
    assert [state.live_count(most) for most in (0, 3, 10**6)] == [0, min(3, len(live)), len(live)]
    every = [state.facts(tier) for tier in TIERS]
    for facts in every:
        lacked = lacks(facts, live)
        assert by_name(lacks(facts, state.lacked(facts.tier_id))) == by_name(lacked), seed
        assert state.lacked_total(facts.tier_id) == (len(lacked), sum(o.size for o in lacked)), seed
        assert state.is_complete(facts.tier_id) == facts.complete, seed
        held = set(state.journal) - facts.missing
        assert state.highest_held(facts.tier_id) == max(held, default=0), seed
        assert state.held_above(facts.tier_id, 5) == sorted(n for n in held if n > 5), seed
        assert state.missing(facts.tier_id, 3) == sorted(facts.missing)[:3], seed
    union = state.lacked(TIER) | state.lacked(OTHER_TIER)
    assert choose_targets(every, union) == choose_targets(every, live), seed


def test_a_tier_that_waits_to_be_compared_is_shown_as_lacking_all(state: State) -> None:
    fill(state, random.Random(1))
    state.forget_holds(TIER)
    live = [o for o in state.live().values() if o.live_on(TIER)]
    assert state.lacked_total(TIER) == (len(live), sum(o.size for o in live))


def test_no_query_of_contact_or_synchronisation_looks_at_every_live_object(state: State) -> None:
    """By the database's own plan: searches by an index, and an index of the few keys."""
    asked: list[str] = []
    fill(state, random.Random(2))
    state._db._db.set_trace_callback(asked.append)
    state.live_keys()
    state.live_among([b"?" * 32])
    state.lacked(TIER)
    state.lacked_total(TIER)
    state.live_named(7)
    state._db._db.set_trace_callback(None)
    plans = [plan[3] for query in asked for plan in state._db.rows(f"EXPLAIN QUERY PLAN {query}")]
    scans = {plan for plan in plans if "live" in plan and plan.startswith("SCAN")}
    assert scans == {"SCAN live USING INDEX live_keys"}, plans
