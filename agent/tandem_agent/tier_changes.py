"""Changes of the set of tiers: add, replace, retire. Each is a revision of kind tiers, a base.

A new tier gets an id of its own and its identity first, then the revision that names it; it starts at that base and is
filled from the others by synchronisation. A retired one is forgotten; what it holds is left alone. Stopped anywhere,
the same command goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tandem_agent.config import Config, TierConfig
from tandem_agent.exclusive import prove_exclusive
from tandem_agent.pinning import Confirm, pin_host_key
from tandem_agent.progress import Progress
from tandem_agent.state import Setup, State, TierRow, TierStart
from tandem_agent.tiers.targets import reachable_targets
from tandem_agent.tiers.writing import Revision
from tandem_agent.wiring import Agent, make_retrying
from tandem_protocol import names
from tandem_protocol.browse import read_identity
from tandem_protocol.errors import Absent, Corrupt, Exists, Missing, NoTierReachable, Refused, Usage
from tandem_protocol.identity import MAX_SIZE, Identity
from tandem_protocol.revision import Kind, Record

ATTEMPTS = 3
"""Somebody is watching: say soon that a place cannot be reached."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is going to be done, for a person to agree to. ``objects`` and ``bytes`` have to be copied to the new
    tier; ``lost_objects`` and ``lost_bytes`` are on no other tier than the one that goes."""

    name: str
    url: str = ""
    objects: int = 0
    bytes: int = 0
    lost_objects: int = 0
    lost_bytes: int = 0
    others: list[str] = field(default_factory=list)


Agree = Callable[[Change], bool]


async def add_tier(
    agent: Agent, new: TierConfig, confirm_host_key: Confirm, agree: Agree, wait_s: float | None = None
) -> Identity:
    """Make ``new`` a tier of the repository; gives its identity. A place that is one already, by an add that was
    stopped or because it was only removed from the configuration, is taken as it is."""
    config, state = agent.config, agent.state
    state.requires().check_writable()  # before the place is made
    known = {row.name: row for row in state.tiers()}
    await pin_host_key(config, new, confirm_host_key)
    found = await _identity_at(config, new)
    if new.name in known and (found is None or found != known[new.name].identity):
        raise Usage(
            f"the repository has a tier called {new.name} already",
            f"choose another name; for another disk in its place: tandem tier replace {new.name}",
        )
    if found is not None and (row := _row_of(state, found)) is not None:
        if row.name != new.name:
            raise Usage(f"what is at {new.url} is tier {row.name}", f"add it by that name: {row.name}")
        return found
    change = Change(new.name, new.url, *_total(state), others=sorted(known))
    identity = await _make_identity(agent, new, found, change, agree)
    await _change(agent, {row.id: row.name for row in known.values()}, identity, new.name, (), wait_s)
    return identity


async def replace_tier(
    agent: Agent, new: TierConfig, confirm_host_key: Confirm, agree: Agree, force: bool, wait_s: float | None
) -> Identity:
    """Make what is at ``new.url`` the tier ``new.name``, in place of the one called so; gives its identity. Refuses
    while the old one is there, or holds something that no other has (unless ``force``)."""
    config, state = agent.config, agent.state
    state.requires().check_writable()  # before the place is made
    row = _known(state, new.name)
    others = [other for other in state.tiers() if other.id != row.id]
    if not others:
        raise Refused(
            f"{new.name} is the only tier of the repository: there is nothing to fill another disk from",
            "tandem tier add makes a second one while it is there; else begin anew with tandem init",
        )
    await pin_host_key(config, new, confirm_host_key)
    if any(tier.url == new.url for tier in config.tiers if tier.name == new.name):
        _check_mounted(new)
    found = await _identity_at(config, new)
    if found == row.identity:
        if any(tier.name == new.name and tier.url != new.url for tier in config.tiers):
            return found  # one that was stopped before the configuration named its place
        raise Refused(
            f"tier {new.name} itself is at {new.url}",
            "put the new disk there, or name the new place: tandem tier replace NAME URL",
        )
    if found is not None and _row_of(state, found) is not None:
        raise Refused(f"at {new.url} is another tier of this repository", "name another place")
    change = Change(
        new.name, new.url, *_total(state), *_only_on(state, row), others=[other.name for other in others]
    )
    _check_loss(row, change, force)
    identity = await _make_identity(agent, new, found, change, agree)
    tiers = {other.id: other.name for other in others}
    await _change(agent, tiers, identity, new.name, (row.id,), wait_s)
    return identity


async def retire_tier(
    agent: Agent,
    name: str,
    agree: Agree,
    force: bool,
    wait_s: float | None,
    forget: Callable[[], None] = lambda: None,
) -> None:
    """Take the tier ``name`` out of the repository for good. What it holds stays there, and counts no more. Refuses
    for the last one, and where it holds something that no other has (unless ``force``). ``forget`` is called before
    the revision: a configuration must not name a tier that the repository does not have."""
    row = _known(agent.state, name)
    others = [other for other in agent.state.tiers() if other.id != row.id]
    if not others:
        raise Refused(f"{name} is the only tier of the repository", "add another one first: tandem tier add")
    change = Change(name, "", 0, 0, *_only_on(agent.state, row), others=[other.name for other in others])
    _check_loss(row, change, force)
    if not agree(change):
        raise Usage("nothing was changed", "run it again when you are sure")
    await _change(agent, {other.id: other.name for other in others}, None, "", (row.id,), wait_s, forget)


def _known(state: State, name: str) -> TierRow:
    rows = {row.name: row for row in state.tiers()}
    if name not in rows:
        raise Usage(f"the repository has no tier called {name}", f"it has {', '.join(rows)}")
    return rows[name]


def _row_of(state: State, identity: Identity) -> TierRow | None:
    return next((row for row in state.tiers() if row.identity == identity), None)


def _check_mounted(tier: TierConfig) -> None:
    """The folder is made on a new disk where the old one was. Where not even the one above it is there, no disk is."""
    above = os.path.dirname(tier.place.path)
    if tier.place.scheme == "file" and not os.path.isdir(above):
        raise Absent(f"the folder {above} is not there", "mount the disk or the share that holds it")


def _check_loss(row: TierRow, change: Change, force: bool) -> None:
    if not row.imported and not force:
        raise Refused(
            f"what an earlier installation may have written to tier {change.name} alone was never read here",
            "connect it and run tandem sync first; if it is lost for ever, --force gives up what only it had",
        )
    if change.lost_objects and not force:
        raise Refused(
            f"objects are known to be on tier {change.name} only: {change.lost_objects} of {change.lost_bytes} bytes",
            "run tandem sync first; if that tier is lost for ever, --force gives up what only it had",
        )


def _total(state: State) -> tuple[int, int]:
    """Objects and bytes that a new tier has to get."""
    live = state.live().values()
    return len(live), sum(found.size for found in live)


def _only_on(state: State, row: TierRow) -> tuple[int, int]:
    """Objects and bytes of what is live and not known to be good on any other tier."""
    others = [other for other in state.tiers() if other.id != row.id]
    held = [state.facts(other.id) for other in others]
    lost = [o for o in state.live().values() if o.live_on(row.id) and not any(f.holds_last(o) for f in held)]
    return len(lost), sum(found.size for found in lost)


async def _identity_at(config: Config, tier: TierConfig) -> Identity | None:
    """None also where the folder is not there yet: it is made once somebody has agreed."""
    store = make_retrying(config, tier, attempts=ATTEMPTS)
    try:
        await store.open()
        found = await read_identity(store)
    except (Absent, Missing):
        return None
    except Corrupt:
        raise Refused(
            f"tier {tier.name}: there is a damaged repository at {tier.url}", "choose an empty folder"
        ) from None
    finally:
        await store.close()
    return found


async def _make_identity(
    agent: Agent, new: TierConfig, found: Identity | None, change: Change, agree: Agree
) -> Identity:
    """The identity of a new tier, written once the place is known to be fit and somebody agreed."""
    setup = agent.state.setup()
    assert setup is not None
    if found is not None:
        await _check_free(agent.config, new, found, setup)
    if not agree(change):
        raise Usage("nothing was changed", "run it again when you are sure")
    store = make_retrying(agent.config, new, make_root=True, attempts=ATTEMPTS)
    try:
        await store.open()
        await prove_exclusive(new.name, lambda: make_retrying(agent.config, new, True, ATTEMPTS))
        if found is not None:
            return found
        identity = Identity(setup.repository_id, os.urandom(16), setup.root_public)
        try:
            await store.create(names.IDENTITY, identity.encode())
        except Exists:
            if await store.read(names.IDENTITY, 0, MAX_SIZE + 1) != identity.encode():
                raise Refused(
                    f"tier {new.name}: somebody else has just made a repository at {new.url}",
                    "choose another folder",
                ) from None
        return identity
    finally:
        await store.close()


async def _check_free(config: Config, new: TierConfig, found: Identity, setup: Setup) -> None:
    """What is there has to be what an add of ours was stopped at before it wrote anything else."""
    if (found.repository_id, found.root_public) != (setup.repository_id, setup.root_public):
        raise Refused(f"tier {new.name}: another repository is at {new.url}", "choose another folder")
    store = make_retrying(config, new, attempts=ATTEMPTS)
    try:
        await store.open()
        async for _ in store.list(names.REVISIONS):
            raise Refused(
                f"tier {new.name}: at {new.url} is a retired tier of this repository",
                "empty its folder first, or choose another one",
            )
    finally:
        await store.close()


async def _change(
    agent: Agent,
    tiers: dict[bytes, str],
    new: Identity | None,
    name: str,
    gone: Sequence[bytes],
    wait_s: float | None,
    before: Callable[[], None] = lambda: None,
) -> None:
    """The revision: ``tiers`` (names by id) and ``new``, called ``name``, without those ``gone``; ``before`` is called
    once it is known that some tier can be written to."""
    state = agent.state
    if new is not None:
        tiers = {**tiers, new.tier_id: name}
    await agent.tiers.drop(gone)
    targets = await reachable_targets(agent.tiers, wait_s)
    before()

    def within(record: Record) -> None:
        for id in gone:
            state.drop_tier(id)
        if new is not None:
            state.start_empty(TierStart(new, name, True), record.number)

    async with await Revision.begin(agent.tiers, targets, Progress()) as revision:
        confirmed = await revision.commit(Kind.TIERS, {}, tiers=tiers, within=within)
    if not confirmed:
        raise NoTierReachable("no tier holds the change yet", "run tandem sync when one can be reached")
