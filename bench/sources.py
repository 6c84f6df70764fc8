"""`python -m bench.sources tree|small|random|image FOLDER AMOUNT SEED` makes what is backed up, `… change FOLDER SEED`
changes 1 % of it, `… compare ONE OTHER` compares folders.

In a process of its own, since the peak memory of a measured command starts with that of the process that
started it.
"""

from __future__ import annotations

import os
import random
import sys

from tests.support import manifest
from tests.support.treegen import KIB, MIB, TextPool, TreeSpec, make_tree, relative_files, write_random

FILE = "file.bin"
SHARE = 100
"""One in so many is changed: of the files in a tree, of the bytes in one large file."""


def main(kind: str, path: str, *arguments: str) -> None:
    """As the command line says; `compare` prints lines that say how two folders differ."""
    if kind == "compare":
        print("\n".join(manifest.differences(manifest.take(path), arguments[0])))
    elif kind == "change":
        change(path, int(arguments[0]))
    else:
        amount, seed = map(int, arguments)
        make(kind, path, amount, seed)


def make(kind: str, path: str, amount: int, seed: int) -> None:
    """A tree of `amount` files like people have or of 4 KiB each; or a folder with one file of `amount` bytes, random
    or like a disk's."""
    os.makedirs(path, exist_ok=True)
    file = os.path.join(path, FILE)
    if kind == "tree":
        make_tree(path, TreeSpec(amount, seed=seed))
    elif kind == "small":
        make_tree(path, TreeSpec(amount, seed=seed, median=4 * KIB, sigma=0.0, largest=4 * KIB))
    elif kind == "random":
        write_random(file, amount, seed)
    else:
        write_image(file, amount, seed)


def write_image(path: str, size: int, seed: int) -> None:
    """A file of extents of 64 KiB to 1 MiB, in turn random and text; no two extents are alike, so that deduplication
    finds nothing that a disk would not offer. Synced."""
    rng = random.Random(f"image {seed}")
    pool = TextPool(seed, 24 * MIB)
    with open(path, "wb") as file:
        left, text = size, False
        while left:
            length = min(left, rng.randrange(16, 257) * 4 * KIB)
            if text:
                kind = rng.choice(("source", "log"))
                file.write(pool.text(kind, length, rng).translate(_letters(rng)))
            else:
                file.write(rng.randbytes(length))
            left, text = left - length, not text
        file.flush()
        os.fsync(file.fileno())


def change(path: str, seed: int) -> None:
    """Changes 1 %: of a tree so many files are written anew or grow, of one large file so many bytes are written
    over in scattered places, 4 KiB to 1 MiB each."""
    rng = random.Random(f"change {seed}")
    file = os.path.join(path, FILE)
    if os.path.exists(file):
        _write_over(file, rng)
        return
    names = sorted(relative_files(path))
    for at, name in enumerate(rng.sample(names, len(names) // SHARE)):
        with open(os.path.join(path, name), "wb" if at % 2 else "ab") as changed:
            changed.write(rng.randbytes(rng.randrange(1, 8 * KIB)))


def _write_over(path: str, rng: random.Random) -> None:
    size = os.path.getsize(path)
    left = size // SHARE
    with open(path, "r+b") as file:
        while left > 0:
            length = min(4 * KIB << rng.randrange(9), size)
            file.seek(rng.randrange(size - length + 1) // (4 * KIB) * (4 * KIB))
            file.write(rng.randbytes(length))
            left -= length


def _letters(rng: random.Random) -> bytes:
    """A table for bytes.translate that permutes the small letters."""
    letters = bytes(range(ord("a"), ord("z") + 1))
    return bytes.maketrans(letters, bytes(rng.sample(letters, len(letters))))


if __name__ == "__main__":
    main(*sys.argv[1:])
