"""The state of the model: tiers, installations, what the properties must remember, and what may still happen.

Named tuples of ints all through, so that a state is hashed and compared in one go and millions fit in memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.model.things import NUMBERS

from tandem_protocol.revision import Kind

IDENTITY_DAMAGED = 255
IDLE, RUNNING, STOPPED = 0, 1, 2


class Disk(NamedTuple):
    """What stands on one tier. ``ident``: 0 none, 255 damaged, else the generation of its id; documents by
    number or epoch; objects as masks: there, there but rotten, vanished by a fault (ghost), in quarantine. ``era``
    (ghost): how often it was rolled back, because a claim that is made again has other bytes. ``snap``: what the
    storage will be rolled back to, () for nothing kept."""

    ident: int
    epochs: tuple[int, ...]
    claims: tuple[int, ...]
    records: tuple[int, ...]
    objs: int = 0
    bad: int = 0
    gone: int = 0
    quar: int = 0
    era: int = 0
    snap: tuple[object, ...] = ()


class Row(NamedTuple):
    """What an installation durably knows of a tier; masks of numbers (missing, confirmed) and objects. ``closed``:
    numbers of others that a join ended there, and by which record; ``written``: revisions that this tier was a target
    of when they were decided, and that are not confirmed yet; ``claims``: of the highest held and the
    last written, as they stood there."""

    start: int = 1
    missing: int = 0
    lacking: int = 0
    last: int = 1
    compare: int = 0
    imported: int = 1
    confirmed: int = 0
    generation: int = 1
    floor: int = 0
    closed: tuple[tuple[int, int], ...] = ()
    written: int = 0
    claims: tuple[tuple[int, int], ...] = ()


class Intent(NamedTuple):
    """The write under way. ``answered``: mask of tiers that confirmed our claim. ``epoch``: of a takeover."""

    number: int
    nonce: int
    decided: int = 0
    answered: int = 0
    epoch: int = 0


class Run(NamedTuple):
    """An operation under way: all of it is lost in a crash. Masks of tiers, but ``added`` and ``brought`` (objects).
    ``kind`` and ``removed`` (masks: everywhere, then per tier): of the record to come. ``tier``: the one that it is
    about (-1: none). ``sides``: what a takeover or join has read. ``brought``, ``before``: what a mark stands for,
    and the operation that goes on after it. ``begun``: the targets at first; ``waits``: of each of them what it lacked
    and missed when the last one was lost; ``number``: what is waited for."""

    step: str
    purpose: str
    reach: int
    todo: int
    targets: int = 0
    added: int = 0
    top: int = 0
    foreign: int = 0
    """Ghost: targets where something of another installation stood when the operation began."""
    late: int = 0
    """Ghost: targets that were rolled back after the last look that this operation takes there."""
    broken: int = 0
    """Targets whose session broke: the next step there begins with a look."""
    kind: Kind | None = None
    removed: tuple[int, ...] = ()
    tier: int = -1
    sides: tuple[tuple[int, Disk], ...] = ()
    brought: int = 0
    before: Run | None = None
    begun: int = 0
    waits: tuple[tuple[int, int, int], ...] = ()
    number: int = 0
    queue: int = 0
    """Late tiers that are joined after this one."""


class Inst(NamedTuple):
    """One installation, ``writer`` by its place: a clone has the certificate of its original, and another place."""

    active: int
    cert: int
    journal: tuple[int, ...]
    intent: Intent | None
    rows: tuple[Row, ...]
    run: Run | None = None
    unannounced: int = 0
    """Ghost: tiers that were rolled back and of which this installation has not spoken yet."""
    writer: int = 0
    heard: tuple[bytes, ...] = ()
    """Nonces imported, kept only for the mutant that judges by them."""
    ancestors: tuple[int, ...] = ()
    """Records that the journal descends from, as far as all below them was read in a takeover or join."""


class Backup(NamedTuple):
    """Ghost: a backup that was decided. ``demand``: tiers said to have it, and not struck since; ``pruned``: tiers
    where it was removed on purpose."""

    record: int
    demand: int
    pruned: int


class State(NamedTuple):
    disks: tuple[Disk, ...]
    insts: tuple[Inst, ...]
    backups: tuple[Backup, ...]
    budget: tuple[int, ...]


EPOCHS = 8
NOTHING = (0,) * NUMBERS


def _quick(cls: Any) -> None:
    """Give a named tuple a `_replace` without loops: half of a search's time goes there."""
    names = cls._fields
    arguments = ", ".join(f"{name}=keep" for name in names)
    values = ", ".join(f"self[{n}] if {name} is keep else {name}" for n, name in enumerate(names))
    scope: dict[str, Any] = {"keep": object(), "new": tuple.__new__, "cls": cls}
    exec(f"def _replace(self, *, {arguments}):\n    return new(cls, ({values},))", scope)
    cls._replace = scope["_replace"]


for _cls in (Disk, Row, Intent, Run, Inst, Backup, State):
    _quick(_cls)


def put(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])


def with_disk(disks: tuple[Disk, ...], t: int, disk: Disk) -> tuple[Disk, ...]:
    return (*disks[:t], disk, *disks[t + 1 :])


def with_row(inst: Inst, t: int, row: Row) -> Inst:
    return inst._replace(rows=(*inst.rows[:t], row, *inst.rows[t + 1 :]))


def with_inst(state: State, i: int, inst: Inst) -> State:
    return State(state.disks, (*state.insts[:i], inst, *state.insts[i + 1 :]), state.backups, state.budget)


def head_of(journal: tuple[int, ...]) -> int:
    for number in range(NUMBERS - 1, 0, -1):
        if journal[number]:
            return number
    return 0


def revision_of(journal: tuple[int, ...], row: Row) -> int:
    """The highest number up to which the tier holds everything, as `State.tier_revision`."""
    lowest = (row.missing & -row.missing).bit_length() - 1 if row.missing else NUMBERS
    for number in range(lowest - 1, row.start - 1, -1):
        if journal[number]:
            return number
    return 0


def highest_held(journal: tuple[int, ...], row: Row) -> int:
    """As `State.highest_held`."""
    for number in range(NUMBERS - 1, row.start - 1, -1):
        if journal[number] and not row.missing >> number & 1:
            return number
    return 0


def is_on(inst: Inst, row: Row, number: int) -> bool:
    """As `State.is_on`: a confirmed target, or everything up to it held with nothing lacking."""
    if row.confirmed >> number & 1:
        return True
    return not row.lacking and revision_of(inst.journal, row) >= number
