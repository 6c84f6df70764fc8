"""`make demo`: a folder backed up to two tiers, one of them lost and back again, restored from either, compared.

Runs the real `tandem` and `tandem-server` as a user would, on this machine alone, below ``demo/`` (made anew at
each run; ``--below DIR``: there). The folder given (SRC) is only read: it is copied first, and the copy is what
changes. Ends with 0 only if every comparison held.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare_trees import differences
from demo_source import change, copy_tree

PROJECT = Path(__file__).resolve().parent.parent
MARK = ".made-by-the-demo"
"""A folder with this file in it may be emptied."""
PROGRAMS = Path(sys.executable).parent
PASSPHRASE = "a passphrase for the demonstration"
DEFAULT_LIMIT = 200_000_000
"""Bytes taken of a folder that the demo chose itself; a folder named with SRC is taken whole."""


@dataclass
class Step:
    """A line of the table at the end."""

    what: str
    seconds: float
    size: str
    read: str
    stored: str
    result: str


class DemoFailure(Exception):
    """Something that must hold does not."""


class Demo:
    """The steps, in order. Every command is run in a process of its own; nothing of Tandem is imported."""

    def __init__(self, folder: Path, source: Path, limit: int | None) -> None:
        self.folder, self.original, self.limit = folder, source, limit
        self.source = folder / "source"
        self.vault, self.remote = folder / "vault", folder / "server" / "files" / "tandem"
        self.server = Server(folder / "server")
        self.steps: list[Step] = []

    def run(self) -> None:
        reset(self.folder)
        self.copy()
        self.server.make_keys()
        with self.server.stopped_at_the_end():
            self.server.start()
            self.make_repository()
            self.backup("first backup, to both tiers", tiers={"vault", "remote"})
            self.backup("again, nothing changed", tiers={"vault", "remote"})
            say("The WAN is down: the server is stopped.")
            self.server.stop()
            say(change(self.source))
            self.backup("after changes, WAN down", tiers={"vault"})
            self.restore("restored from the vault", self.folder / "from-vault", "--tier", "vault")
            say("The WAN is back: the server is started.")
            self.server.start()
            self.sync()
            self.same_tiers()
            self.restore("restored from the remote alone", self.folder / "from-remote", *self.from_remote())

    def copy(self) -> None:
        say(f"Copying {self.original} to {self.source} (the original is only read)")
        files, size, cut = copy_tree(self.original, self.source, self.limit)
        if cut:
            say(f"  it is larger: only the first {human(size)} of it; SRC=FOLDER takes a folder whole")
        say(f"  {files} files, {human(size)}")

    def make_repository(self) -> None:
        started = time.monotonic()
        self.tandem(
            *("init", str(self.source), "--state-dir", str(self.folder / "state")),
            *("--tier", f"vault={self.vault}", "--tier", f"remote={self.server.url}"),
            *("--identity-file", str(self.server.key), "--accept-host-key", self.server.fingerprint),
        )
        config = self.folder / "agent.toml"
        # A user who does not want to wait long for a server that is down would write the same.
        config.write_text("patience_seconds = 2\n" + config.read_text())
        self.note("repository on two tiers", started, "made")

    def backup(self, what: str, tiers: set[str]) -> None:
        started = time.monotonic()
        result = self.tandem("backup")
        holders = {tier["name"] for tier in result["tiers"] if tier["has_it"]}
        if holders != tiers:
            raise DemoFailure(f"{what}: on {sorted(holders)}, not on {sorted(tiers)}: {result['tiers']}")
        if result["status"] != "complete":
            raise DemoFailure(f"{what}: {result['status']}: {result['warnings'][:5]}")
        sizes = {name: human(result[f"bytes_{name}"]) for name in ("read", "stored")}
        on = " and ".join(sorted(holders))
        self.note(what, started, f"{result['files']} files, on {on}", size=human(result["bytes"]), **sizes)

    def restore(self, what: str, target: Path, *where: str) -> None:
        started = time.monotonic()
        result = self.tandem("restore", "latest", "--to", str(target), *where)
        seconds = time.monotonic() - started
        restored = Path(f"{target}{self.source}")
        wrong = differences(os.fsencode(self.source), os.fsencode(restored))
        if wrong:
            raise DemoFailure(f"{what}: differs from the source:\n  " + "\n  ".join(wrong))
        read = human(sum(result["read_from"].values()))
        size = human(result["bytes"])
        self.note(what, time.monotonic() - seconds, "same content and metadata", size=size, read=read)

    def sync(self) -> None:
        started = time.monotonic()
        (tier,) = (t for t in self.tandem("sync")["tiers"] if t["name"] == "remote")
        if tier["state"] != "online":
            raise DemoFailure(f"remote is {tier['state']} after the synchronisation: {tier['reason']}")
        what = f"{tier['revisions']} revisions, {tier['objects']} objects"
        self.note("remote synchronised", started, what, stored=human(tier["bytes"]))

    def same_tiers(self) -> None:
        """``diff -r``; each tier has its own identity (``tandem``) and claims."""
        started = time.monotonic()
        command = [
            "diff",
            "-r",
            "-x",
            "tandem",
            "-x",
            "*.claim",
            "-x",
            "tmp",
            str(self.vault),
            str(self.remote),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DemoFailure(f"vault and remote differ:\n{done.stdout[:2000]}{done.stderr}")
        count = sum(len(files) for _, _, files in os.walk(self.vault))
        self.note("diff -r of vault and remote", started, f"no difference in {count} files")

    def from_remote(self) -> list[str]:
        """As on a machine that has nothing but the passphrase and the login."""
        return [
            *("--from", self.server.url),
            *("--identity-file", str(self.server.key), "--accept-host-key", self.server.fingerprint),
        ]

    def tandem(self, *words: str) -> Any:
        """Run one command with ``--json``; its document. Progress and messages go to the terminal."""
        alone = "--from" in words
        say("$ tandem " + " ".join(w.replace(f"{self.folder.parent}/", "") for w in words))
        environment = {
            **os.environ,
            "TANDEM_PASSPHRASE": PASSPHRASE,
            "TANDEM_CONFIG": str(self.folder / ("none.toml" if alone else "agent.toml")),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
        }
        command = [str(PROGRAMS / "tandem"), *words, "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
        if done.returncode != 0:
            raise DemoFailure(f"tandem {words[0]} ended with exit code {done.returncode}")
        return json.loads(done.stdout)

    def note(
        self, what: str, started: float, result: str, *, size: str = "", read: str = "", stored: str = ""
    ) -> None:
        step = Step(what, time.monotonic() - started, size, read, stored, result)
        self.steps.append(step)
        say(f"  {step.result} in {step.seconds:.1f} s")

    def table(self) -> str:
        rows = [("step", "seconds", "size", "read", "stored", "result")]
        rows += [(s.what, f"{s.seconds:.1f}", s.size, s.read, s.stored, s.result) for s in self.steps]
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        right = {1, 2, 3, 4}
        lines = []
        for row in rows:
            cells = [
                c.rjust(w) if i in right else c.ljust(w)
                for i, (c, w) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        return "\n".join([lines[0], "-" * len(max(lines, key=len)), *lines[1:]])


class Server:
    """`tandem-server` on a free port of loopback; started again, it takes the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, folder / "files"
        self.key, self.authorized = folder / "client_key", folder / "authorized_keys"
        self.port, self.fingerprint = 0, ""
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"sftp://demo@127.0.0.1:{self.port}/tandem"

    def make_keys(self) -> None:
        """A key pair for the client, as ``ssh-keygen -t ed25519`` would make it."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self.files.mkdir(parents=True)
        key = Ed25519PrivateKey.generate()
        encoding, form = serialization.Encoding, serialization.PrivateFormat
        private = key.private_bytes(encoding.PEM, form.OpenSSH, serialization.NoEncryption())
        public = key.public_key().public_bytes(encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        self.key.touch(mode=0o600)
        self.key.write_bytes(private)
        self.authorized.write_bytes(public + b" demo\n")

    def start(self) -> None:
        command = [str(PROGRAMS / "tandem-server"), "run", "--root", str(self.files)]
        command += ["--listen", f"127.0.0.1:{self.port}", "--authorized-keys", str(self.authorized)]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"SHA256:[A-Za-z0-9+/]+", line):
                self.fingerprint = found[0]
            if found := re.search(r"listening on .*:(\d+)$", line.strip()):
                self.port = int(found[1])
                return
        raise DemoFailure(f"the server did not start: {(self.folder / 'log').read_text()[-500:]}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=30)
            self.process = None

    @contextmanager
    def stopped_at_the_end(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.stop()


def reset(folder: Path) -> None:
    """An empty ``folder``, whatever modes an earlier run left there."""

    def retry(function: Any, path: str, _error: Any) -> None:
        os.chmod(os.path.dirname(path), 0o700)
        if not os.path.islink(path):
            os.chmod(path, 0o700)
        function(path)

    if folder.exists():
        shutil.rmtree(folder, onerror=retry)
    folder.mkdir(parents=True)
    (folder / MARK).touch()


def may_be_emptied(folder: Path) -> bool:
    return not folder.exists() or (folder / MARK).exists() or not any(folder.iterdir())


def human(count: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def say(text: str) -> None:
    print(text, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Back up a folder to two tiers, lose one, restore, compare.")
    parser.add_argument("source", nargs="?", type=Path, metavar="SRC", help="the folder (only read)")
    parser.add_argument(
        "--below", type=Path, default=PROJECT / "demo", metavar="DIR", help="emptied at each run"
    )
    return parser.parse_args()


def main() -> int:
    given = arguments()
    folder = given.below.resolve()
    if given.source is not None:
        source, limit = given.source.expanduser().resolve(), None
    else:
        documents = Path("/usr/share/doc")
        source, limit = (documents if documents.is_dir() else PROJECT), DEFAULT_LIMIT
    if not source.is_dir():
        print(f"demo: {source} is not a folder: make demo SRC=FOLDER", file=sys.stderr)
        return 2
    if source == folder or folder in source.parents or not may_be_emptied(folder):
        print(f"demo: {folder} would be emptied: name a folder elsewhere", file=sys.stderr)
        return 2
    demo = Demo(folder, source, limit)
    try:
        demo.run()
    except (DemoFailure, subprocess.SubprocessError, OSError) as failure:
        print(f"\ndemo: failed: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"\n{demo.table()}\n\nEvery comparison held. All of it is below {folder}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
