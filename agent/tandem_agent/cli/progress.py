"""Live progress on a terminal: files, bytes, rate, time left, a line per tier. Nothing where there is none.

Drawn on stderr by a thread of the drawing library, five times a second, from counters that the operation
adds to: the operation never waits for the screen.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from . import output

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..progress import Progress

REFRESH_HERTZ = 5
RATE_SECONDS = 10.0
BAR_WIDTH = 24


def watched(quiet: bool) -> bool:
    """Whether somebody is there to look."""
    return not quiet and sys.stderr.isatty()


@contextlib.contextmanager
def live(progress: Progress, *, enabled: bool) -> Iterator[None]:
    """Show ``progress`` while the body runs, if ``enabled`` and stderr is a terminal."""
    if not watched(not enabled):
        yield
        return
    from rich.console import Console
    from rich.live import Live

    view = View(progress, time.monotonic)
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

    def __init__(self, progress: Progress, clock: Callable[[], float]) -> None:
        self._progress = progress
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
            f"{output.number(p.files)} files",
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
        width = max((len(name) for name in p.tiers), default=0)
        for name, tier in list(p.tiers.items()):
            waiting = max(0, tier.queued_bytes - tier.sent_bytes)
            parts = [tier.state, f"{output.size(tier.sent_bytes)} sent"]
            parts.append(f"{output.size(waiting)} waiting" if waiting else "")
            lines.append(f"  {name:<{width}}  {', '.join(filter(None, parts))}")
        if p.current_path:
            lines.append(f"  {output.shown(p.current_path)}")
        return lines

    def render(self) -> RenderableType:
        from rich.text import Text

        return Text("\n".join(self.lines()), no_wrap=True, overflow="ellipsis")


def _bar(done: float) -> str:
    full = min(BAR_WIDTH, int(done * BAR_WIDTH))
    return "█" * full + "░" * (BAR_WIDTH - full)
