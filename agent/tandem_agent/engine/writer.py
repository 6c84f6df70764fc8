"""Turns decoded frames into files of the target: the part of a restore that runs in worker threads.

A small file is written, given its metadata and renamed in one go. A larger one gets its pieces in any order,
from any thread, into a temporary file, and is finished by whoever brings the last piece; a large one stays open
meanwhile and gets the pieces of one read that follow one another together. Every piece is verified by its content
id before it is written; a file that misses one is never given its name.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading

from tandem_agent.engine.filejob import FAILED, FileJob, Outcome, Piece, placed
from tandem_agent.engine.metadata import MetadataWriter, Troubles
from tandem_agent.engine.partfile import LARGE_FROM, PartFile, write_all
from tandem_agent.engine.plan import FrameUse, ReadRange
from tandem_agent.engine.runs import LONGEST, Run
from tandem_agent.engine.target import Target, no_room, translated
from tandem_protocol.envelope import DocType
from tandem_protocol.errors import Corrupt
from tandem_protocol.frames import Frame
from tandem_protocol.keys import KeyRing
from tandem_protocol.pack import open_frame, open_frame_into
from tandem_protocol.seal import content_id
from tandem_protocol.store import Buffer

Switch = bytearray | mmap.mmap


class FileWriter:
    """Writes files into one target. All methods may be called from several threads at once; `Full` and
    `Refused` from any of them end the restore, any other trouble is the one file's."""

    def __init__(
        self,
        target: Target,
        metadata: MetadataWriter,
        troubles: Troubles,
        ring: KeyRing,
        stop: Switch | None = None,
    ) -> None:
        self._target, self._metadata, self._troubles = target, metadata, troubles
        self._ring = ring
        self._id_key = ring.content_id_key[1]
        self._lock = threading.Lock()
        self._open: set[FileJob] = set()
        self._default_owner = (metadata.uid, metadata.gid)
        self._own = threading.local()
        self._stop = bytearray(1) if stop is None else stop

    @property
    def stopped(self) -> bool:
        """Whether everybody is to leave off; ``stop`` may be shared with other processes."""
        return self._stop[0] != 0

    def stop(self) -> None:
        self._stop[0] = 1

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
        run = self._run()
        for use, frame in zip(read.frames, frames, strict=True):
            if self.stopped:
                return outcome
            at = use.offset - read.offset
            what = kind, key_number, frame, view[at : at + use.sealed_length]
            try:
                if _goes_into_run(use, frame):
                    bad = self._add_to_run(run, use.uses[0], what, outcome)
                else:
                    bad = self._write_pieces(use.uses, memoryview(open_frame(self._ring, *what)), outcome)
            except Corrupt:
                bad = use.uses
            if bad:
                outcome.failed.append(FrameUse(use.pack, use.frame, use.offset, use.sealed_length, bad))
        self._write_run(run, outcome)
        return outcome

    def _run(self) -> Run:
        """The calling thread's, empty."""
        run: Run | None = getattr(self._own, "run", None)
        if run is None:
            run = self._own.run = Run()
        run.begin(0)
        return run

    def _add_to_run(
        self, run: Run, piece: Piece, what: tuple[DocType, int, Frame, memoryview], outcome: Outcome
    ) -> list[Piece]:
        """Decode a frame that is one piece of a large file into its place behind the piece before, or if that is
        another place, write first what is there. Gives the piece if it is not good."""
        if not run.follows(piece):
            self._write_run(run, outcome)
            run.begin(piece.position)
        place = run.place(piece.length)
        open_frame_into(place, self._ring, *what)
        if content_id(self._id_key, place) != piece.content_id:
            return [piece]
        run.add(piece)
        return []

    def _write_run(self, run: Run, outcome: Outcome) -> None:
        if run.pieces and not self.stopped:
            try:
                outcome.files += self._write_part(run.job, run.at, run.data, len(run.pieces))
                outcome.bytes += len(run.data)
            except OSError as error:
                self.lose(run.job, FAILED, error)

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
        bare = plain and entry[9] is None  # A file that is read-only from the start takes no attributes.
        fd, temporary = target.create(folder, mode & 0o777 if bare else 0o600)
        try:
            write_all(fd, blob, 0)
            if bare and mode & ~target.umask & 0o777 == mode:
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
        folder = self._target.folder(job.spot.path)
        fd, job.temporary = self._target.create(folder, 0o600)
        with self._lock:
            self._open.add(job)
        try:
            about = os.fstat(fd)
            job.identity = (about.st_dev, about.st_ino)
            if job.extents is not None:
                os.ftruncate(fd, job.entry[7])
            if job.lock is not None and job.entry[7] >= LARGE_FROM:
                past_cache = job.extents is None
                direct = self._target.past_cache(folder, job.temporary, job.identity) if past_cache else None
                job.large = PartFile(fd, direct)
        finally:
            if job.large is None:
                os.close(fd)
        if job.large is not None:
            job.large.reserve(job.entry[7])

    def _write_part(self, job: FileJob, position: int, data: memoryview, run: int = 0) -> bool:
        """Write one piece, or a ``run`` of so many; True if none is missing any more and the file is finished."""
        lock = job.lock
        assert lock is not None, "a file of several pieces has a lock"
        with lock:
            if job.lost:
                return False
            if not job.temporary:
                self._begin(job)
            job.writing += 1
        try:
            self._put(job, position, data, run > 0)
        finally:
            with lock:
                job.writing -= 1
                if job.lost:
                    job.let_go()
        with lock:
            job.missing -= run or 1
            last = job.missing == 0 and job.planned and not job.lost
        if last:
            self._finish(job)
        return last

    def _put(self, job: FileJob, position: int, data: memoryview, is_run: bool) -> None:
        parts = placed(job, position, data)
        if job.large is not None:
            write = job.large.write_run if is_run else job.large.write
            for at, part in parts:
                write(part, at)
            return
        fd = self._target.reopen(self._target.folder(job.spot.path), job.temporary, job.identity)
        try:
            for at, part in parts:
                write_all(fd, part, at)
        finally:
            os.close(fd)

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
        job.let_go()

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
            self.stop()
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
            job.let_go()
            with contextlib.suppress(OSError):
                self._target.discard(self._target.folder(job.spot.path), job.temporary)


def _goes_into_run(use: FrameUse[Piece], frame: Frame) -> bool:
    """Whether a frame is one piece of a large file, whole: what is written past the page cache."""
    piece = use.uses[0]
    job = piece.job
    return (
        len(use.uses) == 1
        and job.entry[7] >= LARGE_FROM
        and job.extents is None
        and not piece.whole
        and piece.offset == 0
        and piece.length == frame.raw_length <= LONGEST
    )
