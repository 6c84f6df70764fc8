"""The repository of tests/data/format1.tar.xz in any folder: what a user has who upgrades from a program of format 1.

Nothing in it depends on where it is: the configuration is written anew. tests/data/make_format1.py made it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tarfile
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.support import manifest

from tandem_agent.backup import BackupResult, backup
from tandem_agent.config import Config, load_config
from tandem_agent.database import Database
from tandem_agent.progress import Progress
from tandem_agent.reading import open_store
from tandem_agent.restore import restore
from tandem_agent.wiring import make_retrying, open_agent, open_any_slot
from tandem_protocol.keys import KeyRing
from tandem_protocol.stores.directory import DirectoryStore

DATA = Path(__file__).parents[1] / "data" / "format1.tar.xz"
SEGMENTS = 5
"""Index segments that it has."""


KILLED = 99


def kill_at(after: int) -> None:
    """Have this process end at that change; see `Format1.killed_backup`."""
    moments = iter(range(after + 1))

    def moment() -> None:
        if next(moments, None) == after:
            os._exit(KILLED)

    def around(verb: Any) -> Any:
        async def changing(store: DirectoryStore, *arguments: Any) -> None:
            moment()
            await verb(store, *arguments)
            moment()

        return changing

    for name in ("create", "put", "move", "delete"):
        setattr(DirectoryStore, name, around(getattr(DirectoryStore, name)))
    transaction = Database.transaction

    @contextlib.contextmanager
    def counted(db: Database) -> Iterator[None]:
        with transaction(db):
            yield
            moment()
        moment()

    setattr(Database, transaction.__name__, counted)


class Format1:
    """Below ``folder``: ``vault``, ``remote``, ``state``, ``source`` (as at the last backup) and ``agent.toml``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with tarfile.open(DATA) as tar:
            tar.extractall(folder)
        about = json.loads((folder / "about.json").read_text("utf-8"))
        self.passphrase: str = about["passphrase"]
        self.tiers: list[str] = about["tiers"]
        self.backups: list[dict[str, Any]] = about["backups"]
        self._was = os.fsencode(about["source"])
        self.config_path = folder / "agent.toml"
        self._ring: KeyRing | None = None
        self.write_config()

    def write_config(self, *tiers: str) -> None:
        lines = [
            f"sources = [{json.dumps(str(self.folder / 'source'))}]",
            f"state_dir = {self._path('state')}",
        ]
        lines += ["patience_seconds = 1"]
        for name in tiers or self.tiers:
            lines += ["[[tier]]", f'name = "{name}"', f'url = "file://{self.folder}/{name}"']
            lines += ["retries = { attempts = 1 }"]
        self.config_path.write_text("\n".join(lines) + "\n", "utf-8")

    def _path(self, name: str) -> str:
        return json.dumps(str(self.folder / name))

    @property
    def config(self) -> Config:
        return load_config(str(self.config_path))

    def environment(self) -> dict[str, str]:
        """What a command needs to work on it."""
        return {"TANDEM_CONFIG": str(self.config_path), "TANDEM_PASSPHRASE": self.passphrase}

    def url(self, tier: str) -> str:
        return f"file://{self.folder}/{tier}"

    async def backup(self) -> BackupResult:
        """One backup of the source, in this process."""
        async with open_agent(self.config, lambda: self.passphrase) as agent:
            sources = [os.fsencode(self.folder / "source")]
            return await backup(agent, sources, wait_s=0.0, progress=Progress())

    async def same(self, tier: str, number: int) -> None:
        """The backup of that number restores from this tier alone, without local state, to what it was."""
        config = self.config
        place = next(t for t in config.tiers if t.name == tier)

        def ring(slots: Iterable[bytes]) -> KeyRing:
            self._ring = self._ring or open_any_slot(slots, self.passphrase)
            return self._ring

        target = Path(tempfile.mkdtemp(dir=self.folder))
        async with open_store(tier, make_retrying(config, place), ring) as view:
            (info,) = [info for info in view.backups if info.name == self.backups[number]["name"]]
            assert info.snapshot is not None
            await restore(view, info.snapshot, str(target), durable=False)
        assert self.wrong(target, number) == []
        shutil.rmtree(target)

    def killed_backup(self, after: int) -> bool:
        """A backup in a process of its own that is gone, as by SIGKILL, at a change of a tier or of the local state:
        before the one numbered ``after`` // 2, or right after it where ``after`` is odd. False: it ended before."""
        child = os.fork()
        if child == 0:
            try:
                kill_at(after)
                asyncio.run(self.backup())
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, KILLED), code
        return code == KILLED

    def away(self, tier: str) -> None:
        (self.folder / tier).rename(self.folder / f"{tier} is away")

    def back(self, tier: str) -> None:
        (self.folder / f"{tier} is away").rename(self.folder / tier)

    def objects(self, tier: str, kind: str) -> list[Path]:
        """The files of a type of object (index, packs …) on a tier, by name."""
        return sorted(path for path in (self.folder / tier / kind).rglob("*") if path.is_file())

    def forms(self, tier: str) -> list[int]:
        """Of each segment that is there, live or not, the form."""
        return sorted(path.read_bytes()[5] for path in self.objects(tier, "index"))

    def damage(self, path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def copy(self, name: str) -> None:
        """Keep the tiers and the state as they are now, for `put_back`."""
        kept = self.folder / "kept" / name
        for part in ("state", *self.tiers):
            shutil.copytree(self.folder / part, kept / part, symlinks=True)

    def put_back(self, name: str) -> None:
        for part in ("state", *self.tiers):
            shutil.rmtree(self.folder / part)
            shutil.copytree(self.folder / "kept" / name / part, self.folder / part, symlinks=True)

    def wrong(self, restored: Path, number: int) -> list[str]:
        """What differs between the backup of that number (0 is the first) and what was restored to a folder."""
        expected = {bytes.fromhex(path): row for path, row in self.backups[number]["holds"].items()}
        found = {
            path: [row[0], row[1], row[4], row[5], row[6].hex()]
            for path, row in manifest.take(str(restored) + os.fsdecode(self._was)).items()
        }
        return [
            repr(path) for path in expected.keys() | found.keys() if expected.get(path) != found.get(path)
        ]
