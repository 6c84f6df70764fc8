"""What every base carries beside its own changes: lists of all that is live, the tiers' names, the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tandem_agent.catalog import Listed, encode_catalog
from tandem_protocol.errors import Corrupt
from tandem_protocol.history import Live, list_entries
from tandem_protocol.keys import KeyRing
from tandem_protocol.lists import encode_list, split_list
from tandem_protocol.names import ObjectType
from tandem_protocol.revision import Record, Removal, open_details


def list_objects(live: Live, tiers: Iterable[bytes]) -> list[bytes]:
    """The list objects of a base after which ``live`` is live; ``tiers``: ids of those not retired."""
    return [encode_list(piece) for piece in split_list(list_entries(live, tiers))]


def old_lists(bases: Sequence[Record], new: Iterable[bytes]) -> tuple[Removal, ...]:
    """The lists that a base after ``bases`` (oldest first) removes: those of the one before the last, but for what
    the last or the ``new`` one names too. Equal content has one name."""
    if len(bases) < 2:
        return ()
    kept = {*(bases[-1].lists or ()), *new}
    return tuple(Removal(ObjectType.LIST, name) for name in bases[-2].lists or () if name not in kept)


def base_details(tiers: Mapping[bytes, str], backups: Sequence[Listed]) -> dict[str, Any]:
    """What goes under seal in a base: names of ``tiers`` by id, and the backups, oldest first."""
    return {"tiers": {id.hex(): name for id, name in tiers.items()}, "catalog": encode_catalog(backups)}


def told_names(ring: KeyRing, records: Iterable[Record]) -> dict[bytes, str]:
    """The names of tiers by id, as the newest of ``records`` that can be opened say."""
    told: dict[bytes, str] = {}
    for record in sorted(records, key=lambda r: (r.certificate.epoch, r.number)):
        if record.tiers is None:
            continue
        try:
            named = open_details(ring, record).get("tiers")
        except Corrupt:
            continue
        if isinstance(named, dict):
            told |= {id: str(named[id.hex()]) for id in record.tiers if id.hex() in named}
    return told
