"""Messages of SFTP version 3 as bytes: requests out, answers in. Pure; who sends and who waits is `sftp_requests`."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import Corrupt
from ..store import Buffer

HEAD = struct.Struct(">IBI")
"""Length of what follows, kind, number."""

Request = tuple[int, *tuple[int | bytes, ...]]
"""The kind of a request, and its fields."""


class Long(int):
    """A number that goes over the wire in 64 bits."""


class Reply:
    """One answer and a cursor in it. Running past its end is the server's fault, never a read of zeros."""

    def __init__(self, kind: int, body: Buffer) -> None:
        self.kind = kind
        self._body = memoryview(body)

    def take(self, count: int) -> bytes:
        if count > len(self._body):
            raise Corrupt("the server sent an answer that is cut short")
        part, self._body = self._body[:count], self._body[count:]
        return bytes(part)

    def int32(self) -> int:
        return int.from_bytes(self.take(4))

    def int64(self) -> int:
        return int.from_bytes(self.take(8))

    def string(self) -> bytes:
        return self.take(self.int32())

    def left(self) -> int:
        return len(self._body)


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a server says of a file. ``mode`` is None where it does not say."""

    size: int
    mode: int | None

    @property
    def is_folder(self) -> bool:
        return self.mode is not None and self.mode & 0o170000 == 0o040000

    @property
    def is_file(self) -> bool:
        return self.mode is None or self.mode & 0o170000 in (0, 0o100000)


def read_attributes(reply: Reply) -> Attributes:
    """Attributes at the cursor of ``reply``, which moves behind them."""
    flags = reply.int32()
    size = reply.int64() if flags & 0x1 else 0
    if flags & 0x2:
        reply.take(8)
    mode = reply.int32() if flags & 0x4 else None
    if flags & 0x8:
        reply.take(8)
    if flags & 0x80000000:
        for _ in range(reply.int32()):
            reply.string(), reply.string()
    return Attributes(size, mode)


def packed(number: int, kind: int, fields: Sequence[int | bytes]) -> bytes:
    """A request as it goes over the wire."""
    body = b"".join(map(_packed_field, fields))
    return HEAD.pack(len(body) + 5, kind, number) + body


def _packed_field(field: int | bytes) -> bytes:
    if isinstance(field, bytes):
        return len(field).to_bytes(4) + field
    return field.to_bytes(8 if isinstance(field, Long) else 4)
