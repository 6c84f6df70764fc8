"""Writing past the page cache loses no byte, whatever the memory and the length (issue 3: speed to a vault)."""

from __future__ import annotations

import mmap
import os
import random

import pytest

from tandem_protocol.stores import direct
from tandem_protocol.stores.directory import DirectoryStore

LENGTHS = [0, 1, direct.SMALLEST - 1, direct.SMALLEST, direct.SMALLEST + 1, (5 << 20) + 4096, (9 << 20) + 777]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("skew", [0, 1, 512])
async def test_every_byte_arrives(tmp_path, length, skew):
    memory = mmap.mmap(-1, length + skew + 1)
    memory[:] = random.Random(length).randbytes(len(memory))
    view = memoryview(memory)[skew : skew + length]
    store = DirectoryStore(str(tmp_path))
    await store.open()
    try:
        told: list[int] = []
        await store.put("packs/aa/x", view, told.append)
        assert await store.read("packs/aa/x") == bytes(view)
        assert sum(told) == length
    finally:
        await store.close()


async def test_a_short_write_goes_on_through_the_cache(tmp_path):
    class Short:
        def __init__(self, fd: int) -> None:
            self.fd = fd
            self.first = True

        def fileno(self) -> int:
            return self.fd

        async def write(self, data: memoryview) -> int:
            wanted, self.first = (4096 if self.first else len(data)), False
            return os.write(self.fd, data[:wanted])

    memory = mmap.mmap(-1, 2 << 20)
    memory[:] = random.Random(1).randbytes(len(memory))
    fd = os.open(tmp_path / "x", os.O_CREAT | os.O_WRONLY)
    try:
        on = direct.switch_on(fd, len(memory))
        assert not await direct.write(Short(fd), memoryview(memory), on)
    finally:
        os.close(fd)
    assert (tmp_path / "x").read_bytes() == memory[:]
