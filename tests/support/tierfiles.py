"""A tier in a folder as its keeper sees it: files that can be damaged, exchanged, put back and looked for.

`TierFiles` knows where documents are and what was moved to quarantine. `Bench` is a desk with two folder tiers and
a few backups that is made once and put back as it was before each test, so that a test costs its commands only.
`Forger` has what a hostile holder of the keys has: it signs and seals whatever it is told to.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support import manifest
from tests.support.desk import PASSPHRASE, PATIENCE_SECONDS, TANDEM, Desk

from tandem_agent.state import Setup, State
from tandem_protocol import envelope, names
from tandem_protocol.envelope import DocType
from tandem_protocol.keys import KeyRing, open_slot_with_passphrase, slot_info
from tandem_protocol.names import ObjectType
from tandem_protocol.revision import Kind, RecordDraft, make_claim, make_record

BACKUPS = 3
HEAD = 1 + BACKUPS
"""Revision 1 is init's; each backup is one more."""


class TierFiles:
    """The files of the tier in ``folder``; paths are as a store has them."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        """Exchange what is at ``path``, or put something there."""
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            place.unlink()
        place.write_bytes(data)

    def sparse(self, path: str, size: int) -> None:
        """Exchange what is at ``path`` for a file that says to be ``size`` bytes long and takes no room."""
        self.write(path, b"")
        os.truncate(self.folder / path, size)

    def flip(self, path: str, at: int | None = None) -> None:
        """Flip one bit, in the middle unless told where."""
        data = bytearray(self.read(path))
        data[len(data) // 2 if at is None else at] ^= 1
        assert bytes(data) != self.read(path)
        self.write(path, bytes(data))

    def swap(self, one: str, other: str) -> None:
        """Two files, each with the other's bytes."""
        first, second = self.read(one), self.read(other)
        assert first != second
        self.write(one, second)
        self.write(other, first)

    def all(self, below: str = "") -> dict[str, bytes]:
        """Every file and its bytes; of one that is too long to be real, only its length in words."""
        found = {}
        for path in sorted((self.folder / below).rglob("*")):
            if path.is_file():
                size = path.stat().st_size
                data = path.read_bytes() if size < 1 << 30 else b"%d bytes" % size
                found[str(path.relative_to(self.folder))] = data
        return found

    def objects(self, folder: str) -> list[str]:
        """Paths of the objects in ``packs``, ``snapshots``, ``index``, ``keys`` or ``lists``."""
        return sorted(self.all(folder))

    def quarantined(self, path: str) -> list[bytes]:
        """The bytes of all that was moved aside from ``path``."""
        kept = self.folder / names.DAMAGED / path
        return [found.read_bytes() for found in sorted(kept.parent.glob(f"{kept.name}.*"))]


class Bench(Desk):
    """A desk with tiers ``vault`` and ``second``, and ``BACKUPS`` backups of a source that changes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, {"vault": str(folder / "vault"), "second": str(folder / "second")})
        self.vault, self.second = TierFiles(folder / "vault"), TierFiles(folder / "second")
        self.sources: list[manifest.Manifest] = []
        self.init()
        for number in range(BACKUPS):
            (self.source / "d" / "diary").write_text(f"day {number}\n" * 40 * (number + 1))
            self.must("backup")
            self.sources.append(self.manifest())
        self._kept = folder / "kept"
        for name in self._changing:
            shutil.copytree(folder / name, self._kept / name)

    warm = True
    _changing = ("vault", "second", "state", "source")

    def reset(self) -> None:
        """Everything as it was after the last backup of the constructor."""
        for name in self._changing:
            shutil.rmtree(self.folder / name)
            shutil.copytree(self._kept / name, self.folder / name)

    def tiers_now(self, code: int = 0) -> dict[str, dict[str, Any]]:
        """What ``tandem tiers`` says, by name."""
        done = self.run("tiers", "--json")
        self.clean(done)
        assert done.returncode == code, done.stdout + done.stderr
        return {tier["name"]: tier for tier in json.loads(done.stdout)["tiers"]}

    def backup_on(self, code: int = 0) -> set[str]:
        """The tiers that have a backup made now, which has to end with ``code``."""
        (self.source / "d" / "more").write_text("one more day\n" * 40)
        done = self.run("backup", "--json")
        self.clean(done)
        assert done.returncode == code, done.stdout + done.stderr
        return {tier["name"] for tier in json.loads(done.stdout)["tiers"] if tier["has_it"]}

    def everything_from(self, *where: str) -> None:
        """Every backup of the constructor, restored as ``where`` says, is what its source was."""
        backups = [b for b in json.loads(self.must("backups", "--json")) if b["status"] != "failed"]
        for backup, source in zip(backups, self.sources, strict=False):
            self.same(*where, backup=backup["name"], expected=source)

    def latest_from(self, *where: str) -> None:
        """The latest backup, restored as ``where`` says, is what the source is."""
        self.same(*where)

    def second_installation(self, *words: str) -> str:
        """A command that has to end with 4, and to have written nothing to the vault; its line."""
        before = self.vault.all()
        line = self.fails(4, *(words or ("backup",)), says="tier vault")
        assert self.vault.all() == before
        return line

    def within(self, mebibytes: int, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command that is given so much memory (addresses, not pages) and no more."""
        limit = ["sh", "-c", 'ulimit -v "$0" && exec "$@"', str(mebibytes << 10)]
        done = subprocess.run(
            [*limit, TANDEM, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment(),
            cwd=self.folder,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        self.clean(done)
        return done


class Forger:
    """Whoever has this installation's key and the repository's passphrase, and means harm."""

    def __init__(self, desk: Desk) -> None:
        state = State.open(str(desk.state))
        try:
            setup = state.setup()
            assert setup is not None
            self.setup: Setup = setup
            slots = state.key_slots().values()
            self.ring: KeyRing = next(
                open_slot_with_passphrase(slot, PASSPHRASE)
                for slot in slots
                if slot_info(slot).kind == "passphrase"
            )
            self.tier_ids = {row.name: row.id for row in state.tiers()}
            self.parent = state.record(state.head).hash
        finally:
            state.close()

    def claim(self, tier: str, number: int, nonce: bytes | None = None) -> bytes:
        """A claim that is good in every way."""
        return make_claim(
            self.ring,
            self.setup.installation,
            self.setup.certificate,
            self.tier_ids[tier],
            number,
            nonce or random.randbytes(24),
            (self.parent,),
            {"host": "elsewhere", "time": "2026-11-22T12:00:00+00:00"},
        ).data

    @staticmethod
    def nonce(claim: bytes) -> bytes:
        """The nonce in a claim."""
        return bytes(envelope.unverified_body(claim, DocType.CLAIM)["nonce"])

    def record(self, number: int, nonce: bytes | None = None, **fields: Any) -> bytes:
        """A record that is good in every way."""
        kind = fields.pop("kind", Kind.CHECKPOINT)
        details = fields.pop("details", {"backup_id": "00" * 16})
        draft = RecordDraft(number, nonce or random.randbytes(24), kind, (self.parent,), details, **fields)
        return make_record(self.ring, self.setup.installation, self.setup.certificate, draft).data

    def signed(self, data: bytes, change: Callable[[dict[str, Any]], None], version: int = 1) -> bytes:
        """A claim or record again, with its body changed or of another format version, and signed."""
        doc = DocType(data[4])
        body = envelope.unverified_body(data, doc)
        change(body)
        message = envelope.pack_header(doc, version) + envelope.encode(body)
        return message + self.setup.installation.key.sign(envelope._context(doc) + message)

    def certificate(self, changes: Mapping[str, Any], version: int = 1) -> bytes:
        """This installation's certificate again with other fields, signed by the root."""
        body = envelope.unverified_body(self.setup.certificate.data, DocType.CERTIFICATE) | dict(changes)
        message = envelope.pack_header(DocType.CERTIFICATE, version) + envelope.encode(body)
        signature = self.ring.root_key().sign(envelope._context(DocType.CERTIFICATE) + message)
        return message + signature


def object_at(path: str) -> tuple[ObjectType, bytes]:
    """Type and name of the object at ``path``."""
    folder, name = path.split("/")[0], path.rsplit("/", 1)[1]
    kinds = {"packs": "pack", "index": "index", "snapshots": "snapshot", "keys": "key", "lists": "list"}
    return ObjectType(kinds[folder]), bytes.fromhex(name)
