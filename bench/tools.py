"""The tools that are compared, each driven as its user would: the command lines, and where they keep their
things.

Each works in a folder of its own, which `prepare` makes new and `remove` takes away; only the commands that
`backup` and `restore` return are timed. Repositories are encrypted with a passphrase on both sides, caches
are on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
    """`tandem` with one tier: a folder, or with `remote` an SFTP server through the system's ssh."""

    name = "tandem"

    def __init__(self, folder: str, source: str, remote: Remote | None = None) -> None:
        self.folder, self._source, self._remote = folder, source, remote
        self.repository = remote.folder if remote else os.path.join(folder, "vault")
        self._config = os.path.join(folder, "agent.toml")

    @staticmethod
    def version() -> str | None:
        """Its own words, or None when it is not there."""
        return _first_line([TANDEM, "--version"]) if os.path.exists(TANDEM) else None

    def prepare(self) -> None:
        """A new, empty repository."""
        self.remove()
        os.makedirs(self.folder)
        os.makedirs(self.repository)
        lines = [
            f"sources = [{json.dumps(self._source)}]",
            f"state_dir = {json.dumps(self.folder + '/state')}",
        ]
        lines += ["[[tier]]", 'name = "vault"']
        if self._remote:
            remote = self._remote
            lines += [
                f'url = "sftp://{remote.user}@{remote.host}:{remote.port}/{remote.path}"',
                f"identity_file = {json.dumps(remote.identity_file)}",
                f"host_keys = [{json.dumps(remote.known_hosts_line)}]",
            ]
        else:
            lines.append(f"url = {json.dumps('file://' + self.repository)}")
        with open(self._config, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        _quiet(self._job("init"))

    def backup(self) -> Job:
        """One backup of the source."""
        return self._job("backup", "--json")

    def restore(self, target: str) -> Job:
        """All of the newest backup to a folder that is not there yet."""
        return self._job("restore", "latest", "--to", target, "--json")

    def stored(self) -> int:
        """Size of the repository in bytes."""
        return folder_bytes(self.repository)

    def remove(self) -> None:
        """Takes everything away."""
        for path in (self.folder, self.repository):
            shutil.rmtree(path, ignore_errors=True)

    def _job(self, *arguments: str) -> Job:
        environment = {**os.environ, "HOME": self.folder, "TANDEM_CONFIG": self._config}
        environment["TANDEM_PASSPHRASE"] = PASSPHRASE
        return Job([TANDEM, *arguments], environment)


class Restic:
    """`restic`, repository version 2, everything else as it comes."""

    name = "restic"

    def __init__(self, folder: str, source: str) -> None:
        self.folder, self._source = folder, source
        self.repository = os.path.join(folder, "repository")

    @staticmethod
    def version() -> str | None:
        """Its own words, or None when it is not there."""
        return _first_line(["restic", "version"]) if shutil.which("restic") else None

    def prepare(self) -> None:
        """A new, empty repository."""
        self.remove()
        os.makedirs(self.folder)
        _quiet(self._job("init", "--repository-version", "2"))

    def backup(self) -> Job:
        """One backup of the source."""
        return self._job("backup", self._source)

    def restore(self, target: str) -> Job:
        """All of the newest backup to a folder that is not there yet."""
        return self._job("restore", "latest", "--target", target)

    def stored(self) -> int:
        """Size of the repository in bytes."""
        return folder_bytes(self.repository)

    def remove(self) -> None:
        """Takes everything away."""
        shutil.rmtree(self.folder, ignore_errors=True)

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


class Sftp:
    """OpenSSH's own `sftp` putting one file; with `flush` it asks the server for fsync, as Tandem does."""

    def __init__(self, folder: str, source: str, remote: Remote, flush: bool) -> None:
        self.folder, self._source, self._remote, self._flush = folder, source, remote, flush
        self.name = "sftp -f" if flush else "sftp"

    def prepare(self) -> None:
        """The known host and the batch of one command."""
        self.remove()
        os.makedirs(self.folder)
        os.makedirs(self._remote.folder)
        with open(os.path.join(self.folder, "known_hosts"), "w", encoding="utf-8") as file:
            file.write(self._remote.known_hosts_line + "\n")
        with open(os.path.join(self.folder, "batch"), "w", encoding="utf-8") as file:
            flag = "-f " if self._flush else ""
            file.write(f'put {flag}"{self._source}" "{self._remote.path}/file"\n')

    def backup(self) -> Job:
        """The put."""
        remote = self._remote
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": os.path.join(self.folder, "known_hosts"),
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
        }
        flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        where = ["-P", str(remote.port), "-i", remote.identity_file]
        batch = ["-b", os.path.join(self.folder, "batch")]
        return Job(["sftp", "-q", "-F", "none", *where, *flags, *batch, f"{remote.user}@{remote.host}"])

    def stored(self) -> int:
        """Size of what arrived in bytes."""
        return folder_bytes(self._remote.folder)

    def remove(self) -> None:
        """Takes everything away."""
        for path in (self.folder, self._remote.folder):
            shutil.rmtree(path, ignore_errors=True)


def _quiet(job: Job) -> None:
    done = subprocess.run(
        list(job.command), env=dict(job.environment), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise CommandFailed(f"`{' '.join(job.command)}` ended with {done.returncode}: {done.stderr.strip()}")


def _first_line(command: Sequence[str]) -> str:
    done = subprocess.run(list(command), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]
