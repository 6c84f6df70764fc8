"""A desk at which somebody types `tandem`: a source, tiers, and the real commands with their exit codes and lines.

`Desk.fails` is what every wrong input has in common: the right exit code, one clear line, no traceback, no
secret. `Desk.same` restores from one place alone and compares with what the source was.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support import manifest
from tests.support.embedded import EmbeddedServer
from tests.support.sshd import Sshd
from tests.support.treegen import remove_tree
from tests.support.warm import run_warm

TANDEM = os.path.join(os.path.dirname(sys.executable), "tandem")
PASSPHRASE = "correct horse battery staple"
PATIENCE_SECONDS = 120
COMPILED = str(Path(__file__).resolve().parents[2] / ".pytest_cache" / "compiled")


class Desk:
    """``tiers``: URLs or folders by name. Nothing is made before `init`. ``warm``: commands start in a process that
    has imported everything (`warm`), for tests of hundreds of them."""

    warm = False

    def __init__(
        self, folder: Path, tiers: dict[str, str], server: EmbeddedServer | Sshd | None = None
    ) -> None:
        self.folder, self.tiers, self.server = folder, tiers, server
        self.source = folder / "source"
        self.config = folder / "agent.toml"
        self.state = folder / "state"
        self._restored = 0
        self.fill(self.source)

    @staticmethod
    def fill(source: Path, seed: int = 7, size: int = 300_000) -> None:
        """A few folders with small files, and one file of ``size`` bytes that is cut into blocks."""
        make = random.Random(seed)
        for name in ("a", "b/c", "d"):
            (source / name).mkdir(parents=True, exist_ok=True)
            for number in range(5):
                (source / name / f"{number}.txt").write_text(f"{name} {number} {make.random()}\n" * 50)
        (source / "large").write_bytes(make.randbytes(size))

    def run(
        self, *words: str, passphrase: str | None = PASSPHRASE, config: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """One command to its end."""
        environment = self.environment(passphrase, config)
        if self.warm:
            return run_warm(words, environment, self.folder)
        return subprocess.run(
            [TANDEM, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            cwd=self.folder,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    def environment(self, passphrase: str | None = PASSPHRASE, config: Path | None = None) -> dict[str, str]:
        """What a command is started with: nothing of this machine's user."""
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("TANDEM_", "XDG_"))
        }
        environment |= {
            "TANDEM_CONFIG": str(config or self.config),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
            "HOME": str(self.folder / "home"),
            "PYTHONPYCACHEPREFIX": COMPILED,
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of starts: compile once
        if passphrase is not None:
            environment["TANDEM_PASSPHRASE"] = passphrase
        return environment

    def must(self, *words: str) -> str:
        """A command that has to end with 0; what it printed."""
        done = self.run(*words)
        assert done.returncode == 0, (
            f"tandem {' '.join(words)}: {done.returncode}: {done.stdout}{done.stderr}"
        )
        return done.stdout

    def fails(self, code: int, *words: str, says: str, passphrase: str | None = PASSPHRASE) -> str:
        """A command that has to end with ``code`` and one line that has ``says`` in it; that line."""
        done = self.run(*words, passphrase=passphrase)
        told = f"tandem {' '.join(words)}: {done.returncode}: {done.stdout}{done.stderr}"
        assert done.returncode == code, told
        lines = [line for line in done.stderr.splitlines() if line.startswith("tandem: ")]
        assert len(lines) == 1, told
        assert says in lines[0], told
        assert ": " in lines[0].removeprefix("tandem: "), f"no remedy: {told}"
        self.clean(done)
        return lines[0]

    def clean(self, done: subprocess.CompletedProcess[str]) -> None:
        """No traceback, no bug, no secret in what came out."""
        for text in (done.stdout, done.stderr):
            assert "Traceback" not in text
            assert "unexpected error" not in text, text + self.logs()
            assert PASSPHRASE not in text

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in self.state.glob("error-*.log"))

    def init(self, *more: str) -> None:
        """The repository on every tier; impatient with what is away, so that tests need not wait."""
        words = ["init", str(self.source), "--state-dir", str(self.state), *more]
        for name, url in self.tiers.items():
            words += ["--tier", f"{name}={url}"]
        if self.server is not None:
            words += ["--identity-file", str(self.server.client_key)]
            words += ["--accept-host-key", self.server.fingerprint]
        self.must(*words)
        impatient = "retries = { attempts = 3, first_delay_seconds = 0.01, max_delay_seconds = 0.05 }"
        text = self.config.read_text().replace("\nurl = ", f"\n{impatient}\nurl = ")
        self.config.write_text("patience_seconds = 5\n" + text)

    def same(self, *where: str, expected: manifest.Manifest | None = None, backup: str = "latest") -> None:
        """Restore ``backup`` as ``where`` says and compare with ``expected`` (the source as it is now)."""
        self._restored += 1
        target = self.folder / f"restored-{self._restored}"
        self.must("restore", backup, "--to", str(target), *where)
        wrong = manifest.differences(expected or self.manifest(), f"{target}{self.source}")
        assert not wrong, wrong
        remove_tree(str(target))

    def manifest(self) -> manifest.Manifest:
        return manifest.take(str(self.source))

    def login(self) -> list[str]:
        """Options with which ``--from`` reaches the server."""
        assert self.server is not None
        return ["--identity-file", str(self.server.client_key), "--accept-host-key", self.server.fingerprint]

    def unmount(self, name: str) -> Path:
        """Put the tier's folder aside and an empty one in its place; where it is now."""
        folder = Path(self.tiers[name])
        aside = folder.with_name(folder.name + ".aside")
        folder.rename(aside)
        folder.mkdir()
        return aside

    def mount_again(self, name: str) -> None:
        folder = Path(self.tiers[name])
        shutil.rmtree(folder)
        folder.with_name(folder.name + ".aside").rename(folder)
