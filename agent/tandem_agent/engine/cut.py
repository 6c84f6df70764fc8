"""Content-defined cutting of large files: FastCDC with the repository's own gear seed.

Where a cut falls depends only on the bytes since the cut before it, never on how the file was read: see
`Cutter.lengths`. Reading files and naming chunks is not done here.
"""

from __future__ import annotations

from pyfastcdc import FastCDC

MIN_CHUNK = 256 << 10
AVERAGE_CHUNK = 1 << 20
MAX_CHUNK = 4 << 20


class Cutter:
    """Cuts buffers. For one thread at a time."""

    def __init__(self, gear_seed: int) -> None:
        """``gear_seed``: 64 bits from the key ring, because chunk lengths would be a fingerprint otherwise."""
        # The library doubles the seed in 64 bits and refuses one whose doubling overflows.
        seed = gear_seed & (2**63 - 1)
        self._cdc = FastCDC(AVERAGE_CHUNK, min_size=MIN_CHUNK, max_size=MAX_CHUNK, seed=seed)

    def lengths(self, view: memoryview, last: bool) -> list[int]:
        """Lengths of the chunks that begin at the start of ``view``.

        Unless ``last``, a chunk that ends with ``view`` is left out: more bytes might move its end. The
        caller puts what is left in front of the next bytes. A view of at least `MAX_CHUNK` always gives
        a chunk.
        """
        found = [chunk.length for chunk in self._cdc.cut_buf(view)]
        if not last and found and found[-1] != MAX_CHUNK:
            found.pop()
        return found
