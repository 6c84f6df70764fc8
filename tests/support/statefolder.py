"""A state folder for tests: founded, closed and opened again as by new processes, and filled revision by revision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.documents import OTHER_TIER, RING, TIER, Writer, nonce_of

from tandem_agent.state import Intent, Setup, State
from tandem_protocol.identity import Identity
from tandem_protocol.revision import Record

WRITER = Writer()
SETUP = Setup(RING.repository_id, RING.root_public, WRITER.installation, WRITER.certificate)
TIERS = [
    (name, Identity(RING.repository_id, i, RING.root_public)) for name, i in (("a", TIER), ("b", OTHER_TIER))
]
SLOT = b"s" * 32


class Folder:
    """A state folder; `again` is the state as a new process finds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: list[State] = []

    def again(self) -> State:
        state = State.open(str(self.path))
        self._open.append(state)
        return state

    def found(self) -> Folder:
        self.again().found(SETUP, TIERS, {SLOT: b"slot"})
        return self

    def close(self) -> None:
        for state in self._open:
            state.close()
        self._open.clear()


def intend(state: State, number: int, **backup: Any) -> Intent:
    intent = Intent(number, nonce_of(number), (b"p" * 32,), False, backup)
    state.set_intent(intent)
    return intent


def decide(state: State, number: int, backup: dict[str, Any] | None = None, **more: Any) -> Record:
    """A whole revision: intent, decision, end."""
    intend(state, number)
    record = WRITER.record(number, **more)
    state.decide(record, backup)
    state.end_intent()
    return record
