"""An event loop on virtual time, for one seed: no thread, no socket, no waiting.

Time stands still while callbacks run and jumps to the next timer when none is ready; with neither there is a
deadlock, which is an error. Callbacks that are ready run in an order drawn from the seed. What is handed to
threads runs at once, inline. Tasks are hashed by their number, so that sets of them have the same order in
every run.
"""

from __future__ import annotations

import asyncio
import random
from asyncio import base_events
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, cast

MOST_TURNS = 1_000_000
"""Turns of the loop after which a run is taken for one that never ends."""


class Deadlock(AssertionError):
    """Nothing is ready and nothing ever will be."""


class Shuffled(deque[Any]):
    """The ready callbacks: the next one is any of them."""

    def __init__(self, make: random.Random) -> None:
        super().__init__()
        self._below = make.random

    def popleft(self) -> Any:
        if (count := len(self)) > 1:
            self.rotate(-int(self._below() * count))
        return super().popleft()


class NumberedTask(asyncio.Task[Any]):
    """A task whose hash is the number it was made with."""

    def __init__(self, coro: Coroutine[Any, Any, Any], number: int, **more: Any) -> None:
        self._number = number
        super().__init__(coro, **more)

    def __hash__(self) -> int:
        return self._number


class _Clock:
    """What the loop takes for a selector: it waits by moving the time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns = 0

    def select(self, timeout: float | None) -> list[object]:
        self.turns += 1
        if timeout is None:
            raise Deadlock("deadlock: nothing is ready, and no timer is set")
        if self.turns > MOST_TURNS:
            raise Deadlock(f"no end after {self.turns} turns of the loop")
        self.now += timeout
        return []


class VirtualLoop(base_events.BaseEventLoop):
    """``made`` is told of every new task, in order."""

    def __init__(self, make: random.Random) -> None:
        super().__init__()
        self._selector = _Clock()
        self._ready = Shuffled(make)
        self._tasks = 0
        self.made: Callable[[asyncio.Task[Any]], None] | None = None
        self.set_task_factory(cast(Any, self._numbered))

    def time(self) -> float:
        return self._selector.now

    def _numbered(
        self, _loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **more: Any
    ) -> asyncio.Task[Any]:
        self._tasks += 1
        task = NumberedTask(coro, self._tasks, loop=self, **more)
        if self.made is not None:
            self.made(task)
        return task

    def _process_events(self, _events: object) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody else is there who could wake it."""

    def run_in_executor(self, executor: object, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]  # simpler than a generic of all arguments
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as fault:
            future.set_exception(fault)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is none."""
