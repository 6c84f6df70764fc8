"""With the real commands: a cloned installation (A10: exit 4, nothing written, reading tells), key slots that a tier
has damaged (F2), and sources that would make a backup of nothing (trust.md, case 10)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.support.desk import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path, {"vault": str(tmp_path / "vault"), "second": str(tmp_path / "second")})
    made.init()
    return made


def contents(folder: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def test_a_clone_writes_nothing_and_reading_tells(desk: Desk, tmp_path: Path) -> None:
    desk.must("backup")
    shutil.copytree(desk.state, tmp_path / "cloned")
    clone = tmp_path / "clone.toml"
    clone.write_text(desk.config.read_text().replace(str(desk.state), str(tmp_path / "cloned")))
    (desk.source / "later").write_text("after the clone was made")
    desk.must("backup")
    before = {url: contents(url) for url in desk.tiers.values()}
    for words in (["backup"], ["sync"], ["tiers"]):
        done = desk.run(*words, config=clone)
        assert done.returncode == 4, done.stderr
        assert "clone or a restored image" in done.stderr
        assert done.stderr.count("\n") == 1
    assert before == {url: contents(url) for url in desk.tiers.values()}
    done = desk.run("restore", "latest", "--to", str(tmp_path / "out"), config=clone)
    assert done.returncode == 0, done.stderr
    assert "another installation has written to tier vault since" in done.stderr
    desk.must("backup")


def test_a_damaged_key_slot_is_written_again_at_the_next_contact(desk: Desk) -> None:
    """Without its key slots a tier opens for nobody, and nothing else would ever read them."""
    desk.must("backup")
    keys = Path(desk.tiers["vault"]) / "keys"
    good = contents(str(keys))
    for path in keys.iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert contents(str(keys)) != good
    desk.must("tiers")
    assert contents(str(keys)) == good
    desk.same("--from", desk.tiers["vault"])


def test_a_backup_of_nothing_is_never_silent(desk: Desk, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(desk.source)
    desk.fails(2, "backup", str(link), says="is a symbolic link")
    empty = tmp_path / "empty"
    empty.mkdir()
    done = desk.run("backup", str(empty))
    assert done.returncode == 3
    assert "is a disk not mounted there?" in done.stderr


def test_the_agents_own_key_is_not_removed_while_it_is_used(desk: Desk) -> None:
    desk.must("backup")
    desk.fails(1, "key", "remove", "agent", says="backs up unattended")
    desk.must("backup")
