"""Puts the parts together: the one module that knows every concrete class. Configuration in, an `Agent` out.

No protocol and no data path here. The lock file that keeps a second process out is taken here, because
everything that writes goes through `open_agent`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Literal

from tandem_agent.config import Config, TierConfig
from tandem_agent.database import NO_ROOM
from tandem_agent.passphrase import tier_password
from tandem_agent.places import INSECURE, Place
from tandem_agent.scanning import cache_dir
from tandem_agent.state import State
from tandem_agent.tiers.tier import Tier
from tandem_agent.tiers.tierset import TierSet
from tandem_protocol.errors import (
    Busy,
    Corrupt,
    Full,
    Refused,
    SecondInstallation,
    TandemError,
    Unsupported,
    Usage,
)
from tandem_protocol.keys import (
    KeyRing,
    SlotKind,
    check_ring_matches,
    open_slot_with_agent_key,
    open_slot_with_passphrase,
    slot_info,
)
from tandem_protocol.names import IDENTITY
from tandem_protocol.store import Store
from tandem_protocol.stores.parts import KnownParts
from tandem_protocol.stores.retrying import RetryingStore, RetryPolicy

AGENT_KEY = "agent.key"
LOCK = "lock"
_FTP_TLS: dict[str, Literal["explicit", "implicit", "none"]] = {
    "ftpes": "explicit",
    "ftps": "implicit",
    "ftp": "none",
}


@dataclass
class Agent:
    """One installation at work: its configuration, durable state, keys and tiers."""

    config: Config
    state: State
    ring: KeyRing
    tiers: TierSet

    @property
    def cache_dir(self) -> str:
        """Where caches are kept; may be deleted at any time."""
        return cache_dir(self.config)


@contextmanager
def process_lock(config: Config) -> Iterator[None]:
    """Keep other processes out of this state folder. Raises `Busy`."""
    try:
        os.makedirs(config.state_dir, mode=0o700, exist_ok=True)
        fd = os.open(os.path.join(config.state_dir, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as fault:
        raise _state_fault(config.state_dir, fault) from fault
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(
                "another tandem process is at work with this configuration", "wait until it has ended"
            ) from None
        yield
    finally:
        os.close(fd)


def _state_fault(folder: str, fault: OSError) -> TandemError:
    if fault.errno in (28, 122):
        return Full(f"no space for the local state in {folder}", NO_ROOM)
    return Refused(f"the state folder {folder} cannot be used ({fault.strerror})", "check its owner and mode")


@asynccontextmanager
async def open_agent(config: Config, passphrase: Callable[[], str]) -> AsyncIterator[Agent]:
    """Open the installation for work; no tier is contacted yet. Raises `Busy`, `Usage` before init."""
    with process_lock(config):
        state = State.open(config.state_dir)
        try:
            if state.setup() is None:
                raise await _not_set_up(config, state)
            ring = unlock(config, state, passphrase)
            tiers = make_tiers(config, state, ring)
            try:
                yield Agent(config, state, ring, tiers)
            finally:
                await tiers.close()
        finally:
            state.close()


async def _not_set_up(config: Config, state: State) -> TandemError:
    """What to say where there is no installation: is there a repository that somebody else writes?"""
    if state.takeover() is not None:
        return Usage("a takeover was begun here and not completed", "run tandem takeover again")
    for tier in config.tiers:
        store = make_retrying(config, tier, attempts=1)
        try:
            await store.open()
            await store.size(IDENTITY)
        except TandemError:
            continue
        finally:
            await store.close()
        return SecondInstallation(
            f"tier {tier.name} holds a repository that another installation writes to",
            "nothing was written; to go on from here: tandem takeover; only to read: restore --from URL",
        )
    return Usage("this configuration has no repository yet", "run tandem init")


@contextmanager
def open_state(config: Config) -> Iterator[State]:
    """The local state alone, to look at; no lock, no key, no tier. Raises `Usage` before init."""
    if not os.path.exists(os.path.join(config.state_dir, "state.sqlite")):
        raise Usage("this configuration has no repository yet", "run tandem init")
    state = State.open(config.state_dir)
    try:
        yield state
    finally:
        state.close()


def unlock(config: Config, state: State, passphrase: Callable[[], str]) -> KeyRing:
    """The keys, by the agent key file if there is one, else by the passphrase."""
    setup = state.setup()
    assert setup is not None
    ring = open_with_agent_key(config, state.key_slots().values()) or unlock_with_passphrase(
        state, passphrase()
    )
    check_ring_matches(ring, setup.repository_id, setup.root_public)
    return ring


def unlock_with_passphrase(state: State, passphrase: str) -> KeyRing:
    """The keys with the root's private half. `Refused` if no slot opens with ``passphrase``."""
    return open_any_slot(state.key_slots().values(), passphrase)


def open_any_slot(slots: Iterable[bytes], passphrase: str) -> KeyRing:
    """The ring of the first of ``slots`` that ``passphrase`` opens."""
    fault: TandemError = Refused("no key slot is opened by a passphrase", "use the agent's own state folder")
    for data in slots:
        try:
            if slot_info(data).kind == SlotKind.BY_PHRASE:
                return open_slot_with_passphrase(data, passphrase)
        except (Refused, Corrupt) as error:
            fault = fault if isinstance(fault, Unsupported) else error
        except Unsupported as error:  # of a newer program, which left the others as they were
            fault = error
    raise fault


def agent_key_path(config: Config) -> str:
    return os.path.join(config.state_dir, AGENT_KEY)


def open_with_agent_key(config: Config, slots: Iterable[bytes]) -> KeyRing | None:
    """The keys by the agent key file, if there is one and it opens one of ``slots``."""
    try:
        with open(agent_key_path(config), "rb") as file:
            agent_key = file.read(33)
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise _state_fault(config.state_dir, fault) from fault
    for data in slots:
        try:
            if len(agent_key) == 32 and slot_info(data).kind == SlotKind.BY_AGENT_KEY:
                return open_slot_with_agent_key(data, agent_key)
        except (Refused, Corrupt, Unsupported):
            continue
    return None


def make_tiers(config: Config, state: State, ring: KeyRing) -> TierSet:
    """The configured tiers that the repository knows, each a retrying store that looks again in every new
    session. Raises `Usage` for a configured tier that the repository does not have."""
    rows = {row.name: row for row in state.tiers()}
    tiers = []
    for tier_config in config.tiers:
        row = rows.get(tier_config.name)
        if row is None:
            raise Usage(
                f"the repository has no tier called {tier_config.name}",
                f"it has {', '.join(rows)}: correct the name in the configuration",
            )
        if tier_config.tier_id not in (None, row.id):
            raise Usage(
                f"tier {row.name}: the tier_id in the configuration is not that of this tier",
                f"it is {row.id.hex()}: correct it, or the name",
            )
        store = make_retrying(config, tier_config)
        tier = Tier(row, tier_config.url, store, state, ring)
        store.on_session = tier.on_session
        tiers.append(tier)
    return TierSet(tiers, state, ring, config.patience_seconds)


def make_retrying(
    config: Config, tier: TierConfig, make_root: bool = False, attempts: int | None = None
) -> RetryingStore:
    """The retrying store of one tier as configured; ``attempts`` instead of the configured number."""
    retries = tier.retries
    policy = RetryPolicy(attempts or retries.attempts, retries.first_delay_seconds, retries.max_delay_seconds)
    parts = KnownParts()
    return RetryingStore(lambda: make_store(config, tier, make_root, parts), policy)


def make_store(
    config: Config, tier: TierConfig, make_root: bool = False, parts: KnownParts | None = None
) -> Store:
    """An unopened store of one tier. Libraries are loaded only for those that need them. ``parts``: what earlier
    sessions know of cut uploads."""
    place = tier.place
    if place.scheme == "file":
        from tandem_protocol.stores.directory import DirectoryStore

        return DirectoryStore(place.path, make_root=make_root)
    if place.scheme in _FTP_TLS:
        return _make_ftp_store(tier, make_root, parts)
    if tier.identity_file and not os.path.exists(tier.identity_file):
        in_file = tier in config.tiers and os.path.exists(config.path)  # else the command line describes it
        said = "identity_file in the configuration" if in_file else "--identity-file"
        raise Usage(f"tier {tier.name}: the SSH key {tier.identity_file} is not there", f"correct {said}")
    from tandem_protocol.stores.sftp import SftpStore
    from tandem_protocol.stores.sftp_transport import SftpTarget

    target = SftpTarget(
        host=place.host,
        port=place.port,
        user=place.user,
        path=place.path,
        identity_file=tier.identity_file,
        password=tier_password(tier),
        known_hosts=(*pinned_lines(config, place), *tier.host_keys),
    )
    return SftpStore(target, make_root=make_root, parts=parts)


def _make_ftp_store(tier: TierConfig, make_root: bool, parts: KnownParts | None) -> Store:
    from tandem_protocol.stores.ftp import FtpStore
    from tandem_protocol.stores.ftp_target import FtpTarget

    place = tier.place
    if place.scheme == "ftp" and not tier.insecure:
        raise Usage(f"{place.url}: plain FTP sends the password for all to read", INSECURE)
    target = FtpTarget(
        host=place.host,
        port=place.port,
        user=place.user,
        password=tier_password(tier),
        path=place.path,
        tls=_FTP_TLS[place.scheme],
        ca_file=tier.ca_file,
        certificate_fingerprint=tier.certificate_fingerprint,
    )
    return FtpStore(target, make_root=make_root, parts=parts)


def host_alias(place: Place) -> str:
    """The name under which a server's key is pinned: as OpenSSH writes it."""
    return place.host if place.port == 22 else f"[{place.host}]:{place.port}"


def pinned_lines(config: Config, place: Place) -> tuple[str, ...]:
    """The lines of the pinned known_hosts file that are for this server."""
    try:
        with open(config.known_hosts_path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as fault:
        raise Refused(
            f"{config.known_hosts_path} cannot be read ({fault})", "check its owner and mode"
        ) from fault
    return tuple(line for line in lines if line.split(" ", 1)[0] == host_alias(place))
