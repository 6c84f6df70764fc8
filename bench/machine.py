"""What the results are of: processor, memory, disk, kernel, and the versions of all programs compared."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping


def describe(folder: str, versions: Mapping[str, str | None]) -> dict[str, str]:
    """Words about this machine and the programs; `folder` is where the work is done."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{memory / 2**30:.0f} GiB",
        "file system": _file_system(folder),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version or "not there" for name, version in versions.items()},
    }


def ssh_version() -> str | None:
    """OpenSSH's own words, or None."""
    if shutil.which("ssh") is None:
        return None
    done = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False)
    return (done.stderr or done.stdout).strip()


def others_at_work() -> float:
    """The load average of the last minute."""
    return os.getloadavg()[0]


def prefer(nice: int) -> None:
    """Gives this process, and what it starts, a priority over others on the machine; needs root if below 0.

    Where the kernel groups processes by session (autogroup), that of this session is set: there a priority
    counts only inside of its session.
    """
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    if os.path.exists("/proc/self/autogroup"):
        with open("/proc/self/autogroup", "w", encoding="ascii") as file:
            file.write(str(nice))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _file_system(folder: str) -> str:
    done = subprocess.run(
        ["findmnt", "-n", "-o", "FSTYPE,SOURCE", "-T", folder], capture_output=True, text=True, check=False
    )
    return " ".join(done.stdout.split()) or "unknown"
