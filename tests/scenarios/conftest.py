"""Repositories: a new one with one backup on one tier, and one with some backups that tests of one file share, damaged
by each and put back before the next."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.desk import Desk
from tests.support.tierfiles import Bench


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def bench(made: Bench) -> Bench:
    made.reset()
    return made


@pytest.fixture
def alone(tmp_path: Path) -> Desk:
    """A repository with one backup on one tier."""
    desk = Desk(tmp_path, {"vault": str(tmp_path / "vault")})
    desk.init()
    desk.must("backup")
    return desk
