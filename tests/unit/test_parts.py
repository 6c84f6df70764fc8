"""Going on from parts of cut uploads over links that break after so many bytes (issue 4: "a link that breaks every
20 MB still delivers"; tier-protocol.md, Sessions: what the tier has is checked, not sent again). What was only sent
is never built upon unread."""

from __future__ import annotations

import random

import pytest
from paramiko import sftp
from tests.support.sftp_script import ScriptedServer

from tandem_protocol.errors import Unavailable
from tandem_protocol.stores.parts import SLICE, KnownParts
from tandem_protocol.stores.sftp_folder import SftpFolder
from tandem_protocol.stores.sftp_messages import Reply
from tandem_protocol.stores.sftp_requests import Requests

NAME = "packs/ab/" + "ab" * 32
PART = b"/root/tmp/" + b"ab" * 32
DATA = random.Random(48).randbytes(6 * SLICE + 5)


class Worn(ScriptedServer):
    """A server behind a link that is dead after ``left`` bytes of content in both directions, in each session."""

    def __init__(self, each: int) -> None:
        super().__init__()
        self.each = self.left = each
        self.parts = KnownParts()
        self.read = 0

    def session(self) -> SftpFolder:
        self.left = self.each
        self.folder()  # forgets what the last session had under way
        return SftpFolder(Requests(self, 60), "/root", "sftp://somewhere/root", self.parts)

    def put(self) -> bool:
        """One attempt in a session of its own: whether it got through."""
        try:
            self.session().put(NAME, memoryview(DATA), lambda _: None)
        except Unavailable:
            return False
        return True

    def answer(self, kind: int, number: int, fields: Reply) -> bytes:
        self.left -= fields.left()
        reply = super().answer(kind, number, fields) if self.left >= 0 else b""
        self.left -= len(reply)
        if self.left < 0:
            return b""
        self.read += len(reply) * (kind == sftp.CMD_READ)
        return reply


@pytest.mark.parametrize("each", [5 * SLICE, 4 * SLICE + SLICE // 2, 3 * SLICE])
def test_reading_back_over_a_link_that_breaks_gets_forward(each: int) -> None:
    """Each session is worn out by what it reads and writes alike: without memory the second would never get further
    than the first."""
    server = Worn(each)
    attempts = 1
    while not server.put():
        attempts += 1
        assert attempts <= 6
    assert attempts > 1
    assert server.files == {b"/root/" + NAME.encode(): DATA}
    assert server.read < len(DATA) + 3 * SLICE  # no slice twice, but for those that a break cut off


def test_what_was_only_sent_is_read_before_it_is_built_upon() -> None:
    """The server answered for bytes that are not on its disk."""
    server = Worn(4 * SLICE)
    assert not server.put()
    server.files[PART][SLICE // 2] ^= 1
    server.each = 10**9
    assert server.put()
    assert server.files == {b"/root/" + NAME.encode(): DATA}


def test_what_is_known_lies_on_the_disk() -> None:
    server = Worn(4 * SLICE)
    assert not server.put()
    server.asked.clear()
    assert not server.put()
    kinds = [kind for kind, _ in server.asked]
    assert kinds.index(sftp.CMD_EXTENDED) < kinds.index(sftp.CMD_READ)


def test_a_part_that_is_shorter_than_what_was_known_is_read_anew() -> None:
    server = Worn(4 * SLICE)
    assert not server.put()
    assert not server.put()
    known = server.parts.good(PART.decode().removeprefix("/root/"), len(DATA))
    assert known >= 2 * SLICE
    del server.files[PART][known - SLICE :]
    server.files[PART][0] ^= 1
    server.each = 10**9
    assert server.put()
    assert server.files == {b"/root/" + NAME.encode(): DATA}
