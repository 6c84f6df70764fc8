"""`ls`: what is in a backup, as lines safe for a terminal and as JSON (cli.md; trust.md 8)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.smallrepo import MTIME, Node, SmallRepo, file, folder, link

from tandem_agent.listing import ListedEntry, list_backup
from tandem_agent.reading import RepositoryView
from tandem_protocol.errors import Missing
from tandem_protocol.tree import CHAR

TREE = {
    b"srv": folder(
        {
            b"a": file(b"hello", mode=0o4755, uid=7, gid=8),
            b"bad\xff\x1b[31m\n": file(b"1", extras={"x": {b"user.a": b"b"}}),
            b"dev": Node(CHAR, mode=0o600, extras={"r": (1, 3)}),
            b"sub": folder({b"s": link(b"../a\x1b")}),
        }
    ),
    b"z": file(b"2", extras={"l": (1, 2)}),
}


async def opened(tmp_path: Path) -> tuple[RepositoryView, bytes]:
    repo = SmallRepo()
    name = repo.snapshot(TREE)
    return await repo.view(str(tmp_path / "index")), name


async def listed(tmp_path: Path, path: bytes = b"", **options: Any) -> list[ListedEntry]:
    view, name = await opened(tmp_path)
    return [entry async for entry in list_backup(view, name, path, **options)]


async def test_a_folder(tmp_path: Path) -> None:
    assert [e.path for e in await listed(tmp_path)] == [b"/srv", b"/z"]
    found = await listed(tmp_path / "2", b"/srv/")
    assert [e.path for e in found] == [b"/srv/a", b"/srv/bad\xff\x1b[31m\n", b"/srv/dev", b"/srv/sub"]


async def test_one_entry(tmp_path: Path) -> None:
    (entry,) = await listed(tmp_path, b"/srv/a")
    assert (entry.path, entry.size, entry.uid, entry.user, entry.group) == (
        b"/srv/a",
        5,
        7,
        "user7",
        "group8",
    )
    assert entry.mtime_ns == MTIME[0] * 10**9 + MTIME[1]
    assert entry.mode_text == "-rwsr-xr-x"


async def test_everything_below(tmp_path: Path) -> None:
    found = await listed(tmp_path, b"srv", recursive=True)
    assert [e.path for e in found] == [
        b"/srv/a",
        b"/srv/bad\xff\x1b[31m\n",
        b"/srv/dev",
        b"/srv/sub",
        b"/srv/sub/s",
    ]
    assert (await listed(tmp_path / "2", recursive=True))[0].path == b"/z"


async def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="not in this backup: /srv/nope"):
        await listed(tmp_path, b"/srv/nope")


async def test_lines_are_safe_for_a_terminal(tmp_path: Path) -> None:
    found = {e.path: e.line() for e in await listed(tmp_path, b"srv", recursive=True)}
    assert all(line.isprintable() for line in found.values()), found
    assert found[b"/srv/a"].startswith("-rwsr-xr-x  user7    group8              5 20")
    assert found[b"/srv/a"].endswith(" /srv/a")
    assert found[b"/srv/bad\xff\x1b[31m\n"].endswith("/srv/bad\\xff\\x1b[31m\\n")
    assert found[b"/srv/bad\xff\x1b[31m\n"].startswith("-rw-r--r--+")
    assert found[b"/srv/dev"].split()[0] == "crw-------"
    assert "1, 3" in found[b"/srv/dev"]
    assert found[b"/srv/sub/s"].endswith("s -> ../a\\x1b")


async def test_json(tmp_path: Path) -> None:
    found = {
        e.path: json.loads(json.dumps(e.as_json())) for e in await listed(tmp_path, b"srv", recursive=True)
    }
    assert found[b"/srv/a"] == {
        "path": "/srv/a",
        "kind": "file",
        "mode": "4755",
        "uid": 7,
        "gid": 8,
        "user": "user7",
        "group": "group8",
        "size": 5,
        "mtime_ns": 1_600_000_000_123_456_789,
    }
    assert bytes.fromhex(found[b"/srv/bad\xff\x1b[31m\n"]["path_hex"]) == b"/srv/bad\xff\x1b[31m\n"
    assert found[b"/srv/dev"]["device"] == [1, 3]
    assert found[b"/srv/sub/s"]["target"] == "../a\x1b"
    (linked,) = await listed(tmp_path / "2", b"z")
    assert linked.as_json()["hard_linked"] is True


def test_times_that_no_calendar_has() -> None:
    entry = ListedEntry(b"/x", 0, 0o644, 0, 0, "", "", 0, 2**62 * 10**9)
    assert f"{2**62} s" in entry.line()
