"""A bounded queue between the pipeline's threads that can be ended from either side.

`queue.Queue` cannot wake a blocked peer when the run fails or is cancelled; this one can, at once.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """The run has ended (another thread failed, or it was cancelled). Caught at the top of each thread."""


class Channel(Generic[T]):
    """First in, first out, at most ``limit`` items waiting. Any number of threads on both sides."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[T] = deque()
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._drained = threading.Condition(self._lock)
        self._ended = False
        self._stopped = False

    def put(self, item: T) -> None:
        """Waits while the channel is full. Raises `Stopped` after `stop`."""
        with self._lock:
            while len(self._items) >= self._limit and not self._stopped:
                self._drained.wait()
            if self._stopped:
                raise Stopped
            self._items.append(item)
            self._filled.notify()

    def get(self) -> T | None:
        """The next item, or None when the channel was ended and is empty. Raises `Stopped` after `stop`."""
        with self._lock:
            while not self._items and not self._ended and not self._stopped:
                self._filled.wait()
            if self._stopped:
                raise Stopped
            if not self._items:
                return None
            item = self._items.popleft()
            self._drained.notify()
            return item

    def end(self) -> None:
        """No more items will come; what waits is still handed out."""
        with self._lock:
            self._ended = True
            self._filled.notify_all()

    def stop(self) -> None:
        """Drop what waits and wake everybody with `Stopped`."""
        with self._lock:
            self._stopped = True
            self._items.clear()
            self._filled.notify_all()
            self._drained.notify_all()
