"""The retrying wrapper (issue: "10 attempts, a new session each, which it reports; permanent faults at once";
tier-protocol.md, Sessions and Faults)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from tests.support.faulty import Fault, FaultyStore, Script, scripted

from tandem_protocol.errors import (
    Absent,
    Corrupt,
    Exists,
    Full,
    Missing,
    Refused,
    SecondInstallation,
    TandemError,
    Unavailable,
)
from tandem_protocol.store import Store
from tandem_protocol.stores.memory import MemoryStore
from tandem_protocol.stores.retrying import PROGRESS, READ_SLICE, RetryingStore, RetryPolicy

NAME = "packs/ab/" + "ab" * 32


class Bench:
    """A retrying store over faulty sessions to one dictionary, with a clock that only counts."""

    def __init__(self, script: Script, attempts: int = 10, jitter_s: float = 0.0) -> None:
        self.script = script
        self.shared: dict[str, bytes] = {}
        self.made: list[FaultyStore] = []
        self.reported: list[Store] = []
        self.slept: list[float] = []
        policy = RetryPolicy(attempts=attempts, first_s=0.5, max_s=8, jitter_s=jitter_s)
        self.store = RetryingStore(self._make, policy, self._on_session, self._sleep)

    def _make(self) -> Store:
        store = FaultyStore(MemoryStore(self.shared), self.script)
        self.made.append(store)
        return store

    async def _on_session(self, store: Store) -> None:
        self.reported.append(store)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


async def test_a_transient_fault_is_repeated_in_a_new_session_that_is_reported() -> None:
    with scripted(Fault("put", 1), Fault("put", 2)) as script:
        bench = Bench(script)
        await bench.store.open()
        assert bench.reported == []
        await bench.store.put(NAME, b"data")
    assert bench.shared == {NAME: b"data"}
    assert bench.reported == bench.made[1:]
    assert (bench.store.sessions, len(bench.made)) == (3, 3)
    assert bench.slept == [0.5, 1.0]


async def test_ten_attempts_then_the_fault_itself() -> None:
    with scripted(*(Fault("size", at) for at in range(1, 11))) as script:
        bench = Bench(script)
        await bench.store.open()
        with pytest.raises(Unavailable, match="a scripted fault"):
            await bench.store.size(NAME)
    assert script.calls["size"] == 10
    assert bench.slept == [0.5, 1, 2, 4, 8, 8, 8, 8, 8]
    await bench.store.put(NAME, b"data")  # the next verb has attempts of its own
    assert bench.shared == {NAME: b"data"}


@pytest.mark.parametrize("kind", [Missing, Exists, Refused, Full, Corrupt, SecondInstallation])
async def test_permanent_faults_pass_at_once(kind: type[TandemError]) -> None:
    with scripted(Fault("create", 1, kind("permanent"))) as script:
        bench = Bench(script)
        await bench.store.open()
        with pytest.raises(kind, match="permanent"):
            await bench.store.create("tandem", b"x")
    assert (script.calls["create"], bench.slept) == (1, [])


async def test_waits_have_jitter_within_their_bound() -> None:
    with scripted(*(Fault("size", at) for at in range(1, 6))) as script:
        bench = Bench(script, jitter_s=0.25)
        await bench.store.open()
        with pytest.raises(Missing):
            await bench.store.size(NAME)
    for slept, base in zip(bench.slept, [0.5, 1, 2, 4, 8], strict=True):
        assert base <= slept <= base + 0.25


async def test_opening_is_repeated_too() -> None:
    with scripted(Fault("open", 1), Fault("open", 2)) as script:
        bench = Bench(script)
        await bench.store.open()
        assert bench.reported == []  # whoever opens looks anyway


async def test_a_permanent_fault_of_opening_ends_it() -> None:
    with scripted(Fault("open", 1, Refused("wrong key"))) as script:
        bench = Bench(script)
        with pytest.raises(Refused, match="wrong key"):
            await bench.store.open()
    assert len(bench.made) == 1


async def test_a_place_that_is_not_there_is_not_waited_for() -> None:
    """A disk that was unplugged comes back by somebody's hand: not tried again, neither at first nor in between."""
    with scripted(Fault("open", 1, Absent("not mounted"))) as script:
        bench = Bench(script)
        with pytest.raises(Absent):
            await bench.store.open()
        assert (script.calls["open"], bench.slept) == (1, [])
    with scripted(Fault("put", 1), Fault("open", 2, Absent("not mounted"))) as script:
        bench = Bench(script)
        await bench.store.open()
        with pytest.raises(Absent):
            await bench.store.put(NAME, b"data")
        assert (script.calls["open"], len(bench.slept)) == (2, 1)
        await bench.store.open()
        await bench.store.put(NAME, b"data")


async def test_an_error_of_the_report_ends_the_verb() -> None:
    with scripted(Fault("put", 1)) as script:
        bench = Bench(script)

        async def found_another(_store: Store) -> None:
            raise SecondInstallation("another one writes here")

        bench.store.on_session = found_another
        await bench.store.open()
        with pytest.raises(SecondInstallation):
            await bench.store.put(NAME, b"data")
    assert bench.shared == {}
    assert script.calls["put"] == 1


async def test_a_report_that_loses_the_link_is_one_more_failed_attempt() -> None:
    with scripted(Fault("put", 1), Fault("read", 1)) as script:
        bench = Bench(script)
        bench.shared["tandem"] = b"identity"

        async def look(store: Store) -> None:
            assert await store.read("tandem") == b"identity"

        bench.store.on_session = look
        await bench.store.open()
        await bench.store.put(NAME, b"data")
    assert bench.shared[NAME] == b"data"
    assert len(bench.made) == 3


async def test_an_attempt_that_moved_a_mebibyte_starts_the_count_again() -> None:
    far = [Fault("put", at, after_bytes=PROGRESS) for at in range(1, 30)]
    with scripted(*far) as script:
        bench = Bench(script, attempts=3)
        await bench.store.open()
        await bench.store.put(NAME, bytes(10 * PROGRESS), lambda _count: None)
    assert set(bench.slept) == {0.5}


async def test_an_upload_that_fails_at_its_end_each_time_is_given_up() -> None:
    """It moves all its bytes in every attempt, and gets nowhere: a failing disk, not a failing line."""
    data = bytes(2 * PROGRESS)
    with scripted(*(Fault("put", at, after_bytes=len(data)) for at in range(1, 5))) as script:
        bench = Bench(script, attempts=3)
        await bench.store.open()
        with pytest.raises(Unavailable):
            await bench.store.put(NAME, data, lambda _count: None)
    assert script.calls["put"] == 4


async def test_an_attempt_that_moved_less_does_not() -> None:
    near = [Fault("put", at, after_bytes=PROGRESS - 1) for at in range(1, 4)]
    with scripted(*near) as script:
        bench = Bench(script, attempts=3)
        await bench.store.open()
        with pytest.raises(Unavailable):
            await bench.store.put(NAME, b"data", lambda _count: None)


async def test_a_long_read_goes_on_where_it_was_cut() -> None:
    """More faults than attempts, but each attempt got on by a slice."""
    data = random.Random(5).randbytes(5 * READ_SLICE + 77)
    # Calls 1: whole, fails. 2: slice. 3: fails. 4: slice. 5: fails ...
    with scripted(*(Fault("read", at) for at in (1, 3, 5, 7))) as script:
        bench = Bench(script, attempts=2)
        bench.shared[NAME] = data
        await bench.store.open()
        assert await bench.store.read(NAME) == data
    with scripted(Fault("read", 1), Fault("read", 3)) as script:
        bench = Bench(script)
        bench.shared[NAME] = data
        await bench.store.open()
        assert await bench.store.read(NAME, 10, 2 * READ_SLICE) == data[10 : 10 + 2 * READ_SLICE]
        assert await bench.store.read(NAME, len(data)) == b""


async def test_a_listing_that_was_cut_is_whole_and_without_doubles() -> None:
    with scripted(Fault("list", 2), Fault("list", 4)) as script:
        bench = Bench(script)
        bench.shared.update({f"epochs/{n:016x}": b"" for n in range(5)})
        await bench.store.open()
        assert [e.name async for e in bench.store.list("epochs")] == [f"{n:016x}" for n in range(5)]


async def test_lost_replies() -> None:
    """A repeated create says `Exists` (the caller reads whose it is); the others notice that it was done."""
    with scripted(*(Fault(verb, 1, lost=True) for verb in ("create", "put", "move", "delete"))) as script:
        bench = Bench(script)
        await bench.store.open()
        with pytest.raises(Exists):
            await bench.store.create("tandem", b"identity")
        assert await bench.store.read("tandem") == b"identity"
        await bench.store.put(NAME, b"data")
        await bench.store.move(NAME, "quarantine/removed/x")
        await bench.store.delete("quarantine/removed/x")
    assert bench.shared == {"tandem": b"identity"}
    with pytest.raises(Missing):
        await bench.store.move(NAME, "quarantine/removed/y")


async def test_verbs_side_by_side_share_one_reconnect() -> None:
    """Three are under way when their session breaks: all three are repeated, in one new session."""
    made: list[MemoryStore] = []
    under_way = asyncio.Barrier(3)

    class BreaksUnderThree(MemoryStore):
        async def size(self, name: str) -> int:
            if made[0] is self:
                await under_way.wait()
                raise Unavailable("the link broke under all of them")
            return await super().size(name)

    def make() -> Store:
        made.append(BreaksUnderThree({f"keys/{n}": b"x" * n for n in range(3)}))
        return made[-1]

    store = RetryingStore(make, RetryPolicy(first_s=0, jitter_s=0))
    await store.open()
    assert await asyncio.gather(*(store.size(f"keys/{n}") for n in range(3))) == [0, 1, 2]
    assert store.sessions == len(made) == 2


async def test_closed_means_closed() -> None:
    bench = Bench(Script())
    await bench.store.open()
    await bench.store.close()
    await bench.store.close()
    with pytest.raises(Refused):
        await bench.store.size(NAME)
    assert bench.slept == []
    await bench.store.open()
    await bench.store.put(NAME, b"x")


async def test_a_cancellation_passes_through() -> None:
    bench = Bench(Script())
    await bench.store.open()
    entered = asyncio.Event()

    class Hanging(MemoryStore):
        async def size(self, name: str) -> int:
            entered.set()
            await asyncio.Event().wait()
            return 0

    hanging: Callable[[], Store] = Hanging
    store = RetryingStore(hanging)
    await store.open()
    task = asyncio.create_task(store.size(NAME))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.sessions == 1


async def test_an_unused_scripted_fault_fails_the_test() -> None:
    with pytest.raises(AssertionError, match="never came"), scripted(Fault("put", 2)) as script:
        bench = Bench(script)
        await bench.store.open()
        await bench.store.put(NAME, b"x")


async def test_a_session_that_ended_because_a_verb_was_cancelled_is_no_failed_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Store contract: "a cancelled verb may end the session". Who stopped it must not wait for that."""
    with scripted() as script:
        bench = Bench(script)
        await bench.store.open()
        hung = bench.made[0]

        async def never(*_: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(hung, "put", never)
        task = asyncio.create_task(bench.store.put(NAME, b"data"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await hung.inner.close()
        with pytest.raises(Missing):
            await bench.store.size(NAME)
    assert (bench.slept, bench.store.last_fault) == ([], "")
    assert bench.reported == bench.made[1:] != []
