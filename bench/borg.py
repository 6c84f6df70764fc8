"""Borg 1.4: set up by the benchmark itself from the package index, and driven as its user would.

It is built in an environment of its own under `.bench/`, which stays for the next run (the libraries that it needs are
installed by `scripts/test-packages bench`). Repositories are encrypted (repokey-blake2), which is the equal of what
the others do, and compressed with zstd at level 1, as Tandem does; borg's own default would be lz4.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable

from bench.tools import PASSPHRASE, Job, Keeper, first_line, quiet

WANTED = "borgbackup>=1.4,<1.5"
HOW = "repokey-blake2, zstd,1"
ENVIRONMENT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), ".bench", "borg")
BORG = os.path.join(ENVIRONMENT, "bin", "borg")


class Borg(Keeper):
    """`borg` with a local repository, its cache and keys beside it."""

    name = "borg"

    def __init__(self, folder: str, source: str) -> None:
        super().__init__(folder, source)
        self._made = 0

    @staticmethod
    def version() -> str | None:
        """Its own words and how it is used, or None when it is not set up."""
        if not os.path.exists(BORG):
            return None
        return f"{first_line([BORG, '--version'])} ({HOW})"

    def prepare(self) -> None:
        """A new, empty repository."""
        self.remove()
        os.makedirs(self.folder)
        self._made = 0
        quiet(self._job(BORG, "init", "--encryption", "repokey-blake2"))

    def backup(self) -> Job:
        """One backup of the source."""
        self._made += 1
        return self._job(BORG, "create", "--compression", "zstd,1", f"::{self._made}", self._source)

    def restore(self, target: str) -> Job:
        """All of the newest backup to a folder that is not there yet; borg extracts where it is started."""
        script = 'mkdir "$1" && cd "$1" && exec "$2" extract "::$3"'
        return self._job("sh", "-c", script, "borg", target, BORG, str(self._made))

    def _job(self, *command: str) -> Job:
        environment = {
            **os.environ,
            "BORG_REPO": self.repository,
            "BORG_PASSPHRASE": PASSPHRASE,
            "BORG_BASE_DIR": os.path.join(self.folder, "base"),
        }
        return Job(command, environment)


def set_up(say: Callable[[str], None]) -> None:
    """Makes the environment unless it is there. Says why when it cannot; the benchmark then goes on without borg."""
    if os.path.exists(BORG):
        return
    say(f"setting up {WANTED}")
    pip = [os.path.join(ENVIRONMENT, "bin", "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    for command in ([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], [*pip, "install", WANTED]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = (done.stderr or done.stdout).strip().splitlines()
            why = next((line.strip() for line in lines if "Could not" in line), lines[-1] if lines else "")
            say(f"borg could not be set up (scripts/test-packages bench has what it is built with): {why}")
            shutil.rmtree(ENVIRONMENT, ignore_errors=True)
            return
