"""Servers that lie (trust.md, hostile server: rows 26 to 30, 33 and 36; issue: "every WRITE status collected,
requests with deadlines"). Each lie ends as one of the project's errors, and nothing wrong is published."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest
from paramiko import sftp
from tests.support.sftp_script import FOLDER, ScriptedServer, listing, packet, status, string

from tandem_protocol.errors import Corrupt, Exists, Full, Missing, Refused, TandemError, Unavailable
from tandem_protocol.stores import sftp_folder, sftp_requests
from tandem_protocol.stores.sftp_messages import Reply
from tandem_protocol.stores.sftp_requests import MAX_PACKET, Requests

NAME = "packs/ab/" + "ab" * 32
PATH = b"/root/" + NAME.encode()
PART = b"/root/tmp/" + b"ab" * 32
DATA = random.Random(11).randbytes(10 * sftp_requests.SAFE_SIZE + 17)


def put(server: ScriptedServer, data: bytes = DATA) -> int:
    """Put and tell how many bytes the server confirmed."""
    confirmed: list[int] = []
    server.folder().put(NAME, memoryview(data), confirmed.append)
    return sum(confirmed)


def test_the_scripted_server_is_honest_by_default() -> None:
    server = ScriptedServer()
    assert put(server) == len(DATA)
    assert server.files == {PATH: DATA}
    assert server.folder().read(NAME, 0, None) == DATA
    assert server.folder().read(NAME, 5, 70000) == DATA[5:70005]
    server.folder().create("tandem", memoryview(b"identity"))
    with pytest.raises(Exists):
        server.folder().create("tandem", memoryview(b"identity"))
    assert set(server.files) == {PATH, b"/root/tandem"}


@pytest.mark.parametrize("failing", range(1, 12))
def test_one_failed_write_among_many_is_noticed(failing: int) -> None:
    """The k-th WRITE fails and all later ones succeed: paramiko's own client closes in silence then."""

    class FailsOnce(ScriptedServer):
        writes = 0

        def on_write(self, number: int, handle: bytes, fields: Reply) -> bytes:
            self.writes += 1
            if self.writes == failing:
                return status(number, sftp.SFTP_FAILURE, b"Failure")
            return super().on_write(number, handle, fields)

    server = FailsOnce()
    with pytest.raises(Unavailable, match="Failure"):
        put(server)
    assert server.files == {}  # not published, and nothing to go on from
    assert server.writes == 11, "every write was answered before the fault was told"


def test_a_server_that_says_ok_and_drops_data() -> None:
    class Drops(ScriptedServer):
        def on_write(self, number: int, handle: bytes, fields: Reply) -> bytes:
            if fields.int64() < 5 * sftp_requests.SAFE_SIZE:
                fields = Reply(0, struct.pack(">Q", 0) + string(b"x"))
                return super().on_write(number, handle, fields)
            return status(number, sftp.SFTP_OK)

    server = Drops()
    with pytest.raises(Unavailable, match="bytes where"):
        put(server)
    assert server.files == {}


def test_a_failed_fsync_leaves_nothing_to_build_upon() -> None:
    class NoSync(ScriptedServer):
        def on_extended(self, number: int, name: bytes, fields: Reply) -> bytes:
            if name == b"fsync@openssh.com":
                return status(number, sftp.SFTP_FAILURE)
            return super().on_extended(number, name, fields)

    server = NoSync()
    with pytest.raises(Unavailable):
        put(server)
    with pytest.raises(Unavailable):
        server.folder().create("tandem", memoryview(b"identity"))
    assert server.files == {}


@pytest.mark.parametrize("length", [0, 4, MAX_PACKET + 1, 2**31, 2**32 - 1])
def test_packet_lengths_are_capped(length: int) -> None:
    class Lengths(ScriptedServer):
        def on_lstat(self, number: int, path: bytes, fields: Reply) -> bytes:
            return struct.pack(">IBI", length, sftp.CMD_ATTRS, number) + b"\0" * 100

    with pytest.raises(Corrupt, match="packet"):
        Lengths().folder().size(NAME)


def test_a_login_script_that_talks() -> None:
    class Talks(ScriptedServer):
        def answer(self, kind: int, number: int, fields: Reply) -> bytes:
            return b"Welcome to this machine!\r\n"

    with pytest.raises(Corrupt) as caught:
        Talks().folder()
    assert "silent" in caught.value.remedy


_WRONG_ANSWERS: dict[str, Callable[[int], bytes]] = {
    "not asked": lambda number: status(number + 7, sftp.SFTP_OK),
    "too much data": lambda number: packet(sftp.CMD_DATA, number, string(b"x" * 70000)),
    "length beyond packet": lambda number: packet(sftp.CMD_DATA, number, struct.pack(">I", 99) + b"x"),
    "no data": lambda number: packet(sftp.CMD_DATA, number, string(b"")),
    "data without length": lambda number: packet(sftp.CMD_DATA, number, b"x"),
    "a name": lambda number: listing(number, [b"x"]),
    "ok": lambda number: status(number, sftp.SFTP_OK),
}


@pytest.mark.parametrize("lie", _WRONG_ANSWERS.values(), ids=_WRONG_ANSWERS)
def test_wrong_answers_to_a_read(lie: Callable[[int], bytes]) -> None:
    class Lies(ScriptedServer):
        def on_read(self, number: int, handle: bytes, fields: Reply) -> bytes:
            return lie(number)

    server = Lies()
    put(server)
    with pytest.raises(Corrupt):
        server.folder().read(NAME, 0, None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        struct.pack(">I", 1),
        struct.pack(">IQ", 0x5, 1),
        struct.pack(">II", 0x80000000, 2**32 - 1),
        struct.pack(">IIII", 0x80000000, 1, 2**32 - 1, 0),
    ],
)
def test_attributes_that_are_cut_short(body: bytes) -> None:
    class Cuts(ScriptedServer):
        def on_lstat(self, number: int, path: bytes, fields: Reply) -> bytes:
            return packet(sftp.CMD_ATTRS, number, body)

    with pytest.raises(Corrupt):
        Cuts().folder().size(NAME)


@pytest.mark.parametrize("most", [1, 1000, sftp_requests.SAFE_SIZE - 1])
def test_short_reads_are_completed(most: int) -> None:
    class Short(ScriptedServer):
        def on_read(self, number: int, handle: bytes, fields: Reply) -> bytes:
            offset, length = fields.int64(), min(fields.int32(), most)
            return super().on_read(number, handle, Reply(0, struct.pack(">QI", offset, length)))

    server = Short()
    data = DATA[: 3000 if most == 1 else None]
    put(server, data)
    assert server.folder().read(NAME, 0, None) == data


def test_answers_may_come_in_any_order() -> None:
    class Shuffles(ScriptedServer):
        held: list[bytes]

        def answer(self, kind: int, number: int, fields: Reply) -> bytes:
            reply = super().answer(kind, number, fields)
            if kind not in (sftp.CMD_READ, sftp.CMD_WRITE):
                return reply
            self.held = [*getattr(self, "held", []), reply]
            return b""

        def receive_into(self, view: memoryview, seconds: float) -> int:
            if not self.out and getattr(self, "held", []):
                random.Random(len(self.held)).shuffle(self.held)
                self.out += self.held.pop()
            return super().receive_into(view, seconds)

    server = Shuffles()
    put(server)
    assert server.files == {PATH: DATA}
    assert server.folder().read(NAME, 0, None) == DATA


@pytest.mark.parametrize("claimed", [2**62, 2**64 - 1, sftp_folder.MAX_OBJECT + 1, len(DATA) + 1])
def test_a_size_that_is_a_lie(claimed: int) -> None:
    class Bigger(ScriptedServer):
        def on_fstat(self, number: int, path: bytes, fields: Reply) -> bytes:
            return packet(sftp.CMD_ATTRS, number, struct.pack(">IQ", 0x1, claimed))

    server = Bigger()
    server.folders.add(PATH.rpartition(b"/")[0])
    server.files[PATH] = bytearray(DATA)
    with pytest.raises(Corrupt):
        server.folder().read(NAME, 0, None)


@pytest.mark.parametrize("batch", [0, 1, 1000])
def test_an_endless_listing_ends(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp_folder, "MAX_NAMES", 5000)

    class Endless(ScriptedServer):
        def on_readdir(self, number: int, handle: bytes, fields: Reply) -> bytes:
            return listing(number, [b"%x" % (number * 1000 + n) for n in range(batch)])

    with pytest.raises(Corrupt, match="does not end"):
        Endless().folder().entries("keys")


def test_a_listing_with_a_huge_count() -> None:
    class Counts(ScriptedServer):
        def on_readdir(self, number: int, handle: bytes, fields: Reply) -> bytes:
            return packet(sftp.CMD_NAME, number, struct.pack(">I", 2**32 - 1) + string(b"a") + string(b""))

    with pytest.raises(Corrupt, match="cut short"):
        Counts().folder().entries("keys")


def test_names_in_a_listing_that_lead_elsewhere_are_passed_over() -> None:
    bad = [
        b"..",
        b".",
        b"../etc",
        b"/etc/passwd",
        b"a/../../b",
        b"a/b",
        b"\x1b[2Jx",
        b"A",
        b"\xff",
        b"",
        b"a" * 300,
    ]

    class Escapes(ScriptedServer):
        def on_readdir(self, number: int, handle: bytes, fields: Reply) -> bytes:
            if handle in self._listed:
                return status(number, sftp.SFTP_EOF)
            self._listed.add(handle)
            return listing(number, [*bad, b"good"], 3)

    server = Escapes()
    assert [(e.name, e.size) for e in server.folder().entries("keys")] == [("good", 3)]


def test_listed_folders_are_asked_for_their_object_only_by_valid_names() -> None:
    class Folders(ScriptedServer):
        def on_readdir(self, number: int, handle: bytes, fields: Reply) -> bytes:
            if handle in self._listed:
                return status(number, sftp.SFTP_EOF)
            self._listed.add(handle)
            return listing(number, [b"..", b"ab"], 0, FOLDER)

    server = Folders()
    assert [(e.name, e.is_folder) for e in server.folder().entries("packs")] == [("ab", True)]
    assert [path for kind, path in server.asked if kind == sftp.CMD_LSTAT] == [b"/root/packs/ab/c"]


def test_texts_of_a_server_reach_no_terminal_raw() -> None:
    text = b"\x1b]0;owned\x07\x1b[31mno\r\n" + b"\xff" * 10 + b"x" * 5000

    class Escapes(ScriptedServer):
        def on_lstat(self, number: int, path: bytes, fields: Reply) -> bytes:
            return status(number, sftp.SFTP_PERMISSION_DENIED, text)

    with pytest.raises(Refused) as caught:
        Escapes().folder().size(NAME)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_a_silent_server_meets_its_deadline() -> None:
    class Silent(ScriptedServer):
        def on_lstat(self, number: int, path: bytes, fields: Reply) -> bytes:
            return b""

    with pytest.raises(Unavailable, match="did not answer within 60 s"):
        Silent().folder().size(NAME)


def test_a_server_that_sends_a_byte_a_minute_meets_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("tandem_protocol.stores.sftp_requests.time.monotonic", lambda: now)

    class Trickles(ScriptedServer):
        slow = False

        def receive_into(self, view: memoryview, seconds: float) -> int:
            nonlocal now
            if not self.slow:
                return super().receive_into(view, seconds)
            if seconds < 59:
                now += seconds
                raise TimeoutError
            now += 59
            return super().receive_into(view[:1], seconds)

    server = Trickles()
    folder = server.folder()
    server.slow = True
    with pytest.raises(Unavailable, match="did not answer within"):
        folder.size(NAME)
    assert now == 60


@pytest.mark.parametrize(
    ("text", "vfs", "kind"),
    [
        (b"Failure", {"free_blocks": 0}, Full),
        (b"Failure", {"free_blocks": 1}, Full),
        (b"Failure", {"free_files": 0}, Full),
        (b"Failure", {"flags": 1}, Refused),
        (b"Failure", {}, Unavailable),
        (b"Disk quota exceeded", {}, Full),
        (b"No space left on device", {}, Full),
    ],
)
def test_what_a_bare_failure_means_is_asked(
    text: bytes, vfs: dict[str, int], kind: type[TandemError]
) -> None:
    class Fails(ScriptedServer):
        def on_write(self, number: int, handle: bytes, fields: Reply) -> bytes:
            return status(number, sftp.SFTP_FAILURE, text)

        def statvfs(self, free_blocks: int = 10**6, free_files: int = 10**6, flags: int = 0) -> bytes:
            return super().statvfs(**vfs)

    server = Fails()
    with pytest.raises(kind) as caught:
        put(server)
    assert type(caught.value) is kind
    assert server.files == {}


def test_without_hard_links_the_rename_is_exclusive() -> None:
    class Renames(ScriptedServer):
        extensions = (b"fsync@openssh.com",)

    server = Renames()
    server.folder().create("tandem", memoryview(b"first"))
    with pytest.raises(Exists):
        server.folder().create("tandem", memoryview(b"second"))
    assert server.files == {b"/root/tandem": b"first"}


def test_without_hard_links_and_rename_the_open_is_exclusive() -> None:
    class Opens(ScriptedServer):
        extensions = ()

        def on_rename(self, number: int, source: bytes, fields: Reply) -> bytes:
            return status(number, sftp.SFTP_OP_UNSUPPORTED)

    server = Opens()
    folder = server.folder()
    assert not folder.power_safe
    folder.create("tandem", memoryview(b"first"))
    with pytest.raises(Exists):
        folder.create("tandem", memoryview(b"second"))
    assert server.files == {b"/root/tandem": b"first"}


def test_a_part_that_cannot_be_trusted_is_written_afresh() -> None:
    for part, confirmed in [
        (DATA[:70000], len(DATA) - 70000),
        (DATA[:69999] + b"!", len(DATA)),
        (DATA + b"!", len(DATA)),
    ]:
        server = ScriptedServer()
        server.folders.add(b"/root/tmp")
        server.files[PART] = bytearray(part)
        assert put(server) == confirmed
        assert server.files == {PATH: DATA}


def test_limits_of_a_server_are_kept_within_ours() -> None:
    for read, write, expected in [(0, 0, (255, 255)), (2**63, 2**63, (255, 255)), (64 << 10, 1, (64, 1))]:

        class Limits(ScriptedServer):
            extensions = (b"limits@openssh.com",)

            def on_extended(self, number: int, name: bytes, fields: Reply) -> bytes:
                return packet(sftp.CMD_EXTENDED_REPLY, number, struct.pack(">4Q", 2**18, read, write, 0))  # noqa: B023 - called within the turn

        requests = Requests(Limits(), 60)
        requests.take_limits(requests.ask_limits())
        assert (requests.max_read // 1024, requests.max_write // 1024) == expected


def test_missing_is_missing() -> None:
    with pytest.raises(Missing):
        ScriptedServer().folder().read(NAME, 0, None)
