"""A store in a folder: a local disk, a USB disk, a NAS share.

create: temporary file, fsync, link() to the name, else renameat2(RENAME_NOREPLACE), else O_EXCL.
put: temporary file, length, fsync, rename that cannot overwrite. Each ends with an fsync of the folder,
and of every parent that was made. Bytes go through aiofiles in slices, so that progress is seen and a
cancellation is quick; the other system calls of a verb are one hop to a worker thread (folder.py).
It does not resume an upload: writing afresh under a new name is as fast, and safer after a failed fsync.
A bad block is told from a disk that has gone: a name that gives EIO, while another can be read, is damaged.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

import aiofiles

from ..errors import Absent, Exists, Missing, Unavailable, Unreadable
from ..names import IDENTITY, valid
from ..store import Buffer, Entry, Store
from . import direct
from .faults import check_name, temporary_name, translated
from .folder import Folder, object_size, write_all

SLICE = 4 * 1024 * 1024
"""Bytes written between two reports of progress."""

_T = TypeVar("_T")


class DirectoryStore(Store):
    """Names are files below ``root``. Folders are made with mode 0700, files with 0600."""

    parallel = 4

    def __init__(self, root: str, make_root: bool = False) -> None:
        self._root = os.path.abspath(root)
        self._make_root = make_root
        self._folder = Folder(self._root)
        self._threads: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        await self.close()
        self._threads = ThreadPoolExecutor(self.parallel, thread_name_prefix="tandem-folder")
        try:
            await self._run(f"open the folder {self._root}", self._folder.open, self._make_root)
        except Missing as error:
            await self.close()
            raise Absent(
                f"the folder {self._root} is not there", "mount the disk or the share that holds it"
            ) from error
        except BaseException:
            await self.close()
            raise
        self.power_safe = self._folder.syncs_folders

    async def close(self) -> None:
        threads, self._threads = self._threads, None
        self._folder.close()
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    async def create(self, name: str, data: Buffer) -> None:
        check_name(name)
        await self._run(f"create {self._root}/{name}", self._create, name, memoryview(data).cast("B"))

    def _create(self, name: str, data: memoryview) -> None:
        folder = self._folder
        temporary = temporary_name(name)
        try:
            self._write_file(temporary, data)
            if folder.link_new(temporary, name) or folder.rename_new(temporary, name):
                return
            # No links and no exclusive rename: a crash in here leaves a torn file, which the protocol knows
            # as damaged and writes again, while two racing writers still cannot both win.
            self._write_file(name, data)
            folder.sync_parent(name)
        except FileExistsError:
            # Its writer may have died before this sync; whoever reads the name now relies on it.
            folder.sync_parent(name)
            raise
        finally:
            folder.forget(temporary)

    def _write_file(self, name: str, data: memoryview) -> None:
        fd = self._folder.new_file(name)
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)

    async def put(self, name: str, data: Buffer, sent: Callable[[int], None] | None = None) -> None:
        check_name(name)
        view = memoryview(data).cast("B")
        doing = f"write {self._root}/{name}"
        if await self._run(doing, self._already, name, len(view)):
            return
        temporary = temporary_name(name)
        try:
            with translated(doing), self._told_if_closed():
                await self._write_slices(temporary, view, sent)
            await self._run(doing, self._publish, temporary, name, len(view))
        except asyncio.CancelledError:
            # Not awaited: a verb that was cancelled because the disk hangs must not hang here again.
            if self._threads is not None:
                self._threads.submit(self._folder.forget, temporary)
            raise
        except Exception:
            # Awaited: whoever is told that the disk is full finds the room of what did not fit free again.
            await self._run(doing, self._folder.forget, temporary)
            raise

    async def _write_slices(
        self, temporary: str, view: memoryview, sent: Callable[[int], None] | None
    ) -> None:
        threads = self._pool()

        def opener(name: str, _flags: int) -> int:
            return self._folder.new_file(name)

        async with aiofiles.open(temporary, "xb", buffering=0, opener=opener, executor=threads) as file:
            past_cache = direct.switch_on(file.fileno(), len(view))
            for start in range(0, len(view), SLICE):
                part = view[start : start + SLICE]
                past_cache = await direct.write(file, part, past_cache)
                if sent is not None:
                    sent(len(part))
            await asyncio.get_running_loop().run_in_executor(threads, os.fsync, file.fileno())

    def _already(self, name: str, length: int) -> bool:
        try:
            size = self._folder.size(name)
        except FileNotFoundError:
            return False
        if size != length:
            raise Exists(f"{self._root}/{name} is there with {size} bytes where {length} belong")
        self._folder.sync_parent(name)
        return True

    def _publish(self, temporary: str, name: str, length: int) -> None:
        folder = self._folder
        written = folder.size(temporary)
        if written != length:
            raise Unavailable(f"{self._root}/{temporary} has {written} bytes where {length} were written")
        try:
            if folder.rename_new(temporary, name):
                return
            if folder.link_new(temporary, name):
                folder.forget(temporary)
            else:
                folder.rename_checked(temporary, name)
        except FileExistsError:
            # Another writer was faster. The name says what the bytes are, so the same size will do.
            folder.forget(temporary)
            if not self._already(name, length):
                raise

    async def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        check_name(name)
        doing = f"read {self._root}/{name}"
        try:
            return await self._run(doing, self._read, name, offset, length)
        except Unavailable as fault:
            cause = fault.__cause__
            if (
                isinstance(cause, OSError)
                and cause.errno == errno.EIO
                and await self._run(doing, self._answers)
            ):
                raise Unreadable(
                    fault.what, "is the disk failing? Look at its log, and replace it"
                ) from fault
            raise

    def _answers(self) -> bool:
        """Whether the disk itself, not only the page cache, still gives what every tier has."""
        try:
            fd, size = self._folder.open_object(IDENTITY)
        except OSError:
            return False
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return len(os.pread(fd, size, 0)) == size
        except OSError:
            return False
        finally:
            os.close(fd)

    def _read(self, name: str, offset: int, length: int | None) -> bytes:
        fd, size = self._folder.open_object(name)
        try:
            wanted = max(0, size - offset if length is None else min(length, size - offset))
            first = os.pread(fd, wanted, offset)
            if len(first) == wanted:
                return first
            parts, done = [first], len(first)
            while done < wanted and (part := os.pread(fd, wanted - done, offset + done)):
                parts.append(part)
                done += len(part)
            return b"".join(parts)
        finally:
            os.close(fd)

    async def size(self, name: str) -> int:
        check_name(name)
        return await self._run(f"look at {self._root}/{name}", self._folder.size, name)

    async def list(self, folder: str) -> AsyncIterator[Entry]:
        if folder:
            check_name(folder)
        for entry in await self._run(f"list {self._root}/{folder}", _entries, self._folder, folder):
            yield entry

    async def move(self, source: str, target: str) -> None:
        check_name(source), check_name(target)
        await self._run(f"move {self._root}/{source} to {target}", self._move, source, target)

    def _move(self, source: str, target: str) -> None:
        if not self._folder.rename_new(source, target):
            self._folder.rename_checked(source, target)

    async def delete(self, name: str) -> None:
        check_name(name)
        with suppress(Missing):
            await self._run(f"delete {self._root}/{name}", self._folder.remove, name)

    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None:
            raise Unavailable(f"the folder {self._root} is not open")
        return self._threads

    async def _run(self, doing: str, call: Callable[..., _T], *args: object) -> _T:
        """``call`` in a worker thread, its OSErrors as the project's kinds."""
        with translated(doing), self._told_if_closed():
            return await asyncio.get_running_loop().run_in_executor(self._pool(), call, *args)

    @contextmanager
    def _told_if_closed(self) -> Iterator[None]:
        """What waits inside for a thread leaves with `Unavailable` when somebody else closes the store meanwhile. A
        cancellation of the caller stays one, also where both happen."""
        threads, caller = self._pool(), asyncio.current_task()
        assert caller is not None
        asked = caller.cancelling()  # more than none where a cancelled caller puts things in order
        try:
            yield
        except (asyncio.CancelledError, RuntimeError) as cut:  # what was queued; what came after the end
            if self._threads is threads:
                raise
            if caller.cancelling() > asked:
                raise asyncio.CancelledError from cut
            raise Unavailable(f"the folder {self._root} was closed meanwhile") from cut


def _entries(root: Folder, folder: str) -> list[Entry]:
    entries = []
    with suppress(FileNotFoundError), root.at(folder) as fd, os.scandir(fd) as found:
        for item in found:
            if not valid(item.name):
                continue
            size = object_size(fd, item.name)
            if size is not None:
                entries.append(Entry(item.name, size, False))
            elif item.is_dir(follow_symlinks=False):
                entries.append(Entry(item.name, 0, True))
    return entries
