"""Live progress on a terminal: files, bytes, rate, time left, a line per tier. Nothing where there is none.

Drawn on stderr by a thread of the drawing library, five times a second, from counters that the operation
adds to: the operation never waits for the screen.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from . import output

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..progress import Progress

REFRESH_HERTZ = 5
RATE_SECONDS = 10.0
BAR_WIDTH = 24
SILENT_SECONDS = 5.0
"""So long may a command without a terminal look for a tier before it says so."""


class Watched(Protocol):
    """A tier at work, as far as it is shown. ``state`` is an enum of words; both texts may be empty."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def last_fault(self) -> str: ...


def watched(quiet: bool) -> bool:
    """Whether somebody is there to look."""
    return not quiet and sys.stderr.isatty()


@contextlib.asynccontextmanager
async def followed(progress: Progress, tiers: Sequence[Watched] = (), *, quiet: bool) -> AsyncIterator[None]:
    """Show ``progress`` while the body runs; without a terminal, say at least when it waits for a tier."""
    import asyncio

    if watched(quiet):
        with live(progress, tiers):
            yield
        return
    teller = asyncio.create_task(_tell_of_waiting(progress, tiers))
    try:
        yield
    finally:
        teller.cancel()


async def _tell_of_waiting(progress: Progress, tiers: Sequence[Watched]) -> None:
    """One line for a log, once."""
    import asyncio

    while True:
        await asyncio.sleep(SILENT_SECONDS)
        if progress.phase.startswith(("contacting", "waiting")):
            reasons = "; ".join(f"{t.name}: {_why(t) or t.state}" for t in tiers if t.state != "online")
            output.notice(f"waiting for a tier ({output.shown(reasons)})")
            return


@contextlib.contextmanager
def live(progress: Progress, tiers: Sequence[Watched] = ()) -> Iterator[None]:
    """Draw ``progress`` while the body runs."""
    from rich.console import Console
    from rich.live import Live

    view = View(progress, time.monotonic, tiers)
    with Live(
        get_renderable=view.render,
        console=Console(stderr=True, highlight=False),
        refresh_per_second=REFRESH_HERTZ,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=True,
    ):
        yield


class View:
    """Turns counters into lines. ``clock`` gives seconds."""

    def __init__(self, progress: Progress, clock: Callable[[], float], tiers: Sequence[Watched] = ()) -> None:
        self._progress = progress
        self._tiers = tiers
        self._clock = clock
        self._start = clock()
        self._samples: deque[tuple[float, int]] = deque(maxlen=int(RATE_SECONDS * REFRESH_HERTZ))

    def rate(self) -> float:
        """Bytes read per second over the last seconds; also takes the sample."""
        now = self._clock()
        self._samples.append((now, self._progress.bytes_read))
        first_time, first_bytes = self._samples[0]
        return (self._progress.bytes_read - first_bytes) / (now - first_time) if now > first_time else 0.0

    def lines(self) -> list[str]:
        """The text, a line each, without colours."""
        p = self._progress
        rate = self.rate()
        total = max(p.bytes_total_estimate, p.bytes_read) if p.bytes_total_estimate else 0
        of_total = f" of {output.size(total)}" if total else ""
        first = [
            p.phase or "starting",
            output.counted(p.files, "file"),
            f"{output.size(p.bytes_read)}{of_total}",
            f"{output.size(rate)}/s",
            output.duration(self._clock() - self._start),
        ]
        if total and rate > 0 and total > p.bytes_read:
            first.append(f"ETA {output.duration((total - p.bytes_read) / rate)}")
        lines = [" · ".join(first)]
        if total:
            done = p.bytes_read / total
            lines.append(f"  {_bar(done)} {done:4.0%}")
        lines += self._tier_lines()
        if p.current_path:
            lines.append(f"  {output.shown(p.current_path)}")
        return lines

    def _tier_lines(self) -> list[str]:
        states = {tier.name: (str(tier.state), _why(tier)) for tier in self._tiers}
        counters = dict(self._progress.tiers)
        given = self._progress.read_from() if self._progress.read_from is not None else {}
        names = list(dict.fromkeys([*states, *counters, *given]))
        width = max((len(name) for name in names), default=0)
        lines = []
        for name in names:
            state, reason = states.get(name, ("", ""))
            parts = [state]
            if (counter := counters.get(name)) is not None:
                waiting = max(0, counter.queued_bytes - counter.sent_bytes)
                parts += [counter.state if not state else "", f"{output.size(counter.sent_bytes)} sent"]
                parts.append(f"{output.size(waiting)} waiting" if waiting else "")
            if name in given:
                parts.append(f"{output.size(given[name])} read")
            if state not in ("online", "syncing"):
                parts.append(output.shown(reason))
            lines.append(f"  {name:<{width}}  {', '.join(filter(None, parts))}")
        return lines

    def render(self) -> RenderableType:
        from rich.text import Text

        return Text("\n".join(self.lines()), no_wrap=True, overflow="ellipsis")


def _why(tier: Watched) -> str:
    """Why a tier is not online; of one that is still being tried, what the last attempt met."""
    return tier.last_fault or tier.reason if tier.state == "offline" else tier.reason


def _bar(done: float) -> str:
    full = min(BAR_WIDTH, int(done * BAR_WIDTH))
    return "█" * full + "░" * (BAR_WIDTH - full)
