"""How many round trips a verb waits for (issue 5: "round trips are what costs"), and what may not be had for fewer:
each status is seen, in the order of the promises: written and synced, then published, then synced again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from paramiko import sftp
from tests.support.sftp_script import EXTENSIONS, IN_ORDER, ScriptedServer, status
from tests.support.sshd import running_sshd

from tandem_protocol.errors import Exists, Missing, Unavailable
from tandem_protocol.stores.sftp import LARGE, VERBS, SftpStore
from tandem_protocol.stores.sftp_folder import SftpFolder
from tandem_protocol.stores.sftp_messages import Reply

NAME = "packs/ab/" + "ab" * 32
DATA = random.Random(5).randbytes(300_000)
FSYNC = (sftp.CMD_EXTENDED, b"fsync@openssh.com")
LINK = (sftp.CMD_EXTENDED, b"hardlink@openssh.com")


def put(folder: SftpFolder, name: str = NAME) -> None:
    folder.put(name, memoryview(DATA), lambda _count: None)


class Waits(ScriptedServer):
    """As asyncssh's: it may begin a request before it has ended the one before."""

    extensions = tuple(name for name in EXTENSIONS if name != IN_ORDER)


def test_trips_of_each_verb() -> None:
    server = ScriptedServer()
    folder = server.folder()

    def trips(expected: int) -> None:
        assert server.trips == expected
        server.trips = 0

    server.trips = 0
    folder.enter(False)
    trips(1)
    put(folder)  # is it there, open a part; write, sync; rename, sync; also with folders that are to be made
    trips(3)
    folder.create("tandem", memoryview(b"identity"))
    trips(3)
    assert folder.read(NAME, 0, 1000) == DATA[:1000]
    trips(2)
    assert [entry.size for entry in folder.entries("packs/ab")] == [len(DATA)]
    trips(2)
    assert folder.size(NAME) == len(DATA)
    trips(1)


def test_nothing_is_sent_before_what_it_needs_was_answered() -> None:
    """The statuses of all writes and of the fsync are in before the name is given, whatever the server is like."""

    class Watches(ScriptedServer):
        def on_rename(self, number: int, source: bytes, fields: Reply) -> bytes:
            assert not self.out, "answers that nobody has seen"
            return super().on_rename(number, source, fields)

        def on_extended(self, number: int, name: bytes, fields: Reply) -> bytes:
            assert name != LINK[1] or not self.out, "answers that nobody has seen"
            return super().on_extended(number, name, fields)

    for extensions in (ScriptedServer.extensions, Waits.extensions):
        server = Watches()
        server.extensions = extensions
        folder = server.folder()
        server.folders |= {b"/root/packs", b"/root/packs/ab", b"/root/tmp"}
        folder._folders |= {"packs/ab", "tmp"}  # so that no answers about folders are on their way
        put(folder)
        folder.create("tandem", memoryview(b"identity"))
        asked = [kind for kind, _ in server.asked]
        publishing = server.asked.index((sftp.CMD_RENAME, b"/root/tmp/" + b"ab" * 32))
        assert server.asked[:publishing].count(FSYNC) == 1
        assert asked.index(sftp.CMD_WRITE) < server.asked.index(FSYNC) < publishing
        assert FSYNC in server.asked[publishing : server.asked.index(LINK)]
        assert server.asked[server.asked.index(LINK) :].count(FSYNC) == 1


def test_a_server_that_may_begin_the_next_request_early_is_sent_none_before_the_answer() -> None:
    class Watches(Waits):
        def __init__(self) -> None:
            super().__init__()
            self.under_way: set[int] = set()

        def answer(self, kind: int, number: int, fields: Reply) -> bytes:
            self.under_way &= {kind for kind in self.under_way if self.out}
            if kind == sftp.CMD_EXTENDED:
                assert not self.under_way & {sftp.CMD_WRITE, sftp.CMD_RENAME, sftp.CMD_EXTENDED}
            self.under_way.add(kind)
            return super().answer(kind, number, fields)

    server = Watches()
    folder = server.folder()
    put(folder)
    folder.create("tandem", memoryview(b"identity"))
    assert server.asked.count(FSYNC) == 4


@pytest.mark.parametrize("extensions", [EXTENSIONS, Waits.extensions])
@pytest.mark.parametrize("failing", [1, 2])
def test_an_fsync_that_failed_is_not_asked_for_again(extensions: tuple[bytes, ...], failing: int) -> None:
    """The system forgets what it could not write after it has said so once."""

    class Fails(ScriptedServer):
        syncs = 0

        def on_extended(self, number: int, name: bytes, fields: Reply) -> bytes:
            if name == FSYNC[1]:
                self.syncs += 1
                if self.syncs == failing:
                    return status(number, sftp.SFTP_FAILURE)
            return super().on_extended(number, name, fields)

    server = Fails()
    server.extensions = extensions
    with pytest.raises(Unavailable):
        put(server.folder())
    assert server.syncs == failing
    assert (b"/root/" + NAME.encode() in server.files) == (failing == 2)


def test_what_is_there_is_not_sent_and_leaves_no_part() -> None:
    server = ScriptedServer()
    put(server.folder())
    server.asked.clear()
    put(server.folder())
    with pytest.raises(Exists):
        server.folder().put(NAME, memoryview(b"other"), lambda _count: None)
    assert sftp.CMD_WRITE not in [kind for kind, _ in server.asked]
    assert list(server.files) == [b"/root/" + NAME.encode()]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SftpStore]:
    with running_sshd(tmp_path) as server:
        opened = SftpStore(server.target())
        await opened.open()
        yield opened
        await opened.close()


async def test_many_verbs_share_one_connection(store: SftpStore) -> None:
    """Also a large one among them, whose answers come in between, and some that find nothing."""
    store._connections = store._connections[:1]
    large = random.Random(6).randbytes(LARGE + 1)
    names = [f"packs/{n % 256:02x}/{n:064x}" for n in range(1, 3 * VERBS)]

    async def one(name: str, data: bytes) -> None:
        with pytest.raises(Missing):
            await store.size(name)
        await store.put(name, data)
        assert await store.read(name, 0, len(data)) == data
        assert await store.size(name) == len(data)

    pieces = {name: DATA[: n * 1000 + 1] for n, name in enumerate(names)}
    await asyncio.gather(one("lists/" + "00" * 32, large), *(one(*piece) for piece in pieces.items()))
    raced = await asyncio.gather(
        *(store.create("tandem", b"%d" % n) for n in range(VERBS)), return_exceptions=True
    )
    assert sum(outcome is None for outcome in raced) == 1
    assert sum(isinstance(outcome, Exists) for outcome in raced) == VERBS - 1
    assert [entry async for entry in store.list("tmp")] == []


async def test_when_the_link_breaks_all_verbs_on_it_end(store: SftpStore) -> None:
    data = random.Random(7).randbytes(LARGE + 1)
    verbs = [asyncio.ensure_future(store.put(f"packs/00/{n:064x}", data)) for n in range(VERBS)]
    await asyncio.sleep(0)  # all are under way
    assert store._connections[0].has_large
    store._connections[0].link.abort()
    outcomes = await asyncio.wait_for(asyncio.gather(*verbs, return_exceptions=True), 30)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes), outcomes


async def test_verbs_that_a_fault_of_another_cuts_say_what_it_was(store: SftpStore) -> None:
    """ "The connection was given up" would tell nobody what to do."""

    def fails(_folder: SftpFolder) -> None:
        raise Unavailable("the server keeps nothing", "look at its disk")

    other = asyncio.ensure_future(store.put("packs/00/" + "00" * 32, random.Random(7).randbytes(LARGE + 1)))
    await asyncio.sleep(0)
    for verb in (store._run(fails), other):
        with pytest.raises(Unavailable, match="keeps nothing: look at its disk"):
            await verb
