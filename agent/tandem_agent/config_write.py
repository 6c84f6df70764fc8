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
    for key, value in tier_fields(tier):
        match value:
            case str():
                yield f"{key} = {_text(value)}"
            case list():
                yield f"{key} = {_list(value)}"
            case _:
                yield f"{key} = true"


def tier_fields(tier: TierConfig) -> list[tuple[str, str | bool | list[str]]]:
    """The keys of a tier in the file and their values: those that are set."""
    fingerprint = tier.certificate_fingerprint
    fields: list[tuple[str, str | bool | list[str] | None]] = [
        ("name", tier.name),
        ("url", tier.url),
        ("tier_id", tier.tier_id.hex() if tier.tier_id else None),
        ("identity_file", tier.identity_file),
        ("password_file", tier.password_file),
        ("password_command", list(tier.password_command or ())),
        ("ca_file", tier.ca_file),
        ("certificate_fingerprint", f"SHA256:{fingerprint}" if fingerprint else None),
        ("insecure", tier.insecure),
    ]
    return [(key, value) for key, value in fields if value]


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
