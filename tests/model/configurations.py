"""What is searched: how many tiers, and how much may happen."""

from __future__ import annotations

from dataclasses import dataclass

from tandem_protocol.revision import Kind
from tests.model import things
from tests.model.context import BUDGET
from tests.model.things import RecordDoc
from tests.model.world import EPOCHS, NOTHING, RUNNING, Disk, Inst, Row, State, put


@dataclass(frozen=True)
class Configuration:
    """``budget``: how often each thing may happen; see `context.BUDGET`."""

    name: str
    tiers: int
    budget: tuple[int, ...]

    def first_state(self) -> State:
        """Right after init: revision 1 on every tier."""
        cert = things.certificate(0, 1)
        nonce = things.nonce(0, 1)
        record = things.record(RecordDoc(1, cert, nonce, Kind.INIT, lives=()))
        disk = Disk(
            1,
            put((0,) * EPOCHS, 1, cert),
            put(NOTHING, 1, things.claim(cert, nonce, 1)),
            put(NOTHING, 1, record),
        )
        inst = Inst(RUNNING, cert, put(NOTHING, 1, record), None, (Row(),) * self.tiers)
        return State((disk,) * self.tiers, (inst,), (), self.budget)


def configuration(name: str, tiers: int = 2, **budget: int) -> Configuration:
    for what in budget:
        if what not in BUDGET:
            raise ValueError(what)
    budget = {"sync": 1, **budget}
    return Configuration(name, tiers, tuple(budget.get(what, 0) for what in BUDGET))


