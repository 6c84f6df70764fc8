"""The key with which an agent opens its repository unattended: a file, and a slot on the tiers that it opens."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from tandem_agent.config import Config
from tandem_agent.durable import write_durably
from tandem_agent.wiring import agent_key_path, open_with_agent_key
from tandem_protocol.keys import KeyRing, agent_slot


def make_agent_key(config: Config) -> bytes:
    """A new agent key file (0600), durable before a slot for it is made."""
    key = os.urandom(32)
    write_durably(agent_key_path(config), key)
    return key


def slot_if_needed(config: Config, ring: KeyRing, slots: Iterable[bytes]) -> bytes | None:
    """A new slot with a new key file, if the file that is here opens none of ``slots``; else None."""
    if open_with_agent_key(config, slots) is not None:
        return None
    return agent_slot(ring, make_agent_key(config), "agent", created=int(time.time()))
