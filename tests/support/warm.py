"""`tandem` commands without their start-up time: one warm process that has imported everything forks for each command.

What runs is the command line's own `run` in a process of its own, with the environment, folder, output and exit code
that a started `tandem` would have. For tests of hundreds of commands; what start-up itself does is tested elsewhere.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 120
_server: subprocess.Popen[str] | None = None


def run_warm(
    words: Sequence[str], environment: Mapping[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """One command to its end."""
    global _server
    if _server is None or _server.poll() is not None:
        _server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        atexit.register(_end, _server)
    assert _server.stdin is not None and _server.stdout is not None
    with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
        order = {
            "words": list(words),
            "environment": dict(environment),
            "folder": str(folder),
            "out": out.name,
            "err": err.name,
        }
        _server.stdin.write(json.dumps(order) + "\n")
        _server.stdin.flush()
        if not select.select([_server.stdout], [], [], PATIENCE_SECONDS)[0]:
            _end(_server)
            raise AssertionError(f"tandem {' '.join(words)} hangs: {Path(err.name).read_text()}")
        code = int(_server.stdout.readline())
        return subprocess.CompletedProcess(
            list(words), code, Path(out.name).read_text(), Path(err.name).read_text()
        )


def _end(server: subprocess.Popen[str]) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.communicate()


def _serve() -> None:
    for package in ("tandem_protocol", "tandem_agent"):
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}."):
            importlib.import_module(module.name)
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(_command(json.loads(line)))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _command(order: dict[str, Any]) -> int:
    for number, name, mode in ((0, os.devnull, "r"), (1, order["out"], "w"), (2, order["err"], "w")):
        with open(name, mode) as file:
            os.dup2(file.fileno(), number)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    from tandem_agent.cli.app import run

    with os.fdopen(0) as sys.stdin, os.fdopen(1, "w") as sys.stdout, os.fdopen(2, "w") as sys.stderr:
        return run(order["words"])


if __name__ == "__main__":
    _serve()
