"""The configuration as frozen dataclasses, and where its one TOML file is.

Passwords and passphrases never stand in the file; it names where they are to be had. Checking it is
config_read.py's, writing it config_write.py's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from tandem_protocol.errors import Usage

from .places import Place
from .tiers.pace import LagBudget

MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class RetryConfig:
    """How often and at what distance an operation on a tier is tried (A2)."""

    attempts: int = 10
    first_delay_seconds: float = 1.0
    max_delay_seconds: float = 60.0


@dataclass(frozen=True)
class TierConfig:
    """One tier as configured. ``password_command`` is an argument list; ``host_keys`` are pins
    ("SHA256:…" or known_hosts lines) that hold besides those in the pinned file. For FTP with TLS, ``ca_file`` or
    ``certificate_fingerprint`` judge instead of the system's authorities; ``insecure`` allows plain FTP.
    ``lag_budget``: how far it may fall behind in a backup."""

    name: str
    place: Place
    tier_id: bytes | None = None
    identity_file: str | None = None
    password_command: tuple[str, ...] | None = None
    password_file: str | None = None
    host_keys: tuple[str, ...] = ()
    ca_file: str | None = None
    certificate_fingerprint: str | None = None
    insecure: bool = False
    lag_budget: LagBudget = field(default_factory=LagBudget)
    retries: RetryConfig = field(default_factory=RetryConfig)

    @property
    def url(self) -> str:
        return self.place.url


@dataclass(frozen=True)
class Config:
    """The whole configuration. All file names are absolute. ``path`` is the file it came from ("" when built
    from arguments); ``patience_seconds`` is how long a tier whose link is being retried is waited for once
    another is online."""

    tiers: tuple[TierConfig, ...]
    state_dir: str
    sources: tuple[bytes, ...] = ()
    exclude: tuple[str, ...] = ()
    one_file_system: bool = False
    passphrase_command: tuple[str, ...] | None = None
    passphrase_file: str | None = None
    patience_seconds: float = 15.0
    path: str = ""

    @property
    def known_hosts_path(self) -> str:
        """The file with the pinned host keys of this repository's tiers, in OpenSSH's format."""
        return os.path.join(self.state_dir, "known_hosts")


def default_config_path() -> str:
    """``TANDEM_CONFIG``, else ``tandem/agent.toml`` in the platform's user configuration folder."""
    from_environment = os.environ.get("TANDEM_CONFIG")
    if from_environment:
        return os.path.abspath(os.path.expanduser(from_environment))
    from platformdirs import user_config_dir

    return os.path.join(user_config_dir("tandem", appauthor=False), "agent.toml")


def default_state_dir() -> str:
    """``tandem`` in the platform's user state folder."""
    from platformdirs import user_state_dir

    return user_state_dir("tandem", appauthor=False)


def load_config(path: str | None = None) -> Config:
    """The configuration in ``path`` (else the default place). Raises `Usage` alone."""
    path = os.path.abspath(os.path.expanduser(path)) if path else default_config_path()
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise Usage(
            f"no configuration at {path}", "make one with 'tandem init', or name yours with --config"
        ) from None
    except OSError as error:
        raise Usage(
            f"cannot read the configuration {path}: {error.strerror}", "check its owner and mode"
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise Usage(
            f"{path} is over 1 MiB", "this is not a configuration of Tandem; name yours with --config"
        )
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Usage(f"{path} is not UTF-8 text", "save it as UTF-8") from None
    from .config_read import parse_config

    return parse_config(text, path)
