"""The packs that the blob index speaks of: numbers, names and frames, appended to two files.

A pack keeps its number for as long as the index lives. Frames are kept without their blobs' ids, which
the records of the index stand for. Nothing is removed here: a pack that is gone is just no longer eligible.
"""

from __future__ import annotations

import os
import struct
from zlib import crc32

from tandem_protocol.envelope import DocType
from tandem_protocol.errors import Corrupt
from tandem_protocol.frames import Frame
from tandem_protocol.index import PackEntry

_PACK = struct.Struct("<32sIQBIIxxxI")
"""Name, size, revision, kind, key number, number of frames, checksum of the pack's frames."""
_FRAME = struct.Struct("<IIIBI32s")


class PackTable:
    """Packs by number. One thread adds; any number of threads read."""

    def __init__(self, folder: str, count: int, length: int) -> None:
        """Opens the table as of a manifest that says ``count`` packs in ``length`` bytes; what was
        appended after that is cut off. Raises `Corrupt` if the files are shorter, or packs damaged."""
        self.numbers: dict[bytes, int] = {}
        self._fd = os.open(f"{folder}/packs", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._offsets: list[int] = []
        self._end = length
        self._fresh: list[bytes] = []
        self._fresh_length = 0
        if os.fstat(self._fd).st_size < length:
            raise Corrupt("the blob index's table of packs is cut short", "it is rebuilt from the tiers")
        os.ftruncate(self._fd, length)
        self._read(count, length)

    def _read(self, count: int, length: int) -> None:
        data = os.pread(self._fd, length, 0) if length else b""
        at = 0
        while at < length:
            if at + _PACK.size > length:
                break
            name, _, _, _, _, frames, check = _PACK.unpack_from(data, at)
            end = at + _PACK.size + frames * _FRAME.size
            if (
                end > length
                or crc32(data[at : at + _PACK.size - 4], crc32(data[at + _PACK.size : end])) != check
            ):
                break
            self.numbers[name] = len(self._offsets)
            self._offsets.append(at)
            at = end
        if at != length or len(self._offsets) != count:
            raise Corrupt("the blob index's table of packs is damaged", "it is rebuilt from the tiers")

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, entry: PackEntry) -> int:
        """The number of a pack that is new here."""
        frames = b"".join(
            _FRAME.pack(f.offset, f.sealed_length, f.raw_length, f.codec, f.dictionary, f.frame_id)
            for f in entry.frames
        )
        bare = _PACK.pack(
            entry.name, entry.size, entry.revision, entry.kind, entry.key_number, len(entry.frames), 0
        )[:-4]
        row = bare + crc32(bare, crc32(frames)).to_bytes(4, "little") + frames
        number = len(self._offsets)
        os.pwrite(self._fd, row, self._end)
        self._offsets.append(self._end)
        self._end += len(row)
        self.numbers[entry.name] = number
        return number

    def pack(self, number: int) -> PackEntry:
        """The pack without its frames."""
        data = os.pread(self._fd, _PACK.size, self._offsets[number])
        name, size, revision, kind, key_number, _, _ = _PACK.unpack(data)
        return PackEntry(name, size, revision, DocType(kind), key_number, [])

    def frame(self, number: int, frame: int) -> Frame:
        """A frame of the pack, without ids and lengths of its blobs."""
        at = self._offsets[number] + _PACK.size + frame * _FRAME.size
        offset, sealed, raw, codec, dictionary, frame_id = _FRAME.unpack(os.pread(self._fd, _FRAME.size, at))
        return Frame(offset, sealed, raw, codec, dictionary, frame_id, b"", [])

    def sync(self) -> tuple[int, int]:
        """Make what was added durable; gives the count and length for the manifest."""
        os.fsync(self._fd)
        return len(self._offsets), self._end

    def close(self) -> None:
        os.close(self._fd)
