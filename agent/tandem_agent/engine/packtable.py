"""The packs that the blob index speaks of, by number: rows of packs in one file, rows of their frames in another.

A pack keeps its number for as long as the index lives. Frames are kept without their blobs' ids, which the records of
the index stand for. Nothing is kept in memory: rows have a fixed size and are read when asked for. Nothing is removed
here: a pack that is gone is just no longer eligible.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from itertools import chain, starmap
from operator import attrgetter
from zlib import crc32

from blake3 import blake3

from tandem_protocol.envelope import DocType
from tandem_protocol.errors import Corrupt
from tandem_protocol.frames import Frame
from tandem_protocol.index import PackEntry

FILES = ("packs", "frames")
_PACK = struct.Struct("<32sIQBIQII")
"""Name, size, revision, kind, key number, number of the first frame, how many, checksum of the frames' rows."""
_FRAME = struct.Struct("<IIIBI32s")
_COLUMNS = attrgetter("offset", "sealed_length", "raw_length", "codec", "dictionary", "frame_id")
_READ = _PACK.size * 16_384


class PackSet(bytearray):
    """Some packs, by number: at each place whether the pack is one of them. A set of a million numbers would be a
    hundred times as large, and slow to ask for that."""

    def include(self, number: int) -> None:
        """Make the pack one of them."""
        if number >= len(self):
            self.extend(bytes(number + 1 - len(self)))
        self[number] = 1


class PackTable:
    """Packs by number. One thread adds; any number of threads read."""

    def __init__(self, folder: str, packs: int, frames: int, checksum: bytes) -> None:
        """Opens the table as of a manifest; what was appended after that is cut off. Raises `Corrupt` if a file is
        shorter, or the packs' rows are not those of the ``checksum``. A pack's frames are checked when first used."""
        self._packs, self._frames = packs, frames
        self._hash = blake3()
        self._checked = bytearray(packs)
        self._fds: list[int] = []
        try:
            for name, length in zip(FILES, (packs * _PACK.size, frames * _FRAME.size), strict=True):
                fd = os.open(f"{folder}/{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._fds.append(fd)
                if os.fstat(fd).st_size < length:
                    raise _damage()
                os.ftruncate(fd, length)
            for rows in self._rows():
                self._hash.update(rows)
            if packs and self._hash.digest() != checksum:
                raise _damage()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return self._packs

    def _rows(self) -> Iterator[bytes]:
        """The packs' rows, many at a time."""
        end = self._packs * _PACK.size
        for at in range(0, end, _READ):
            yield os.pread(self._fds[0], min(_READ, end - at), at)

    def names(self) -> Iterator[bytes]:
        """The packs' names in order of their numbers."""
        return (row[0] for row in chain.from_iterable(map(_PACK.iter_unpack, self._rows())))

    def add(self, entry: PackEntry) -> int:
        """The number of a pack that is new here."""
        frames = b"".join(starmap(_FRAME.pack, map(_COLUMNS, entry.frames)))
        count = len(entry.frames)
        row = _PACK.pack(
            entry.name,
            entry.size,
            entry.revision,
            entry.kind,
            entry.key_number,
            self._frames,
            count,
            crc32(frames),
        )
        _write(self._fds[1], frames, self._frames * _FRAME.size)
        _write(self._fds[0], row, self._packs * _PACK.size)
        self._hash.update(row)
        self._checked.append(0)
        self._frames += count
        self._packs += 1
        return self._packs - 1

    def pack(self, number: int) -> PackEntry:
        """The pack without its frames."""
        name, size, revision, kind, key_number, _, _, _ = self._row(number)
        return PackEntry(name, size, revision, DocType(kind), key_number, [])

    def _row(self, number: int) -> tuple[bytes, int, int, int, int, int, int, int]:
        data = os.pread(self._fds[0], _PACK.size, number * _PACK.size)
        if len(data) != _PACK.size:
            raise _damage()
        return _PACK.unpack(data)

    def frame(self, number: int, frame: int) -> Frame:
        """A frame of the pack, without ids and lengths of its blobs. Raises `Corrupt`."""
        first, count, checksum = self._row(number)[5:]
        size = _FRAME.size
        if not self._checked[number]:
            if crc32(os.pread(self._fds[1], count * size, first * size)) != checksum:
                raise _damage()
            self._checked[number] = 1
        row = os.pread(self._fds[1], size, (first + frame) * size)
        if frame >= count or len(row) != size:
            raise _damage()
        offset, sealed, raw, codec, dictionary, frame_id = _FRAME.unpack(row)
        return Frame(offset, sealed, raw, codec, dictionary, frame_id, b"", [])

    def sync(self) -> tuple[int, int, bytes]:
        """Make what was added durable; gives what the manifest has to say to open it again."""
        for fd in self._fds:
            os.fsync(fd)
        return self._packs, self._frames, self._hash.digest()

    def close(self) -> None:
        """Release the files."""
        while self._fds:
            os.close(self._fds.pop())


def _write(fd: int, data: bytes, offset: int) -> None:
    """All of it: the system may take less at once, as when the disk gets full."""
    done = 0
    while done < len(data):
        done += os.pwrite(fd, memoryview(data)[done:], offset + done)


def _damage() -> Corrupt:
    return Corrupt("the blob index's table of packs is damaged", "run it again: it is rebuilt from the tiers")
