"""The link cut at every single request of every SFTP verb, before the server acts and after it (a lost reply),
then the verb repeated in a new session (tier-protocol.md: "Faults", "A reply can get lost"; trust.md, fault at
every I/O operation). What stands there is whole or absent at every moment, and in the end right."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from paramiko import sftp
from tests.support.sftp_script import EXTENSIONS, IN_ORDER, ScriptedServer

from tandem_protocol.errors import Exists, Missing, TandemError, Unavailable
from tandem_protocol.stores.sftp_folder import SftpFolder
from tandem_protocol.stores.sftp_messages import Reply
from tandem_protocol.stores.sftp_requests import SAFE_SIZE

NAME, GOAL = "packs/ab/" + "ab" * 32, "quarantine/removed/x"
PATH, GOAL_PATH = b"/root/" + NAME.encode(), b"/root/" + GOAL.encode()
DATA = random.Random(47).randbytes(4 * SAFE_SIZE + 5)


class Cuts(ScriptedServer):
    """After ``left`` requests of a session the link is dead; the last one is carried out only if ``acts``."""

    def __init__(self, left: int, acts: bool) -> None:
        super().__init__()
        self.left = left
        self.acts = acts

    def answer(self, kind: int, number: int, fields: Reply) -> bytes:
        if kind == sftp.CMD_INIT:
            return super().answer(kind, number, fields)
        self.left -= 1
        if self.left < 0:
            return b""
        reply = b"" if self.left == 0 and not self.acts else super().answer(kind, number, fields)
        if not any(data not in (b"", DATA) for path, data in self.files.items() if b"/tmp/" not in path):
            return b"" if self.left == 0 else reply
        raise AssertionError(f"something torn was published by request {kind}")


def drive(prepare: Callable[[SftpFolder], None], verb: Callable[[SftpFolder], None]) -> list[Cuts]:
    """Every way to be cut, each repeated until the verb ends, on a server that is sent several requests without
    waiting and on one that is not; gives the servers."""
    ended: list[Cuts] = []
    for acts, in_order in itertools.product((False, True), (False, True)):
        for cut in range(1, 60):
            server = Cuts(10**6, acts)
            server.extensions = [name for name in EXTENSIONS if in_order or name != IN_ORDER]
            prepare(server.folder())
            server.left = cut
            was_cut = False
            try:
                verb(server.folder())
            except Unavailable:
                was_cut = True
            except TandemError as error:
                raise AssertionError(f"cut at request {cut} (acts: {acts}) became {error!r}") from error
            if was_cut:
                server.left = 10**6
                verb(server.folder())
            ended.append(server)
            if not was_cut and server.left > 0:
                break
        else:
            raise AssertionError("the verb never got through")
    assert len(ended) > 4, "cuts that cut nothing"
    return ended


def nothing(_folder: SftpFolder) -> None:
    """The verb starts on an empty server."""


def test_put() -> None:
    for server in drive(nothing, lambda f: f.put(NAME, memoryview(DATA), lambda _count: None)):
        assert server.files == {PATH: DATA}


def test_create() -> None:
    def create(folder: SftpFolder) -> None:
        try:
            folder.create(NAME, memoryview(DATA))
        except Exists:
            assert folder.read(NAME, 0, None) == DATA  # as the caller does: it was ours, the reply was lost

    for server in drive(nothing, create):
        assert {path: data for path, data in server.files.items() if b"/tmp/" not in path} == {PATH: DATA}


def test_move() -> None:
    def move(folder: SftpFolder) -> None:
        try:
            folder.move(NAME, GOAL)
        except (Missing, Exists):
            assert folder.size(GOAL) == len(DATA)

    for server in drive(lambda f: f.put(NAME, memoryview(DATA), lambda _count: None), move):
        assert server.files == {GOAL_PATH: DATA}


def test_delete() -> None:
    for server in drive(
        lambda f: f.put(NAME, memoryview(DATA), lambda _count: None), lambda f: f.delete(NAME)
    ):
        assert server.files == {}


def test_reading_and_listing() -> None:
    def prepare(folder: SftpFolder) -> None:
        folder.put(NAME, memoryview(DATA), lambda _count: None)

    def look(folder: SftpFolder) -> None:
        assert folder.read(NAME, 3, None) == DATA[3:]
        assert folder.size(NAME) == len(DATA)
        assert [entry.size for entry in folder.entries("packs/ab")] == [len(DATA)]

    drive(prepare, look)


@pytest.mark.parametrize("confirmed", [1, 2, 3])
def test_what_the_server_had_is_not_sent_again(confirmed: int) -> None:
    server = Cuts(10**6, True)
    count = 0

    def watch(_count: int) -> None:
        nonlocal count
        count += 1
        if count == confirmed:
            server.left = 0

    with pytest.raises(Unavailable):
        server.folder().put(NAME, memoryview(DATA), watch)
    had = len(next(data for path, data in server.files.items() if b"/tmp/" in path))
    server.left = 10**6
    sent: list[int] = []
    server.folder().put(NAME, memoryview(DATA), sent.append)
    assert sum(sent) == len(DATA) - had
    assert server.files == {PATH: DATA}
