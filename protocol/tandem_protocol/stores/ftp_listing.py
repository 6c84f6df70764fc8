"""The lines of an FTP listing to entries: MLSD's facts, and what servers without it print like ``ls -l``.

Pure and careful: a line that is not understood, or whose name is not one of Tandem's, is passed over. Links
are no objects. Owners, modes and dates mean nothing here.
"""

from __future__ import annotations

import re

from ..names import valid
from ..store import Entry

MAX_SIZE_DIGITS = 18

_LIST = re.compile(
    r"(?P<kind>[-d])\S{9,10}\s+\d+\s+\S+\s+\S+\s+(?P<size>\d{1,18})\s+"
    r"[A-Za-z]{3}\s+\d{1,2}\s+(?:\d{1,2}:\d\d|\d{4})\s(?P<name>\S+)"
)
_IS_WHOLE = {True: re.compile(r"[^ =;]+=[^;]*;"), False: re.compile(r"[-a-zA-Z][-rwxsStT]{9}|total \d+$")}


def entries_of(data: bytes, with_facts: bool) -> list[Entry]:
    """The entries in a whole listing as the server sent it; ``with_facts``: it answers MLSD."""
    entries: dict[str, Entry] = {}
    latest = ""
    for raw in data.split(b"\n"):
        line = raw.rstrip(b"\r").decode("latin-1")
        entry = _with_facts(line) if with_facts else _like_ls(line)
        if entry is not None:
            entries[entry.name] = entry
        elif line and not _IS_WHOLE[with_facts].match(line):
            # The rest of a name with a line break: what stood before it was no whole name.
            entries.pop(latest, None)
        latest = entry.name if entry is not None else ""
    return list(entries.values())


def _with_facts(line: str) -> Entry | None:
    facts_text, space, name = line.partition(" ")
    if not space or not _is_name(name):
        return None
    facts = dict(fact.lower().partition("=")[::2] for fact in facts_text.split(";"))
    if facts.get("type") == "dir":
        return Entry(name, 0, True)
    size = facts.get("size", "")
    if facts.get("type") != "file" or not size.isdecimal() or len(size) > MAX_SIZE_DIGITS:
        return None
    return Entry(name, int(size), False)


def _like_ls(line: str) -> Entry | None:
    found = _LIST.fullmatch(line)
    if found is None or not _is_name(found["name"]):
        return None
    if found["kind"] == "d":
        return Entry(found["name"], 0, True)
    return Entry(found["name"], int(found["size"]), False)


def _is_name(name: str) -> bool:
    return valid(name) and "/" not in name
