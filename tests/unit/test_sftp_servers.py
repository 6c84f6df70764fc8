"""SFTP over real servers where they refuse, stall, break or are somebody else (issue, Bad input: "wrong or
changed host key, wrong SSH key, full disk, server killed mid-transfer"; trust.md rows 31 to 33)."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncssh
import pytest
from tests.support.asyncssh_server import PASSWORD, plain_server
from tests.support.requirements import require_program
from tests.support.sshd import Sshd, free_port, make_key, running_sshd

from tandem_protocol.errors import Corrupt, Refused, TandemError, Unavailable, Usage
from tandem_protocol.store import Store
from tandem_protocol.stores.host_keys import fetch_host_keys, read_pins
from tandem_protocol.stores.retrying import RetryingStore, RetryPolicy
from tandem_protocol.stores.sftp import SftpStore
from tandem_protocol.stores.sftp_transport import SftpTarget, ssh_command

NAME = "packs/ab/" + "ab" * 32
DATA = random.Random(23).randbytes(24 * 1024 * 1024)

both_ways = pytest.mark.parametrize("use_system_ssh", [True, False], ids=["ssh", "paramiko"])


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def own_sshd(tmp_path: Path) -> Iterator[Sshd]:
    """One that the test may stop, stall and start again."""
    with running_sshd(tmp_path / "own") as server:
        yield server


@asynccontextmanager
async def session(target: SftpTarget) -> AsyncIterator[SftpStore]:
    store = SftpStore(target)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


async def refusal(target: SftpTarget) -> TandemError:
    """The error with which opening ends."""
    with pytest.raises(TandemError) as caught:
        async with session(target):
            pass
    return caught.value


def leftovers() -> set[str]:
    """Threads and files of connections that were not put away."""
    threads = {
        t.name for t in threading.enumerate() if t.name.startswith(("tandem-sftp", "tandem-ssh", "paramiko"))
    }
    return threads | set(os.listdir(tempfile.gettempdir()))


@pytest.fixture(autouse=True)
def nothing_left_behind(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
    before = leftovers()
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("tandem-"):
            thread.join(5)
    assert leftovers() <= before


@both_ways
async def test_a_changed_host_key_names_both_fingerprints(
    own_sshd: Sshd, tmp_path: Path, use_system_ssh: bool
) -> None:
    target = own_sshd.target(use_system_ssh=use_system_ssh)
    async with session(target):
        pass
    (old,) = read_pins(target.known_hosts).fingerprints
    own_sshd.stop()
    for half in (own_sshd.host_key, own_sshd.host_key.with_suffix(".pub")):
        half.unlink()
    make_key(own_sshd.host_key)
    own_sshd.start()
    (new,) = read_pins([own_sshd.known_hosts_line]).fingerprints
    error = await refusal(target)
    assert isinstance(error, Refused)
    assert old in error.what
    assert new in error.what
    assert "do not connect" in error.remedy


@both_ways
async def test_a_host_key_of_another_type_than_the_pinned_one(
    sshd: Sshd, tmp_path: Path, use_system_ssh: bool
) -> None:
    make_key(tmp_path / "ecdsa", "ecdsa")
    kind, key = (tmp_path / "ecdsa.pub").read_text().split()[:2]
    error = await refusal(sshd.target(use_system_ssh=use_system_ssh, known_hosts=(f"{kind} {key}",)))
    (shown,) = read_pins([sshd.known_hosts_line]).fingerprints
    assert isinstance(error, Refused)
    assert shown in error.what


@both_ways
async def test_an_unknown_host_key_is_shown_and_never_trusted(sshd: Sshd, use_system_ssh: bool) -> None:
    (shown,) = read_pins([sshd.known_hosts_line]).fingerprints
    error = await refusal(sshd.target(use_system_ssh=use_system_ssh, known_hosts=()))
    assert isinstance(error, Refused)
    assert shown in error.what
    assert "pin" in error.remedy


@both_ways
async def test_a_fingerprint_is_pin_enough(sshd: Sshd, use_system_ssh: bool) -> None:
    (offered,) = await fetch_host_keys(sshd.host, sshd.port)
    assert offered.line == sshd.known_hosts_line
    async with session(sshd.target(use_system_ssh=use_system_ssh, known_hosts=(offered.fingerprint,))):
        pass
    wrong = "SHA256:" + "A" * 43
    error = await refusal(sshd.target(use_system_ssh=use_system_ssh, known_hosts=(wrong,)))
    assert isinstance(error, Refused)
    assert offered.fingerprint in error.what
    assert wrong in error.what


async def test_host_keys_of_nobody() -> None:
    with pytest.raises(Unavailable):
        await fetch_host_keys("127.0.0.1", free_port())


@pytest.mark.parametrize(
    "pin", ["nonsense", "SHA256:short", "host ssh-ed25519", "ssh-dss AAAA", "ssh-ed25519 %%"]
)
def test_pins_that_cannot_be_read(pin: str) -> None:
    with pytest.raises(Usage):
        read_pins([pin])


@both_ways
async def test_a_wrong_key_is_refused_at_once(sshd: Sshd, tmp_path: Path, use_system_ssh: bool) -> None:
    make_key(tmp_path / "other")
    error = await refusal(sshd.target(use_system_ssh=use_system_ssh, identity_file=str(tmp_path / "other")))
    assert isinstance(error, Refused)
    assert "refuses the login" in error.what
    assert error.remedy


@both_ways
async def test_a_key_file_that_is_not_there(sshd: Sshd, tmp_path: Path, use_system_ssh: bool) -> None:
    error = await refusal(sshd.target(use_system_ssh=use_system_ssh, identity_file=str(tmp_path / "none")))
    assert isinstance(error, Refused)


async def test_a_key_file_that_others_may_read(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "open").write_bytes(sshd.client_key.read_bytes())
    (tmp_path / "open").chmod(0o644)
    error = await refusal(sshd.target(use_system_ssh=True, identity_file=str(tmp_path / "open")))
    assert isinstance(error, Refused)
    assert "chmod 600" in error.remedy


async def test_a_key_file_with_a_passphrase(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    (tmp_path / "locked").write_bytes(key.export_private_key(passphrase="secret"))
    (tmp_path / "locked").chmod(0o600)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    for use_system_ssh in (True, False):
        target = sshd.target(use_system_ssh=use_system_ssh, identity_file=str(tmp_path / "locked"))
        assert isinstance(await refusal(target), Refused)
    (tmp_path / "junk").write_text("not a key")
    error = await refusal(sshd.target(use_system_ssh=False, identity_file=str(tmp_path / "junk")))
    assert isinstance(error, Refused)


@pytest.fixture
def agent(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """OpenSSH's own agent, holding the client key."""
    program, add = (
        require_program("ssh-agent", "openssh-client"),
        require_program("ssh-add", "openssh-client"),
    )
    address = str(tmp_path / "agent")
    with subprocess.Popen([program, "-D", "-a", address], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it listens once it has said where
        monkeypatch.setenv("SSH_AUTH_SOCK", address)
        subprocess.run([add, "-q", str(sshd.client_key)], check=True)
        yield
        process.terminate()


@both_ways
@pytest.mark.usefixtures("agent")
async def test_a_key_that_only_the_agent_has(
    sshd: Sshd, tmp_path: Path, use_system_ssh: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named by nobody, or by a file that only its passphrase would open."""
    monkeypatch.setenv("HOME", str(tmp_path))
    async with session(sshd.target(use_system_ssh=use_system_ssh, identity_file=None)):
        pass
    locked = asyncssh.import_private_key(sshd.client_key.read_bytes())
    (tmp_path / "locked").write_bytes(locked.export_private_key(passphrase="secret"))
    (tmp_path / "locked").chmod(0o600)
    (tmp_path / "locked.pub").write_bytes(locked.export_public_key())
    async with session(sshd.target(use_system_ssh=use_system_ssh, identity_file=str(tmp_path / "locked"))):
        pass


@both_ways
async def test_nobody_listens(sshd: Sshd, use_system_ssh: bool) -> None:
    error = await refusal(sshd.target(use_system_ssh=use_system_ssh, port=free_port()))
    assert type(error) is Unavailable
    assert "refused" in error.what


@both_ways
async def test_a_server_without_sftp(tmp_path: Path, use_system_ssh: bool) -> None:
    with running_sshd(tmp_path / "bare", sftp=False) as server:
        error = await refusal(server.target(use_system_ssh=use_system_ssh))
    assert isinstance(error, Refused)
    assert "no SFTP" in error.what


@both_ways
async def test_a_login_that_talks(tmp_path: Path, use_system_ssh: bool) -> None:
    with running_sshd(
        tmp_path / "talks", extra="ForceCommand echo Welcome to this machine, dear user"
    ) as server:
        error = await refusal(server.target(use_system_ssh=use_system_ssh))
    assert isinstance(error, Corrupt)
    assert "silent" in error.remedy


@both_ways
async def test_algorithms_that_are_too_weak_are_refused(tmp_path: Path, use_system_ssh: bool) -> None:
    with running_sshd(tmp_path / "weak", extra="Ciphers aes128-cbc\nMACs hmac-sha1") as server:
        error = await refusal(server.target(use_system_ssh=use_system_ssh))
    assert isinstance(error, Refused)
    assert "safe enough" in error.what


@both_ways
async def test_a_server_killed_in_the_middle_and_the_upload_goes_on(
    own_sshd: Sshd, use_system_ssh: bool
) -> None:
    """After the restart the part is read back and the rest is sent, not the whole again."""
    sent: list[int] = []
    sessions: list[Store] = []

    def watch(count: int) -> None:
        sent.append(count)
        if not sessions and own_sshd.process is not None and sum(sent) > len(DATA) // 2:
            own_sshd.stop()

    async def restart(_seconds: float) -> None:
        if own_sshd.process is None:
            own_sshd.start()

    async def look(store: Store) -> None:
        sessions.append(store)

    target = own_sshd.target(use_system_ssh=use_system_ssh)
    store = RetryingStore(lambda: SftpStore(target), RetryPolicy(jitter_s=0), look, restart)
    await store.open()
    await store.put(NAME, DATA, watch)
    assert await store.read(NAME) == DATA
    assert [entry async for entry in store.list("tmp")] == []
    await store.close()
    assert len(sessions) == 1
    assert len(DATA) // 2 < sum(sent) <= len(DATA)


@both_ways
async def test_a_server_killed_while_reading(own_sshd: Sshd, use_system_ssh: bool) -> None:
    async with session(own_sshd.target(use_system_ssh=use_system_ssh)) as store:
        await store.put(NAME, DATA)
        own_sshd.stop()
        with pytest.raises(Unavailable):
            await store.read(NAME)
        with pytest.raises(Unavailable, match="not open"):
            await store.size(NAME)


@both_ways
async def test_a_server_that_stalls_meets_the_deadline(own_sshd: Sshd, use_system_ssh: bool) -> None:
    async with session(own_sshd.target(use_system_ssh=use_system_ssh, deadline_s=1.0)) as store:
        await store.create("tandem", b"identity")
        own_sshd.signal_connections(signal.SIGSTOP)
        with pytest.raises(Unavailable, match="within 1 s"):
            await store.read("tandem")
    async with session(own_sshd.target(use_system_ssh=use_system_ssh, deadline_s=1.0)) as store:
        own_sshd.signal_connections(signal.SIGSTOP)
        with pytest.raises(Unavailable, match=r"for 1 s|within 1 s"):
            await store.put(NAME, DATA)


@both_ways
async def test_a_cancelled_verb_ends_its_connection(own_sshd: Sshd, use_system_ssh: bool) -> None:
    """Even while the server is silent: no thread and no process waits on."""
    async with session(own_sshd.target(use_system_ssh=use_system_ssh)) as store:
        own_sshd.signal_connections(signal.SIGSTOP)
        task = asyncio.create_task(store.put(NAME, DATA))
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(10):
            with pytest.raises(asyncio.CancelledError):
                await task
        with pytest.raises(Unavailable):
            await store.size(NAME)


async def test_cancelling_again_and_again_leaves_nothing(own_sshd: Sshd) -> None:
    async with session(own_sshd.target(use_system_ssh=True)) as store:
        task: asyncio.Task[None] | None = None

        def stop(_count: int) -> None:
            assert task is not None
            task.cancel()

        task = asyncio.create_task(store.put(NAME, DATA, stop))
        with suppress(asyncio.CancelledError):
            await task


async def test_passwords(tmp_path: Path) -> None:
    async with plain_server(tmp_path) as server:
        async with session(server.target()) as store:
            await store.create("tandem", b"identity")
        error = await refusal(server.target(password="wrong " + PASSWORD))
    assert isinstance(error, Refused)
    assert PASSWORD not in str(error)
    assert PASSWORD not in repr(server.target())


async def test_one_failed_write_among_many_on_a_real_channel(tmp_path: Path) -> None:
    class FailsOnce(asyncssh.SFTPServer):
        writes = 0

        def write(self, file_obj: object, offset: int, data: bytes) -> int | Awaitable[int]:
            FailsOnce.writes += 1
            if FailsOnce.writes == 5:
                raise asyncssh.SFTPFailure("a disk of the server hiccups")
            return super().write(file_obj, offset, data)

    async with plain_server(tmp_path, FailsOnce) as server:
        async with session(server.target()) as store:
            with pytest.raises(Unavailable, match="hiccups"):
                await store.put(NAME, DATA)
        async with session(server.target()) as store:
            await store.put(NAME, DATA)
            assert await store.read(NAME) == DATA


async def test_a_machine_without_ssh(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, it is a clear refusal; not asked for, paramiko's transport serves."""
    monkeypatch.setenv("PATH", "/nonexistent")
    error = await refusal(sshd.target(use_system_ssh=True))
    assert isinstance(error, Refused)
    assert "install" in error.remedy
    async with session(sshd.target(use_system_ssh=None)) as store:
        await store.create("keys/" + "00" * 32, b"x")


async def test_a_temporary_folder_that_is_gone(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "tempdir", "/nonexistent")
        error = await refusal(sshd.target(use_system_ssh=True))
    assert isinstance(error, Refused)
    assert "temporary" in error.remedy


@pytest.mark.parametrize(
    "host", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n" + b"\xff" * 4000]
)
@both_ways
async def test_a_port_that_speaks_something_else(host: bytes, use_system_ssh: bool, sshd: Sshd) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(host)
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        error = await refusal(sshd.target(use_system_ssh=use_system_ssh, port=port))
    assert isinstance(error, (Unavailable, Refused))


def test_user_names_as_they_occur() -> None:
    for user in ("u123-sub1", "DOMAIN\\user", "user@example.org", "müller", "a.b_c"):
        assert SftpTarget(host="h", user=user).user == user


@pytest.mark.parametrize("bad", ["-oProxyCommand=x", "", "a b", "a;b", "a\nb", "$(x)"])
def test_hosts_and_users_that_are_options_or_worse(bad: str) -> None:
    with pytest.raises(Usage):
        SftpTarget(host=bad)
    with pytest.raises(Usage):
        SftpTarget(host="h", user=bad or " ")


def test_the_command_line_trusts_no_configuration_with_host_keys() -> None:
    command = ssh_command(SftpTarget(host="h", user="u", port=2022, identity_file="/k"), "/tmp/100%")
    assert command[-4:] == ["-s", "--", "h", "sftp"]
    for option in (
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        'UserKnownHostsFile="/tmp/100%%"',
        "GlobalKnownHostsFile=/dev/null",
        "UpdateHostKeys=no",
        "ControlPath=none",
        "ClearAllForwardings=yes",
        "IdentitiesOnly=yes",
    ):
        assert option in command
