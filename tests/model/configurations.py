"""What is searched: how many tiers, and how much may happen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.model import things
from tests.model.context import BUDGET
from tests.model.things import RecordDoc
from tests.model.world import EPOCHS, NOTHING, RUNNING, Disk, Inst, Row, State, put

from tandem_protocol.revision import Kind


@dataclass(frozen=True)
class Configuration:
    """``budget``: how often each thing may happen; see `context.BUDGET`. ``in_turn``: installations do not work at the
    same time, but for what a crash or lost link leaves open."""

    name: str
    tiers: int
    budget: tuple[int, ...]
    in_turn: bool = False
    kept: bool = False

    def first_state(self) -> State:
        """Right after init: revision 1 on every tier."""
        cert = things.certificate(0, 1)
        nonce = things.nonce(0, 1)
        record = things.record(RecordDoc(1, cert, nonce, Kind.INIT, lives=()))
        disk = Disk(
            1,
            put((0,) * EPOCHS, 1, cert),
            put(NOTHING, 1, things.claim(cert, nonce, 1, 0)),
            put(NOTHING, 1, record),
        )
        first = disk._replace(snap=tuple(disk)) if self.kept else disk
        inst = Inst(
            RUNNING, cert, put(NOTHING, 1, record), None, (Row(claims=((1, disk.claims[1]),)),) * self.tiers
        )
        return State((first, *(disk,) * (self.tiers - 1)), (inst,), (), self.budget)


def configuration(
    name: str, tiers: int = 2, in_turn: bool = False, kept: bool = False, **budget: int
) -> Configuration:
    for what in budget:
        if what not in BUDGET:
            raise ValueError(what)
    budget = {"sync": 1, **budget}
    return Configuration(name, tiers, tuple(budget.get(what, 0) for what in BUDGET), in_turn, kept)


_TAKEOVER: dict[str, Any] = {"fresh": 1, "takeover": 1}

ALL: tuple[Configuration, ...] = (
    # One installation, links and crashes, each fault alone and with a crash.
    configuration("links", backup=3, cut=3, crash=1, lost=1),
    configuration("crashes", backup=2, long=1, cut=2, crash=2, lost=1),
    configuration("waiting", backup=2, long=1, cut=3, crash=1, lost=1, wait=1),
    configuration("waiting and roll-back", backup=2, long=1, cut=2, snap=1, roll=1, wait=1),
    configuration("three tiers", tiers=3, backup=2, cut=3, crash=1),
    configuration("prune", backup=2, prune=1, cut=2, crash=1, collect=1, purge=1),
    configuration("prune one", backup=2, prune_one=1, cut=2, crash=1, collect=1, purge=1),
    configuration("prune both ways", backup=2, prune=1, prune_one=1, cut=1, collect=1, purge=1),
    configuration("orphans", backup=2, check=1, cut=1, crash=2, collect=1, purge=1),
    configuration("roll-back", backup=3, cut=2, crash=1, snap=1, roll=1),
    configuration("roll-back away", backup=2, cut=2, lost=1, snap=1, roll_away=1),
    configuration("two roll-backs", backup=2, cut=1, snap=2, roll=2),
    configuration("roll-back, three tiers", tiers=3, backup=2, cut=2, snap=1, roll=1),
    configuration("roll-back and prune", backup=2, prune=1, cut=1, snap=1, roll=1, collect=1, purge=1),
    configuration("roll-back and checkpoint", backup=1, long=1, cut=2, crash=1, snap=1, roll=1),
    configuration("damage", backup=2, cut=2, crash=1, lost=1, damage=2),
    configuration("damaged epoch, identity", backup=2, cut=2, crash=1, damage_epoch=1, damage_identity=1),
    configuration("rot", backup=2, cut=2, crash=1, rot=1, vanish=1, read=1, full=1),
    configuration("rot and prune", backup=2, prune_one=1, cut=1, rot=1, vanish=1, read=1, collect=1),
    configuration("wiped and replaced", backup=2, cut=2, crash=1, wipe=1, replace=1, repair=1),
    configuration("wiped, three tiers", tiers=3, backup=2, cut=2, wipe=1, replace=1),
    configuration("wiped and rolled back", backup=2, cut=1, wipe=1, replace=1, snap=1, roll=1, repair=1),
    # A clone.
    configuration("clone", backup=3, cut=2, crash=1, clone=1),
    configuration("clone, lost replies", backup=2, cut=2, lost=1, clone=1),
    configuration("clone and checkpoint", backup=1, long=1, cut=1, crash=1, clone=1),
    configuration("clone and prune", backup=2, prune=1, cut=1, clone=1, collect=1, purge=1),
    configuration("clone, three tiers", tiers=3, backup=2, cut=2, clone=1),
    configuration("clone and takeover", backup=2, cut=1, clone=1, **_TAKEOVER),
    # Takeover.
    configuration("takeover", backup=2, cut=2, crash=1, **_TAKEOVER),
    configuration("takeover, lost replies", backup=2, cut=2, lost=1, **_TAKEOVER),
    configuration("takeover of late sides", in_turn=True, backup=3, cut=4, crash=1, **_TAKEOVER),
    configuration(
        "takeover and prune", in_turn=True, backup=2, prune=1, cut=2, collect=1, purge=1, **_TAKEOVER
    ),
    configuration("takeover and roll-back", backup=2, cut=1, snap=1, roll=1, **_TAKEOVER),
    configuration("takeover and damage", backup=2, cut=1, damage=1, **_TAKEOVER),
    configuration("takeover and replacement", in_turn=True, backup=2, cut=1, wipe=1, replace=1, **_TAKEOVER),
    configuration("takeover, three tiers", tiers=3, in_turn=True, backup=2, cut=2, **_TAKEOVER),
    configuration("takeover and checkpoint", long=1, backup=1, cut=1, crash=1, **_TAKEOVER),
    configuration("two takeovers", in_turn=True, backup=1, cut=2, crash=1, fresh=2, takeover=2),
)
"""The rules as they are hold in all of these."""
