"""Programs that carry bytes over SSH without making a backup of them: what any backup over the same line is measured
against."""

from __future__ import annotations

import os
import shutil

from bench.measure import folder_bytes
from bench.tools import Job, Remote, first_line


class Carrier:
    """What the programs share: a folder with the known host, and an empty one on the server."""

    name = ""

    def __init__(self, folder: str, source: str, remote: Remote) -> None:
        self.folder, self._source, self._remote = folder, source, remote
        self._known_hosts = os.path.join(folder, "known_hosts")

    def prepare(self) -> None:
        """Folders and known host, new."""
        self.remove()
        os.makedirs(self.folder)
        os.makedirs(self._remote.folder)
        with open(self._known_hosts, "w", encoding="utf-8") as file:
            file.write(self._remote.known_hosts_line + "\n")

    def stored(self) -> int:
        """Size of what arrived in bytes."""
        return folder_bytes(self._remote.folder)

    def remove(self) -> None:
        """Takes everything away."""
        for path in (self.folder, self._remote.folder):
            shutil.rmtree(path, ignore_errors=True)

    def _options(self, port_flag: str) -> list[str]:
        """How OpenSSH's programs log in."""
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": self._known_hosts,
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
        }
        flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["-F", "none", port_flag, str(self._remote.port), "-i", self._remote.identity_file, *flags]

    @property
    def _login(self) -> str:
        return f"{self._remote.user}@{self._remote.host}"


class Sftp(Carrier):
    """OpenSSH's own `sftp` putting one file; with `flush` it asks the server for fsync, as Tandem does."""

    def __init__(self, folder: str, source: str, remote: Remote, flush: bool) -> None:
        super().__init__(folder, source, remote)
        self._flush = flush
        self.name = "sftp -f" if flush else "sftp"

    def backup(self) -> Job:
        """The put."""
        batch = os.path.join(self.folder, "batch")
        with open(batch, "w", encoding="utf-8") as file:
            flag = "-f " if self._flush else ""
            file.write(f'put {flag}"{self._source}" "{self._remote.path}/file"\n')
        return Job(["sftp", "-q", *self._options("-P"), "-b", batch, self._login])


class SshCat(Carrier):
    """`cat file | ssh host 'cat > file'`: one stream, nothing made durable."""

    name = "ssh cat"

    def backup(self) -> Job:
        """The pipe."""
        ssh = ["ssh", "-T", *self._options("-p"), self._login, f"cat > '{self._remote.path}/file'"]
        return Job(["sh", "-c", 'file=$1; shift; cat "$file" | "$@"', "cat", self._source, *ssh])


class Rclone(Carrier):
    """`rclone copy` of a folder with its own SFTP client, everything else as it comes."""

    name = "rclone"

    @staticmethod
    def version() -> str | None:
        """Its own words, or None when it is not there."""
        return first_line(["rclone", "version"]) if shutil.which("rclone") else None

    def backup(self) -> Job:
        """The copy."""
        remote = self._remote
        options = {
            "host": remote.host,
            "port": str(remote.port),
            "user": remote.user,
            "key-file": remote.identity_file,
            "known-hosts-file": self._known_hosts,
        }
        flags = [f"--sftp-{name}={value}" for name, value in options.items()]
        config = os.path.join(self.folder, "rclone.conf")
        with open(config, "w", encoding="utf-8"):
            pass
        return Job(["rclone", "--config", config, "copy", self._source, f":sftp:{remote.path}", *flags])
