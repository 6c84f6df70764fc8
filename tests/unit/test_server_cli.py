"""The command tandem-server (issue: the server's first form; cli.md's exit codes): what it prints when ready, how
it ends, and one clear line for everything that is wrong at the start."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import asyncssh
import pytest
from tests.support.embedded import EmbeddedServer

from tandem_protocol.errors import Usage
from tandem_server.cli import address


@pytest.fixture
def prepared(tmp_path: Path) -> EmbeddedServer:
    """A server that is ready to be started."""
    return EmbeddedServer(tmp_path)


def failed(command: list[str]) -> tuple[int, str]:
    """(exit code, the one line on stderr) of a start that must fail."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("tandem-server: ")
    assert done.stdout == ""
    return done.returncode, lines[0].removeprefix("tandem-server: ")


def with_option(server: EmbeddedServer, option: str, value: object) -> list[str]:
    command = server.command()
    command[command.index(option) + 1] = str(value)
    return command


def break_root(server: EmbeddedServer) -> list[str]:
    return with_option(server, "--root", server.folder / "nothing")


def break_root_empty(server: EmbeddedServer) -> list[str]:
    return with_option(server, "--root", "")


def break_host_key_empty(server: EmbeddedServer) -> list[str]:
    return with_option(server, "--host-key", "")


def break_root_by_a_file(server: EmbeddedServer) -> list[str]:
    return with_option(server, "--root", server.client_key)


def break_keys_missing(server: EmbeddedServer) -> list[str]:
    server.authorized_keys.unlink()
    return server.command()


def break_keys_empty(server: EmbeddedServer) -> list[str]:
    server.authorized_keys.write_text("# nobody yet\n\n")
    return server.command()


def break_keys_malformed(server: EmbeddedServer) -> list[str]:
    server.authorized_keys.write_text("ssh-ed25519 AAAAgarbage\n")
    return server.command()


def break_keys_binary(server: EmbeddedServer) -> list[str]:
    server.authorized_keys.write_bytes(bytes(range(128, 256)))
    return server.command()


def break_keys_inside(server: EmbeddedServer) -> list[str]:
    inside = server.root / "authorized_keys"
    inside.write_bytes(server.authorized_keys.read_bytes())
    return with_option(server, "--authorized-keys", inside)


def break_host_key_inside(server: EmbeddedServer) -> list[str]:
    return with_option(server, "--host-key", server.root / "host_key")


def break_host_key_garbage(server: EmbeddedServer) -> list[str]:
    server.host_key.write_text("no key\n")
    server.host_key.chmod(0o600)
    return server.command()


def break_host_key_open(server: EmbeddedServer) -> list[str]:
    server.host_key.write_bytes(server.client_key.read_bytes())
    server.host_key.chmod(0o644)
    return server.command()


def break_host_key_with_passphrase(server: EmbeddedServer) -> list[str]:
    key = asyncssh.generate_private_key("ssh-ed25519")
    server.host_key.write_bytes(key.export_private_key(passphrase="x", rounds=50))
    server.host_key.chmod(0o600)
    return server.command()


def break_listen(server: EmbeddedServer) -> list[str]:
    return with_option(server, "--listen", "2022")


@pytest.mark.parametrize(
    ("prepare", "code", "words"),
    [
        (break_root, 2, "is not a folder"),
        (break_root_by_a_file, 2, "is not a folder"),
        (break_root_empty, 2, "--root is empty"),
        (break_host_key_empty, 2, "--host-key is empty"),
        (break_keys_missing, 2, "No such file or directory"),
        (break_keys_empty, 2, "holds no key"),
        (break_keys_malformed, 2, "is not a file of public keys"),
        (break_keys_binary, 2, "is not a file of public keys"),
        (break_keys_inside, 2, "is below the root"),
        (break_host_key_inside, 2, "is below the root"),
        (break_host_key_garbage, 2, "is not a private key"),
        (break_host_key_with_passphrase, 2, "is not a private key without a passphrase"),
        (break_host_key_open, 1, "chmod 600"),
        (break_listen, 2, "is not HOST:PORT"),
    ],
)
def test_a_wrong_start_is_one_line(
    prepared: EmbeddedServer, prepare: Callable[[EmbeddedServer], list[str]], code: int, words: str
) -> None:
    assert failed(prepare(prepared)) == (code, AnyText(words))


class AnyText(str):
    """Equal to every text that holds this one."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and str(self) in other


def test_a_port_in_use(prepared: EmbeddedServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = failed(with_option(prepared, "--listen", f"127.0.0.1:{port}"))
    assert (code, f"cannot listen on 127.0.0.1:{port}" in line) == (1, True)
    assert "in use" in line


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it(prepared: EmbeddedServer, number: signal.Signals, code: int) -> None:
    prepared.start()
    assert prepared.process is not None
    prepared.process.send_signal(number)
    assert prepared.process.wait(30) == code
    prepared.stop()
    assert (prepared.folder / "server.log").read_text() == ""


def test_the_host_key_is_made_once_for_its_owner_alone(prepared: EmbeddedServer) -> None:
    command = prepared.command()
    del command[command.index("--host-key") :]  # by default it lies beside the root
    made = Path(f"{prepared.root}.host_key")
    printed = []
    for _ in range(2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            printed.append(server.stdout.readline())
            assert server.stdout.readline().startswith("listening on 127.0.0.1:")
            server.terminate()
    fingerprint = asyncssh.read_private_key(str(made)).get_fingerprint()
    assert printed == [f"host key {fingerprint} ({made})\n"] * 2
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert os.listdir(prepared.root) == []
    assert not [name for name in os.listdir(prepared.folder) if name.startswith(".host-key-")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:2022", ("127.0.0.1", 2022)),
        ("[::1]:0", ("::1", 0)),
        (":2022", ("", 2022)),
        ("backup.example.net:22", ("backup.example.net", 22)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert address(text) == expected


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "host:65536", "::1:22", "host:-1", "[::1]"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(Usage):
        address(text)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "tandem_server", *arguments]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.startswith("Usage: tandem-server")
    if "run" in arguments:
        assert "Example:\n    tandem-server run --root" in shown
