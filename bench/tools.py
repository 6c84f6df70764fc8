"""Tandem, restic and a plain copy, each driven as its user would: the command lines, and where they keep their
things. (Borg is in `borg`, programs that only carry bytes are in `carriers`.)

Each works in a folder of its own, which `prepare` makes new and `remove` takes away; only the commands that
`backup` and `restore` return are timed. Repositories are encrypted with a passphrase on both sides, caches
are on.
"""

from __future__ import annotations

import compileall
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import tandem_agent
import tandem_protocol
import tandem_server
from bench.measure import CommandFailed, folder_bytes

PASSPHRASE = "a passphrase for the benchmark"
TANDEM = os.path.join(os.path.dirname(sys.executable), "tandem")


@dataclass(frozen=True)
class Remote:
    """A folder on an SFTP server: how to log in, and where the folder is on this machine."""

    host: str
    port: int
    user: str
    identity_file: str
    known_hosts_line: str
    path: str
    folder: str


@dataclass(frozen=True)
class Job:
    """A command and its environment."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


class Tandem:
    """`tandem` with a vault (a folder), or with `remote` an SFTP server through the system's ssh, or with both. `lag`:
    the remote's lag budget in seconds, `attempts`: how often a lost remote is tried, if not as it comes."""

    def __init__(
        self,
        folder: str,
        source: str,
        remote: Remote | None = None,
        with_vault: bool | None = None,
        lag: float | None = None,
        attempts: int | None = None,
        name: str = "tandem",
    ) -> None:
        self.name, self.folder = name, folder
        self._source, self.remote = source, remote
        self._lag, self._attempts = lag, attempts
        self._with_vault = remote is None if with_vault is None else with_vault
        self.vault = os.path.join(folder, "vault")
        self._config = os.path.join(folder, "agent.toml")

    @staticmethod
    def version() -> str | None:
        """Its own words, or None when it is not there."""
        return first_line([TANDEM, "--version"]) if os.path.exists(TANDEM) else None

    def prepare(self) -> None:
        """A new, empty repository."""
        self.remove()
        for path in (self.folder, *self._repositories()):
            os.makedirs(path, exist_ok=True)
        self.configure()
        quiet(self.job("init"))

    def configure(self) -> None:
        """Writes the configuration, again when `remote` is reached in another way."""
        lines = [
            f"sources = [{json.dumps(self._source)}]",
            f"state_dir = {json.dumps(self.folder + '/state')}",
        ]
        if self._with_vault:
            lines += ["[[tier]]", 'name = "vault"', f"url = {json.dumps('file://' + self.vault)}"]
        if self.remote:
            remote = self.remote
            lines += [
                "[[tier]]",
                'name = "remote"',
                f'url = "sftp://{remote.user}@{remote.host}:{remote.port}/{remote.path}"',
                f"identity_file = {json.dumps(remote.identity_file)}",
                f"host_keys = [{json.dumps(remote.known_hosts_line)}]",
            ]
            if self._lag is not None:
                lines.append(f"lag_budget_seconds = {self._lag}")
            if self._attempts is not None:
                lines.append(f"retries = {{ attempts = {self._attempts} }}")
        with open(self._config, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")

    def backup(self) -> Job:
        """One backup of the source."""
        return self.job("backup", "--json")

    def restore(self, target: str, *paths: str) -> Job:
        """The newest backup, or of it `paths` alone, to a folder that is not there yet."""
        return self.job("restore", "latest", *paths, "--to", target, "--json")

    def restore_bare(self, target: str, path: str) -> Job:
        """One path out of the vault with nothing but the passphrase."""
        job = self.job("restore", "latest", path, "--to", target, "--json", "--from", "file://" + self.vault)
        home = target + "-home"
        shutil.rmtree(home, ignore_errors=True)
        os.makedirs(home)
        environment = {**job.environment, "HOME": home}
        del environment["TANDEM_CONFIG"]
        return Job(job.command, environment)

    def sync(self) -> Job:
        """Every tier brought level."""
        return self.job("sync", "--json")

    def stored(self) -> int:
        """Size of the repository in bytes, on all tiers together."""
        return sum(map(folder_bytes, self._repositories()))

    def remove(self) -> None:
        """Takes everything away."""
        for path in (self.folder, *self._repositories()):
            shutil.rmtree(path, ignore_errors=True)

    def job(self, *arguments: str) -> Job:
        """A command with this configuration."""
        environment = {**os.environ, "HOME": self.folder, "TANDEM_CONFIG": self._config}
        environment["TANDEM_PASSPHRASE"] = PASSPHRASE
        return Job([TANDEM, *arguments], environment)

    def _repositories(self) -> list[str]:
        return [self.vault] * self._with_vault + ([self.remote.folder] if self.remote else [])


class Keeper:
    """What programs with one repository in a folder of their own have in common."""

    def __init__(self, folder: str, source: str) -> None:
        self.folder, self._source = folder, source
        self.repository = os.path.join(folder, "repository")

    def stored(self) -> int:
        """Size of the repository in bytes."""
        return folder_bytes(self.repository)

    def remove(self) -> None:
        """Takes everything away."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Restic(Keeper):
    """`restic`, repository version 2, everything else as it comes."""

    name = "restic"

    @staticmethod
    def version() -> str | None:
        """Its own words, or None when it is not there."""
        if not shutil.which("restic"):
            return None
        return f"{first_line(['restic', 'version'])} (repository version 2, compression auto, which is zstd)"

    def prepare(self) -> None:
        """A new, empty repository."""
        self.remove()
        os.makedirs(self.folder)
        quiet(self._job("init", "--repository-version", "2"))

    def backup(self) -> Job:
        """One backup of the source."""
        return self._job("backup", self._source)

    def restore(self, target: str) -> Job:
        """All of the newest backup to a folder that is not there yet."""
        return self._job("restore", "latest", "--target", target)

    def _job(self, *arguments: str) -> Job:
        environment = {
            **os.environ,
            "RESTIC_REPOSITORY": self.repository,
            "RESTIC_PASSWORD": PASSPHRASE,
            "RESTIC_CACHE_DIR": os.path.join(self.folder, "cache"),
        }
        return Job(["restic", "--quiet", *arguments], environment)


class Copy:
    """`cp -a` and a sync of the file system: what any backup of these bytes to this disk cannot beat by
    much."""

    name = "copy"

    def __init__(self, folder: str, source: str) -> None:
        self.folder, self._source = folder, source

    def prepare(self) -> None:
        """An empty folder to copy into."""
        self.remove()
        os.makedirs(self.folder)

    def backup(self) -> Job:
        """The copy, synced."""
        return Job(["sh", "-c", 'cp -a "$1" "$2" && sync -f "$2"', "copy", self._source, self.folder])

    def stored(self) -> int:
        """Size of the copy in bytes."""
        return folder_bytes(self.folder)

    def remove(self) -> None:
        """Takes everything away."""
        shutil.rmtree(self.folder, ignore_errors=True)


def quiet(job: Job) -> None:
    """Runs a job that is not measured. Raises CommandFailed."""
    done = subprocess.run(
        list(job.command), env=dict(job.environment), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise CommandFailed(f"`{' '.join(job.command)}` ended with {done.returncode}: {done.stderr.strip()}")


def as_installed() -> None:
    """Compile Tandem's modules, as an installation does. Python does it at the first import unless the environment
    forbids it (PYTHONDONTWRITEBYTECODE); then each command compiles them anew, 0.15 s of processor time in a backup."""
    for package in (tandem_agent, tandem_protocol, tandem_server):
        compileall.compile_dir(os.path.dirname(package.__file__ or ""), quiet=1)


def first_line(command: Sequence[str]) -> str:
    """The first line of what a command prints."""
    done = subprocess.run(list(command), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]
