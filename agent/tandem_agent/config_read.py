"""The text of a configuration file to a `Config`, checked. No files are opened here.

Every mistake is a `Usage` error that names the file, the line and what would be right.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from typing import Any, NoReturn

from tandem_protocol.errors import Usage

from .config import Config, RetryConfig, TierConfig, default_state_dir
from .places import INSECURE, parse_place, read_fingerprint
from .tiers.pace import LagBudget

MAX_LAG_BYTES = 16 << 30
TIER_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


def parse_config(text: str, path: str, where: str = "") -> Config:
    """The configuration in ``text``, which stands in the file ``path``; or will stand there, and then
    messages name ``where`` it is said now."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Usage(f"{path} is not valid TOML: {error}", "correct that line") from None
    return _Reader(text, path, where).config(document)


_TIER_KEYS = (
    "name",
    "url",
    "tier_id",
    "identity_file",
    "password_command",
    "password_file",
    "host_keys",
    "ca_file",
    "certificate_fingerprint",
    "insecure",
    "lag_budget_bytes",
    "lag_budget_seconds",
    "retries",
)
_TOP_KEYS = (
    "sources",
    "exclude",
    "one_file_system",
    "state_dir",
    "passphrase_command",
    "passphrase_file",
    "patience_seconds",
    "tier",
)
_LOGIN_KEYS = ("password_command", "password_file")
_TLS_KEYS = (*_LOGIN_KEYS, "ca_file", "certificate_fingerprint")
_KEYS_OF: dict[str, tuple[str, ...]] = {
    "file": (),
    "sftp": (*_LOGIN_KEYS, "identity_file", "host_keys"),
    "ftpes": _TLS_KEYS,
    "ftps": _TLS_KEYS,
    "ftp": (*_LOGIN_KEYS, "insecure"),
}
"""The keys of a tier that mean something to some kinds of place only."""

_RETRY_KEYS = ("attempts", "first_delay_seconds", "max_delay_seconds")
_SECRETS = {"password", "passphrase"}


class _Reader:
    """One pass over one document; knows the text only to tell line numbers."""

    def __init__(self, text: str, path: str, where: str) -> None:
        self._where = where
        self._text = text
        self._path = path
        self._folder = os.path.dirname(path) or "."

    def config(self, document: Mapping[str, Any]) -> Config:
        self._check_keys(document, _TOP_KEYS, ())
        tiers = document.get("tier", [])
        if not isinstance(tiers, list) or not all(isinstance(t, dict) for t in tiers):
            self._fail(("tier",), "tier must be a table", "write each tier under a line [[tier]]")
        if not tiers:
            self._fail((), "no tier is configured", 'add [[tier]] with name = "vault" and url = "file:///…"')
        command = self._command(document, (), "passphrase_command")
        config = Config(
            tiers=tuple(self._tier(t, ("tier", i)) for i, t in enumerate(tiers)),
            state_dir=self._file(document, (), "state_dir") or default_state_dir(),
            sources=tuple(os.fsencode(self._resolve(s)) for s in self._texts(document, (), "sources")),
            exclude=tuple(self._texts(document, (), "exclude")),
            one_file_system=self._flag(document, "one_file_system"),
            passphrase_command=command,
            passphrase_file=self._file(document, (), "passphrase_file"),
            patience_seconds=self._seconds(document, (), "patience_seconds", Config.patience_seconds),
            path=self._path,
        )
        self._check_tiers(config.tiers)
        return config

    def _tier(self, table: Mapping[str, Any], at: tuple[Any, ...]) -> TierConfig:
        self._check_keys(table, _TIER_KEYS, at)
        name = self._required(table, at, "name")
        if not TIER_NAME.fullmatch(name):
            self._fail(
                (*at, "name"), f"tier name {name!r} cannot be used", "use a to z, 0 to 9, - and _, at most 32"
            )
        try:
            place = parse_place(self._required(table, at, "url"), self._folder)
        except Usage as error:
            self._fail((*at, "url"), error.what, error.remedy)
        tier = TierConfig(
            name=name,
            place=place,
            tier_id=self._tier_id(table, at),
            identity_file=self._file(table, at, "identity_file"),
            password_command=self._command(table, at, "password_command"),
            password_file=self._file(table, at, "password_file"),
            host_keys=tuple(self._texts(table, at, "host_keys")),
            ca_file=self._file(table, at, "ca_file"),
            certificate_fingerprint=self._fingerprint(table, at),
            insecure=self._flag(table, "insecure", at),
            lag_budget=self._lag_budget(table, at),
            retries=self._retries(table.get("retries", {}), (*at, "retries")),
        )
        self._check_keys_of(table, at, place.scheme)
        if place.scheme == "ftp" and not tier.insecure:
            self._fail((*at, "url"), "ftp:// sends the password for all to read", INSECURE)
        return tier

    def _check_keys_of(self, table: Mapping[str, Any], at: tuple[Any, ...], scheme: str) -> None:
        """What this kind of place has no use for, and what excludes each other."""
        for key in table:
            if key not in _KEYS_OF[scheme] and any(key in keys for keys in _KEYS_OF.values()):
                kind = "a folder" if scheme == "file" else f"{scheme}://"
                self._fail((*at, key), f"{key} means nothing for {kind}", "take it out")
        for one, other in (_LOGIN_KEYS, ("ca_file", "certificate_fingerprint")):
            if one in table and other in table:
                self._fail((*at, other), f"both {one} and {other}", "keep one of them")

    def _fingerprint(self, table: Mapping[str, Any], at: tuple[Any, ...]) -> str | None:
        key = "certificate_fingerprint"
        text = self._text_of(table, at, key)
        try:
            return read_fingerprint(text) if text is not None else None
        except Usage as error:
            self._fail((*at, key), error.what, error.remedy)

    def _tier_id(self, table: Mapping[str, Any], at: tuple[Any, ...]) -> bytes | None:
        text = self._text_of(table, at, "tier_id")
        if text is None:
            return None
        if not re.fullmatch(r"[0-9a-f]{32}", text):
            self._fail((*at, "tier_id"), "tier_id is not 32 hex digits", "copy it from 'tandem tiers --json'")
        return bytes.fromhex(text)

    def _lag_budget(self, table: Mapping[str, Any], at: tuple[Any, ...]) -> LagBudget:
        default = LagBudget()
        key = "lag_budget_bytes"
        size = table.get(key, default.bytes)
        if type(size) is not int or not 0 <= size <= MAX_LAG_BYTES:
            self._fail((*at, key), f"{key} = {size} cannot be used", f"write bytes, 0 to {MAX_LAG_BYTES}")
        return LagBudget(size, self._seconds(table, at, "lag_budget_seconds", default.seconds, 31_536_000))

    def _retries(self, table: object, at: tuple[Any, ...]) -> RetryConfig:
        if not isinstance(table, dict):
            self._fail(at, "retries must be a table", "write retries = { attempts = 10 }")
        self._check_keys(table, _RETRY_KEYS, at)
        default = RetryConfig()
        attempts = table.get("attempts", default.attempts)
        if type(attempts) is not int or not 1 <= attempts <= 1000:
            self._fail(
                (*at, "attempts"), f"attempts = {attempts} cannot be used", "write a whole number, 1 to 1000"
            )
        first = self._seconds(table, at, "first_delay_seconds", default.first_delay_seconds)
        longest = self._seconds(table, at, "max_delay_seconds", max(first, default.max_delay_seconds))
        if longest < first:
            self._fail(
                (*at, "max_delay_seconds"),
                "max_delay_seconds is below first_delay_seconds",
                "make it at least that",
            )
        return RetryConfig(attempts, first, longest)

    def _seconds(
        self, table: Mapping[str, Any], at: tuple[Any, ...], key: str, default: float, most: int = 86_400
    ) -> float:
        value = table.get(key, default)
        if type(value) not in (int, float) or not 0 <= value <= most:
            self._fail((*at, key), f"{key} = {value} cannot be used", f"write seconds, 0 to {most}")
        return float(value)

    def _check_tiers(self, tiers: tuple[TierConfig, ...]) -> None:
        for i, tier in enumerate(tiers):
            for other in tiers[:i]:
                if tier.name == other.name:
                    self._fail(
                        ("tier", i, "name"), f"two tiers are called {tier.name}", "give one another name"
                    )
                ids = {tier.tier_id, other.tier_id}
                if tier.url == other.url and (None in ids or len(ids) == 1):
                    self._fail(
                        ("tier", i, "url"),
                        f"tiers {other.name} and {tier.name} have the same URL",
                        "give one another URL, or (disks that take turns) each its own tier_id",
                    )

    def _check_keys(self, table: Mapping[str, Any], known: tuple[str, ...], at: tuple[Any, ...]) -> None:
        for key in table:
            if key in known:
                continue
            if key in _SECRETS:
                self._fail(
                    (*at, key),
                    f"a {key} must not stand in this file",
                    f"use {key}_command or {key}_file; take it out",
                )
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            remedy = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
            self._fail((*at, key), f"unknown key {key!r}", remedy)

    def _required(self, table: Mapping[str, Any], at: tuple[Any, ...], key: str) -> str:
        value = self._text_of(table, at, key)
        if not value:
            self._fail(at, f"a tier has no {key}", f'add {key} = "…" under its [[tier]]')
        return value

    def _text_of(self, table: Mapping[str, Any], at: tuple[Any, ...], key: str) -> str | None:
        value = table.get(key)
        if value is not None and (not isinstance(value, str) or "\0" in value):
            self._fail((*at, key), f"{key} must be text", f'write {key} = "…"')
        return value

    def _texts(self, table: Mapping[str, Any], at: tuple[Any, ...], key: str) -> list[str]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, str) and v and "\0" not in v for v in value):
            self._fail((*at, key), f"{key} must be a list of texts", f'write {key} = ["…", "…"]')
        return value

    def _flag(self, table: Mapping[str, Any], key: str, at: tuple[Any, ...] = ()) -> bool:
        value = table.get(key, False)
        if not isinstance(value, bool):
            self._fail((*at, key), f"{key} must be true or false", f"write {key} = true")
        return value

    def _command(self, table: Mapping[str, Any], at: tuple[Any, ...], key: str) -> tuple[str, ...] | None:
        """A command as a list of arguments, or as one text that is split like a shell does."""
        value = table.get(key)
        if isinstance(value, str):
            try:
                value = shlex.split(value)
            except ValueError as error:
                self._fail((*at, key), f"{key}: {error}", f'write {key} = ["PROGRAM", "ARGUMENT"]')
        if value is None:
            return None
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            self._fail((*at, key), f"{key} must be a command", f'write {key} = ["PROGRAM", "ARGUMENT"]')
        return (os.path.expanduser(value[0]), *value[1:])

    def _file(self, table: Mapping[str, Any], at: tuple[Any, ...], key: str) -> str | None:
        value = self._text_of(table, at, key)
        if value == "":
            self._fail((*at, key), f"{key} is empty", "name it, or take the line out")
        return self._resolve(value) if value else None

    def _resolve(self, name: str) -> str:
        return os.path.normpath(os.path.join(self._folder, os.path.expanduser(name)))

    def _fail(self, at: tuple[Any, ...], what: str, remedy: str) -> NoReturn:
        line = _line_of(self._text, at)
        where = self._where or (f"{self._path}, line {line}" if line else self._path)
        raise Usage(f"{where}: {what}", remedy)


_HEADER = re.compile(r"\s*\[{1,2}\s*([^\[\]]+?)\s*\]{1,2}\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*["']?([A-Za-z0-9_.-]+)["']?\s*=""")


def _line_of(text: str, at: tuple[Any, ...]) -> int:
    """The line (from 1) of the key at path ``at``; of its nearest parent where it has no line; 0 if none.

    tomllib tells no lines, so this looks for headers and keys by their shape. A text value that
    looks like a header could at worst lead to a line nearby; the key's name is in the message anyway.
    """
    best, best_depth = 0, 0
    table: list[Any] = []
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        if header and "=" not in header.group(1) and not line.lstrip().startswith(('["', "['")):
            table = []
            for part in header.group(1).split("."):
                table.append(part.strip("\"' "))
                if part.strip() == "tier":
                    if line.lstrip().startswith("[["):
                        counts["tier"] = counts.get("tier", -1) + 1
                    table.append(counts.get("tier", 0))
            here = tuple(table)
        elif key := _KEY.match(line):
            here = (*table, *key.group(1).split("."))
        else:
            continue
        depth = len(here)
        if at[:depth] == here and depth > best_depth:
            best, best_depth = number, depth
    return best
