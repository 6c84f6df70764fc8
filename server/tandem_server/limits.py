"""What one client may take, in one place. Values only; the modules that enforce them import these.

No quota of space or inodes per account yet: the file system's own limits apply.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_PACKET = 256 * 1024
"""Bytes of one SFTP packet, as OpenSSH's server has it."""

MAX_DATA = MAX_PACKET - 1024
"""Bytes of data in one READ or WRITE."""

MAX_PATH = 4096
"""Bytes of one path in a request."""

NAMES_PER_READDIR = 100

BATCH_REQUESTS = 64
"""Requests of one session answered in one visit to a thread."""

BATCH_BYTES = 1024 * 1024
"""Bytes of replies after which such a visit ends."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Numbers an operator may want to change. Times are in seconds."""

    connections: int = 256
    """Connections that have logged in, all clients together."""

    waiting: int = 128
    """Connections that have not logged in yet; one more closes the one that has waited longest."""

    sessions: int = 4
    """SFTP sessions in one connection."""

    handles: int = 64
    """Open files and folders of one session."""

    all_handles: int = 4096
    """Those of all sessions together; below what the system lets the process open."""

    login_s: float = 30.0
    keepalive_s: float = 30.0
    keepalive_count: int = 4
    threads: int = 16
