"""The local blob index: quick, flat in memory, whole after a kill, and honest when damaged (B1, B3)."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import msgpack
import pytest
from blake3 import blake3
from tests.support.blobs import PER_FRAME, blob_id, pack_of

from tandem_agent.engine import blobindex
from tandem_agent.engine.blobindex import BlobIndex
from tandem_agent.engine.blobmerge import write_merged, write_records
from tandem_agent.engine.blobruns import KEY, RECORD, SIZE, Run, first_bits, places_of
from tandem_agent.engine.packtable import PackSet
from tandem_protocol.errors import Corrupt
from tandem_protocol.frames import Frame
from tandem_protocol.index import PackEntry


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "index")


def found_in(run: Run, key: bytes) -> list[tuple[int, int, int, int]]:
    return places_of(run.find(key, *first_bits(key)))


def fine() -> None:
    raise AssertionError("damage was told of")


def filled(folder: str, packs: int = 6, blobs: int = 300) -> BlobIndex:
    index = BlobIndex(folder)
    for number in range(packs):
        index.add_pack(pack_of(number, blobs, number * blobs))
        index._write_delta(3)
    return index


@pytest.mark.parametrize("reopened", [False, True])
def test_every_blob_is_found_where_it_is(folder: str, reopened: bool) -> None:
    index = filled(folder)
    index.add_pack(pack_of(6, 120, 1800))
    if reopened:
        index.flush()
        index.close()
        index = BlobIndex(folder)
    assert len(index) == 1920
    entries = [pack_of(number, 300 if number < 6 else 120, number * 300) for number in range(7)]
    for blob in range(1920):
        ((pack, frame, offset, length),) = index.lookup(blob_id(blob))
        found = index.pack(pack)
        entry = entries[pack]
        assert (found.name, found.size, found.revision, found.kind, found.key_number) == (
            entry.name, entry.size, entry.revision, entry.kind, entry.key_number
        )  # fmt: skip
        own = entry.frames[frame]
        at = blob % 300 % PER_FRAME
        assert own.ids[32 * at : 32 * at + 32] == blob_id(blob)
        assert (offset, length) == (sum(own.lengths[:at]), own.lengths[at])
        plain = index.frame(pack, frame)
        assert (plain.offset, plain.sealed_length, plain.raw_length, plain.codec, plain.dictionary) == (
            own.offset, own.sealed_length, own.raw_length, own.codec, own.dictionary
        )  # fmt: skip
        assert plain.frame_id == own.frame_id
    assert not list(index.lookup(blob_id(5000))) and not index.known(blob_id(5000))


def test_several_places_and_only_eligible_ones_count(folder: str) -> None:
    index = BlobIndex(folder)
    for number in range(3):
        index.add_pack(pack_of(number, 10))
        if number == 1:
            index.flush()
    assert sorted(place[0] for place in index.lookup(blob_id(3))) == [0, 1, 2]
    index.flush()
    assert sorted(place[0] for place in index.lookup(blob_id(3))) == [0, 1, 2]
    eligible = PackSet()
    assert not index.known(blob_id(3), eligible)
    eligible.include(9)
    assert not index.known(blob_id(3), eligible)
    eligible.include(1)
    assert index.known(blob_id(3), eligible) and eligible == PackSet(b"\0\1\0\0\0\0\0\0\0\1")


def test_a_pack_is_taken_in_once(folder: str) -> None:
    index = filled(folder, 2)
    again = index.add_pack(pack_of(1, 300, 300))
    assert again == index.number_of(pack_of(1, 300, 300).name) == 1 and len(index) == 600
    assert index.number_of(bytes(32)) is None
    assert list(index.pack_names()) == [pack_of(number, 1).name for number in range(2)]


def test_segments_are_remembered_once_flushed(folder: str) -> None:
    index = BlobIndex(folder)
    index.add_segment(b"s" * 32, [pack_of(0, 10), pack_of(1, 10, 10)])
    index.flush()
    index.add_segment(b"t" * 32, [pack_of(2, 10, 20)])
    index.close()
    index = BlobIndex(folder)
    assert index.segments_seen() == {b"s" * 32}
    assert index.known(blob_id(12)) and not index.known(blob_id(22))
    assert index.number_of(pack_of(2, 10, 20).name) is None


def test_a_similar_id_is_not_the_same(folder: str) -> None:
    """The first 16 bytes decide, wherever in a group they stand; a match across records is none."""
    index = filled(folder, 1)
    for blob in range(300):
        name = blob_id(blob)
        assert not index.known(name[:15] + bytes([name[15] ^ 1]) + name[16:])
    across = b"ab" + bytes(14)  # the last bytes of one record and the first of the next
    records = [RECORD.pack(bytes(16), 0, 0, 0, 0x62610000), RECORD.pack(bytes(15) + b"\1", 1, 0, 0, 2)]
    write_records(f"{folder}/across", records)
    assert across in records[0] + records[1]
    assert found_in(Run(f"{folder}/across", fine), across) == []
    write_records(f"{folder}/both", [*records, RECORD.pack(across, 2, 0, 0, 3)])
    assert found_in(Run(f"{folder}/both", fine), across) == [(2, 0, 0, 3)]


def test_memory_is_flat(folder: str) -> None:
    """A run of a million records stands for ten: its memory does not depend on its length."""
    count = 1_000_000
    keys = random.Random(3).randbytes(KEY * count)
    os.makedirs(folder)
    write_records(
        f"{folder}/run-1",
        [RECORD.pack(keys[i : i + KEY], 0, 0, 0, 1) for i in range(0, KEY * count, KEY)],
    )
    tracemalloc.start()
    run = Run(f"{folder}/run-1", fine)
    for at in range(0, KEY * count, KEY * 1000):
        assert found_in(run, keys[at : at + KEY]) == [(0, 0, 0, 1)]
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_the_dict_becomes_runs_and_runs_are_merged(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobindex, "_DELTA_LIMIT", 100)
    index = BlobIndex(folder)
    for number in range(40):
        index.add_pack(pack_of(number, 100, number * 100))
        assert len(index._delta) == 0
    counts = [run.count for run in index._runs]
    assert len(counts) <= blobindex._MOST_UNMERGED
    index.flush()
    counts = [run.count for run in index._runs]
    assert len(index) == sum(counts) - 40 == 4000 and len(counts) <= 3
    assert all(older >= 2 * newer for older, newer in itertools.pairwise(counts))
    assert {name for name in os.listdir(folder) if name.startswith("run")} == {
        os.path.basename(run.path) for run in index._runs
    }
    assert all(index.known(blob_id(blob)) for blob in range(4000))


def test_what_is_new_is_not_looked_for_in_runs_of_this_process(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nearly all is new every run would be asked in vain; those from before are, and what is known is found."""
    first = filled(folder, 2)
    first.flush()
    first.close()
    monkeypatch.setattr(blobindex, "_DELTA_LIMIT", 300)
    index = BlobIndex(folder)
    before = {run.path for run in index._runs}
    asked: list[str] = []
    find = Run.find

    def counted(run: Run, key: bytes, beginning: int) -> bytes:
        asked.append(run.path)
        return find(run, key, beginning)

    monkeypatch.setattr(Run, "find", counted)
    for number in range(2, 6):
        index.add_pack(pack_of(number, 300, number * 300))
    assert len(index._runs) == len(before) + 4
    asked.clear()
    assert not any(index.known(blob_id(blob)) for blob in range(5000, 5100))
    assert set(asked) == before
    assert all(index.known(blob_id(blob)) for blob in range(1800))
    while len(index._runs) > len(before):  # until one from before is merged with what is new
        number += 1
        index.add_pack(pack_of(number, 300, number * 300))
    assert all(index.known(blob_id(blob)) for blob in range((number + 1) * 300))
    index.flush()
    assert all(index.known(blob_id(blob)) for blob in range((number + 1) * 300))
    index.add_pack(pack_of(number + 1, 300, (number + 1) * 300))
    assert all(index.known(blob_id(blob)) for blob in range((number + 2) * 300))


def write_packs(path: str, packs: dict[int, list[bytes]]) -> Run:
    """A run in which each of the packs, by number, has the blobs of these keys."""
    write_records(path, [RECORD.pack(key, number, 0, 0, 1) for number, keys in packs.items() for key in keys])
    return Run(path, fine)


@pytest.mark.parametrize("counts", [(90_000, 50_000), (90_000, 3), (40, 0), (1, 1), (0, 0)])
def test_runs_are_merged_part_by_part(folder: str, counts: tuple[int, int]) -> None:
    """Also a run so small that it has fewer groups than there are parts, with a blob that both have."""
    os.makedirs(folder)
    rng = random.Random(6)
    old, new = ([rng.randbytes(KEY) for _ in range(count)] for count in counts)
    new += old[:1]
    runs = [write_packs(f"{folder}/new", {1: new}), write_packs(f"{folder}/old", {0: old})]
    write_merged(f"{folder}/both", runs)
    both = Run(f"{folder}/both", fine)
    assert both.count == len(old) + len(new)
    assert all(found_in(both, key) == [(0, 0, 0, 1)] for key in old[1::7])
    assert all(found_in(both, key) == [(1, 0, 0, 1)] for key in new[: counts[1] : 7])
    assert not old or sorted(place[0] for place in found_in(both, old[0])) == [0, 1]
    data = b"".join(both.parts(0))
    assert data == b"".join(sorted(data[at : at + SIZE] for at in range(0, len(data), SIZE)))


def test_what_is_damaged_is_not_merged_as_good(folder: str) -> None:
    """Its checksum is made again for the new run, so it has to be looked at before."""
    os.makedirs(folder)
    told: list[int] = []
    keys = [random.Random(number).randbytes(KEY) for number in range(2000)]
    write_packs(f"{folder}/old", {0: keys})
    data = bytearray(Path(f"{folder}/old").read_bytes())
    data[data.index(keys[70]) + KEY] ^= 1  # the pack number
    Path(f"{folder}/old").write_bytes(data)
    old = Run(f"{folder}/old", lambda: told.append(1))
    write_merged(f"{folder}/both", [old, write_packs(f"{folder}/new", {1: [bytes(KEY)]})])
    both = Run(f"{folder}/both", fine)
    found = [found_in(both, key) for key in keys]
    assert told and found[70] == [] and found.count([]) < 40
    assert all(places in ([], [(0, 0, 0, 1)]) for places in found)
    assert found_in(both, bytes(KEY)) == [(1, 0, 0, 1)]


KILLED = """
import sys
sys.path.insert(0, {cwd!r})
from tests.support.blobs import blob_id, pack_of
from tandem_agent.engine.blobindex import BlobIndex
index = BlobIndex({folder!r})
print("ready", flush=True)
for number in range(len(list(index.pack_names())), 10000):
    index.add_segment(blob_id(2 << 40 | number), [pack_of(number, 40, number * 40)])
    index.flush()
    print(number, flush=True)
"""


def kill_after(lines: int, folder: str) -> list[int]:
    """Run the child until it has printed ``lines`` numbers, kill it; gives all that it printed."""
    source = KILLED.format(cwd=os.getcwd(), folder=folder)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", source], stdout=pipe, stderr=pipe, text=True) as child:
        assert child.stdout is not None and child.stderr is not None
        first = [child.stdout.readline() for _ in range(lines + 1)]
        child.send_signal(signal.SIGKILL)
        said = [*"".join(first).split(), *child.stdout.read().split()]
        assert said[:1] == ["ready"], child.stderr.read()
    return list(map(int, said[1:]))


def test_a_kill_leaves_what_was_flushed(folder: str) -> None:
    rng = random.Random(8)
    for _ in range(5):
        done = kill_after(rng.randrange(1, 12), folder)[-1]
        index = BlobIndex(folder)
        count = len(list(index.pack_names()))
        assert count in (done + 1, done + 2) and len(index.segments_seen()) == count
        assert all(index.known(blob_id(blob)) for blob in range(count * 40))
        index.close()


IDS = [blob_id(number) for number in range(1800)]
Truth = list[tuple[list[tuple[int, int, int, int]], PackEntry, Frame]]


def answers(index: BlobIndex) -> Truth:
    """All that it says of each blob; nothing of those that it does not find, or finds damage for."""
    said: Truth = []
    for blob in IDS:
        for place in (places := list(index.lookup(blob))):
            with contextlib.suppress(Corrupt):
                said.append((places, index.pack(place[0]), index.frame(*place[:2])))
    return said


@pytest.mark.parametrize("kind", ["flip", "cut", "gone"])
@pytest.mark.parametrize("name", ["manifest", "packs", "frames", "run"])
def test_damage_is_noticed_and_never_answers_wrong(folder: str, name: str, kind: str) -> None:
    """Either opening says `Corrupt`, or lookups pass the damage over and the next open begins afresh."""
    index = filled(folder)
    index.flush()
    truth = answers(index)
    index.close()
    noticed = 0
    for seed in range(15):
        rng = random.Random(seed)
        hurt = f"{folder}-{seed}"
        shutil.copytree(folder, hurt)
        path = next(f"{hurt}/{found}" for found in sorted(os.listdir(hurt)) if found.startswith(name))
        data = bytearray(Path(path).read_bytes())
        if kind == "flip":
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del data[rng.randrange(len(data)) :]
        Path(path).write_bytes(data)
        if kind == "gone":
            os.unlink(path)
        try:
            index = BlobIndex(hurt)
        except Corrupt:
            noticed += 1
            BlobIndex.wipe(hurt)
        else:
            said = answers(index)
            assert all(answer in truth for answer in said)
            assert len(said) < len(truth)
            noticed += index.damaged
            index.close()
        index = BlobIndex(hurt)
        assert len(index) == 0 and index.segments_seen() == set()
        index.close()
    assert noticed == (0 if (name, kind) == ("manifest", "gone") else 15)


@pytest.mark.parametrize("field", [0, KEY])
def test_a_damaged_record_is_told_of(folder: str, field: int) -> None:
    """Its id, which makes it one that is not there, or its pack number."""
    index = filled(folder, 1)
    index.add_segment(b"s" * 32, [])
    index.flush()
    index.close()
    (path,) = Path(folder).glob("run-*")
    data = bytearray(path.read_bytes())
    data[data.index(blob_id(7)[:16]) + field] ^= 4
    path.write_bytes(data)
    index = BlobIndex(folder)
    assert not index.damaged
    assert not index.known(blob_id(7)) and not index.lookup(blob_id(7)) and index.damaged
    index.close()
    index = BlobIndex(folder)
    assert len(index) == 0 and not index.damaged and not index.segments_seen()


def test_an_index_of_another_form_is_begun_afresh(folder: str) -> None:
    index = filled(folder)
    index.flush()
    index.close()
    body = msgpack.packb(
        {"version": 2, "runs": ["run-1"], "next": 2, "packs": 6, "length": 9, "segments": []}
    )
    Path(folder, "manifest").write_bytes(blake3(body).digest(length=16) + body)
    assert len(BlobIndex(folder)) == 0
    assert sorted(os.listdir(folder)) == ["frames", "packs"]


def test_who_still_reads_is_not_disturbed_by_a_new_beginning(folder: str) -> None:
    """A restore reads on, beside one who found damage and makes the index again."""
    reading = filled(folder)
    reading.flush()
    truth = answers(reading)
    os.unlink(f"{folder}/manifest")
    other = BlobIndex(folder)
    other.add_pack(pack_of(99, 300, 5000))
    other.flush()
    assert answers(reading) == truth and len(truth) == 1800


def test_lookups_go_on_while_packs_are_added(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobindex, "_DELTA_LIMIT", 200)
    index = BlobIndex(folder)
    added = 0
    wrong: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        rng = random.Random(1)
        while not stop.is_set():
            if added:
                blob = rng.randrange(added)
                if not index.known(blob_id(blob)):
                    wrong.append(blob)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for number in range(60):
            index.add_pack(pack_of(number, 50, number * 50))
            added = number * 50 + 50
            if number % 20 == 19:
                index.flush()
    finally:
        stop.set()
        asking.join()
    assert wrong == []
