"""Reading the key slots of a tier: without one nothing there opens, and every contact sees that they are good.

Reads only; `Tier.mend_keys` writes what is bad again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from tandem_agent.state import State
from tandem_protocol.errors import Missing
from tandem_protocol.history import Live
from tandem_protocol.names import ObjectType, object_path
from tandem_protocol.planning import TierFacts
from tandem_protocol.replicate import in_parallel
from tandem_protocol.store import Store


def held_slots(state: State, facts_about: Callable[[Live], TierFacts]) -> dict[bytes, bytes]:
    """The live slots that a tier is known to hold, by name, from the local copies."""
    live = state.live_keys()
    facts = facts_about(live)
    slots = state.key_slots().items()
    return {name: data for name, data in slots if name in live and facts.holds_last(live[name])}


async def bad_keys(store: Store, slots: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Those of ``slots`` that are damaged or gone there."""
    bad: dict[bytes, bytes] = {}

    async def check(name: bytes, data: bytes) -> None:
        try:
            good = await store.read(object_path(ObjectType.KEY, name), 0, len(data) + 1) == data
        except Missing:
            good = False
        if not good:
            bad[name] = data

    await in_parallel(store.parallel, [partial(check, *slot) for slot in slots.items()])
    return bad
