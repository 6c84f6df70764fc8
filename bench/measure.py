"""Runs one command and says what it cost: wall, CPU, peak memory of all its processes, and how busy others
were.

Peak memory is the larger of two readings: the kernel's own maximum for the process (wait4), and the largest
sum of resident memory over the command and its descendants (ssh, workers), looked at every 20 ms. Shared
pages count in each process, so the sum errs on the high side. Linux only.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LOOK_SECONDS = 0.02
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


class CommandFailed(Exception):
    """A measured command did not end with exit 0; the message has the end of what it said."""


@dataclass(frozen=True)
class Cost:
    """What a command cost. Seconds, bytes; `others` is the part of the machine's CPU that others used
    meanwhile."""

    wall: float
    cpu: float
    peak: int
    others: float


def measure(command: Sequence[str], log: str, environment: Mapping[str, str] | None = None) -> Cost:
    """Runs `command` to its end, its output into the file `log`. Raises CommandFailed unless it ends with
    0."""
    busy = _busy_seconds()
    start = time.perf_counter()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if environment is None else dict(environment),
        )
        watch = _PeakWatch(process.pid)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()  # the benchmark is being stopped
            raise
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        peak = max(watch.stop(), _kernel_peak(usage))
    cpu = usage.ru_utime + usage.ru_stime
    if process.returncode != 0:
        with open(log, "rb") as output:
            said = output.read()[-2_000:].decode(errors="replace").strip()
        raise CommandFailed(f"`{' '.join(command)}` ended with {process.returncode}: {said}")
    others = max(0.0, _busy_seconds() - busy - cpu) / (wall * (os.cpu_count() or 1))
    return Cost(wall, cpu, peak, others)


def quickly(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Wall seconds of a command that is over at once, with nothing that watches it."""
    start = time.perf_counter()
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise CommandFailed(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()}")
    return seconds


def reading(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, int, dict[str, Any]]:
    """Wall seconds of a command, the bytes that it asked the kernel for by reading, its program included but
    nothing that it maps, and the JSON that it printed."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=dict(environment), stdout=output, stderr=subprocess.STDOUT)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        seconds = time.perf_counter() - start
        with open(f"/proc/{process.pid}/io", encoding="ascii") as counters:
            read = int(counters.readline().split()[1])
        code = process.wait()
        output.seek(0)
        said = output.read().decode(errors="replace")
    if code != 0:
        raise CommandFailed(f"`{' '.join(command)}` ended with {code}: {said.strip()[-2_000:]}")
    return seconds, read, json.loads(said[said.index("{") :])


def _kernel_peak(usage: resource.struct_rusage) -> int:
    """The kernel's maximum for a child, in bytes; 0 where it may be ours: until it starts its program, a child
    counts with the memory of the process that made it."""
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage.ru_maxrss * 1024 if usage.ru_maxrss > ours else 0


def settle(drop_cache: bool) -> None:
    """Writes out what is dirty; with `drop_cache` (root) also empties the page cache, so that each run
    starts alike."""
    os.sync()
    if drop_cache:
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
            file.write("3\n")


def folder_bytes(path: str) -> int:
    """The sum of the sizes of all regular files below `path`."""
    total = 0
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += folder_bytes(entry.path)
            elif entry.is_file(follow_symlinks=False):
                total += entry.stat(follow_symlinks=False).st_size
    return total


class _PeakWatch:
    """Looks at the resident memory of a process and its descendants until stopped."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak = pid, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Ends the looking; the largest sum seen, in bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak

    def _look(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            self._peak = max(self._peak, sum(_resident(pid) for pid in _family(self._pid)))


def _family(pid: int) -> list[int]:
    """The process and all its descendants, as far as they can be seen."""
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{task}/children", encoding="ascii") as file:
                    found.extend(map(int, file.read().split()))
        except OSError:
            continue
    return found


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _busy_seconds() -> float:
    """CPU seconds that the whole machine has spent so far on anything but idling and waiting."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + irq + softirq) / _TICKS
