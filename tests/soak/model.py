"""The long form of the search of the rules: see ``tests.model``. No seed, no folder: the same states each time."""

from __future__ import annotations

from tests.model import sweep
from tests.support.lab import LabFailure


def campaign(folder: str, count: int, seed: int) -> list[str]:
    """Visit ``count`` states over all configurations, and take each rule out in turn. `LabFailure` at a broken
    promise, or a rule that is not missed."""
    if not sweep.campaign(count):
        raise LabFailure("a promise is broken: see the run above")
    if missed := sweep.missed_mutants():
        raise LabFailure(f"not missed when taken out: {', '.join(missed)}")
    return ["every rule that is taken out is missed"]


def why_not() -> str | None:
    """It runs everywhere."""
    return None
