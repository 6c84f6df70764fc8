"""Power cuts (issue 3, Must show 7; trust.md): the cut itself is real, and what Tandem acknowledged
survives it."""

import os
import random
import subprocess
import sys
import tempfile
import time

import pytest
from tests.soak import cuts
from tests.support import powercut
from tests.support.requirements import need

SEED, CUTS = 17, 12
WRITER = """
import os, sys
path, number = sys.argv[1], 0
while True:
    number += 1
    name = f"{path}/{number}"
    handle = os.open(name + ".new", os.O_WRONLY | os.O_CREAT)
    os.write(handle, str(number).encode() * 1000)
    os.fsync(handle)
    os.rename(name + ".new", name)
    folder = os.open(path, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    print(number, flush=True)
"""


@pytest.fixture
def own_folder():
    """Outside of pytest's folders: a mount that a killed run leaves behind must not be in a later run's way."""
    with tempfile.TemporaryDirectory(prefix="tandem-cuts-") as folder:
        yield folder


@pytest.fixture
def disk(own_folder):
    need(powercut.why_not())
    with powercut.CutDisk(own_folder, megabytes=128) as made:
        yield made


def test_what_was_not_synced_is_gone(disk):
    for name, synced in (("kept", True), ("lost", False)):
        with open(os.path.join(disk.root, name), "wb") as file:
            file.write(b"x" * 100_000)
            if synced:
                os.fsync(file.fileno())
                folder = os.open(disk.root, os.O_RDONLY)
                os.fsync(folder)
                os.close(folder)
    disk.cut()
    with pytest.raises(OSError):
        os.open(os.path.join(disk.root, "late"), os.O_WRONLY | os.O_CREAT)
    disk.restore_power()
    assert sorted(os.listdir(disk.root)) == ["kept", "lost+found"]
    assert os.path.getsize(os.path.join(disk.root, "kept")) == 100_000


def test_flush_keeps_what_was_not_synced(disk):
    with open(os.path.join(disk.root, "lucky"), "wb") as file:
        file.write(b"x" * 100_000)
    disk.flush()
    disk.cut()
    disk.restore_power()
    assert os.path.getsize(os.path.join(disk.root, "lucky")) == 100_000


def test_a_program_that_syncs_loses_nothing_it_acknowledged(disk):
    rng = random.Random(11)
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, disk.root],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout.readline() == "1\n"
        time.sleep(rng.uniform(0, 0.1))  # the moment of the cut, not a way to wait for something
        disk.cut()
        process.kill()
        acknowledged = [1, *map(int, process.communicate()[0].split())]
        disk.restore_power()
        for number in acknowledged:
            with open(os.path.join(disk.root, str(number)), "rb") as file:
                assert file.read() == str(number).encode() * 1000
        for name in os.listdir(disk.root):
            if name != "lost+found":
                os.unlink(os.path.join(disk.root, name))
    assert disk.cuts == 5


@pytest.mark.timeout(600)
def test_tandem_loses_nothing_it_acknowledged(own_folder):
    need(powercut.why_not())
    (tally,) = cuts.campaign(own_folder, CUTS, SEED, quick=True)
    assert tally.strikes == CUTS
    assert tally.missed < CUTS / 2
    assert tally.restores >= tally.acknowledged > CUTS - tally.inits
