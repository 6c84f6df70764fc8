"""The Store contract: how bytes are moved to and from one place, and nothing else.

A Store knows names and bytes. It does not know tiers, revisions, keys or retries: a wrapper retries,
a Tier judges. Names are relative paths of lowercase ASCII parts joined by ``/`` (``names.valid``);
every store refuses any other name before it acts, in both directions.

An object is a file, or a folder that holds the one file ``c`` (how FTP creates exclusively): every verb that
finds one takes both forms for the object. Links are no objects.

Every verb raises only kinds of ``errors``: `Unavailable` (transient; the session is then useless and must
be closed), `Missing`, `Exists`, `Refused`, `Full`, `Corrupt` (the server breaks its own protocol; the
session is useless too). A verb that was cancelled or failed may or may not have happened: all verbs may be
repeated. A cancelled verb may end the session; the next verb then says `Unavailable`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder. ``size`` is in bytes; a folder's is 0."""

    name: str
    size: int
    is_folder: bool


class Store(ABC):
    """One place that keeps named bytes. One task uses a store at a time unless ``parallel`` says more."""

    power_safe: bool = True
    """False where no fsync is offered: a crash of the server may lose its latest writes."""

    parallel: int = 1
    """How many verbs may be under way at once in one session."""

    uploads: int = 1
    """How many large `put` at once get more through than one alone: several where the way is long."""

    @abstractmethod
    async def open(self) -> None:
        """Begin a session; a new one after `close`. A root that is not there is `Absent` (not mounted),
        never made here, unless the store was built with ``make_root=True`` (init and tier add only)."""

    @abstractmethod
    async def close(self) -> None:
        """End the session, releasing everything. Never raises; safe to call twice or unopened."""

    @abstractmethod
    async def create(self, name: str, data: Buffer) -> None:
        """Publish whole or not at all, durably, and only if ``name`` is not there: else `Exists`.
        Exactly one of two racing calls wins. Makes parent folders. After a lost reply the caller reads; what
        `Exists` speaks of is durable by then, as far as the store can make it so."""

    @abstractmethod
    async def put(self, name: str, data: Buffer, sent: Callable[[int], None] | None = None) -> None:
        """Publish an immutable object durably under ``name``; readers see all of it or nothing.
        There already with the same size: done. With another size: `Exists` (the caller moves it to
        quarantine first). Where bytes are dear (a server), it goes on from a part that an earlier put left
        in ``tmp/``, after reading that part back.

        ``sent`` is called on the event loop's thread with the number of bytes each time some have been
        taken by the other side. Bytes that were there already are not told, and bytes that a wrapper sends
        again are told again: it is traffic, not progress. ``data`` must stay as it is until this ends."""

    @abstractmethod
    async def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes from ``offset``, at most ``length`` (to the end without it); fewer only at the end of the
        object. `Missing` if it is not there."""

    @abstractmethod
    async def size(self, name: str) -> int:
        """Size in bytes, or `Missing`."""

    @abstractmethod
    def list(self, folder: str) -> AsyncIterator[Entry]:
        """The names directly in ``folder`` ("" is the root), in any order; none if it is not there.
        Names that are not valid are passed over: nothing of Tandem's is called so. An object in the form of
        a folder is listed as the object, with the size of its content."""

    @abstractmethod
    async def move(self, source: str, target: str) -> None:
        """Rename, durably; makes parent folders. `Missing` without source, `Exists` if the target is."""

    @abstractmethod
    async def delete(self, name: str) -> None:
        """Remove one object, durably. Not there is fine: a lost reply is repeated."""
