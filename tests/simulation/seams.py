"""Everything by which a run could differ from the last one of its seed, in one place.

`os.urandom` (ids, nonces, names of temporary files, the random part of every XAES nonce) and the global
`random` (jitter) come from the seed. `time.time`, `time.monotonic` and their kin, and the agent's dates,
are the loop's virtual time. Host and user names are fixed. Signatures are deterministic by themselves and
are verified once each: the same bytes verify the same again. The blob index is not written to disk, so that
each process learns it from the tiers; the files cache remembers nothing.
"""

from __future__ import annotations

import getpass
import inspect
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, tzinfo
from typing import Any
from unittest.mock import patch

from tenacity import _utils as tenacity_utils

from tandem_agent import backup, reading, tierbook
from tandem_agent.engine.blobindex import BlobIndex
from tandem_agent.tiers import contact
from tandem_protocol import envelope, identity

START = 1_800_000_000
"""Unix time at which every run begins."""


class PassingIndex(BlobIndex):
    """A blob index that lives as long as its process."""

    def flush(self) -> None:
        """Not kept."""


class NoFilesCache:
    """Remembers no file."""

    def __init__(self, _path: str, _repository_id: bytes) -> None: ...

    def commit(self, _revision: int) -> None: ...

    def discard(self) -> None: ...

    def close(self) -> None: ...


class _Read:
    """A reader of bytes that are looked at again and again: it reads the same ones once. Its faults it finds anew."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self._real = real
        self._found: dict[tuple[object, ...], Any] = {}

    def __call__(self, data: Any, *more: Any, **named: Any) -> Any:
        key = (bytes(data), more, tuple(named.items()))
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._real(data, *more, **named)
        return dict(found) if type(found) is dict else found


def _is_coroutine_callable(call: Any) -> bool:
    """tenacity's own, without looking at signatures: it asks twice for every verb."""
    code = getattr(getattr(call, "func", call), "__code__", None)
    if code is None:
        return inspect.iscoroutinefunction(type(call).__call__)
    return bool(code.co_flags & inspect.CO_COROUTINE)


@contextmanager
def deterministic(seed: int, clock: Callable[[], float]) -> Iterator[None]:
    """In here all that happens follows from ``seed`` and from ``clock`` (virtual seconds since the start)."""
    make = random.Random(f"random bytes {seed}")
    before = random.getstate()
    random.seed(f"jitter {seed}")

    class Date(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.fromtimestamp(START + clock(), tz or UTC)

    fixed: list[tuple[Any, str, Any]] = [
        (os, "urandom", make.randbytes),
        (time, "time", lambda: START + clock()),
        (time, "time_ns", lambda: int((START + clock()) * 1e9)),
        (time, "monotonic", clock),
        (time, "monotonic_ns", lambda: int(clock() * 1e9)),
        (socket, "gethostname", lambda: "office"),
        (getpass, "getuser", lambda: "anna"),
        (backup, "_zone", lambda: "UTC"),
        (backup, "_host_id", lambda: "0123456789abcdef"),
        (backup, "FilesCache", NoFilesCache),
        (reading, "BlobIndex", PassingIndex),
        (envelope, "verify", _Read(envelope.verify)),
        (envelope, "unverified_body", _Read(envelope.unverified_body)),
        (contact, "decode_identity", _Read(identity.decode_identity)),
        (tierbook, "decode_identity", _Read(identity.decode_identity)),
        (tenacity_utils, "is_coroutine_callable", _is_coroutine_callable),
    ]
    agent = [module for name, module in sorted(sys.modules.items()) if name.startswith("tandem_agent.")]
    fixed += [(module, "datetime", Date) for module in agent if vars(module).get("datetime") is datetime]
    with ExitStack() as stack:
        for owner, name, value in fixed:
            stack.enter_context(patch.object(owner, name, value))
        try:
            yield
        finally:
            random.setstate(before)
