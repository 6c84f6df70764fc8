"""What every test has: hypothesis profiles, the rule about skips, the embedded server as a fixture.

Under ``CI=true`` a skip is a failure: a machine that should be able to run everything must not pass by
leaving things out. Only reasons that begin with "not on this platform:" stay skips.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.support.embedded import EmbeddedServer, embedded_server

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
ALLOWED_SKIP = "not on this platform:"

# Shared cores make single examples slow now and then; a deadline would only tell how busy the machine was.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if IN_CI else "dev"))


# Whoever starts tests in the background may have these ignored (nohup, a shell without job control), and so would every
# program that the tests start and then interrupt.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip that CI does not allow into a failure that keeps its reason."""
    if not IN_CI or report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(ALLOWED_SKIP):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _forbid_skip(report)
    return report


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A folder in memory where the machine has one: for many small durable writes whose durability is not
    what the test is about."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="tandem-test-", dir=base) as folder:
        yield Path(folder)


@pytest.fixture
def sftp_server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A running embedded server of the test's own."""
    folder = tmp_path / "sftp-server"
    folder.mkdir()
    with embedded_server(folder) as server:
        yield server
