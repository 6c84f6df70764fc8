"""A repository with some backups that tests of one file share: damaged by each, and put back before the next."""

from __future__ import annotations

import pytest
from tests.support.tierfiles import Bench


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def bench(made: Bench) -> Bench:
    made.reset()
    return made
