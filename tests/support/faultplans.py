"""From a seed to the faults that one run of a command meets on its way to a server.

Each drawing has one kind of fault, on some connections in a row, at a place among the bytes that such a run is
known to move. The same generator in the same state draws the same.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.support.faultproxy import Direction, Fault, FaultProxy, Kind, Plan, no_fault

CLOSED = "closed"
"""Nobody listens: besides the kinds of faults on connections."""

KINDS = (CLOSED, *(kind.value for kind in Kind))
_AT_ONCE = (Kind.REFUSE, Kind.DELAY, Kind.DRIP)
SILENCE_S = 75.0
"""A silence that outlasts a store's own deadline."""


@dataclass(frozen=True)
class Volume:
    """What a run without faults moves: connections, those for data, bytes from and to the client."""

    connections: int = 1
    data_connections: int = 0
    up: int = 0
    down: int = 0

    @staticmethod
    def of(proxy: FaultProxy) -> Volume:
        """All that went through a proxy so far."""
        return Volume(proxy.connections, proxy.data_connections, proxy.bytes_up, proxy.bytes_down)

    def since(self, before: Volume) -> Volume:
        return Volume(
            self.connections - before.connections,
            self.data_connections - before.data_connections,
            self.up - before.up,
            self.down - before.down,
        )


@dataclass(frozen=True)
class Weather:
    """What is drawn for one run: a word for the tally, a line for people, and what the proxy does."""

    word: str
    story: str
    plan: Plan = no_fault

    def begin(self, proxy: FaultProxy) -> None:
        if self.word == CLOSED:
            proxy.go_down()
        else:
            proxy.follow(self.plan)


def draw(rng: random.Random, word: str, volume: Volume, quick: bool = False) -> Weather:
    """One run's weather of the kind ``word``, for a run that would move ``volume``. ``quick``: no silence that
    outlasts a deadline."""
    if word == CLOSED:
        return Weather(CLOSED, "nobody listens")
    kind = Kind(word)
    on_data = bool(volume.data_connections) and rng.random() < 0.6
    number = volume.data_connections if on_data else volume.connections
    first = rng.randrange(number) if on_data or rng.random() < 0.2 else 0
    count = rng.choice((1, 1, 2, 5, 9, 10_000))  # 9 is as many as an operation bears
    direction: Direction = rng.choice(("up", "down"))
    seconds, rate = _measure(rng, kind)
    if kind in (Kind.STALL, Kind.PAUSE) or (kind is Kind.REFUSE and on_data):
        # Each costs somebody's patience: a server waits for a data connection that was refused to its client.
        count = min(count, 2)
    if kind is Kind.STALL and not quick and rng.random() < 0.1:
        seconds, count = SILENCE_S, 1
    after = 0 if kind in _AT_ONCE else _place(rng, volume, direction, on_data)
    fault = Fault(kind, direction, after, seconds, rate)

    def plan(at: int, is_data: bool) -> Fault | None:
        return fault if is_data == on_data and first <= at < first + count else None

    which = f"{'data ' if on_data else ''}connections {first} to {first + count - 1}"
    return Weather(word, f"{fault} on {which}", plan)


def _measure(rng: random.Random, kind: Kind) -> tuple[float, int]:
    """(seconds, rate) of a fault."""
    if kind is Kind.DELAY:
        return rng.uniform(0.002, 0.04), 0
    if kind is Kind.SLOW:
        return 0.0, rng.choice((200_000, 500_000, 2_000_000))
    if kind is Kind.DRIP:
        return 0.0, rng.choice((100, 300, 1460))
    return (rng.uniform(0.2, 2.0), 0) if kind in (Kind.STALL, Kind.PAUSE) else (0.0, 0)


def _place(rng: random.Random, volume: Volume, direction: Direction, on_data: bool) -> int:
    """After how many bytes: at the very beginning, in the first exchanges, or anywhere in the run."""
    moved = volume.up if direction == "up" else volume.down
    if volume.data_connections:
        # Bytes of data are those of a few larger connections; the commands and replies of a run are few.
        moved = moved // 3 if on_data else 60 * volume.data_connections
    return rng.choice((0, rng.randrange(1, 400), rng.randrange(1, 8_000), rng.randrange(1, max(2, moved))))
