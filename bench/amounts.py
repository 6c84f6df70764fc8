"""How much work a run does, what it needs on the disk, and which source each group reads. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SPARE_BYTES = 1 << 30
TREE_FILE = 14_000
"""What a file of the tree takes on a disk on average, blocks counted."""

SMALL_FILE = 4_600
"""The same for one of 4 KiB, with its inode."""

SOURCES = {
    "tree": ("tree",),
    "image": ("image",),
    "million": ("tenth", "million"),
    "big": ("big",),
    "sftp": ("big", "far"),
    "both": ("big", "narrow"),
    "mirror": ("big",),
}
"""By group, in the order in which groups run: the sources that it reads."""


@dataclass(frozen=True)
class Amounts:
    """Files in the tree and in the group of small files; bytes in the random file, the disk image, the file that goes
    over a far line and the one that goes over a narrow line; backups in a history; chunks in an index; rounds; seed of
    all sources; by which number the million of generated objects is divided."""

    files: int = 100_000
    big: int = 2 << 30
    image: int = 4 << 30
    far: int = 1 << 30
    narrow: int = 512 << 20
    million: int = 1_000_000
    history: int = 1_000
    chunks: int = 10_000_000
    rounds: int = 3
    seed: int = 1
    shrink: int = 1

    def source(self, kind: str) -> tuple[str, int]:
        """What `bench.sources` is asked for: the form of a source, and files or bytes in it."""
        return {
            "tree": ("tree", self.files),
            "tenth": ("small", self.million // 10),
            "million": ("small", self.million),
            "image": ("image", self.image),
            "big": ("random", self.big),
            "far": ("random", self.far),
            "narrow": ("random", self.narrow),
        }[kind]

    def disk(self, groups: Iterable[str]) -> int:
        """About how many bytes are needed at the worst moment."""
        needs = {
            "tree": self.files * TREE_FILE * 4,
            "image": self.image * 5,
            "million": self.million * SMALL_FILE * 5 // 2,
            "big": self.big * 5,
            "sftp": self.big * 2 + self.far * 2,
            "both": self.big * 3 + self.narrow * 3,
            "mirror": self.big * 4,
        }
        return max((needs.get(group, 0) for group in groups), default=0) + SPARE_BYTES


QUICK = Amounts(
    files=5_000,
    big=128 << 20,
    image=128 << 20,
    far=16 << 20,
    narrow=32 << 20,
    million=20_000,
    history=30,
    chunks=200_000,
    rounds=1,
    shrink=20,
)


def needed_later(groups: Iterable[str]) -> set[str]:
    """The sources that these groups read."""
    return {kind for group in groups for kind in SOURCES.get(group, ())}
