"""Reading back at the end of a run: the real reading code, one tier alone, with the passphrase and nothing else."""

from __future__ import annotations

from tests.simulation.content import Made
from tests.simulation.places import Storage
from tests.simulation.world import Violation, World
from tests.support.formats import PHRASE

from tandem_agent.engine.fetch import Fetcher
from tandem_agent.engine.treewalk import Entries, TreeWalker
from tandem_agent.reading import RepositoryView, open_store
from tandem_agent.restore import read_snapshot
from tandem_agent.wiring import open_any_slot
from tandem_protocol.stores.memory import MemoryStore

Contents = dict[bytes, bytes]


async def check_restores(world: World, storage: Storage, wanted: list[Made]) -> None:
    """Every backup of ``wanted`` is listed by this tier alone and has its files, byte for byte."""
    store = MemoryStore(storage.shared)
    async with open_store(storage.name, store, lambda slots: open_any_slot(list(slots), PHRASE)) as view:
        snapshots = {backup.id.hex(): backup.snapshot for backup in view.backups}
        for made in wanted:
            snapshot = snapshots.get(made.id)
            if snapshot is None:
                raise Violation(f"{storage.name} alone does not tell of backup {made.id[:8]}")
            if await _read(view, snapshot) != {name: b"".join(blocks) for name, blocks in made.files.items()}:
                raise Violation(
                    f"backup {made.id[:8]} restored from {storage.name} is not what was backed up"
                )
    world.tell(storage.name, "alone restores", len(wanted), "backups")


async def _read(view: RepositoryView, snapshot: bytes) -> Contents:
    """The content of each file, by name."""
    fetcher = Fetcher(view.ring, view.tiers, view.index)
    root = (await read_snapshot(fetcher, snapshot)).root
    walker = TreeWalker(fetcher.blob)
    found: Contents = {}
    async for event in walker.walk(root):
        if isinstance(event, Entries):
            for entry in event.entries:
                parts = [await fetcher.blob(block) async for block in walker.content_ids(entry)]
                found[entry[1]] = b"".join(parts)
    return found
