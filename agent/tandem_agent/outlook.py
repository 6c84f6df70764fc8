"""What a takeover finds before it writes anything: which tiers can be reached, whether they are one repository, and
who wrote there last. Reads only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tandem_agent.config import TierConfig
from tandem_agent.state import Setup
from tandem_agent.tiers.importing import Reading, read_claim, read_record
from tandem_protocol.browse import read_identity
from tandem_protocol.errors import Corrupt, Refused, TandemError, Unsupported
from tandem_protocol.identity import Identity
from tandem_protocol.keys import KeyRing
from tandem_protocol.revision import Claim, Record, open_details
from tandem_protocol.store import Store


@dataclass(frozen=True, slots=True)
class TierOutlook:
    """A tier as the takeover finds it; ``reason`` why it is not reachable, else ""."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is going to be taken over, for a person to agree to. ``last``: the highest revision seen; ``writer``:
    who wrote there last (host, time), "" if nobody can tell."""

    repository_id: bytes
    tiers: list[TierOutlook]
    last: int
    writer: str


@dataclass
class Place:
    """A configured tier that was reached."""

    config: TierConfig
    store: Store
    identity: Identity

    @property
    def reading(self) -> Reading:
        found = self.identity
        return Reading(self.store, self.config.name, found.tier_id, found.repository_id, found.root_public)


async def identify(tier: TierConfig, store: Store) -> Identity | TandemError:
    """The identity at a configured place, or why there is none that can be used."""
    try:
        await store.open()
        found = await read_identity(store)
    except Unsupported as fault:
        return Unsupported(f"tier {tier.name}: {fault.what}", fault.remedy)
    except TandemError as fault:
        return fault
    if tier.tier_id is not None and found.tier_id != tier.tier_id:
        return Refused("another disk of this repository is there")
    return found


def check_one_repository(places: Sequence[Place], setup: Setup | None) -> None:
    """`Refused` unless all ``places`` are tiers of one repository, each another one, and it is that of ``setup``."""
    first = places[0]
    ids: dict[bytes, str] = {}
    for place in places:
        if place.identity.repository_id != first.identity.repository_id:
            raise Refused(
                f"tiers {first.config.name} and {place.config.name} hold different repositories",
                "correct the URL of the wrong one",
            )
        if other := ids.get(place.identity.tier_id):
            raise Refused(
                f"tiers {other} and {place.config.name} are one and the same place, or copies of it",
                "configure each place once",
            )
        ids[place.identity.tier_id] = place.config.name
    if setup is not None and setup.repository_id != first.identity.repository_id:
        raise Refused(
            f"this state folder belongs to another repository than tier {first.config.name}",
            "name another state_dir in the configuration",
        )


async def writer_of(ring: KeyRing, reading: Reading, number: int) -> str:
    """Host and time in the claim or record of ``number``; "" if they cannot be read."""
    for document in (await read_record(reading, number), await read_claim(reading, number)):
        if not isinstance(document, (Claim, Record)):
            continue
        try:
            details = open_details(ring, document)
        except Corrupt:
            continue
        if details.get("host"):
            return f"{details['host']}, {details.get('time', 'at an unknown time')}"
    return ""
