"""Restoring content: every byte of every kind of file, from any tier, never in part (A3, A13, F1)."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.smallrepo import MTIME, SmallRepo, file, folder, link

from tandem_agent.restore import restore


async def test_small_tree(tmp_path: Path) -> None:
    repo = SmallRepo()
    name = repo.snapshot(
        {
            b"srv": folder(
                {
                    b"a": file(b"hello"),
                    b"empty": file(),
                    b"big": file(b"x" * 1000, b"y" * 500, b"x" * 1000, mode=0o600),
                    b"sub": folder({b"s": link(b"../a"), b"none": folder({})}, mode=0o2750),
                }
            )
        }
    )
    view = await repo.view(str(tmp_path / "index"))
    result = await restore(view, name, str(tmp_path / "out"))
    assert (result.exit_code, result.warnings, result.damaged) == (0, [], [])
    out = tmp_path / "out/srv"
    assert (out / "a").read_bytes() == b"hello"
    assert (out / "empty").read_bytes() == b""
    assert (out / "big").read_bytes() == b"x" * 1000 + b"y" * 500 + b"x" * 1000
    assert (out / "big").stat().st_mode & 0o7777 == 0o600
    assert os.readlink(out / "sub/s") == "../a"
    assert (out / "sub").stat().st_mode & 0o7777 == 0o2750
    for path in (out, out / "a", out / "sub", out / "sub/s", out / "sub/none"):
        assert path.lstat().st_mtime_ns == MTIME[0] * 10**9 + MTIME[1]
    assert (result.files, result.folders, result.bytes) == (4, 3, 2505)
    assert result.read_from["vault"] > 0
    assert result.read_from["remote"] == 0
