"""Batches become frames, frames become packs, and each blob is stored once (issue 3; C6; storage.md, Content)."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from tests.support.enginerun import EngineRepo
from tests.support.formats import verify_pack

from tandem_agent.engine.channel import Channel, Stopped
from tandem_agent.engine.packer import Packer, Pool, RunIds
from tandem_protocol.envelope import DocType
from tandem_protocol.keys import KeyRing
from tandem_protocol.pack import DEFAULT_CAPACITY, SMALL_FILE, TARGET_FRAME, SealedPack
from tandem_protocol.seal import content_id


@pytest.fixture
def repo(tmp_path: Path) -> EngineRepo:
    (tmp_path / "own").mkdir()
    return EngineRepo(tmp_path / "own", workers=1)


async def test_small_files_share_frames_in_order_and_large_chunks_have_their_own(
    repo: EngineRepo, tmp_path: Path
) -> None:
    src = tmp_path / "src"
    src.mkdir()
    rng = random.Random(4)
    for i in range(300):
        (src / f"f{i:03}").write_bytes(rng.randbytes(rng.randrange(1, 20_000)))
    (src / "edge").write_bytes(rng.randbytes(SMALL_FILE - 1))
    (src / "g_large").write_bytes(rng.randbytes(3_000_000))
    result = await repo.run(src)
    tree = repo.tree(result, src)
    data = [pack for pack in repo.last_packs if pack.kind is DocType.DATA_PACK]
    trees = [pack for pack in repo.last_packs if pack.kind is DocType.TREE_PACK]
    assert len(data) == len(trees) == 1
    shared = [frame for frame in data[0].frames if len(frame.lengths) > 1]
    assert all(frame.raw_length <= TARGET_FRAME for frame in shared)
    assert all(frame.raw_length > TARGET_FRAME - SMALL_FILE for frame in shared[:-1])
    order = b"".join(frame.ids for frame in shared)
    small = b"".join(tree[name].entry[8] for name in sorted(tree) if tree[name].entry[7] < SMALL_FILE)
    assert order == small
    chunks = tree[b"g_large"].entry[8]
    alone = [frame.ids for frame in data[0].frames if len(frame.lengths) == 1]
    assert set(alone) >= {chunks[at : at + 32] for at in range(0, len(chunks), 32)}


async def test_packs_are_full_but_never_too_large(repo: EngineRepo, tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    (src / "random").write_bytes(random.Random(1).randbytes(70 << 20))
    await repo.run(src)
    sizes = [len(pack.data) for pack in repo.last_packs if pack.kind is DocType.DATA_PACK]
    assert len(sizes) == 3 and max(sizes) <= DEFAULT_CAPACITY
    assert min(sizes[:2]) > DEFAULT_CAPACITY - (5 << 20)


async def test_equal_content_is_stored_once(repo: EngineRepo, tmp_path: Path) -> None:
    repo.workers = 3
    src = tmp_path / "src"
    src.mkdir()
    small, large = random.Random(1).randbytes(5000), random.Random(2).randbytes(6_000_000)
    for i in range(20):
        (src / f"s{i}").write_bytes(small)
        (src / f"t{i}").write_bytes(large)
    result = await repo.run(src)
    stored = [
        frame.ids[at : at + 32]
        for p in repo.last_packs
        for frame in p.frames
        for at in range(0, len(frame.ids), 32)
    ]
    assert len(stored) == len(set(stored))
    assert result.stats["bytes_stored"] < 6_200_000
    assert all(
        seen.data == (small if name[:1] == b"s" else large) for name, seen in repo.tree(result, src).items()
    )


def test_packs_verify_and_buffers_are_used_again() -> None:
    ring = KeyRing.generate(bytes(16))
    pool = Pool(DEFAULT_CAPACITY, 1)
    packs: list[bytes] = []

    def deliver(pack: SealedPack) -> None:
        data = bytes(pack.data)
        assert [f.ids for f in verify_pack(ring, data).frames] == [f.ids for f in pack.frames]
        packs.append(data)
        pool.give(memoryview(pack.buffer))

    packer = Packer(ring, DocType.DATA_PACK, pool, deliver)
    rng = random.Random(1)
    for _ in range(18):
        blob = rng.randbytes(4 << 20)
        packer.add(blob, content_id(ring.content_id_key[1], blob), [len(blob)])
    packer.finish()
    packer.finish()
    assert len(packs) == 3


def test_only_one_thread_stores_a_blob() -> None:
    ids = RunIds(lambda name: name.startswith(b"old"))
    won: list[bytes] = []
    names = [b"%032d" % i for i in range(3000)]
    start = threading.Barrier(4)

    def claim() -> None:
        start.wait()
        for name in names:
            if ids.claim(bytes(bytearray(name))):
                won.append(name)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == names
    assert not ids.claim(b"old one") and ids.has(names[0]) and not ids.has(b"new")


async def test_ids_of_a_pack_are_forgotten_once_the_index_has_them(tmp_path: Path) -> None:
    stored: set[bytes] = set()
    ids = RunIds(stored.__contains__)
    ring = KeyRing.generate(bytes(16))
    blob = b"blob" * 100
    name = content_id(ring.content_id_key[1], blob)
    packs: list[SealedPack] = []
    packer = Packer(ring, DocType.DATA_PACK, Pool(DEFAULT_CAPACITY, 1), packs.append)
    assert ids.claim(name)
    packer.add(blob, name, [len(blob)])
    packer.finish()
    ids.handed_over(packs[0])
    assert ids._claimed, "nobody else knows it yet"
    stored.add(name)
    ids.handed_over(packs[0])
    assert not ids._claimed and not ids.claim(name)


def test_a_channel_ends_and_stops() -> None:
    channel: Channel[int] = Channel(2)
    channel.put(1)
    channel.end()
    assert (channel.get(), channel.get()) == (1, None)
    full: Channel[int] = Channel(1)
    full.put(1)
    raised: list[bool] = []

    def put() -> None:
        try:
            full.put(2)
        except Stopped:
            raised.append(True)

    waiting = threading.Thread(target=put)
    waiting.start()
    full.stop()
    waiting.join(5)
    assert raised == [True]
    with pytest.raises(Stopped):
        full.get()


def test_a_pool_hands_out_what_comes_back_and_stops() -> None:
    pool = Pool(10, 2)
    first, _ = pool.take(), pool.take()
    first[0] = 7
    pool.give(first)
    assert pool.take()[0] == 7
    pool.stop()
    with pytest.raises(Stopped):
        pool.take()
