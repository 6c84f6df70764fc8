"""`python -m bench.sources tree|big PATH AMOUNT SEED` makes what is backed up, `… compare ONE OTHER`
compares folders.

In a process of its own, since the peak memory of a measured command starts with that of the process that
started it.
"""

from __future__ import annotations

import sys

from tests.support import manifest
from tests.support.treegen import TreeSpec, make_tree, write_random


def main(kind: str, path: str, *arguments: str) -> None:
    """A tree of so many files, a random file of so many bytes, or lines that say how two folders differ."""
    if kind == "compare":
        print("\n".join(manifest.differences(manifest.take(path), arguments[0])))
        return
    amount, seed = map(int, arguments)
    if kind == "tree":
        make_tree(path, TreeSpec(amount, seed=seed))
    else:
        write_random(path, amount, seed)


if __name__ == "__main__":
    main(*sys.argv[1:])
