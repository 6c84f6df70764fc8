"""What the simulation (tests/simulation) found in the agent, each as a small run of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.formats import make_ring
from tests.support.machines import Site

from tandem_agent.bases import base_details
from tandem_agent.catalog import told_backups
from tandem_agent.wiring import open_agent
from tandem_protocol.certificates import Certificate, Installation
from tandem_protocol.envelope import DocType
from tandem_protocol.keys import KeyRing
from tandem_protocol.names import ObjectType, object_path
from tandem_protocol.revision import Kind, Record, RecordDraft, make_record

NONCE = bytes(24)


def record(ring: KeyRing, number: int, kind: Kind, details: dict[str, Any], **more: Any) -> Record:
    """A record of an installation of epoch 1."""
    assert ring.root_private is not None
    installation = Installation(bytes(16), bytes(range(32)))
    certificate = Certificate.issue(ring.root_private, ring.repository_id, installation, 1)
    draft = RecordDraft(number, NONCE, kind, (), details, **more)
    return make_record(ring, installation, certificate, draft)


def test_a_backup_found_again_by_a_takeover_stays_listed_after_the_next_one() -> None:
    """Killed before its decision, aborted, but all of it was there: the first takeover lists it again, by its
    snapshot; its aborted record must not make it a failed one in the second."""
    ring = make_ring()
    failed = {"id": "07" * 16, "name": "270115**", "status": "failed", "error": "interrupted"}
    back = {"id": "07" * 16, "name": "27011501", "status": "partial", "snapshot": "55" * 32}
    aborted = record(ring, 2, Kind.ABORTED, {"reason": "interrupted", "backup": failed})
    details = base_details({}, [(0, back)])
    base = record(ring, 3, Kind.TAKEOVER, details, lists=(), tiers=())
    again = record(ring, 4, Kind.ABORTED, {"reason": "interrupted", "backup": failed})
    snapshot = bytes.fromhex("55" * 32)
    for records in ([aborted, base], [base, aborted], [base, again]):
        assert told_backups(ring, records, {snapshot}) == [(0, back)]
    assert told_backups(ring, [aborted], {snapshot}) == [(2, failed)]


async def test_what_a_join_found_comes_with_the_next_synchronisation(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tier that was away at a join lacks what the join made live, and the join's record does not name that: one
    synchronisation brings it all the same."""
    site = Site(memory_path, monkeypatch, "vault", "remote", "third")
    first, second = site.machine("first"), site.machine("second")
    await first.init()
    site.down("remote", "third")
    await first.backup("only on the vault")
    site.down("vault")
    await second.take_over()
    site.down("third")
    await second.backup("joins the vault first")
    site.down()
    await second.sync()
    assert set((await second.contact()).values()) == {"online"}
    vault, remote, third = site.live("packs", "index", "snapshots", "keys")
    assert vault == remote == third


@pytest.mark.parametrize("kind", [DocType.DATA_PACK, DocType.TREE_PACK])
async def test_a_backup_whose_pack_is_given_up_is_on_no_tier_though_parts_of_it_can_be_read(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, kind: DocType
) -> None:
    """A pack that is gone on one tier and has one bad bit on the other, after its last block: what the repair gives
    up no reader knows of any more, be it the files' content or the folders' pages."""
    site = Site(memory_path, monkeypatch, "vault", "remote")
    machine = site.machine("first")
    await machine.init()
    kept, lost = (await machine.backup("one")).id, (await machine.backup("two")).id
    async with open_agent(machine.config, lambda: "") as agent:
        packs = [ref for ref in agent.state.record(3).added if ref.type is ObjectType.PACK]
    vault = site.places["vault"].shared
    paths = [object_path(ObjectType.PACK, pack.name) for pack in packs]
    path = next(path for path in paths if vault[path][4] == kind)
    del site.places["remote"].shared[path]
    vault[path] = vault[path][:-1] + bytes([vault[path][-1] ^ 1])
    assert (await machine.sync(full=True)).lost == 1
    assert {b.id.hex(): b.tiers for b in machine.backups()} == {kept: ["vault", "remote"], lost: []}
