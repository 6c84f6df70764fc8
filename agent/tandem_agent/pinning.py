"""Asking once whether a server's host key is the right one, and pinning it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tandem_agent.config import Config, TierConfig
from tandem_agent.durable import write_durably
from tandem_agent.wiring import host_alias, pinned_lines
from tandem_protocol.errors import Refused
from tandem_protocol.stores.host_keys import OfferedKey, fetch_host_keys

Confirm = Callable[[str, Sequence[OfferedKey]], bool]
"""Given a tier's name and the keys that its server offers: whether somebody vouches for them."""


async def pin_host_key(config: Config, tier: TierConfig, confirm: Confirm) -> None:
    """Ask once for a server's key and pin it; a pinned one is never replaced here."""
    if tier.place.scheme != "sftp" or tier.host_keys or pinned_lines(config, tier.place):
        return
    keys = await fetch_host_keys(tier.place.host, tier.place.port)
    if not confirm(tier.name, keys):
        raise Refused(
            f"tier {tier.name}: the server's host key was not confirmed", "ask the server's owner for it"
        )
    lines = "".join(f"{host_alias(tier.place)} {key.line.split(' ', 1)[1]}\n" for key in keys)
    write_durably(config.known_hosts_path, lines.encode(), append=True)
