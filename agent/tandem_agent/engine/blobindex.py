"""Where each blob is: content id -> packs, kept on this machine and made again from the tiers when damaged.

Mapped runs of records on disk (`blobruns`), a table of packs (`packtable`), and a dict for what was added since the
last run was written. A pack's name has a record too, told by its length of 0. A manifest, replaced by rename, says
which files count: a kill at any moment leaves the last flushed state. Whether a pack is still on a tier is for the
caller, who says which pack numbers are eligible.
"""

from __future__ import annotations

import contextlib
import os
import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, repeat
from struct import Struct
from typing import Any

import msgpack
from blake3 import blake3

from tandem_agent.engine.blobmerge import write_merged, write_records
from tandem_agent.engine.blobruns import KEY, RECORD, SIZE, Place, Run, first_bits, places_of, split_records
from tandem_agent.engine.packtable import FILES, PackSet, PackTable
from tandem_protocol.errors import Corrupt
from tandem_protocol.frames import Frame
from tandem_protocol.index import PackEntry

_MANIFEST = "manifest"
_VERSION = 3
_DELTA_LIMIT = 80_000
_MOST_RUNS = 3
_MOST_UNMERGED = 8
_SUM = 16
_MARKED_BITS = 22
_keys = Struct(f"{KEY}s{KEY}x").iter_unpack
_pack_number = Struct("<I").unpack_from


class BlobIndex:
    """One thread adds and flushes; any number of threads look up at the same time."""

    def __init__(self, folder: str) -> None:
        """Opens the index in ``folder``, which is made if it is not there; one of another form is begun afresh. Raises
        `Corrupt` if it is damaged: the caller then calls `wipe` and adds every segment again."""
        self._folder = folder
        self.damaged = False
        """Set when damage was met: the next open then finds an empty index, to be made again."""
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._lock = threading.Lock()
        manifest = _read_manifest(f"{folder}/{_MANIFEST}")
        if manifest is None:
            self.wipe(folder)  # whoever still reads there keeps the files that he has open
            manifest = {"runs": [], "next": 1, "packs": (0, 0, b""), "segments": {}}
        self._segments: dict[bytes, bytes] = manifest["segments"]
        self._next_run: int = manifest["next"]
        self._flushed: list[str] = manifest["runs"]
        self._runs = tuple(self._open(f"{folder}/{name}") for name in self._flushed)
        self._unmarked = self._runs
        self._marks = bytearray()
        self._table = PackTable(folder, *manifest["packs"])
        self._delta: dict[bytes, bytes] = {}
        self._delta_count = 0
        self._sweep()

    def _open(self, path: str) -> Run:
        return Run(path, self._mark_damaged)

    def _mark_damaged(self) -> None:
        self.damaged = True

    @staticmethod
    def wipe(folder: str) -> None:
        """Remove an index, so that the next open finds an empty one."""
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(folder), key=lambda name: name != _MANIFEST):
                os.unlink(f"{folder}/{name}")

    def _sweep(self) -> None:
        kept = {os.path.basename(run.path) for run in self._runs} | {_MANIFEST, *FILES}
        for name in set(os.listdir(self._folder)) - kept:
            os.unlink(f"{self._folder}/{name}")

    def close(self) -> None:
        """Release the files; what was not flushed is dropped."""
        self._runs = self._unmarked = ()
        self._table.close()
        if self.damaged:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._folder}/{_MANIFEST}")

    # Adding

    def add_pack(self, entry: PackEntry) -> int:
        """Take in a pack; gives its number, which it keeps. A pack known by name is not added again."""
        with self._lock:
            found = self.number_of(entry.name)
            if found is not None:
                return found
            number = self._table.add(entry)
            self._add_records(number, entry.name, entry.frames)
        if self._delta_count >= _DELTA_LIMIT:
            self._write_delta(_MOST_UNMERGED)
        return number

    def _add_records(self, number: int, name: bytes, frames: Sequence[Frame]) -> None:
        """One for each blob, and one for the pack's name; by columns, since there are thousands."""
        keys = [name[:KEY], *(key for (key,) in _keys(b"".join([frame.ids for frame in frames])))]
        lengths = [frame.lengths for frame in frames]
        within = chain.from_iterable(map(repeat, range(len(frames)), map(len, lengths)))
        offsets = chain.from_iterable(accumulate([0, *own[:-1]]) for own in lengths)
        columns = chain((0,), within), chain((0,), offsets), chain((0,), *lengths)
        records = list(map(RECORD.pack, keys, repeat(number), *columns))
        delta, fresh = self._delta, dict(zip(keys, records, strict=True))
        if len(fresh) == len(keys) and delta.keys().isdisjoint(fresh):
            delta.update(fresh)
        else:
            for key, record in zip(keys, records, strict=True):
                delta[key] = record + delta.get(key, b"")
        self._delta_count += len(keys)

    def add_segment(self, name: bytes, entries: Sequence[PackEntry]) -> None:
        """Take in an index segment and remember its name."""
        self._segments[name] = array("I", [self.add_pack(entry) for entry in entries]).tobytes()

    def segments_seen(self) -> set[bytes]:
        """Names of the segments taken in, as far as they were flushed or this process took them in."""
        return set(self._segments)

    def forget_segments(self, names: Iterable[bytes]) -> None:
        """They are live no more: what they named is named by others, or by none. Packs stay."""
        for name in names:
            self._segments.pop(name, None)

    def naming(self) -> dict[int, list[bytes]]:
        """For each pack's number, the names of the segments that name it."""
        found: dict[int, list[bytes]] = {}
        for name, packs in self._segments.items():
            for pack in array("I", packs):
                found.setdefault(pack, []).append(name)
        return found

    # Asking

    def known(self, content_id: bytes, eligible: PackSet | None = None) -> bool:
        """Whether the blob is in a pack whose number is in ``eligible`` (any pack without it)."""
        key = content_id[:KEY]
        # The dict first: what is moved from it is in a run before it is gone from there.
        found = self._delta.get(key)
        if found and (eligible is None or _is_in(found, eligible)):
            return True
        (beginning,) = first_bits(key)
        marks = self._marks
        for run in self._runs if not marks or marks[beginning >> 32 - _MARKED_BITS] else self._unmarked:
            found = run.find(key, beginning)
            if found and (eligible is None or _is_in(found, eligible)):
                return True
        return False

    def lookup(self, content_id: bytes) -> Iterable[Place]:
        """Every place of the blob: (pack number, frame number, offset, length)."""
        key = content_id[:KEY]
        found = [place for place in self._places(key) if place[3]]
        if not found:
            for run in self._runs:  # it may be there with a damaged id
                run.check(*first_bits(key))
        return found

    def _places(self, key: bytes) -> list[Place]:
        found = self._delta.get(key, b"")
        (beginning,) = first_bits(key)
        for run in self._runs:
            found += run.find(key, beginning)
        return places_of(found)

    def pack(self, number: int) -> PackEntry:
        """Name, size, revision, kind and key number of a pack; its ``frames`` are left empty."""
        return self._table.pack(number)

    def frame(self, number: int, frame: int) -> Frame:
        """What is needed to fetch and open a frame; ``ids`` and ``lengths`` are left empty. Raises `Corrupt` if this
        is damaged here, on this machine."""
        try:
            return self._table.frame(number, frame)
        except Corrupt:
            self._mark_damaged()
            raise

    def number_of(self, pack_name: bytes) -> int | None:
        """The number of a pack, None if the index does not have it."""
        for number, _, _, length in self._places(pack_name[:KEY]):
            if not length and self._table.pack(number).name == pack_name:
                return number
        return None

    def pack_names(self) -> Iterator[bytes]:
        """The name of every pack, in order of their numbers."""
        return self._table.names()

    def __len__(self) -> int:
        """Records of blobs, which is blobs and their copies."""
        return sum(run.count for run in self._runs) + self._delta_count - len(self._table)

    # Keeping

    def _write_delta(self, most_runs: int) -> None:
        """Move the dict to a run; where there are more than ``most_runs`` then, merge some."""
        with self._lock:
            if self._delta:
                path = self._new_path()
                records = list(self._delta.values())
                if len(records) != self._delta_count:  # some have several places
                    records = split_records(b"".join(records))
                write_records(path, records)
                self._mark(self._delta)
                self._runs = (*self._runs, self._open(path))
                self._delta, self._delta_count = {}, 0
            if len(self._runs) > most_runs or most_runs == _MOST_RUNS:
                self._merge()

    def _mark(self, keys: Iterable[bytes]) -> None:
        """By the first bits of the ids, before they leave the dict: so a new blob, as nearly all are in a first backup,
        is looked for in no run that this process wrote. Among 12 of them that took 3.0 µs, and 1.0 µs so."""
        marks = self._marks or bytearray(1 << _MARKED_BITS)
        for (beginning,) in map(first_bits, keys):
            marks[beginning >> 32 - _MARKED_BITS] = 1
        self._marks = marks

    def _merge(self) -> None:
        """A lookup asks every run, the first and largest first, so they are few; each is much larger than the next, so
        that not all is written again each time."""
        runs, total, kept = self._runs, 0, len(self._runs)
        for number in reversed(range(len(runs))):
            if runs[number].count < 2 * total:
                kept = number
            total += runs[number].count
        if len(runs) > _MOST_RUNS:
            kept = min(kept, _MOST_RUNS - 1)
        if kept == len(runs):
            return
        path = self._new_path()
        write_merged(path, runs[kept:])
        self._runs = (*runs[:kept], self._open(path))
        if kept < len(self._unmarked):
            self._unmarked = self._runs
        for run in runs[kept:]:
            if os.path.basename(run.path) not in self._flushed:
                os.unlink(run.path)

    def _new_path(self) -> str:
        self._next_run += 1
        return f"{self._folder}/run-{self._next_run - 1}"

    def flush(self) -> None:
        """Make everything added so far durable."""
        self._write_delta(_MOST_RUNS)
        with self._lock:
            runs = [os.path.basename(run.path) for run in self._runs]
            body = msgpack.packb(
                {
                    "version": _VERSION,
                    "runs": runs,
                    "next": self._next_run,
                    "packs": self._table.sync(),
                    "segments": dict(sorted(self._segments.items())),
                }
            )
            _replace(self._folder, _MANIFEST, blake3(body).digest(length=_SUM) + body)
            self._flushed = runs
            self._sweep()


def _is_in(records: bytes, eligible: PackSet) -> bool:
    """Whether one of them is of a pack that is ``eligible``."""
    if len(records) == SIZE:
        number: int = _pack_number(records, KEY)[0]
        return number < len(eligible) and eligible[number] == 1
    return any(_is_in(records[at : at + SIZE], eligible) for at in range(0, len(records), SIZE))


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


def _read_manifest(path: str) -> dict[str, Any] | None:
    """None if there is none, or one of another form."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    body = data[_SUM:]
    if blake3(body).digest(length=_SUM) != data[:_SUM]:
        raise Corrupt("the blob index is damaged", "it is rebuilt from the tiers")
    manifest: dict[str, Any] = msgpack.unpackb(body)
    return manifest if manifest.get("version") == _VERSION else None
