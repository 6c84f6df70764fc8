"""The configuration file is changed where a tier is, and nowhere else (`tandem tier`)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tandem_agent.config import TierConfig, load_config
from tandem_agent.config_edit import add_tier, change_tier, remove_tier
from tandem_agent.places import parse_place
from tandem_protocol.errors import Refused, Usage

TEXT = """\
# my own words
sources = ["/srv/data"]   # everything
exclude = [
    "*.tmp",  # not these
]

[[tier]]
name = "vault"   # the small box under the stairs
url = "file:///mnt/nas/tandem"

[[tier]]
name = "remote"
url = "sftp://me@host.example/tandem"
identity_file = "/root/.ssh/id"
retries = { attempts = 4 }
"""
ONE, TWO = b"1" * 16, b"2" * 16


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "agent.toml"
    found.write_text(TEXT)
    found.chmod(0o640)
    return found


def tier(name: str, url: str) -> TierConfig:
    return TierConfig(name, parse_place(url, "/"))


def test_a_tier_is_added_at_the_end_and_all_else_stays(path: Path) -> None:
    add_tier(str(path), tier("disk", "/media/disk"), {})
    assert path.read_text() == TEXT + '\n[[tier]]\nname = "disk"\nurl = "file:///media/disk"\n'
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(path.parent) == ["agent.toml"]


def test_added_and_removed_is_as_it_was(path: Path) -> None:
    add_tier(str(path), tier("disk", "/media/disk"), {})
    remove_tier(str(path), "disk")
    assert path.read_text().strip() == TEXT.strip()
    remove_tier(str(path), "disk")
    assert path.read_text().strip() == TEXT.strip()


def test_tiers_that_take_turns_are_told_apart(path: Path) -> None:
    add_tier(str(path), tier("disk", "/mnt/nas/tandem"), {"vault": ONE, "disk": TWO})
    tiers = load_config(str(path)).tiers
    assert [(found.name, found.tier_id) for found in tiers] == [
        ("vault", ONE),
        ("remote", None),
        ("disk", TWO),
    ]
    assert "the small box under the stairs" in path.read_text()


def test_another_disk_in_the_place_of_one(path: Path) -> None:
    change_tier(str(path), "vault", None, {"vault": ONE})
    assert load_config(str(path)).tiers[0].tier_id == ONE
    change_tier(str(path), "vault", "file:///mnt/other", {})
    found = load_config(str(path)).tiers[0]
    assert (found.url, found.tier_id) == ("file:///mnt/other", None)


def test_what_could_not_be_read_again_is_not_written(path: Path) -> None:
    with pytest.raises(Usage, match="two tiers are called vault"):
        add_tier(str(path), tier("vault", "/media/disk"), {})
    assert path.read_text() == TEXT


def test_an_inline_array_of_tiers_becomes_tables(path: Path) -> None:
    path.write_text('tier = [{ name = "vault", url = "file:///a" }]\n')
    add_tier(str(path), tier("disk", "/b"), {})
    assert [found.name for found in load_config(str(path)).tiers] == ["vault", "disk"]


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    path.rename(kept / "real.toml")
    path.symlink_to(kept / "real.toml")
    remove_tier(str(path), "remote")
    assert path.is_symlink()
    assert "remote" not in (kept / "real.toml").read_text()


def test_a_file_that_is_gone_is_told(path: Path) -> None:
    path.unlink()
    with pytest.raises(Refused, match="cannot be changed"):
        remove_tier(str(path), "vault")
