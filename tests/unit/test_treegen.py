"""The generator of the tree of 100,000 files (issue 3, Must show 2): same seed, same tree; its shape."""

import math
import os
import random
import statistics

import pytest
import zstandard
from tests.support import manifest, treegen

SPEC = treegen.TreeSpec(1_500, seed=7, pool_bytes=2 * treegen.MIB)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("tree") / "root")
    return root, treegen.make_tree(root, SPEC)


def read(root, relative):
    with open(os.path.join(root, relative), "rb") as file:
        return file.read()


def test_same_seed_same_tree(tree, tmp_path):
    treegen.make_tree(str(tmp_path / "again"), SPEC)
    assert manifest.differences(manifest.take(tree[0]), str(tmp_path / "again")) == []


def test_other_seed_other_tree(tree, tmp_path):
    treegen.make_tree(str(tmp_path / "other"), treegen.TreeSpec(1_500, seed=8, pool_bytes=2 * treegen.MIB))
    assert manifest.differences(manifest.take(tree[0]), str(tmp_path / "other"))


def test_counts_and_refusal_of_a_full_folder(tree):
    root, stats = tree
    files = list(treegen.relative_files(root))
    assert stats.files == len(files) == 1_500
    assert stats.bytes == sum(os.path.getsize(os.path.join(root, name)) for name in files)
    assert stats.links == sum(os.path.islink(os.path.join(at, n)) for at, _, ns in os.walk(root) for n in ns)
    with pytest.raises(FileExistsError):
        treegen.make_tree(root, SPEC)


def test_sizes_are_log_normal():
    rng = random.Random(3)
    spec = treegen.TreeSpec(1)
    sizes = [treegen.file_size(rng, spec) for _ in range(20_000)]
    logs = [math.log(size) for size in sizes if size]
    assert 3_600 < statistics.median(sizes) < 4_500
    assert 1.4 < statistics.stdev(logs) < 1.6
    assert max(sizes) <= spec.largest
    assert min(sizes) == 0


def test_text_compresses_as_sources_do(tree):
    root, _ = tree
    names = sorted(name for name in treegen.relative_files(root) if not name.endswith(".bin"))
    text = b"".join(read(root, name) for name in names)
    frames = [text[at : at + treegen.MIB] for at in range(0, len(text), treegen.MIB)]
    stored = sum(len(zstandard.ZstdCompressor(level=1).compress(frame)) for frame in frames)
    assert 0.2 < stored / len(text) < 0.3


def test_hardly_any_block_twice(tree):
    root, _ = tree
    blocks = []
    for name in treegen.relative_files(root):
        data = read(root, name)
        blocks += [data[at : at + 1024] for at in range(0, len(data) - 1023, 1024)]
    assert len(blocks) - len(set(blocks)) < len(blocks) * 0.01


def test_depths_and_fan_outs_vary(tmp_path):
    root = str(tmp_path / "tree")
    treegen.make_tree(root, treegen.TreeSpec(3_000, pool_bytes=treegen.MIB, median=16, sigma=0.1))
    depths = {name.count("/") for name in treegen.relative_files(root)}
    fans = [len(names) for _, _, names in os.walk(root)]
    assert max(depths) >= 5
    assert max(fans) > 100
    assert sum(0 < fan < 20 for fan in fans) > 30


def test_change_some_is_seeded_and_does_each_kind(tmp_path):
    spec = treegen.TreeSpec(200, pool_bytes=treegen.MIB)
    roots = [str(tmp_path / name) for name in ("a", "b")]
    for root in roots:
        treegen.make_tree(root, spec)
    before = {name: read(roots[0], name) for name in treegen.relative_files(roots[0])}
    first, second = (treegen.change_some(root, 0.1, seed=5) for root in roots)
    assert first == second
    after = {name: read(roots[0], name) for name in treegen.relative_files(roots[0])}
    assert {name: read(roots[1], name) for name in treegen.relative_files(roots[1])} == after
    changed = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    assert changed == {*first.rewritten, *first.appended}
    assert before.keys() - after.keys() == set(first.removed)
    assert after.keys() - before.keys() == set(first.added)
    assert all((first.rewritten, first.appended, first.removed, first.added))


def test_write_random(tmp_path):
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    treegen.write_random(one, 5 * treegen.MIB + 17, seed=1)
    treegen.write_random(two, 5 * treegen.MIB + 17, seed=1)
    data = read(tmp_path, "one")
    assert data == read(tmp_path, "two")
    assert len(data) == 5 * treegen.MIB + 17
    assert len(zstandard.ZstdCompressor(level=1).compress(data)) > len(data)


def test_manifest_sees_each_difference(tmp_path):
    root = tmp_path / "root"
    treegen.make_tree(str(root), treegen.TreeSpec(30, pool_bytes=treegen.MIB))
    before = manifest.take(str(root))
    name = sorted(treegen.relative_files(str(root)))[3]
    path = os.path.join(root, name)
    times = os.lstat(path)
    with open(path, "r+b") as file:
        file.write(b"\x00")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert len(manifest.differences(before, str(root))) == 1
    os.chmod(path, 0o600)
    assert "0600" in manifest.differences(before, str(root))[0]
    assert manifest.differences(before, str(tmp_path / "missing"))
