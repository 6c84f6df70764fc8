"""The total that the live progress shows (issue 3: an ETA on a terminal)."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tandem_agent import estimate
from tandem_agent.estimate import counted_ahead
from tandem_agent.progress import Progress


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "a" / "b").mkdir(parents=True)
    (source / "one").write_bytes(bytes(1000))
    (source / "a" / "two.tmp").write_bytes(bytes(200))
    (source / "a" / "b" / "three").write_bytes(bytes(30))
    (source / "link").symlink_to("one")
    os.mkfifo(source / "pipe")
    return source


def counted(sources: list[bytes], exclude: list[str]) -> int:
    progress = Progress()
    with counted_ahead(sources, exclude, True, progress):
        for thread in threading.enumerate():
            if thread.name == "tandem-estimate":
                thread.join()
    return progress.bytes_total_estimate


def test_what_a_backup_will_go_through(source: Path) -> None:
    assert counted([bytes(source)], []) == 1230
    assert counted([bytes(source)], ["*.tmp"]) == 1030
    assert counted([bytes(source)], ["/a/"]) == 1000
    assert counted([bytes(source), bytes(source / "a"), b"/none/at/all"], []) == 1460


def test_a_count_that_is_not_wanted_any_more_ends_and_says_nothing(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    sizes = estimate._sizes

    def held_up(*arguments: object) -> int:
        go_on.wait(60)
        return sizes(*arguments)  # type: ignore[arg-type]  # handed through as they came

    monkeypatch.setattr(estimate, "_sizes", held_up)
    progress = Progress()

    class Ended(Exception):
        pass

    with pytest.raises(Ended), counted_ahead([bytes(source)], [], False, progress):
        threading.Timer(0.01, go_on.set).start()
        raise Ended
    assert progress.bytes_total_estimate == 0
