"""The local blob index: quick, flat in memory, whole after a kill, and honest when damaged (B1, B3)."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest
from tests.support.blobs import PER_FRAME, blob_id, pack_of

from tandem_agent.engine import blobindex
from tandem_agent.engine.blobindex import BlobIndex
from tandem_agent.engine.blobruns import RECORD, Run, encode_record, write_merged, write_records, write_run
from tandem_protocol.errors import Corrupt


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "index")


def filled(folder: str, packs: int = 6, blobs: int = 300) -> BlobIndex:
    index = BlobIndex(folder)
    for number in range(packs):
        index.add_pack(pack_of(number, blobs, number * blobs))
        index._write_delta()
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
    assert index.known(blob_id(3), {1}) and index.known(blob_id(3), {0, 9})
    assert not index.known(blob_id(3), {9}) and not index.known(blob_id(3), set())


def test_a_pack_is_taken_in_once(folder: str) -> None:
    index = filled(folder, 2)
    again = index.add_pack(pack_of(1, 300, 300))
    assert again == index.number_of(pack_of(1, 300, 300).name) == 1 and len(index) == 600
    assert index.number_of(bytes(32)) is None and set(index.pack_names().values()) == {0, 1}


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
    os.makedirs(folder, exist_ok=True)
    key = b"\0\0" + b"k" * 14
    inside = encode_record(b"\0\0" + b"x" * 14, (0, 0, 0, 1))
    path = f"{folder}/across"
    spread = inside[:16] + key + inside[16:]  # the key at offset 16: not where a record begins
    write_run(path, [spread + bytes(16)], [2] + [0] * 65535)
    assert not Run(path).find(key, lambda: None)


def test_lookups_are_quick_and_memory_is_flat(folder: str) -> None:
    """A run of a million records stands for ten: its memory does not depend on its length."""
    count = 1_000_000
    rng = random.Random(3)
    keys = rng.randbytes(16 * count)
    os.makedirs(folder)
    write_records(
        f"{folder}/run-1", [encode_record(keys[i : i + 16], (0, 0, 0, 1)) for i in range(0, 16 * count, 16)]
    )
    tracemalloc.start()
    run = Run(f"{folder}/run-1")
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
    wanted = [keys[16 * i : 16 * i + 16] for i in range(0, count, 10)]
    best = 0.0
    for _ in range(3):
        began = time.process_time()
        for key in wanted:
            run.find(key, lambda: None)
        best = max(best, len(wanted) / (time.process_time() - began))
    assert best > 100_000, f"{best:,.0f} lookups a second"  # 500,000 on a quiet machine


def test_the_dict_becomes_runs_and_runs_are_merged(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobindex, "_DELTA_LIMIT", 100)
    index = BlobIndex(folder)
    for number in range(40):
        index.add_pack(pack_of(number, 100, number * 100))
        assert len(index._delta) == 0
    counts = [run.count for run in index._runs]
    assert sum(counts) == 4000 and len(counts) <= 3
    assert all(older >= 2 * newer for newer, older in itertools.pairwise(counts))
    index.flush()
    assert {name for name in os.listdir(folder) if name.startswith("run")} == {
        os.path.basename(run.path) for run in index._runs
    }
    assert all(index.known(blob_id(blob)) for blob in range(4000))


def test_large_runs_are_merged_group_by_group(folder: str) -> None:
    os.makedirs(folder)
    rng = random.Random(6)
    keys = [rng.randbytes(16) for _ in range(90_000)]
    halves = keys[:50_000], keys[40_000:]
    for number, half in enumerate(halves):
        write_records(f"{folder}/{number}", [encode_record(key, (number, 0, 0, 1)) for key in half])
    write_merged(f"{folder}/both", [Run(f"{folder}/1"), Run(f"{folder}/0")])
    both = Run(f"{folder}/both")
    assert both.count == 100_000
    for at in range(0, 90_000, 7):
        packs = [place[0] for place in both.find(keys[at], lambda: None)]
        assert packs == ([0] if at < 40_000 else [1] if at >= 50_000 else [1, 0])


KILLED = """
import sys
sys.path.insert(0, {cwd!r})
from tests.support.blobs import blob_id, pack_of
from tandem_agent.engine.blobindex import BlobIndex
index = BlobIndex({folder!r})
print("ready", flush=True)
for number in range(len(index.pack_names()), 10000):
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
        count = len(index.pack_names())
        assert count in (done + 1, done + 2) and len(index.segments_seen()) == count
        assert all(index.known(blob_id(blob)) for blob in range(count * 40))
        index.close()


@pytest.mark.parametrize("kind", ["flip", "cut", "gone"])
@pytest.mark.parametrize("name", ["manifest", "packs", "run"])
def test_damage_is_noticed_and_never_answers_wrong(folder: str, name: str, kind: str) -> None:
    """Either opening says `Corrupt`, or a lookup passes the damage over: no answer is wrong."""
    index = filled(folder)
    index.flush()
    truth = {blob: list(index.lookup(blob_id(blob))) for blob in range(1800)}
    index.close()
    path = next(f"{folder}/{found}" for found in sorted(os.listdir(folder)) if found.startswith(name))
    data = Path(path).read_bytes()
    for seed in range(15):
        rng = random.Random(seed)
        hurt = bytearray(data)
        if kind == "flip":
            # Of a run, the records, since its table is all of the first quarter of a mebibyte.
            low = len(data) - 300 * RECORD.size if name == "run" and seed % 2 else 0
            at = rng.randrange(low, len(data))
            hurt[at] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del hurt[rng.randrange(len(data)) :]
        Path(path).write_bytes(hurt)
        if kind == "gone":
            os.unlink(path)
        try:
            index = BlobIndex(folder)
        except Corrupt:
            continue
        if (name, kind) == ("manifest", "gone"):
            assert len(index) == 0
        lost = 0
        for blob, places in truth.items():
            found = list(index.lookup(blob_id(blob)))
            assert set(found) <= set(places)
            lost += found != places
        assert lost <= 1 or len(index) == 0
        index.close()
        if (name, kind) == ("manifest", "gone"):
            break
    BlobIndex.wipe(folder)
    assert len(BlobIndex(folder)) == 0


def test_a_damaged_record_is_told_of(folder: str) -> None:
    index = filled(folder, 1)
    index.flush()
    index.close()
    (path,) = Path(folder).glob("run-*")
    data = bytearray(path.read_bytes())
    at = data.index(blob_id(7)[:16])
    data[at + 17] ^= 4  # the pack number
    path.write_bytes(data)
    index = BlobIndex(folder)
    assert not index.damaged
    assert not index.known(blob_id(7)) and index.damaged


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
