"""Where each blob is: content id -> packs, kept on this machine and made again from the tiers when damaged.

Mapped runs of records on disk (`blobruns`), a table of packs (`packtable`), and a dict for what was added
since the last run was written. A manifest, replaced by rename, says which files count: a kill at any
moment leaves the last flushed state. Whether a pack is still on a tier is for the caller, who says which
pack numbers are eligible.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Container, Iterator, Sequence
from typing import Any

import msgpack
from blake3 import blake3

from tandem_agent.engine.blobruns import KEY, Place, Run, encode_record, write_merged, write_records
from tandem_agent.engine.packtable import PackTable
from tandem_protocol.errors import Corrupt
from tandem_protocol.frames import Frame
from tandem_protocol.index import PackEntry

_MANIFEST = "manifest"
_VERSION = 2
_DELTA_LIMIT = 60_000
_MOST_RUNS = 3
_SUM = 16


class BlobIndex:
    """One thread adds and flushes; any number of threads look up at the same time."""

    def __init__(self, folder: str) -> None:
        """Opens the index in ``folder``, which is made if it is not there. Raises `Corrupt` if it is damaged:
        the caller then calls `wipe` and adds every segment again."""
        self._folder = folder
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._lock = threading.Lock()
        manifest = _read_manifest(f"{folder}/{_MANIFEST}")
        self._segments: dict[bytes, list[int]] = dict(manifest["segments"])
        self._next_run: int = manifest["next"]
        self._table = PackTable(folder, manifest["packs"], manifest["length"])
        self._runs: tuple[Run, ...] = tuple(Run(f"{folder}/{name}") for name in manifest["runs"])
        self._delta: dict[bytes, Place | list[Place]] = {}
        self._delta_count = 0
        self.damaged = False
        """Set when a lookup passed over a damaged record: rebuild the index when there is time."""
        self._sweep()

    @staticmethod
    def wipe(folder: str) -> None:
        """Remove an index, so that the next open finds an empty one."""
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(folder), key=lambda name: name != _MANIFEST):
                os.unlink(f"{folder}/{name}")

    def _sweep(self) -> None:
        kept = {os.path.basename(run.path) for run in self._runs} | {_MANIFEST, "packs"}
        for name in set(os.listdir(self._folder)) - kept:
            os.unlink(f"{self._folder}/{name}")

    def close(self) -> None:
        """Release the files; what was not flushed is dropped."""
        self._runs = ()
        self._table.close()

    # Adding

    def add_pack(self, entry: PackEntry) -> int:
        """Take in a pack; gives its number, which it keeps. A pack known by name is not added again."""
        with self._lock:
            found = self._table.numbers.get(entry.name)
            if found is not None:
                return found
            number = self._table.add(entry)
            for frame_number, frame in enumerate(entry.frames):
                self._add_frame(number, frame_number, frame)
        if self._delta_count >= _DELTA_LIMIT:
            self._write_delta()
        return number

    def _add_frame(self, pack: int, number: int, frame: Frame) -> None:
        delta, ids, offset = self._delta, frame.ids, 0
        for i, length in enumerate(frame.lengths):
            key = ids[32 * i : 32 * i + KEY]
            place = (pack, number, offset, length)
            before = delta.setdefault(key, place)
            if before is not place:
                delta[key] = [place, before] if isinstance(before, tuple) else [place, *before]
            offset += length
        self._delta_count += len(frame.lengths)

    def add_segment(self, name: bytes, entries: Sequence[PackEntry]) -> None:
        """Take in an index segment and remember its name."""
        self._segments[name] = [self.add_pack(entry) for entry in entries]

    def segments_seen(self) -> set[bytes]:
        """Names of the segments taken in, as far as they were flushed or this process took them in."""
        return set(self._segments)

    def naming(self) -> dict[int, list[bytes]]:
        """For each pack's number, the names of the segments that name it."""
        found: dict[int, list[bytes]] = {}
        for name, packs in self._segments.items():
            for pack in packs:
                found.setdefault(pack, []).append(name)
        return found

    # Asking

    def known(self, content_id: bytes, eligible: Container[int] | None = None) -> bool:
        """Whether the blob is in a pack whose number is in ``eligible`` (any pack without it)."""
        key = content_id[:KEY]
        found = self._delta.get(key)
        if found is not None:
            if eligible is None:
                return True
            if isinstance(found, tuple):
                if found[0] in eligible:
                    return True
            elif any(place[0] in eligible for place in found):
                return True
        for run in self._runs:
            places = run.find(key, self._mark_damaged)
            if places and (eligible is None or any(place[0] in eligible for place in places)):
                return True
        return False

    def lookup(self, content_id: bytes) -> Iterator[Place]:
        """Every place of the blob: (pack number, frame number, offset, length)."""
        key = content_id[:KEY]
        runs = self._runs
        found = self._delta.get(key)
        if isinstance(found, tuple):
            yield found
        elif found is not None:
            yield from found
        for run in runs:
            yield from run.find(key, self._mark_damaged)

    def _mark_damaged(self) -> None:
        self.damaged = True

    def pack(self, number: int) -> PackEntry:
        """Name, size, revision, kind and key number of a pack; its ``frames`` are left empty."""
        return self._table.pack(number)

    def frame(self, number: int, frame: int) -> Frame:
        """What is needed to fetch and open a frame; ``ids`` and ``lengths`` are left empty."""
        return self._table.frame(number, frame)

    def number_of(self, pack_name: bytes) -> int | None:
        """The number of a pack, None if the index does not have it."""
        return self._table.numbers.get(pack_name)

    def pack_names(self) -> dict[bytes, int]:
        """Every pack's number by name."""
        return dict(self._table.numbers)

    def __len__(self) -> int:
        """Records, which is blobs and their copies."""
        return sum(run.count for run in self._runs) + self._delta_count

    # Keeping

    def _write_delta(self) -> None:
        """Move the dict to a run, merging it with runs that are not much larger than it."""
        with self._lock:
            delta, self._delta_count = self._delta, 0
            records = [
                encode_record(key, place)
                for key, found in delta.items()
                for place in ([found] if isinstance(found, tuple) else found)
            ]
            if not records:
                return
            path = self._new_path()
            write_records(path, records)
            runs = [Run(path), *self._runs]
            # A lookup asks every run, so they are few; each is much larger than the one before it, so that
            # not all is written again each time.
            while len(runs) > 1 and (runs[1].count < 2 * runs[0].count or len(runs) > _MOST_RUNS):
                path = self._new_path()
                write_merged(path, runs[:2])
                runs[:2] = [Run(path)]
            self._runs = tuple(runs)
            self._delta = {}

    def _new_path(self) -> str:
        self._next_run += 1
        return f"{self._folder}/run-{self._next_run - 1}"

    def flush(self) -> None:
        """Make everything added so far durable."""
        self._write_delta()
        with self._lock:
            packs, length = self._table.sync()
            body = msgpack.packb(
                {
                    "version": _VERSION,
                    "runs": [os.path.basename(run.path) for run in self._runs],
                    "next": self._next_run,
                    "packs": packs,
                    "length": length,
                    "segments": sorted(self._segments.items()),
                }
            )
            _replace(self._folder, _MANIFEST, blake3(body).digest(length=_SUM) + body)
            self._sweep()


def _replace(folder: str, name: str, data: bytes) -> None:
    """Write a file durably under a temporary name and rename it."""
    temporary = f"{folder}/{name}.new"
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, f"{folder}/{name}")
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _read_manifest(path: str) -> dict[str, Any]:
    empty = {"runs": [], "next": 1, "packs": 0, "length": 0, "segments": []}
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return empty
    body = data[_SUM:]
    if blake3(body).digest(length=_SUM) != data[:_SUM]:
        raise Corrupt("the blob index is damaged", "it is rebuilt from the tiers")
    manifest: dict[str, Any] = msgpack.unpackb(body)
    if manifest.get("version") != _VERSION:
        raise Corrupt("the blob index has another form", "it is rebuilt from the tiers")
    return manifest
