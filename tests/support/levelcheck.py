"""Whether tiers are level, looked at from outside: the files in their folders on this machine.

Level means: the same names with the same bytes, but for what is a tier's own (identity, claims by their content,
temporary files, quarantine), for revisions below the one that a tier started at, and for objects that nothing
refers to any more, left by a write that was given up. Knows both forms of an object (a file, a folder with one file).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from blake3 import blake3

from tandem_agent.state import State
from tandem_protocol import names

_OWN = (names.IDENTITY, names.TMP, "quarantine")


def unlike(folders: Mapping[str, str], state_dir: str) -> list[str]:
    """How the tiers in ``folders`` (name -> folder) differ, in lines for people; empty when level. No command may
    be at work."""
    state = State.open(state_dir)
    try:
        live = {names.object_path(found.type, found.name) for found in state.live().values()}
        starts = {row.name: row.start for row in state.tiers()}
    finally:
        state.close()
    found = {tier: _contents(folder) for tier, folder in folders.items()}
    wrong = [f"{tier}: {path} is not there" for tier in found for path in sorted(live - found[tier].keys())]
    for path in sorted(set().union(*found.values())):
        numbered = names.parse_numbered(path)
        bytes_of = {
            tier: table.get(path)
            for tier, table in found.items()
            if numbered is None or starts[tier] <= numbered[0]
        }
        is_object = names.parse_object_name(path.rsplit("/", 1)[-1]) is not None
        if is_object and path not in live:
            continue
        if is_object and any(digest != path.rsplit("/", 1)[-1] for digest in bytes_of.values()):
            wrong.append(f"{path} is not what its name says on every tier")
        elif len(set(bytes_of.values())) > 1:
            has = ", ".join(
                f"{tier}: {'other' if digest else 'not there'}" for tier, digest in bytes_of.items()
            )
            wrong.append(f"{path} differs ({has})")
    return wrong[:10]


def _contents(folder: str) -> dict[str, str]:
    """Path in the tier -> digest of what stands there."""
    found = {}
    for at, folders, files in os.walk(folder):
        inside = os.path.relpath(at, folder)
        if inside == ".":
            folders[:] = [name for name in folders if name not in _OWN]
        for name in files:
            path = os.path.normpath(os.path.join(inside, name))
            if name == "c" and inside != ".":
                path = inside
            if path not in _OWN:
                found[path] = _digest(os.path.join(at, name), path)
    return found


def _digest(file: str, path: str) -> str:
    if path.endswith(".claim"):
        return "a claim"  # names its tier, and may be written again with other bytes
    with open(file, "rb") as opened:
        return blake3(opened.read()).hexdigest()
