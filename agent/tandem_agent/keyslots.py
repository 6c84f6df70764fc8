"""Passphrase slots: adding, listing, removing. Each change is a revision of kind key on the tiers.

Removing a slot cannot take back copies that somebody made of it, and does not change the data keys.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tandem_agent.progress import Progress
from tandem_agent.state import State
from tandem_agent.tiers.targets import reachable_targets
from tandem_agent.tiers.writing import Revision
from tandem_agent.wiring import Agent, agent_key_path, unlock_with_passphrase
from tandem_protocol.errors import Missing, NoTierReachable, Refused, Usage
from tandem_protocol.keys import SlotKind, passphrase_slot, slot_info
from tandem_protocol.names import ObjectType, object_name
from tandem_protocol.revision import Kind, Removal


@dataclass(frozen=True, slots=True)
class KeySlot:
    """One slot. ``id``: hex name of its object; ``kind``: passphrase or agent; ``created``: Unix seconds."""

    id: str
    kind: str
    label: str
    created: int


def key_list(state: State) -> list[KeySlot]:
    """All slots of the repository, oldest first."""
    slots = []
    for name, data in state.key_slots().items():
        info = slot_info(data)
        slots.append(KeySlot(name.hex(), str(info.kind), info.label, info.created))
    return sorted(slots, key=lambda slot: (slot.created, slot.id))


async def key_add(
    agent: Agent, passphrase: str, new_passphrase: str, label: str, wait_s: float | None = None
) -> KeySlot:
    """Add a slot for ``new_passphrase``. ``passphrase`` must open one already: it has the root's half."""
    ring = unlock_with_passphrase(agent.state, passphrase)
    data = passphrase_slot(ring, new_passphrase, label, created=int(time.time()))
    name = object_name(data)

    # Kept here first: a slot that is not live is not used, and one that is must not be missing.
    agent.state.put_key_slot(name, data)

    async def fill(revision: Revision) -> tuple[Removal, ...]:
        await revision.add(ObjectType.KEY, data)
        return ()

    await _revise(agent, fill, wait_s)
    return next(slot for slot in key_list(agent.state) if slot.id == name.hex())


async def key_remove(agent: Agent, passphrase: str, wanted: str, wait_s: float | None = None) -> KeySlot:
    """Remove the slot whose id starts with ``wanted`` or whose label it is. The last passphrase stays."""
    unlock_with_passphrase(agent.state, passphrase)
    slots = key_list(agent.state)
    found = [s for s in slots if (len(wanted) >= 4 and s.id.startswith(wanted.lower())) or s.label == wanted]
    if len(found) != 1:
        kind = Missing if not found else Usage
        raise kind(
            f"{len(found)} key slots are called {wanted!r}", "see tandem key list, and give more of the id"
        )
    slot = found[0]
    if slot.kind == SlotKind.BY_PHRASE and sum(s.kind == SlotKind.BY_PHRASE for s in slots) == 1:
        raise Refused(
            "this is the last passphrase of the repository", "add another one first: tandem key add"
        )
    if slot.kind == SlotKind.BY_AGENT_KEY and os.path.exists(agent_key_path(agent.config)):
        raise Refused(
            "with this key the agent here backs up unattended",
            f"if backups shall ask for the passphrase from now on, delete {agent_key_path(agent.config)} first",
        )
    name = bytes.fromhex(slot.id)

    async def fill(_revision: Revision) -> tuple[Removal, ...]:
        return (Removal(ObjectType.KEY, name),)

    await _revise(agent, fill, wait_s)
    agent.state.drop_key_slot(name)
    return slot


async def _revise(
    agent: Agent, fill: Callable[[Revision], Awaitable[tuple[Removal, ...]]], wait_s: float | None
) -> None:
    """One revision of kind key: what ``fill`` adds, and removes."""
    targets = await reachable_targets(agent.tiers, wait_s)
    async with await Revision.begin(agent.tiers, targets, Progress()) as revision:
        removed = await fill(revision)
        confirmed = await revision.commit(Kind.KEY, {}, removed=removed)
    if not confirmed:
        raise NoTierReachable("no tier holds the change yet", "run tandem sync when one can be reached")
