"""Processes forked to help with one piece of work, that live no longer than whoever started them.

To be forked only while there is one thread: what another thread holds at that moment, nobody would ever give back.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable

from tandem_agent.engine.linux import end_with_parent


def may_fork() -> bool:
    """Whether there is only this thread."""
    return threading.active_count() == 1


def start(work: Callable[[], None]) -> int | None:
    """Do ``work`` in a process of its own; its number, None where the system gives no more of them."""
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        return None
    if not pid:
        try:
            end_with_parent()
            if os.getppid() == parent:
                for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                    signal.signal(number, signal.SIG_IGN)  # whoever started this ends it
                _silence()
                work()
        finally:
            os._exit(0)
    return pid


def _silence() -> None:
    """Let go of the standard streams: whoever reads our output through a pipe would wait for this process, too."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(nowhere, fd)


def has_ended(pid: int, patience_s: float) -> bool:
    """Wait so long for its end."""
    end = time.monotonic() + patience_s
    with contextlib.suppress(OSError):
        while not os.waitpid(pid, os.WNOHANG)[0]:
            if time.monotonic() > end:
                return False
            time.sleep(0.001)
    return True


def kill(pid: int, patience_s: float) -> bool:
    """End it. One that hangs in the kernel is left behind: False."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
    return has_ended(pid, patience_s)
