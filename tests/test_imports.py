"""Who may import whom (code.md, Layout): the house rules that no type checker sees.

Checked on the syntax trees, so that an import inside a function counts too; and once on a real process,
because a command's start is paid for every time.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOME = Path(__file__).parent.parent
PACKAGES = {
    "tandem_protocol": HOME / "protocol/tandem_protocol",
    "tandem_agent": HOME / "agent/tandem_agent",
    "tandem_server": HOME / "server/tandem_server",
}
FORBIDDEN = [
    ("tandem_protocol", "tandem_agent"),
    ("tandem_protocol", "tandem_server"),
    ("tandem_server", "tandem_agent"),
    ("tandem_agent", "tandem_server"),
]


def imports_of(path: Path, package: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that a file imports; `from a import b` gives `a` and `a.b`."""
    inside = (package, *path.relative_to(PACKAGES[package]).parent.parts)
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(inside[: len(inside) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield node.lineno, module
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def is_or_below(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def files_of(package: str) -> list[Path]:
    files = sorted(PACKAGES[package].rglob("*.py"))
    assert files, f"{package} has no files: the rule would check nothing"
    return files


@pytest.mark.parametrize(("package", "other"), FORBIDDEN)
def test_packages_keep_apart(package: str, other: str) -> None:
    wrong = [
        f"{path.relative_to(HOME)}:{line} imports {name}"
        for path in files_of(package)
        for line, name in imports_of(path, package)
        if is_or_below(name, other)
    ]
    assert not wrong, "\n".join(wrong)


def concrete_stores() -> set[str]:
    """The modules that define a Store."""
    found = set()
    for path in sorted((PACKAGES["tandem_protocol"] / "stores").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Store" for base in node.bases):
                found.add(f"tandem_protocol.stores.{path.stem}")
    assert len(found) >= 2, "the stores were not found: the rule would check nothing"
    return found


def test_only_wiring_knows_concrete_stores() -> None:
    stores = concrete_stores()
    wrong = [
        f"{path.relative_to(HOME)}:{line} imports {name}"
        for path in files_of("tandem_agent")
        if path != PACKAGES["tandem_agent"] / "wiring.py"
        for line, name in imports_of(path, "tandem_agent")
        if any(is_or_below(name, store) for store in stores)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "late"),
    [
        ("tandem_agent.cli", ("paramiko", "asyncssh", "rich", "keyring")),
        ("tandem_server.cli", ("asyncssh", "paramiko")),
        ("tandem_protocol.stores.sftp_folder", ("paramiko",)),
    ],
)
def test_what_begins_a_command_or_link_imports_little(module: str, late: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not set(late) & {name.partition(".")[0] for name in loaded.split()}
