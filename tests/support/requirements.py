"""What a test needs of its machine: absent, it is skipped with the reason; under CI=true it fails with it."""

from __future__ import annotations

import os

import pytest


def need(obstacle: str | None) -> None:
    """Goes on if `obstacle` is None; else skips the test with that reason, or fails it when CI=true."""
    if obstacle is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"under CI=true this may not be missing: {obstacle}")
    pytest.skip(obstacle)
