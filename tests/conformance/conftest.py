"""One suite for every store: `place` runs each test against each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest
from tests.conformance.places import FtpPlace, MemoryPlace, Place, opened
from tests.support.asyncssh_server import plain_server
from tests.support.embedded import EmbeddedServer, embedded_server
from tests.support.ftpservers import FtpServer, running_ftp
from tests.support.requirements import require_program
from tests.support.sshd import Sshd, running_sshd

from tandem_protocol.store import Store
from tandem_protocol.stores.directory import DirectoryStore
from tandem_protocol.stores.retrying import RetryingStore, RetryPolicy
from tandem_protocol.stores.sftp import SftpStore
from tandem_protocol.stores.sftp_transport import SftpTarget

FTP_KINDS = [
    *["vsftpd-none", "vsftpd-explicit", "vsftpd-implicit"],
    *["proftpd-none", "proftpd-explicit", "proftpd-implicit"],
    *["pureftpd-none", "pureftpd-explicit"],
]
KINDS = [
    "directory",
    "memory",
    "retrying",
    "sshd-ssh",
    "sshd-paramiko",
    "embedded-ssh",
    "embedded-paramiko",
    "password",
    *FTP_KINDS,
]


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with embedded_server(tmp_path_factory.mktemp("embedded")) as server:
        yield server


@pytest.fixture(scope="session")
def ftp_servers() -> Iterator[Callable[[str], FtpServer]]:
    """Gives the running server of a kind in `FTP_KINDS`, started when it is first asked for."""
    started: dict[str, FtpServer] = {}
    with ExitStack() as stack:

        def server(kind: str) -> FtpServer:
            if kind not in started:
                program, _, tls = kind.partition("-")
                started[kind] = stack.enter_context(running_ftp(program, tls))
            return started[kind]

        yield server


@pytest.fixture(params=KINDS)
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, closing: AsyncExitStack
) -> AsyncIterator[Place]:
    kind: str = request.param
    root = tmp_path / "root"
    root.mkdir()
    if kind == "directory":
        yield Place(root, lambda path, make: DirectoryStore(str(path), make))
    elif kind == "memory":
        yield MemoryPlace()
    elif kind == "retrying":
        policy = RetryPolicy(attempts=2, first_s=0, max_s=0, jitter_s=0)
        yield Place(root, lambda path, make: RetryingStore(lambda: DirectoryStore(str(path), make), policy))
    elif kind == "password":
        async with plain_server(root) as server:
            yield Place(root, lambda path, make: SftpStore(server.target(path=str(path)), make), resumes=True)
    elif kind in FTP_KINDS:
        yield FtpPlace(request.getfixturevalue("ftp_servers")(kind), tmp_path.name)
    else:
        carrier = kind.rpartition("-")[2]
        if carrier == "ssh":
            require_program("ssh", "openssh-client")
        if kind.startswith("sshd"):
            yield _on_sshd(request.getfixturevalue("sshd"), root, carrier == "ssh")
        else:
            yield _on_embedded(request.getfixturevalue("embedded"), tmp_path.name, carrier == "ssh")


def _on_sshd(server: Sshd, root: Path, use_system_ssh: bool) -> Place:
    def make_at(path: Path, make: bool) -> Store:
        return SftpStore(server.target(path, use_system_ssh=use_system_ssh), make)

    return Place(root, make_at, resumes=True)


def _on_embedded(server: EmbeddedServer, name: str, use_system_ssh: bool) -> Place:
    root = server.root / name
    root.mkdir(exist_ok=True)
    for left in root.iterdir():
        raise AssertionError(f"{left} is left of an earlier test")

    def make_at(path: Path, make: bool) -> Store:
        target = SftpTarget(
            host=server.host,
            port=server.port,
            user=server.user,
            path="/" + str(path.relative_to(server.root)),
            identity_file=str(server.client_key),
            known_hosts=(server.known_hosts_line,),
            use_system_ssh=use_system_ssh,
            deadline_s=20.0,
        )
        return SftpStore(target, make)

    return Place(root, make_at, resumes=True)


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    """Closes every store that a test opened."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def store(place: Place, closing: AsyncExitStack) -> Store:
    return await opened(place.make(), closing)
