"""Waiting for the targets of a write, and having those leave that the others wait for in vain.

It decides who leaves and makes that so; what is waited for, and what becomes of the operation, is `writing`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from tandem_agent.tiers.pace import Pace
from tandem_agent.tiers.sending import Target
from tandem_protocol.errors import TandemError, Unavailable
from tandem_protocol.verdict import State as TierState

LINK_POLL_S = 1.0
"""How often the links of targets that are behind are looked at."""


class Patience:
    """``pace`` is the account of who held up whom; ``patience_s``: for how long a link may be in trouble."""

    def __init__(self, pace: Pace, patience_s: float) -> None:
        self._pace = pace
        self._patience_s = patience_s

    async def wait(self, tasks: Mapping[asyncio.Future[Any], Target]) -> None:
        """Wait for ``tasks``, all ended when it returns. Once one target is through, nobody waits for the last
        attempt of a dead link: a target whose link has been in trouble for the patience leaves. So does one that
        is behind, and has held the others up for as long as its budget allows."""
        waiting: set[asyncio.Future[Any]] = set(tasks)
        clock = asyncio.get_running_loop().time
        held_up: list[Target] = []
        try:
            while waiting:
                left = [self._pace.left(target.tier.id) for target in held_up]
                before = clock()
                _, waiting = await asyncio.wait(
                    waiting,
                    timeout=max(0.0, min([LINK_POLL_S, *left])),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for target in held_up:
                    self._pace.charge(target.tier.id, clock() - before)
                held_up = self._judge_late(waiting, tasks)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    def _judge_late(
        self, waiting: Iterable[asyncio.Future[Any]], tasks: Mapping[asyncio.Future[Any], Target]
    ) -> list[Target]:
        """Have those leave that the others wait for in vain; gives those that they wait for now."""
        late = {tasks[task]: task for task in waiting}
        through = any(not target.failed and target not in late for target in tasks.values())
        held_up: list[Target] = []
        for target, task in late.items():
            if through and not target.failed and target.tier.troubled_s > self._patience_s:
                said = target.tier.last_fault
                leave(target, Unavailable(f"left while it was retried ({said})"))
            elif through and not target.failed and target.behind:
                if self._pace.left(target.tier.id) <= 0:
                    self._fall_behind(target)
                else:
                    held_up.append(target)
            if target.failed:
                target.interrupt(task)
        return held_up

    def _fall_behind(self, target: Target) -> None:
        """It works, but not fast enough: what it has got stays there, and is not sent again."""
        seconds = self._pace.held_up(target.tier.id)
        reason = f"left the backup, which it held up for {seconds:.0f} s; synchronisation brings it level"
        target.leave(Unavailable(f"tier {target.tier.name} {reason}"))
        target.tier.set_state(TierState.LAGGING, reason)


def leave(target: Target, fault: TandemError) -> None:
    """It is no target any more, because its tier failed."""
    target.leave(fault)
    target.tier.fail(fault)
