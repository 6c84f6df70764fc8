"""A restore that ends in the middle, with the processes that write for it, is simply run again, at once."""

from __future__ import annotations

import json
import random
import signal
import subprocess
from pathlib import Path

import pytest
from tests.support import manifest
from tests.support.desk import TANDEM, Desk

FILES = 4000


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_run_again_at_once(tmp_path: Path, number: signal.Signals) -> None:
    desk = Desk(tmp_path, {"vault": str(tmp_path / "vault")})
    chance = random.Random(3)
    for at in range(FILES):
        folder = desk.source / "many" / str(at % 9)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{at}.bin").write_bytes(chance.randbytes(chance.randrange(8000)))
    desk.init()
    desk.must("backup")
    out = tmp_path / "out"
    command = [TANDEM, "restore", "latest", "--to", str(out), "--json"]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=desk.environment()
    )
    while running.poll() is None and len(list(out.rglob("*.bin"))) < 200:
        pass
    running.send_signal(number)
    said = running.communicate(timeout=60)
    there = len(list(out.rglob("*.bin")))
    assert running.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 130}[number], said
    assert 200 <= there < FILES
    result = json.loads(desk.must(*command[1:]))
    assert there <= result["kept"] < FILES
    assert result["warnings"] == []
    assert not list(out.rglob(".tandem-part-*"))
    restored = out / str(desk.source).lstrip("/")
    assert manifest.differences(manifest.take(str(desk.source)), str(restored)) == []
