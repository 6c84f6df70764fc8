"""Changes the tiers in a configuration file, leaving everything else (comments, order) as its owner wrote it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import tomlkit
from tomlkit.items import AoT, Table

from tandem_protocol.errors import Refused

from .config import TierConfig
from .config_read import parse_config
from .config_write import tier_fields


def add_tier(path: str, tier: TierConfig, ids: dict[str, bytes]) -> None:
    """Append ``tier``. ``ids``: tier ids by name, for tiers that take turns at one URL and have to say which they
    are."""

    def change(tables: AoT) -> None:
        _set_ids(tables, ids)
        if len(tables):
            tables[-1].add(tomlkit.nl())
        table = tomlkit.table()
        for key, value in tier_fields(tier):
            table[key] = value
        if tier.name in ids:
            table["tier_id"] = ids[tier.name].hex()
        tables.append(table)

    _edit(path, change)


def remove_tier(path: str, name: str) -> None:
    """Take the tier called ``name`` out; it is fine if it is not there."""

    def change(tables: AoT) -> None:
        for number, table in enumerate(list(tables)):
            if table.get("name") == name:
                del tables[number]
                return

    _edit(path, change)


def change_tier(path: str, name: str, url: str | None, ids: dict[str, bytes]) -> None:
    """Another disk in the place of the tier ``name``: at ``url`` if given. Its ``tier_id``, if it named one, or
    has to now, is taken from ``ids``."""

    def change(tables: AoT) -> None:
        for table in tables:
            if table.get("name") == name:
                if url is not None:
                    table["url"] = url
                if "tier_id" in table and name not in ids:
                    del table["tier_id"]
        _set_ids(tables, ids)

    _edit(path, change)


def _set_ids(tables: AoT, ids: dict[str, bytes]) -> None:
    for table in tables:
        name = str(table.get("name"))
        if name in ids:
            table["tier_id"] = ids[name].hex()


def _edit(path: str, change: Callable[[AoT], None]) -> None:
    """Read, change, check that it can be read again, and put in place whole or not at all."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            document = tomlkit.parse(file.read())
        tables: Any = document.get("tier")
        if not isinstance(tables, AoT):
            # Written as an inline array: made the usual form, so that it can be added to.
            made = tomlkit.aot()
            for item in tables or ():
                table: Table = tomlkit.table()
                table.update(item)
                made.append(table)
            document["tier"] = tables = made
        change(tables)
        text = tomlkit.dumps(document)
        parse_config(text, path)
        _put(path, text)
    except OSError as fault:
        raise Refused(
            f"the configuration {path} cannot be changed ({fault.strerror})", "change its [[tier]] by hand"
        ) from None


def _put(path: str, text: str) -> None:
    real = os.path.realpath(path)  # a link to a file that is kept elsewhere stays a link
    folder = os.path.dirname(real)
    handle, temporary = tempfile.mkstemp(prefix=".agent.toml.", dir=folder)
    try:
        with open(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), os.stat(real).st_mode & 0o7777)
            os.fsync(file.fileno())
        os.replace(temporary, real)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
