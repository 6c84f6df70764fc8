"""`python -m bench.sources tree|big PATH AMOUNT SEED`: makes what is backed up, in a process of its own.

Of its own, since the peak memory of a measured command starts with that of the process that started it.
"""

from __future__ import annotations

import sys

from tests.support.treegen import TreeSpec, make_tree, write_random


def main(kind: str, path: str, amount: str, seed: str) -> None:
    """A tree of `amount` files, or a random file of `amount` bytes."""
    if kind == "tree":
        make_tree(path, TreeSpec(int(amount), seed=int(seed)))
    else:
        write_random(path, int(amount), int(seed))


if __name__ == "__main__":
    main(*sys.argv[1:])
