"""Writes a first configuration file, for people to go on editing. Never changes one that is there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Sequence

from tandem_protocol.errors import Exists, Refused, Usage, printable

from .config import Config, TierConfig

_HEAD = """\
# Tandem's configuration. docs/configuration.md explains every key.
# The passphrase never stands here; without it the backups cannot be read by anybody.
"""
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def render_config(config: Config, write_state_dir: bool) -> str:
    """The TOML text of ``config``. ``write_state_dir``: name the state folder (it is not the default one)."""
    lines = [_HEAD, f"sources = {_list([_source(s) for s in config.sources])}"]
    lines.append(f"exclude = {_list(config.exclude)}")
    if config.one_file_system:
        lines.append("one_file_system = true")
    if write_state_dir:
        lines.append(f"state_dir = {_text(config.state_dir)}")
    if config.passphrase_file:
        lines.append(f"passphrase_file = {_text(config.passphrase_file)}")
    if config.passphrase_command:
        lines.append(f"passphrase_command = {_list(config.passphrase_command)}")
    for tier in config.tiers:
        lines += ["", "[[tier]]", *_tier(tier)]
    return "\n".join(lines) + "\n"


def write_new(path: str, text: str) -> None:
    """Create ``path`` whole with mode 0600, durably; `Exists` if it is there."""
    folder = os.path.dirname(path) or "."
    temporary = ""
    try:
        data = text.encode()
        os.makedirs(folder, mode=0o700, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".agent.toml.", dir=folder)  # made with mode 0600
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        raise Exists(f"{path} is there already") from None
    except UnicodeEncodeError:
        raise Usage(
            "a file name that is not UTF-8 cannot stand in the configuration", "name another"
        ) from None
    except OSError as error:
        raise Refused(
            f"cannot write the configuration {path}: {error.strerror}", "name another with --config"
        ) from None
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _tier(tier: TierConfig) -> Iterable[str]:
    yield f"name = {_text(tier.name)}"
    yield f"url = {_text(tier.url)}"
    if tier.tier_id:
        yield f"tier_id = {_text(tier.tier_id.hex())}"
    if tier.identity_file:
        yield f"identity_file = {_text(tier.identity_file)}"
    if tier.password_file:
        yield f"password_file = {_text(tier.password_file)}"
    if tier.password_command:
        yield f"password_command = {_list(tier.password_command)}"
    if tier.ca_file:
        yield f"ca_file = {_text(tier.ca_file)}"
    if tier.certificate_fingerprint:
        yield f"certificate_fingerprint = {_text('SHA256:' + tier.certificate_fingerprint)}"
    if tier.insecure:
        yield "insecure = true"


def _source(source: bytes) -> str:
    try:
        return source.decode()
    except UnicodeDecodeError:
        shown = printable(os.fsdecode(source))
        raise Usage(
            f"the folder name {shown} is not UTF-8 and cannot stand in the configuration",
            "name a folder above it, or give it to 'tandem backup' each time",
        ) from None


def _list(values: Sequence[str]) -> str:
    return "[" + ", ".join(_text(v) for v in values) + "]"


def _text(value: str) -> str:
    """A TOML basic string."""
    escaped = (
        _ESCAPES.get(c) or (c if c.isprintable() or ord(c) > 0x9F else f"\\u{ord(c):04X}") for c in value
    )
    return '"' + "".join(escaped) + '"'
