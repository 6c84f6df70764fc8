"""Makes file trees and big files to back up: seeded, fast, and shaped like what people have.

The same spec gives the same tree, to the byte and to the nanosecond of each mtime. Sizes are log-normal; most
content is text (source-like and log-like, from made-up words) which zstd at level 1 brings to 0.2 to 0.3 of
its size, some is random. Text is cut out of one pool; every few dozen files write it in a letter substitution
of their own, so that files have next to no 1 KiB block in common and deduplication has nothing to gain that a
real tree would not offer. Of metadata there are times, modes and a few symbolic links; tests of metadata make
the rest themselves.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_EPOCH_NS = 1_700_000_000 * 10**9
_FILES_PER_FOLDER = 24
_FILES_PER_ALPHABET = 64
_DEEPEST = 9
_Block = Callable[[random.Random, list[str]], str]
_SOURCE_FORMS = (
    "{0} = {1}.{2}({n})",
    "if {0} is None or {1} > {n}:",
    "for {0} in range({n}):",
    "return self.{0}({1}, {2})",
    "self.{0} = {1}[{n}] + {2}",
    "# {0} {1} {2}",
    "{0}.append(({1}, {2}))",
    'raise ValueError(f"{0} is not {1}: {n}")',
    "",
)
_SUFFIXES = {"source": (".py", ".c", ".h", ".rs", ".js", ".md", ""), "log": (".log", ".csv", ".txt")}


@dataclass(frozen=True)
class TreeSpec:
    """What to make. `count` regular files; sizes in bytes; `random_share` of the files is incompressible."""

    count: int
    seed: int = 1
    median: int = 4 * KIB
    sigma: float = 1.5
    largest: int = 8 * MIB
    random_share: float = 0.04
    pool_bytes: int = 24 * MIB


@dataclass(frozen=True)
class TreeStats:
    """What was made: numbers of entries, and the bytes in regular files."""

    files: int
    folders: int
    links: int
    bytes: int


@dataclass(frozen=True)
class Changes:
    """What `change_some` did: paths relative to the root."""

    rewritten: list[str]
    appended: list[str]
    removed: list[str]
    added: list[str]


def make_tree(root: str, spec: TreeSpec) -> TreeStats:
    """Makes the tree of `spec` in the folder `root`, which must be new or empty."""
    os.makedirs(root, exist_ok=True)
    if os.listdir(root):
        raise FileExistsError(f"not empty: {root}")
    rng = random.Random(spec.seed)
    pool = TextPool(spec.seed, spec.pool_bytes)
    folders = _folders(rng, max(1, spec.count // _FILES_PER_FOLDER))
    shares = _shares(rng, spec.count, len(folders))
    total = links = number = 0
    for relative, share in zip(folders, shares, strict=True):
        folder = os.path.join(root, relative) if relative else root
        os.makedirs(folder, exist_ok=True)
        alphabet, name = b"", ""
        for place in range(share):
            if place % _FILES_PER_ALPHABET == 0:
                alphabet = _alphabet(rng)
            number += 1
            name, size = _make_file(folder, number, rng, spec, pool, alphabet)
            total += size
        if share and rng.random() < 0.1:
            os.symlink(name, os.path.join(folder, "latest"))
            os.utime(os.path.join(folder, "latest"), ns=(_EPOCH_NS, _EPOCH_NS), follow_symlinks=False)
            links += 1
    for relative in reversed(folders):
        when = _EPOCH_NS + rng.randrange(10**16)
        os.utime(os.path.join(root, relative), ns=(when, when))
    return TreeStats(spec.count, len(folders), links, total)


def file_size(rng: random.Random, spec: TreeSpec) -> int:
    """One log-normal size in bytes; a few files are empty, as they are everywhere."""
    if rng.random() < 0.01:
        return 0
    return min(int(rng.lognormvariate(math.log(spec.median), spec.sigma)), spec.largest)


def change_some(root: str, fraction: float, seed: int) -> Changes:
    """Changes about `fraction` of the regular files, four at least: rewrites, appends, removes, adds.

    Depends on the seed and the set of paths only.
    """
    rng = random.Random(seed)
    paths = sorted(relative_files(root))
    picked = rng.sample(paths, min(len(paths), max(4, round(len(paths) * fraction))))
    changes = Changes([], [], [], [])
    for place, relative in enumerate(picked):
        path = os.path.join(root, relative)
        match place % 4:
            case 0:
                _write(path, _words(rng, 400 + rng.randrange(20_000)))
                changes.rewritten.append(relative)
            case 1:
                with open(path, "ab") as file:
                    file.write(_words(rng, 50 + rng.randrange(2_000)))
                changes.appended.append(relative)
            case 2 if len(paths) > 8:
                os.unlink(path)
                changes.removed.append(relative)
            case _:
                fresh = f"{relative}.{seed:x}.{place}"
                _write(os.path.join(root, fresh), rng.randbytes(rng.randrange(12_000)))
                changes.added.append(fresh)
    return changes


def relative_files(root: str) -> Iterator[str]:
    """Paths, relative to `root`, of all regular files below it; in no particular order."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path) and os.path.isfile(path):
                yield os.path.relpath(path, root)


def write_random(path: str, size: int, seed: int) -> None:
    """Writes `size` incompressible bytes (an AES counter stream keyed by the seed), synced to the disk."""
    stream = _stream(random.Random(seed).randbytes(32))
    zeros = bytes(4 * MIB)
    with open(path, "wb") as file:
        left = size
        while left:
            block = stream.update(zeros[: min(left, len(zeros))])
            file.write(block)
            left -= len(block)
        file.flush()
        os.fsync(file.fileno())


def remove_tree(path: str) -> None:
    """Removes a folder or a file; nothing there is no error."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


class TextPool:
    """Seeded text, half source-like, half log-like, to cut files out of. Immutable."""

    def __init__(self, seed: int, size: int) -> None:
        """Makes about `size` bytes of text."""
        rng = random.Random(f"pool {seed}")
        words = _vocabulary(rng, 6_000)
        self._parts = {
            "source": _fill(_source_block, rng, words, size // 2),
            "log": _fill(_log_block, rng, words, size // 2),
        }

    def text(self, kind: str, size: int, rng: random.Random) -> bytes:
        """`size` bytes of text of a kind; longer than the part it repeats with another start."""
        return _slice(self._parts[kind], size, rng)


def _stream(key: bytes) -> CipherContext:
    """An endless source of bytes that no compressor shortens: `update` with zeros."""
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()


def _slice(part: bytes, size: int, rng: random.Random) -> bytes:
    pieces = []
    while size > 0:
        start = rng.randrange(len(part) - 1)
        piece = part[start : start + size]
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _make_file(
    folder: str, number: int, rng: random.Random, spec: TreeSpec, pool: TextPool, alphabet: bytes
) -> tuple[str, int]:
    size = file_size(rng, spec)
    if rng.random() < spec.random_share:
        data, suffix = _stream(rng.randbytes(32)).update(bytes(size)), ".bin"
    else:
        kind = "source" if rng.random() < 0.75 else "log"
        data, suffix = pool.text(kind, size, rng).translate(alphabet), rng.choice(_SUFFIXES[kind])
    name = f"f{number:06d}{suffix}"
    mode = 0o755 if rng.random() < 0.05 else 0o644
    when = _EPOCH_NS + rng.randrange(10**16)
    file = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        os.write(file, data)
        os.utime(file, ns=(when, when))
    finally:
        os.close(file)
    return name, size


def _folders(rng: random.Random, count: int) -> list[str]:
    """Relative paths, parents first; below a recent folder or any, so that depths and fan-outs vary."""
    made = [""]
    depth = {"": 0}
    while len(made) < count:
        parent = made[-1 - int(rng.expovariate(0.2)) % len(made)] if rng.random() < 0.6 else rng.choice(made)
        if depth[parent] >= _DEEPEST:
            continue
        name = f"d{len(made):04d}"
        path = f"{parent}/{name}" if parent else name
        made.append(path)
        depth[path] = depth[parent] + 1
    return made


def _shares(rng: random.Random, files: int, folders: int) -> list[int]:
    """How many files go into each folder: a few big folders, many small ones."""
    weights = [rng.paretovariate(1.3) for _ in range(folders)]
    scale = files / sum(weights)
    shares = [int(weight * scale) for weight in weights]
    for _ in range(files - sum(shares)):
        shares[rng.randrange(folders)] += 1
    return shares


def _alphabet(rng: random.Random) -> bytes:
    """A table for bytes.translate that permutes the small letters and the digits."""
    letters = list(string.ascii_lowercase)
    digits = list(string.digits)
    rng.shuffle(letters)
    rng.shuffle(digits)
    return bytes.maketrans(
        (string.ascii_lowercase + string.digits).encode(), ("".join(letters) + "".join(digits)).encode()
    )


def _vocabulary(rng: random.Random, count: int) -> list[str]:
    starts = ["b", "c", "d", "f", "g", "l", "m", "n", "p", "r", "s", "t", "v", "st", "pr", "tr"]
    middles = ["a", "e", "i", "o", "u", "ai", "ea"]
    ends = ["", *"nrstl"]
    return [
        "".join(rng.choice(starts) + rng.choice(middles) for _ in range(rng.randint(1, 4))) + rng.choice(ends)
        for _ in range(count)
    ]


def _fill(block: _Block, rng: random.Random, words: list[str], size: int) -> bytes:
    blocks: list[bytes] = []
    length = 0
    while length < size:
        blocks.append(block(rng, words).encode())
        length += len(blocks[-1])
    return b"".join(blocks)


def _words(rng: random.Random, size: int) -> bytes:
    """A little text outside of the pool, for changes."""
    words = _vocabulary(rng, 60)
    return " ".join(rng.choices(words, k=size // 5 + 1)).encode()[:size]


def _source_block(rng: random.Random, words: list[str]) -> str:
    """About 3 KiB that looks like a function or two: few names, used again and again, in fixed forms."""
    names = ["_".join(rng.choices(words, k=rng.randint(1, 2))) for _ in range(14)]
    lines = [f"def {names[0]}({names[1]}, {names[2]}):", f'    """{" ".join(rng.choices(words, k=12))}."""']
    while len(lines) < 70:
        indent = "    " * rng.choice((1, 1, 2, 2, 3))
        form = rng.choice(_SOURCE_FORMS)
        lines.append(indent + form.format(*rng.choices(names, k=3), n=rng.randrange(256)))
    return "\n".join(lines) + "\n\n\n"


def _log_block(rng: random.Random, words: list[str]) -> str:
    """About 4 KiB of log lines from a few places, with times that rise."""
    places = [f"{rng.choice(words)}.{rng.choice(words)}" for _ in range(4)]
    messages = [" ".join(rng.choices(words, k=rng.randint(4, 9))) for _ in range(6)]
    when = rng.randrange(86_000)
    lines = []
    for _ in range(45):
        when += rng.randrange(4)
        clock = f"{when // 3600:02d}:{when // 60 % 60:02d}:{when % 60:02d}.{rng.randrange(1000):03d}"
        level = rng.choice(("INFO", "INFO", "INFO", "DEBUG", "WARN"))
        lines.append(
            f"2024-03-{rng.randrange(1, 29):02d} {clock} {level} {rng.choice(places)}: "
            f"{rng.choice(messages)} id={rng.randrange(10**6)} took={rng.randrange(500)}ms"
        )
    return "\n".join(lines) + "\n"
