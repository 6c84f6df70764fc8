"""Turns decoded frames into files of the target: the part of a restore that runs in worker threads.

A small file is written, given its metadata and renamed in one go. A larger one gets its pieces in any order,
from any thread, into a temporary file, and is finished by whoever brings the last piece. Every piece is
verified by its content id before it is written; a file that misses one is never given its name.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import os
import threading
from dataclasses import dataclass, field

from tandem_agent.engine.linux import start_writeback
from tandem_agent.engine.metadata import MetadataWriter, Spot, Troubles
from tandem_agent.engine.plan import FrameUse, ReadRange
from tandem_agent.engine.target import Target, no_room, translated
from tandem_agent.engine.treewalk import join
from tandem_protocol.envelope import DocType
from tandem_protocol.errors import Corrupt
from tandem_protocol.frames import Frame
from tandem_protocol.keys import KeyRing
from tandem_protocol.pack import open_frame
from tandem_protocol.seal import content_id
from tandem_protocol.store import Buffer
from tandem_protocol.tree import Entry

_WRITEBACK_FROM = 16 * 1024 * 1024

# Why a file did not come to be.
DAMAGED, AWAY, FAILED = "damaged", "away", "failed"


class FileJob:
    """A regular file on its way. ``missing`` counts pieces not written yet; ``lost`` says why it will not
    be (one of the reasons above)."""

    __slots__ = (
        "done",
        "entry",
        "extents",
        "identity",
        "lock",
        "lost",
        "missing",
        "owner",
        "planned",
        "spot",
        "starts",
        "temporary",
    )

    def __init__(self, spot: Spot, entry: Entry, owner: tuple[int, int]) -> None:
        self.spot, self.entry, self.owner = spot, entry, owner
        self.missing = 0
        self.planned = False
        self.lost = ""
        self.done = False
        self.temporary = b""
        self.identity = (0, 0)
        self.lock: threading.Lock | None = None
        extents = (entry[9] or {}).get("s")
        self.extents: tuple[tuple[int, int], ...] | None = extents
        self.starts: list[int] = []
        if extents is not None:
            self.starts = list(itertools.accumulate((length for _, length in extents), initial=0))

    @property
    def path(self) -> bytes:
        return join(self.spot.path, self.entry[1])

    @property
    def content_length(self) -> int:
        """Bytes that the file's blobs have together: its size, or the data of a sparse one."""
        return self.entry[7] if self.extents is None else self.starts[-1]


@dataclass(slots=True)
class Piece:
    """A blob of a file: where it is in the raw frame, and where it goes in the content (``position``).
    ``whole``: it is all of a file that has no holes."""

    job: FileJob
    content_id: bytes
    offset: int
    length: int
    position: int
    whole: bool


@dataclass(slots=True)
class Outcome:
    """What a worker did: pieces that were not good in these bytes, and what was completed."""

    failed: list[FrameUse[Piece]] = field(default_factory=list)
    files: int = 0
    bytes: int = 0


class FileWriter:
    """Writes files into one target. All methods may be called from several threads at once; `Full` and
    `Refused` from any of them end the restore, any other trouble is the one file's."""

    def __init__(self, target: Target, metadata: MetadataWriter, troubles: Troubles, ring: KeyRing) -> None:
        self._target, self._metadata, self._troubles = target, metadata, troubles
        self._ring = ring
        self._id_key = ring.content_id_key[1]
        self._lock = threading.Lock()
        self._open: set[FileJob] = set()
        self._default_owner = (metadata.uid, metadata.gid)
        self.stopped = False

    def write_range(
        self,
        read: ReadRange[Piece],
        data: Buffer,
        kind: DocType,
        key_number: int,
        frames: list[Frame],
    ) -> Outcome:
        """Decode and write everything in one read; ``frames`` describe ``read.frames``, in order."""
        outcome = Outcome()
        view = memoryview(data)
        for use, frame in zip(read.frames, frames, strict=True):
            if self.stopped:
                break
            at = use.offset - read.offset
            try:
                raw = open_frame(self._ring, kind, key_number, frame, view[at : at + use.sealed_length])
            except Corrupt:
                outcome.failed.append(use)
                continue
            bad = self._write_pieces(use.uses, memoryview(raw), outcome)
            if bad:
                outcome.failed.append(FrameUse(use.pack, use.frame, use.offset, use.sealed_length, bad))
        return outcome

    def _write_pieces(self, pieces: list[Piece], raw: memoryview, outcome: Outcome) -> list[Piece]:
        bad = []
        for piece in pieces:
            blob = raw[piece.offset : piece.offset + piece.length]
            if len(blob) != piece.length or content_id(self._id_key, blob) != piece.content_id:
                bad.append(piece)
            elif not piece.job.lost and not self.stopped:
                self.write_piece(piece, blob, outcome)
        return bad

    def write_piece(self, piece: Piece, blob: Buffer, outcome: Outcome) -> None:
        """Put a verified blob in its place."""
        job = piece.job
        try:
            if piece.whole:
                self._write_whole(job, blob)
                finished = True
            else:
                finished = self._write_part(job, piece.position, memoryview(blob))
        except OSError as error:
            self.lose(job, FAILED, error)
            return
        outcome.bytes += len(blob)
        outcome.files += finished

    def write_empty(self, job: FileJob, outcome: Outcome) -> None:
        """A file of no content: empty, or one hole."""
        try:
            if job.entry[7]:
                self._begin(job)
                self._finish(job)
            else:
                self._write_whole(job, b"")
        except OSError as error:
            self.lose(job, FAILED, error)
            return
        outcome.files += 1

    def _write_whole(self, job: FileJob, blob: Buffer) -> None:
        """The fast way, for nearly all files there are: as few system calls as will do."""
        target, spot, entry, mode = self._target, job.spot, job.entry, job.entry[2]
        folder = target.folder(spot.path)
        plain = spot.fresh and not spot.inherits and job.owner == self._default_owner
        fd, temporary = target.create(folder, mode & 0o777 if plain else 0o600)
        try:
            _write_all(fd, blob, 0)
            if plain and entry[9] is None and mode & ~target.umask & 0o777 == mode:
                self._metadata.set_time(fd, entry, spot)
            else:
                self._metadata.apply(fd, entry, job.owner, spot, plain)
        except BaseException:
            target.discard(folder, temporary)
            raise
        finally:
            os.close(fd)
        target.publish(spot, folder, temporary, entry[1])
        job.done = True

    def _begin(self, job: FileJob) -> None:
        fd, job.temporary = self._target.create(self._target.folder(job.spot.path), 0o600)
        with self._lock:
            self._open.add(job)
        try:
            about = os.fstat(fd)
            job.identity = (about.st_dev, about.st_ino)
            if job.extents is not None:
                os.ftruncate(fd, job.entry[7])
        finally:
            os.close(fd)

    def _write_part(self, job: FileJob, position: int, blob: memoryview) -> bool:
        """Write a piece; True if it was the last one and the file is finished."""
        lock = job.lock
        assert lock is not None, "a file of several pieces has a lock"
        with lock:
            if job.lost:
                return False
            if not job.temporary:
                self._begin(job)
        fd = self._target.reopen(self._target.folder(job.spot.path), job.temporary, job.identity)
        try:
            for at, part in _placed(job, position, blob):
                _write_all(fd, part, at)
            if job.entry[7] >= _WRITEBACK_FROM:
                start_writeback(fd)
        finally:
            os.close(fd)
        with lock:
            job.missing -= 1
            last = job.missing == 0 and job.planned and not job.lost
        if last:
            self._finish(job)
        return last

    def planned(self, job: FileJob, outcome: Outcome) -> None:
        """All pieces of ``job`` have been named. If they are all written, it is finished now."""
        lock = job.lock
        if lock is None:
            return
        with lock:
            job.planned = True
            finish = job.missing == 0 and bool(job.temporary) and not job.lost
        if finish:
            try:
                self._finish(job)
                outcome.files += 1
            except OSError as error:
                self.lose(job, FAILED, error)

    def _finish(self, job: FileJob) -> None:
        target, spot = self._target, job.spot
        folder = target.folder(spot.path)
        fd = target.reopen(folder, job.temporary, job.identity)
        try:
            if os.fstat(fd).st_size != job.entry[7]:
                raise OSError(0, "its size came out wrong")
            self._metadata.apply(fd, job.entry, job.owner, spot, spot.fresh and not spot.inherits)
        finally:
            os.close(fd)
        target.publish(spot, folder, job.temporary, job.entry[1])
        job.done = True
        self._forget(job)

    def _forget(self, job: FileJob) -> None:
        with self._lock:
            self._open.discard(job)
        job.temporary = b""

    def matches(self, job: FileJob, pieces: list[Piece]) -> bool:
        """Whether the file that has the name now holds exactly these pieces; then it gets the metadata. A
        sparse one is written again: its holes would have to be proven too."""
        if job.extents is not None:
            return False
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(job.entry[1], flags, dir_fd=self._target.folder(job.spot.path))
        except OSError:
            return False
        try:
            for piece in pieces:
                data = os.pread(fd, piece.length, piece.position)
                if self.stopped or content_id(self._id_key, data) != piece.content_id:
                    return False
            self._metadata.apply(fd, job.entry, job.owner, job.spot)
            return True
        except OSError:
            return False
        finally:
            os.close(fd)

    def lose(self, job: FileJob, why: str, error: OSError | None = None) -> None:
        """This file will not come to be. No space left is not the one file's trouble: `Full`."""
        with job.lock or contextlib.nullcontext():
            first, job.lost = not job.lost, job.lost or why
            if job.temporary:
                self._target.discard(self._target.folder(job.spot.path), job.temporary)
                self._forget(job)
        if error is not None and no_room(error):
            self.stopped = True
            raise translated(error, f"cannot write to {self._target.shown}")
        if first and isinstance(error, FileExistsError):
            self._troubles.add("is there already, not overwritten", job.path)
        elif first and error is not None:
            self._troubles.add(f"could not be written ({error.strerror or error})", job.path)

    def abandon(self) -> None:
        """Remove what is not finished. Only after all workers have ended."""
        with self._lock:
            jobs, self._open = list(self._open), set()
        for job in jobs:
            with contextlib.suppress(OSError):
                self._target.discard(self._target.folder(job.spot.path), job.temporary)


def _write_all(fd: int, data: Buffer, at: int) -> None:
    written = os.pwrite(fd, data, at)
    if written == len(data):
        return
    view = memoryview(data)
    while written < len(view):
        written += os.pwrite(fd, view[written:], at + written)


def _placed(job: FileJob, position: int, blob: memoryview) -> list[tuple[int, memoryview]]:
    """Where the parts of a piece go: in a sparse file, content is the data of its extents on end."""
    if job.extents is None:
        return [(position, blob)]
    parts = []
    number = bisect.bisect_right(job.starts, position) - 1
    while blob:
        offset, length = job.extents[number]
        inside = position - job.starts[number]
        part = blob[: length - inside]
        parts.append((offset + inside, part))
        blob, position, number = blob[len(part) :], position + len(part), number + 1
    return parts
