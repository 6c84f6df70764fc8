"""What a test needs of its machine: absent, it is skipped with the reason; under CI=true it fails with it."""

from __future__ import annotations

import os
import shutil

import pytest


def need(obstacle: str | None) -> None:
    """Goes on if `obstacle` is None; else skips the test with that reason, or fails it when CI=true."""
    if obstacle is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"under CI=true this may not be missing: {obstacle}")
    pytest.skip(obstacle)


def require_program(name: str, package: str) -> str:
    """The path of a program that a Debian package brings, also where ordinary users do not look for it."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    need(None if path else f"{package} is not installed")
    assert path is not None
    return path


def require_root() -> None:
    """Goes on as root only: for mounts and users of their own."""
    need(None if os.geteuid() == 0 else "this needs root")
