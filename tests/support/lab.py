"""A user's set-up, driven through the real command as a user would: source, tiers, state, passphrase.

Keeps a ledger of what was acknowledged: for each backup whose JSON said `has_it` for a tier, the manifest
of the source as it was. `check` restores from one tier alone, with nothing but the passphrase and an empty
home, and compares. Does not know what went wrong before; that is the campaigns' side.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support import manifest
from tests.support.treegen import remove_tree

COMMAND = os.path.join(os.path.dirname(sys.executable), "tandem")
PASSPHRASE = "correct horse battery staple"
PATIENCE_SECONDS = 300.0


class LabFailure(AssertionError):
    """Something that must hold does not. The message says what was run and what came out."""


@dataclass(frozen=True)
class Place:
    """A tier of the lab: how the configuration names it, and where its folder is on this machine.

    `settings` are more keys of its table; `login` are the options that `--from` needs to read it alone.
    """

    name: str
    url: str
    folder: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    login: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code (negative: signal), its JSON document if there was a whole one,
    stderr.
    """

    command: Sequence[str]
    code: int
    document: Any
    errors: str

    def __str__(self) -> str:
        said = self.errors.strip() or json.dumps(self.document)
        return f"`tandem {' '.join(self.command)}` ended with {self.code}: {said[-1500:]}"


@dataclass(frozen=True)
class Acknowledged:
    """A backup that the user was told of, the tiers that were said to have it, and what it must hold."""

    id: str
    tiers: tuple[str, ...]
    source: manifest.Manifest


class Lab:
    """One agent with its source and tiers below `folder`. `home` holds state and caches (may be another
    disk).
    """

    def __init__(self, folder: str, places: Sequence[Place], home: str) -> None:
        self.folder, self.home = folder, home
        self.places = {place.name: place for place in places}
        self.source = os.path.join(folder, "source")
        self.config = os.path.join(folder, "agent.toml")
        self.ledger: list[Acknowledged] = []
        self._restored = os.path.join(folder, "restored")

    def write_config(self, patience: float = 60.0) -> None:
        """The configuration file as a user would write it. `patience`: seconds that a tier that does not
        answer is waited for; long, since this machine may be busy."""
        lines = [f"sources = [{json.dumps(self.source)}]", f"state_dir = {json.dumps(self.home + '/state')}"]
        lines += [f"patience_seconds = {patience}"]
        for place in self.places.values():
            lines += ["", "[[tier]]", f"name = {json.dumps(place.name)}", f"url = {json.dumps(place.url)}"]
            lines += [f"{key} = {_toml(value)}" for key, value in place.settings.items()]
        with open(self.config, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")

    def start(self, *command: str, alone: bool = False) -> subprocess.Popen[str]:
        """Starts `tandem COMMAND… --json`; with `alone` as on another machine: no configuration, no state."""
        environment = {
            **os.environ,
            "TANDEM_PASSPHRASE": PASSPHRASE,
            "HOME": os.path.join(self.folder, "elsewhere") if alone else self.home,
            "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
        }
        for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "TANDEM_CONFIG"):
            environment.pop(name, None)
        if not alone:
            environment["TANDEM_CONFIG"] = self.config
        return subprocess.Popen(
            [COMMAND, *command, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=self.folder,
        )

    def finish(self, process: subprocess.Popen[str], command: Sequence[str]) -> Outcome:
        """Waits for a started command. Hanging longer than PATIENCE_SECONDS is a failure."""
        try:
            output, errors = process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired as error:
            process.kill()
            output, errors = process.communicate()
            raise LabFailure(f"`tandem {' '.join(command)}` hangs: {errors.strip()[-1500:]}") from error
        return Outcome(command, process.returncode, _document(output), errors)

    def run(self, *command: str, alone: bool = False) -> Outcome:
        """Runs a command to its end, whatever that is."""
        return self.finish(self.start(*command, alone=alone), command)

    def must(self, *command: str, alone: bool = False) -> Outcome:
        """Runs a command that has to end with exit 0."""
        outcome = self.run(*command, alone=alone)
        if outcome.code != 0:
            raise LabFailure(str(outcome))
        return outcome

    def backup(self) -> Acknowledged:
        """A backup with nobody in its way: exit 0, on at least one tier; noted in the ledger."""
        before = manifest.take(self.source)
        outcome = self.must("backup")
        noted = self.note(outcome, before)
        if noted is None:
            raise LabFailure(f"exit 0, but on no tier: {outcome.document}")
        return noted

    def note(self, outcome: Outcome, source: manifest.Manifest) -> Acknowledged | None:
        """Puts a backup into the ledger if its outcome acknowledges it: a whole document, a tier with it."""
        if not isinstance(outcome.document, dict):
            return None
        tiers = tuple(tier["name"] for tier in outcome.document.get("tiers", ()) if tier.get("has_it"))
        if not tiers or not outcome.document.get("id"):
            return None
        noted = Acknowledged(outcome.document["id"], tiers, source)
        self.ledger.append(noted)
        return noted

    def check(self, backup: Acknowledged, tier: str) -> None:
        """Restores a backup from one tier alone, on a "machine" that has only the passphrase; compares all
        of it.
        """
        remove_tree(self._restored)
        remove_tree(os.path.join(self.folder, "elsewhere"))
        os.makedirs(os.path.join(self.folder, "elsewhere"))
        where = ("--from", self.places[tier].url, *self.places[tier].login)
        outcome = self.must("restore", backup.id, "--to", self._restored, *where, alone=True)
        wrong = manifest.differences(backup.source, self._restored + self.source)
        if wrong:
            lines = "\n  ".join(wrong)
            raise LabFailure(f"backup {backup.id} restored from {tier} differs:\n  {lines}\n{outcome}")
        remove_tree(self._restored)

    def check_all(self, backups: Sequence[Acknowledged]) -> int:
        """Checks each backup on each tier that was said to have it; returns how many restores that were."""
        pairs = [(backup, tier) for backup in backups for tier in backup.tiers]
        for backup, tier in pairs:
            self.check(backup, tier)
        return len(pairs)

    def lose_machine(self) -> None:
        """State and caches are gone, durably, as with the machine; tiers and configuration stay."""
        for name in os.listdir(self.home):
            remove_tree(os.path.join(self.home, name))
        _sync_folder(self.home)

    def forget(self) -> None:
        """Empties tiers, state and ledger, durably, so that the next `init` starts from nothing."""
        for folder in (self.home, *(place.folder for place in self.places.values())):
            os.makedirs(folder, exist_ok=True)  # kept, if it is there: a server's user owns it
            for name in os.listdir(folder):
                remove_tree(os.path.join(folder, name))
        for folder in (self.home, *(place.folder for place in self.places.values())):
            _sync_folder(folder)
            _sync_folder(os.path.dirname(folder))
        self.ledger.clear()


def keep_for_later(lab: Lab, where: str) -> str:
    """Copies the lab as it is to `where`, for a look after a failure; returns that folder."""
    remove_tree(where)
    shutil.copytree(lab.folder, where, symlinks=True, ignore_dangling_symlinks=True)
    return where


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _document(output: str) -> Any:
    try:
        return json.loads(output)
    except ValueError:
        return None
