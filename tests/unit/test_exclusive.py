"""`tier add` refuses a place where two connections can both create one name (tier protocol, "creating once")."""

from __future__ import annotations

import pytest

from tandem_agent.exclusive import prove_exclusive
from tandem_protocol.errors import Exists, Refused
from tandem_protocol.store import Buffer
from tandem_protocol.stores.memory import MemoryStore


class BothWin(MemoryStore):
    """Says yes to everybody: what was there is written over."""

    async def create(self, name: str, data: Buffer) -> None:
        try:
            await super().create(name, data)
        except Exists:
            await self.delete(name)
            await super().create(name, data)


class WrongWinner(MemoryStore):
    """The loser's bytes stay."""

    async def create(self, name: str, data: Buffer) -> None:
        await super().create(name, b"connection 1" if bytes(data) == b"connection 0" else data)


async def test_a_place_that_creates_once_passes_and_is_left_as_it_was() -> None:
    shared: dict[str, bytes] = {}
    await prove_exclusive("vault", lambda: MemoryStore(shared))
    assert shared == {}


@pytest.mark.parametrize("kind", [BothWin, WrongWinner])
async def test_a_place_that_does_not_is_refused(kind: type[MemoryStore]) -> None:
    shared: dict[str, bytes] = {}
    with pytest.raises(Refused, match="tier vault: two connections could create"):
        await prove_exclusive("vault", lambda: kind(shared))
