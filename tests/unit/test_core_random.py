"""Random runs of the write protocol and of synchronisation over three tiers with everything that goes wrong: links
that break at any verb, lost replies, kills, storage that goes back in time, damaged claims and records (P1, P2, P5).

What is said to be on a tier must be there, byte for byte; nobody is ever taken for a second installation; and
when the faults end, synchronisation makes all tiers equal. A failing seed repeats exactly.
"""

from __future__ import annotations

import os
import random
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.office import Office

from tandem_agent import repairing
from tandem_agent.progress import Progress
from tandem_agent.resync import sync
from tandem_agent.tiers import targets
from tandem_agent.tiers.targets import reachable_targets
from tandem_agent.tiers.tierset import TierSet
from tandem_agent.tiers.writing import Revision
from tandem_protocol import names
from tandem_protocol.errors import SecondInstallation, TandemError
from tandem_protocol.index import PackEntry
from tandem_protocol.names import ObjectType, object_name, object_path
from tandem_protocol.planning import usable_packs
from tandem_protocol.revision import Kind, Removal

STEPS = 12
TIERS = ("vault", "remote", "third")


class Killed(BaseException):
    """Ends a process where it is."""


class World:
    """The office, what each backup needs, and older images of each place."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.make = random.Random(seed)
        self.office = Office(folder / "state", TIERS)
        self.contents: dict[bytes, bytes] = {}
        self.kinds: dict[bytes, ObjectType] = {}
        self.segments: dict[bytes, list[bytes]] = {}
        self.needs: dict[int, set[bytes]] = {}
        self.images = {name: [dict[str, bytes]()] for name in TIERS}
        self.told: list[str] = []

    # What happens

    async def step(self) -> None:
        acts = (
            [self.backup] * 5
            + [self.level] * 2
            + [self.prune, self.links, self.links, self.damage, self.roll_back]
        )
        act = self.make.choice(acts)
        self.told.append(act.__name__)
        self.break_something()
        try:
            await act()
        except SecondInstallation:
            raise
        except (TandemError, Killed) as fault:
            self.told.append(f"  {type(fault).__name__}: {fault}")
        for place in self.office.places.values():
            place.hook = place.after = place.lost_in = None
        for name, place in self.office.places.items():
            self.images[name].append(dict(place.shared))

    def break_something(self) -> None:
        for place in self.office.places.values():
            luck = self.make.random()
            if luck < 0.2:
                place.after = self.make.randrange(60)
            elif luck < 0.35:
                place.lost_in = self.make.randrange(12)
            elif luck < 0.45:
                left = [self.make.randrange(40)]

                def kill(_verb: str, _name: str, left: list[int] = left) -> bool:
                    left[0] -= 1
                    if left[0] < 0:
                        raise Killed
                    return True

                place.hook = kill

    async def links(self) -> None:
        down = [name for name in TIERS if self.make.random() < 0.4]
        self.told.append(f"  down: {down}")
        self.office.down(*down)

    async def damage(self) -> None:
        place = self.office.places[self.make.choice(TIERS)]
        paths = place.paths("revisions/") + place.paths("epochs/")
        if paths:
            path = self.make.choice(paths)
            self.told.append(f"  {path}")
            place.damage(path)

    async def roll_back(self) -> None:
        name = self.make.choice(TIERS)
        at = self.make.randrange(len(self.images[name]))
        if names.IDENTITY in self.images[name][at]:
            self.told.append(f"  {name} to {at}")
            self.office.places[name].roll_back(self.images[name][at])

    async def level(self) -> None:
        await sync(self.office.agent(), (), self.make.random() < 0.3, Progress(), 60)

    def new(self, kind: ObjectType) -> bytes:
        data = self.make.randbytes(self.make.randrange(20, 60))
        self.contents[object_name(data)], self.kinds[object_name(data)] = data, kind
        return data

    async def backup(self) -> None:
        tiers = self.office.open()
        targets = await reachable_targets(tiers, 0.0)
        naming: dict[bytes, list[bytes]] = {}
        for segment, packs in self.segments.items():
            for pack in packs:
                naming.setdefault(pack, []).append(segment)
        facts = [tier.facts() for tier in targets]
        live = tiers.state.live()
        usable = sorted(usable_packs(live, facts, naming))
        old = self.make.sample(usable, min(len(usable), self.make.randrange(4)))
        holding = [s for s in self.segments if s in live and all(f.holds_last(live[s]) for f in facts)]
        needed = set(old) | {next(s for s in naming[pack] if s in holding) for pack in old}
        info = {"id": os.urandom(16).hex(), "name": "x", "status": "complete"}
        revision = await Revision.begin(tiers, targets, Progress(), dict(info))
        try:
            while self.make.random() < 0.3:
                needed |= await self._fill(revision)
                confirmed = await revision.commit(Kind.CHECKPOINT, {})
                if not confirmed:
                    return
                revision = await Revision.begin(tiers, confirmed, Progress(), dict(info))
            needed |= await self._fill(revision)
            needed.add(await revision.add(ObjectType.SNAPSHOT, self.new(ObjectType.SNAPSHOT)))
            self.needs[revision.number] = needed
            confirmed = await revision.commit(Kind.BACKUP, {}, backup=info)
        except TandemError as fault:
            await revision.abort(str(fault))
            raise
        self.told.append(f"  {revision.number} on {[tier.name for tier in confirmed]}")

    async def _fill(self, revision: Revision) -> set[bytes]:
        packs = [
            await revision.add(ObjectType.PACK, self.new(ObjectType.PACK))
            for _ in range(self.make.randrange(3))
        ]
        segment = await revision.add(ObjectType.INDEX, self.new(ObjectType.INDEX))
        self.segments[segment] = packs
        return {segment, *packs}

    async def prune(self) -> None:
        tiers = self.office.open()
        targets = await reachable_targets(tiers, 0.0)
        kept = {number for number in self.backups(tiers) if self.make.random() < 0.7}
        needed: set[bytes] = set().union(*(self.needs[number] for number in kept))
        gone = [n for n in tiers.state.live() if n in self.kinds and n not in needed]
        revision = await Revision.begin(tiers, targets, Progress())
        for number in self.backups(tiers) - kept:
            del self.needs[number]
        await revision.commit(Kind.PRUNE, {}, removed=[Removal(self.kinds[n], n) for n in gone])

    # What must hold

    def backups(self, tiers: TierSet) -> set[int]:
        return {n for n, info in tiers.state.backups() if info["status"] == "complete" and n in self.needs}

    async def check(self) -> None:
        """What local state says after a contact with all tiers is so."""
        tiers = await self.office.contacted()
        for number in self.backups(tiers):
            for tier in tiers.tiers:
                if tier.reachable and tiers.state.is_on(number, tier.id):
                    self.there(number, tier.name)

    def there(self, number: int, tier: str) -> None:
        shared = self.office.places[tier].shared
        for name in self.needs[number]:
            found = shared.get(object_path(self.kinds[name], name))
            assert found == self.contents[name], (
                f"{number} is said to be on {tier}, without {self.kinds[name]}"
            )

    async def end(self) -> None:
        """The faults are over: one synchronisation of each tier from each other, and all are equal."""
        self.office.down()
        for _ in range(2):
            await self.level_in_peace()
        await self.check()
        tiers = await self.office.contacted()
        holdings = []
        for tier in tiers.tiers:
            shared = self.office.places[tier.name].shared
            holdings.append(
                {object_path(o.type, o.name) for o in tiers.state.live().values()} & shared.keys()
                | {path for path in shared if path.endswith(".record")}
            )
            lost = {ref.name for n in tiers.state.missing(tier.id) for ref in tiers.state.record(n).added}
            for n in tiers.state.missing(tier.id):
                assert lost, f"revision {n} is missing on {tier.name} for nothing"
        assert holdings[0] == holdings[1] == holdings[2]
        assert await self.office.write(objects=1), "and writing goes on"

    async def level_in_peace(self) -> None:
        await sync(self.office.agent(), (), False, Progress(), 60)


async def run(folder: Path, seed: int, steps: int = STEPS) -> None:
    world = World(folder, seed)
    try:
        await world.office.init()
        for name, place in world.office.places.items():
            world.images[name].append(dict(place.shared))
        for _ in range(steps):
            await world.step()
            if world.make.random() < 0.5:
                await world.check()
        await world.end()
    except BaseException:
        print(f"seed {seed}:", *world.told, sep="\n")
        raise
    finally:
        world.office.close()


async def names_no_packs(*_: object) -> list[PackEntry]:
    """Segments and packs are random bytes here: a repair can have nothing that a lost segment said from the packs."""
    return []


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_happens_what_is_said_is_so(
    memory_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "POLL_S", 0.0)
    monkeypatch.setattr(repairing, "_nowhere_named", names_no_packs)
    await run(memory_path, seed)


if __name__ == "__main__":  # python -m tests.unit.test_core_random FIRST COUNT: a long run
    import asyncio
    import sys
    import tempfile

    targets.POLL_S = 0.0
    repairing._nowhere_named = names_no_packs
    first, count = int(sys.argv[1]), int(sys.argv[2])
    for number in range(first, first + count):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as place, suppress(KeyboardInterrupt):
            asyncio.run(run(Path(place), number, 25))
