"""Whether a place creates a name once and only once: what the whole protocol stands on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial

from tandem_protocol import names
from tandem_protocol.errors import Exists, Refused
from tandem_protocol.replicate import in_parallel
from tandem_protocol.store import Store

ROUNDS = 4


async def prove_exclusive(name: str, make: Callable[[], Store]) -> None:
    """Have two connections create the same name at once, several times. `Refused` unless exactly one wins each
    time: two installations could otherwise both believe that they may write. ``name``: the tier's, for people."""
    stores = [make(), make()]
    try:
        for store in stores:  # the first may make the folder
            await store.open()
        await in_parallel(stores[0].parallel, [partial(_race, name, stores)] * ROUNDS)
    finally:
        await asyncio.gather(*(store.close() for store in stores))


async def _race(name: str, stores: Sequence[Store]) -> None:
    path = f"{names.TMP}/once-{os.urandom(8).hex()}"
    won = await asyncio.gather(*(_creates(store, path, n) for n, store in enumerate(stores)))
    found = await stores[0].read(path)
    await stores[0].delete(path)
    if sum(won) != 1 or found != _content(won.index(True)):
        raise Refused(
            f"tier {name}: two connections could create the same name there",
            "this server cannot be a tier; use another one, or another protocol to it",
        )


async def _creates(store: Store, path: str, number: int) -> bool:
    try:
        await store.create(path, _content(number))
    except Exists:
        return await store.read(path) == _content(number)  # ours, if only the reply was lost
    return True


def _content(number: int) -> bytes:
    return b"connection %d" % number
