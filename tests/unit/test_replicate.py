"""Copying between stores, verified by name: sources that are damaged, gone or lie, targets that refuse (A7, A8)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.office import Place

from tandem_protocol import replicate as module
from tandem_protocol.errors import Corrupt, Full, Refused, SecondInstallation, TandemError, Unavailable
from tandem_protocol.names import DAMAGED, ObjectType, object_name, object_path
from tandem_protocol.replicate import (
    LIST_ABOVE,
    REFUSED_IN_A_ROW,
    Outcome,
    in_parallel,
    read_verified,
    replicate,
    sizes_of,
)
from tandem_protocol.revision import ObjectRef
from tandem_protocol.store import Buffer, Store
from tandem_protocol.stores.memory import MemoryStore

MAKE = random.Random(11)
CONTENTS = [MAKE.randbytes(MAKE.randrange(1, 200)) for _ in range(12)]
REFS = [
    ObjectRef(kind, object_name(data), len(data))
    for data, kind in zip(CONTENTS, [ObjectType.PACK, ObjectType.INDEX, ObjectType.KEY] * 4, strict=True)
]


def path_of(ref: ObjectRef) -> str:
    return object_path(ref.type, ref.name)


async def opened(place: Place) -> Store:
    store = place.store()
    await store.open()
    return store


def full_place() -> Place:
    place = Place()
    place.shared = {path_of(ref): data for ref, data in zip(REFS, CONTENTS, strict=True)}
    return place


async def copy(target: Place, *sources: Place, noted: list[str] | None = None) -> Outcome:
    store = await opened(target)
    stores = [await opened(source) for source in sources]

    async def heal(path: str) -> None:
        await store.move(path, f"{DAMAGED}/{path}")

    def note(_store: Store, ref: ObjectRef | object, fault: TandemError) -> None:
        if noted is not None:
            noted.append(type(fault).__name__)

    return await replicate(REFS, {ref.name: stores for ref in REFS}, store, heal=heal, source_failed=note)


async def test_everything_is_copied_in_order_and_counted() -> None:
    target = Place()
    outcome = await copy(target, full_place())
    assert outcome.copied == [ref.name for ref in REFS]
    assert outcome.size == sum(map(len, CONTENTS))
    assert outcome.failed == {}
    assert target.shared == full_place().shared


async def test_nothing_to_copy() -> None:
    store = await opened(Place())
    assert (await replicate([], {}, store, heal=_never)).copied == []


async def _never(_path: str) -> None:
    raise AssertionError


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda d: d + b"x", lambda d: b"", lambda d: bytes([d[0] ^ 1]) + d[1:]]
)
async def test_the_next_source_gives_what_the_first_has_damaged(damage: Callable[[bytes], bytes]) -> None:
    """trust.md 18: also another valid object under the name."""
    first, second, target, noted = full_place(), full_place(), Place(), list[str]()
    first.shared[path_of(REFS[3])] = damage(CONTENTS[3])
    first.shared[path_of(REFS[4])] = CONTENTS[5]
    del first.shared[path_of(REFS[6])]
    outcome = await copy(target, first, second, noted=noted)
    assert target.shared == full_place().shared
    assert (outcome.failed, noted) == ({}, ["Corrupt", "Corrupt", "Missing"])


async def test_what_no_source_has_is_left_out_with_its_reason_and_the_rest_is_copied() -> None:
    source, target = full_place(), Place()
    del source.shared[path_of(REFS[0])]
    source.damage(path_of(REFS[1]))
    outcome = await copy(target, source)
    assert outcome.failed.keys() == {REFS[0].name, REFS[1].name}
    assert "damaged" in outcome.failed[REFS[1].name]
    assert len(outcome.copied) == len(REFS) - 2
    outcome = await copy(Place())
    assert set(outcome.failed.values()) == {"no other tier has it"}


async def test_a_source_that_is_gone_is_asked_once() -> None:
    """A dead link answers after minutes of retries: not once for each object."""
    dead, alive, target, noted = full_place(), full_place(), Place(), list[str]()
    asked = []

    def hook(verb: str, name: str) -> bool:
        asked.append(name)
        raise Unavailable("dead")

    dead.hook = hook
    await copy(target, dead, alive, noted=noted)
    assert target.shared == full_place().shared
    assert (len(asked), noted) == (1, ["Unavailable"])


async def test_what_stands_in_the_way_with_another_size_is_moved_aside() -> None:
    target = Place()
    target.shared[path_of(REFS[2])] = b""
    await copy(target, full_place())
    assert target.shared[path_of(REFS[2])] == CONTENTS[2]
    assert target.shared[f"{DAMAGED}/{path_of(REFS[2])}"] == b""


def failing(target: Place, fault: Exception, *refs: ObjectRef) -> None:
    paths = {path_of(ref) for ref in refs}

    def hook(verb: str, name: str) -> bool:
        if verb == "put" and name in paths:
            raise fault
        return True

    target.hook = hook


async def test_single_objects_that_the_target_refuses_are_left_out() -> None:
    target = Place()
    failing(target, Refused("not this one"), REFS[1], REFS[5])
    outcome = await copy(target, full_place())
    assert outcome.failed == {REFS[1].name: "not this one", REFS[5].name: "not this one"}
    assert len(target.shared) == len(REFS) - 2


async def test_too_many_in_a_row_and_it_is_the_target() -> None:
    target = Place()
    failing(target, Refused("no permission"), *REFS)
    with pytest.raises(Refused):
        await copy(target, full_place())
    failing(target, Refused("no permission"), *REFS[:REFUSED_IN_A_ROW])
    assert len((await copy(target, full_place())).failed) == REFUSED_IN_A_ROW


@pytest.mark.parametrize("fault", [Unavailable("cut"), Full("full"), SecondInstallation("clone")])
async def test_faults_of_the_target_itself_are_raised_and_a_repetition_goes_on(fault: TandemError) -> None:
    target = Place()
    failing(target, fault, REFS[4])
    with pytest.raises(type(fault)):
        await copy(target, full_place())
    assert len(target.shared) == 4
    assert len(asyncio.all_tasks()) == 1, "a reader was left behind"
    target.hook = None
    await copy(target, full_place())
    assert target.shared == full_place().shared


async def test_a_second_installation_on_a_source_is_no_fault_of_that_source() -> None:
    source, target = full_place(), Place()
    source.hook = lambda verb, name: _raise(SecondInstallation("clone"))
    with pytest.raises(SecondInstallation):
        await copy(target, source, full_place())


def _raise(fault: BaseException) -> bool:
    raise fault


async def test_a_bug_while_reading_ahead_is_raised() -> None:
    source = full_place()
    source.hook = lambda verb, name: _raise(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await copy(Place(), source)
    assert len(asyncio.all_tasks()) == 1


async def test_cancelled_in_the_middle_it_leaves_no_task() -> None:
    target, task = Place(), None

    def hook(verb: str, name: str) -> bool:
        if name == path_of(REFS[5]):
            assert task is not None
            task.cancel()
        return True

    target.hook = hook
    task = asyncio.create_task(copy(target, full_place()))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(asyncio.all_tasks()) == 1


async def test_reading_ahead_keeps_to_a_few_objects() -> None:
    """Each takes memory of its size."""
    source, target, read = full_place(), Place(), list[str]()
    most = 0

    def note(_verb: str, name: str) -> bool:
        read.append(name)
        return True

    source.hook = note

    def hook(verb: str, name: str) -> bool:
        nonlocal most
        most = max(most, len(read) - len(target.shared))
        return True

    target.hook = hook
    await copy(target, source)
    assert most <= module.READ_AHEAD + 2


class Slow(MemoryStore):
    """Every put and read takes turns of the event loop; tells how many were under way at once."""

    def __init__(self, place: Place, parallel: int) -> None:
        super().__init__(place.shared)
        self.parallel = parallel
        self.under_way = self.most = 0

    async def _turns(self) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        for _ in range(5):
            await asyncio.sleep(0)
        self.under_way -= 1

    async def put(self, name: str, data: Buffer, sent: Callable[[int], None] | None = None) -> None:
        await self._turns()
        await super().put(name, data, sent)

    async def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        await self._turns()
        return await super().read(name, offset, length)


@pytest.mark.parametrize(("parallel", "most"), [(1, 1), (3, 3), (1024, module.WRITERS)])
async def test_as_many_are_written_and_read_at_once_as_the_stores_take(parallel: int, most: int) -> None:
    source, target = Slow(full_place(), 4), Slow(Place(), parallel)
    await source.open()
    await target.open()
    outcome = await replicate(REFS, {ref.name: [source] for ref in REFS}, target, heal=_never)
    assert sorted(outcome.copied) == sorted(ref.name for ref in REFS)
    assert (source.most, target.most) == (min(4, most + module.READ_AHEAD), most)
    assert target.shared == full_place().shared


async def test_what_is_in_memory_is_bounded_and_a_larger_object_is_carried_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = sorted(map(len, CONTENTS))
    monkeypatch.setattr(module, "IN_MEMORY", sizes[-1] - 1)
    source, target = Slow(full_place(), 4), Slow(Place(), 4)
    await source.open()
    await target.open()
    held: dict[str, int] = {}
    most: list[int] = []
    read, put = source.read, target.put

    async def reading(name: str, offset: int = 0, length: int | None = None) -> bytes:
        held[name] = len(source.shared[name])
        most.append(sum(held.values()) if len(held) > 1 else 0)
        return await read(name, offset, length)

    async def putting(name: str, data: Buffer, sent: Callable[[int], None] | None = None) -> None:
        await put(name, data, sent)
        del held[name]

    monkeypatch.setattr(source, "read", reading)
    monkeypatch.setattr(target, "put", putting)
    outcome = await replicate(REFS, {ref.name: [source] for ref in REFS}, target, heal=_never)
    assert len(outcome.copied) == len(REFS)
    assert 0 < max(most) <= module.IN_MEMORY


async def test_what_was_copied_is_told_also_when_it_is_cancelled() -> None:
    target, outcome = Place(), Outcome()
    store, source = await opened(target), await opened(full_place())
    tasks: list[asyncio.Task[Outcome]] = []

    def hook(_verb: str, name: str) -> bool:
        if name == path_of(REFS[5]):
            tasks[0].cancel()
        return True

    target.hook = hook
    sources = {ref.name: [source] for ref in REFS}
    tasks.append(asyncio.create_task(replicate(REFS, sources, store, heal=_never, outcome=outcome)))
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert [ref.name for ref in REFS[:5]] == outcome.copied[:5]


# Sizes


@pytest.mark.parametrize("many", [False, True])
async def test_sizes_of_what_is_there_by_asking_or_by_listing(many: bool) -> None:
    place = full_place()
    del place.shared[path_of(REFS[0])]
    place.shared[f"{object_path(ObjectType.PACK, REFS[1].name)[:-1]}/c"] = b"no name"
    extra = [ObjectRef(ObjectType.KEY, i.to_bytes(32, "big"), 1) for i in range(LIST_ABOVE if many else 0)]
    found = await sizes_of(await opened(place), [*REFS, *extra])
    assert found == {ref.name: ref.size for ref in REFS[1:]}


async def test_a_fault_while_asking_is_raised() -> None:
    place = full_place()
    store = await opened(place)
    place.up = False
    with pytest.raises(Unavailable):
        await sizes_of(store, REFS)


# Helpers


async def test_in_parallel_keeps_to_its_width_and_stops_at_the_first_fault() -> None:
    now = most = done = 0

    async def job() -> None:
        nonlocal now, most, done
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        done += 1

    await in_parallel(3, [job] * 10)
    assert (most, done) == (3, 10)
    await in_parallel(3, [])

    async def broken() -> None:
        raise Corrupt("broken")

    done = 0
    with pytest.raises(Corrupt):
        await in_parallel(1, [job, broken, job, job])
    assert done == 1


@given(st.binary(max_size=60), st.integers(0, 70))
def test_only_the_very_bytes_verify(data: bytes, size: int) -> None:
    ref = ObjectRef(ObjectType.PACK, object_name(data), size)

    async def read() -> bytes:
        store = MemoryStore({path_of(ref): data})
        await store.open()
        return await read_verified(store, ref)

    if size == len(data):
        assert asyncio.run(read()) == data
    else:
        with pytest.raises(Corrupt):
            asyncio.run(read())
