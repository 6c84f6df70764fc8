"""FTP servers that lie (trust.md 26, 27, 29, 30, 33 to 36; issue 4, "Bad input"): each ends in a clear error or is
handled, in bounded time and memory, and nothing that was refused is believed.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import threading
import time
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.support.ftp_script import ScriptedFtp, Session
from tests.support.ftpservers import fingerprint, make_certificate

from tandem_protocol.errors import Corrupt, Exists, Full, Missing, Refused, TandemError, Unavailable, Usage
from tandem_protocol.stores.ftp import FtpStore
from tandem_protocol.stores.ftp_link import FtpLink
from tandem_protocol.stores.ftp_target import FtpTarget

NAME = "packs/ab/" + "ab" * 32
DATA = bytes(range(256)) * 4096


@asynccontextmanager
async def opened(server: ScriptedFtp, **changes: object) -> AsyncIterator[FtpStore]:
    store = FtpStore(server.target(**changes))
    try:
        await store.open()
        yield store
    finally:
        await store.close()


async def test_the_script_is_a_server_as_long_as_it_is_honest() -> None:
    with ScriptedFtp() as server:
        async with opened(server) as store:
            await store.put(NAME, DATA)
            assert await store.read(NAME, 5, 10) == DATA[5:15]
            assert await store.read(NAME) == DATA
            await store.create("tandem", b"identity")
            assert await store.read("tandem") == b"identity"
            with pytest.raises(Missing):
                await store.size("keys/x")


class EndsWithTheTransfer(ScriptedFtp):
    """A transfer that the client cuts short ends the session, without a word or with 421."""

    last_words = ""

    def on_retr(self, session: Session, path: str) -> str:
        try:
            return super().on_retr(session, path)
        except OSError:
            session.say(self.last_words)
            raise


@pytest.mark.parametrize("words", ["", "421 goodbye"])
async def test_a_session_that_ends_with_a_part_read_has_given_it(words: str) -> None:
    """What comes next is told, so that it looks again at what is there."""
    with EndsWithTheTransfer() as server:
        server.last_words = words
        async with opened(server) as store:
            await store.put(NAME, DATA * 16)
            assert await store.read(NAME, 5, 10) == DATA[5:15]
            with pytest.raises(Unavailable, match="is not open"):
                await store.read(NAME)
            await store.open()
            assert await store.read(NAME) == DATA * 16


class StillGrowing(ScriptedFtp):
    """A session that was cut goes on writing the part for a while: its size is behind when it is read."""

    growing = True

    def on_size(self, session: Session, path: str) -> str:
        if self.growing and path in self.files and "/tmp/" in path:
            return f"213 {len(DATA)}"
        return super().on_size(session, path)

    def on_stor(self, session: Session, path: str) -> str:
        assert session.offset == len(DATA)
        said = super().on_stor(session, path)
        self.growing = False
        return said


async def test_a_part_that_is_still_growing_is_gone_on_from() -> None:
    with StillGrowing() as server:
        part = f"/root/tmp/{NAME.rsplit('/', 1)[1]}"
        server.files[part] = DATA * 3
        async with opened(server) as store:
            await store.put(NAME, DATA * 4)
            assert await store.read(NAME) == DATA * 4


class SaysItIsComplete(ScriptedFtp):
    def on_stor(self, session: Session, path: str) -> str:
        self.files[path] = session.receive(100_000)
        return "226 complete"


class DropsAll(ScriptedFtp):
    def on_stor(self, session: Session, path: str) -> str:
        session.receive()
        self.files[path] = b""
        return "226 complete"


@pytest.mark.parametrize("kind", [SaysItIsComplete, DropsAll])
async def test_226_after_a_cut_upload_is_not_believed(kind: type[ScriptedFtp]) -> None:
    with kind() as server:
        for verb in ("put", "create"):
            async with opened(server) as store:
                with pytest.raises(Unavailable):
                    await getattr(store, verb)(NAME, DATA)
        assert f"/root/{NAME}" not in server.files
        assert not any(line.startswith("RNTO") for line in server.asked)


class SendsLess(ScriptedFtp):
    def on_retr(self, session: Session, path: str) -> str:
        session.send(self.files[path][:1000])
        return "226 complete"


class SendsMore(ScriptedFtp):
    def on_retr(self, session: Session, path: str) -> str:
        session.send(self.files[path] + b"more")
        return "226 complete"


@pytest.mark.parametrize(("kind", "error"), [(SendsLess, Unavailable), (SendsMore, Corrupt)])
async def test_a_download_has_the_size_that_was_said(
    kind: type[ScriptedFtp], error: type[TandemError]
) -> None:
    with kind() as server:
        server.files[f"/root/{NAME}"] = DATA
        async with opened(server) as store:
            with pytest.raises(error):
                await store.read(NAME)


class SendsElsewhere(ScriptedFtp):
    def on_pasv(self, session: Session, _: str) -> str:
        return session.passive("192,0,2,1")


async def test_data_goes_to_the_host_of_the_control_connection_whatever_pasv_says() -> None:
    with SendsElsewhere() as server:
        async with opened(server) as store:
            await store.put(NAME, DATA)
            assert await store.read(NAME) == DATA


class StripsTls(ScriptedFtp):
    def on_auth(self, session: Session, _: str) -> str:
        return "500 AUTH not understood"


class StripsPrivacy(ScriptedFtp):
    def on_prot(self, session: Session, _: str) -> str:
        return "534 only in the clear"


async def test_no_downgrade_when_tls_is_stripped(tmp_path: Path) -> None:
    with StripsTls() as server:
        with pytest.raises(Refused, match="offers no TLS"):
            async with opened(server, tls="explicit"):
                pass
        assert [line.split()[0] for line in server.asked] == ["AUTH"]
    make_certificate(tmp_path / "pem")
    with StripsPrivacy(tmp_path / "pem") as server:
        pin = fingerprint(tmp_path / "pem")
        with pytest.raises(Refused, match="does not encrypt data"):
            async with opened(server, tls="explicit", certificate_fingerprint=pin):
                pass


async def test_a_certificate_is_judged_before_the_password_is_sent(tmp_path: Path) -> None:
    make_certificate(tmp_path / "pem")
    with ScriptedFtp(tmp_path / "pem") as server:
        for changes in ({}, {"certificate_fingerprint": "ab" * 32}):
            with pytest.raises(Refused, match=f"SHA256:{fingerprint(tmp_path / 'pem')}") as caught:
                async with opened(server, tls="explicit", **changes):
                    pass
            assert caught.value.remedy
        assert {line.split()[0] for line in server.asked} == {"AUTH"}
        async with opened(server, tls="explicit", ca_file=str(tmp_path / "pem")):
            pass


class SpeaksOn(ScriptedFtp):
    def on_auth(self, session: Session, _: str) -> str:
        return "234 go on\r\n230 you are in"


async def test_words_in_the_clear_after_auth_are_refused(tmp_path: Path) -> None:
    make_certificate(tmp_path / "pem")
    with SpeaksOn(tmp_path / "pem") as server, pytest.raises(Corrupt, match="in the clear"):
        async with opened(server, tls="explicit", certificate_fingerprint=fingerprint(tmp_path / "pem")):
            pass


class EndlessListing(ScriptedFtp):
    def on_list(self, session: Session, _: str) -> str:
        line = b"-rw-------    1 0        0               5 Nov 22 17:49 " + b"a" * 200 + b"\r\n"
        with session.data() as conn, suppress(OSError):
            while not self.ended.is_set():
                conn.sendall(line * 1000)
        return "226 complete"


async def test_a_listing_without_end() -> None:
    with EndlessListing() as server:
        async with opened(server, deadline_s=20.0) as store:
            with pytest.raises(Corrupt, match="does not end"):
                _ = [entry async for entry in store.list("packs")]


class OddNames(ScriptedFtp):
    features = ("MLST type*;size*;",)

    def on_mlsd(self, session: Session, _: str) -> str:
        names = ["../x", "..", ".", "/etc/passwd", "a/b", "UPPER", "\x1b[31m", "c\0d", "-x", "ok"]
        lines = [f"type=file;size=5; {name}\r\n" for name in names]
        lines += [
            "type=file;size=-5; minus\r\n",
            "type=file;size=9999999999999999999; much\r\n",
            "nonsense\r\n",
        ]
        lines += [
            "type=OS.unix=slink;size=5; link\r\n",
            "size=5; untyped\r\n",
            "type=dir;sizd=4096; folder\r\n",
        ]
        session.send("".join(lines).encode())
        return "226 complete"


async def test_names_that_lead_elsewhere_are_passed_over() -> None:
    with OddNames() as server:
        async with opened(server) as store:
            assert [(e.name, e.size, e.is_folder) async for e in store.list("packs")] == [
                ("ok", 5, False),
                ("folder", 0, True),
            ]


class LongLine(ScriptedFtp):
    def on_size(self, session: Session, path: str) -> str:
        return "213 " + "1" * 10_000_000


class EndlessReply(ScriptedFtp):
    def on_size(self, session: Session, path: str) -> str:
        return "213-\r\n" + " more and more\r\n" * 1_000_000


class Nonsense(ScriptedFtp):
    def on_size(self, session: Session, path: str) -> str:
        return "213 -1"


class NoReply(ScriptedFtp):
    def on_size(self, session: Session, path: str) -> str:
        return "HTTP/1.1 400 Bad Request"


class FourGigabytes(ScriptedFtp):
    def on_size(self, session: Session, path: str) -> str:
        return f"213 {1 << 32}"


@pytest.mark.parametrize("kind", [LongLine, EndlessReply, Nonsense, NoReply, FourGigabytes])
async def test_replies_that_are_too_long_or_make_no_sense(kind: type[ScriptedFtp]) -> None:
    with kind() as server:
        async with opened(server) as store:
            with pytest.raises(Corrupt):
                await store.read(NAME)
            with pytest.raises(Unavailable):
                await store.read(NAME)  # the session has ended


class Escapes(ScriptedFtp):
    def on_pass(self, session: Session, _: str) -> str:
        return "530 \x1b]0;owned\x07\x1b[2J\udcff no\r"


async def test_terminal_escapes_in_a_reply_do_not_reach_a_screen() -> None:
    with Escapes() as server:
        with pytest.raises(Refused) as caught:
            async with opened(server):
                pass
        assert str(caught.value).isprintable()
        assert "owned" in str(caught.value)
        assert "a-secret" not in str(caught.value)


class Stalls(ScriptedFtp):
    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()

    def on_stor(self, session: Session, path: str) -> str:
        with session.data():
            self.ended.wait(30)
        return ""

    def on_retr(self, session: Session, path: str) -> str:
        with session.data() as conn:
            conn.sendall(self.files[path][:1000])
            self.begun.set()
            self.ended.wait(30)
        return ""


async def test_a_stall_in_a_transfer_ends_with_the_deadline() -> None:
    with Stalls() as server:
        server.files[f"/root/{NAME}"] = DATA
        begin = time.monotonic()
        async with opened(server) as store:
            with pytest.raises(Unavailable, match="in time"):
                await store.read(NAME)
        told: list[int] = []
        async with opened(server) as store:
            with pytest.raises(Unavailable, match="in time"):
                await store.put("keys/x", bytes(64_000_000), told.append)
        assert sum(told) < 32_000_000
        assert time.monotonic() - begin < 20


class Silent(ScriptedFtp):
    banner = ""


class Drips(ScriptedFtp):
    def on_size(self, session: Session, path: str) -> str:
        with suppress(OSError):
            while not self.ended.wait(0.05):
                session.sock.sendall(b"2")
        return ""


async def test_silence_and_drops_end_with_the_deadline() -> None:
    begin = time.monotonic()
    with Silent() as server, pytest.raises(Unavailable, match="in time"):
        async with opened(server):
            pass
    with Drips() as server:
        async with opened(server) as store:
            with pytest.raises(Unavailable, match="in time"):
                await store.size("tandem")
    assert time.monotonic() - begin < 15


async def test_a_cancelled_transfer_closes_the_session_at_once() -> None:
    with Stalls() as server:
        server.files[f"/root/{NAME}"] = DATA
        async with opened(server, deadline_s=60.0) as store:
            task = asyncio.create_task(store.read(NAME))
            await asyncio.to_thread(server.begun.wait, 10)
            begin = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - begin < 4
            with pytest.raises(Unavailable):
                await store.size(NAME)


def replying(command: str, reply: str) -> type[ScriptedFtp]:
    return type("Replying", (ScriptedFtp,), {f"on_{command}": lambda *_: reply})


@pytest.mark.parametrize(
    ("command", "reply", "error"),
    [
        ("pass", "530 Login incorrect.", Refused),
        (
            "pass",
            "530 Sorry, the maximum number of clients (3) for this user are already connected.",
            Unavailable,
        ),
        ("user", "421 There are too many connections", Unavailable),
        ("stor", "552 Quota exceeded", Full),
        ("stor", "452 Insufficient storage", Full),
        ("stor", "550 Permission denied.", Refused),
        ("stor", "425 Failed to establish connection.", Unavailable),
        ("stor", "421 Timeout.", Unavailable),
        ("size", "550 tandem: Permission denied", Refused),
        ("size", "502 Command not implemented.", Refused),
        ("rnfr", "550 Permission denied.", Refused),
        ("pasv", "227 nonsense", Corrupt),
    ],
)
async def test_what_is_permanent_and_what_is_not(command: str, reply: str, error: type[TandemError]) -> None:
    with replying(command, reply)() as server:
        with pytest.raises(error) as caught:
            async with opened(server) as store:
                await store.put(NAME, b"12345")
        assert type(caught.value) is error


class Closed(ScriptedFtp):
    """A folder that is there, and which this account may not enter."""

    def on_cwd(self, session: Session, path: str) -> str:
        return "250 there" if path == "/root" else "550 Failed to change directory."

    def on_list(self, session: Session, _: str) -> str:
        session.send(b"drwx------    2 0        0            4096 Nov 22 17:58 keys\r\n")
        return "226 complete"


async def test_550_is_missing_only_where_one_may_look() -> None:
    with Closed() as server:
        async with opened(server) as store:
            with pytest.raises(Refused, match="cannot be entered"):
                await store.size("keys/x")
            with pytest.raises(Refused, match="cannot be entered"):
                _ = [entry async for entry in store.list("keys")]
            with pytest.raises(Missing):
                await store.size("epochs/x")
            assert [entry async for entry in store.list("epochs")] == []


async def test_what_is_there_is_not_renamed_over() -> None:
    with ScriptedFtp() as server:
        server.files[f"/root/{NAME}"] = b"other"
        async with opened(server) as store:
            with pytest.raises(Exists):
                await store.put(NAME, DATA)
            server.files["/root/keys/x"] = b"x"
            with pytest.raises(Exists):
                await store.move("keys/x", NAME)
        assert server.files[f"/root/{NAME}"] == b"other"


async def test_nobody_there_and_not_an_ftp_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(Unavailable):
        await FtpStore(FtpTarget("127.0.0.1", port, path="/x", tls="none")).open()
    with ScriptedFtp() as server, pytest.raises(Refused, match="no safe TLS"):
        async with opened(server, tls="implicit"):
            pass


@pytest.mark.parametrize("pinned", [None, "ab" * 32])
def test_a_connection_that_is_reset_before_tls_is_closed(pinned: str | None) -> None:
    link = FtpLink(FtpTarget("127.0.0.1", certificate_fingerprint=pinned))
    link.host = link.target.host
    with warnings.catch_warnings(record=True) as unclosed, socket.create_server(("127.0.0.1", 0)) as server:
        warnings.simplefilter("always")
        sock = socket.create_connection(server.getsockname())
        with server.accept()[0] as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with pytest.raises(ConnectionResetError) as reset:
            link.secured(sock)
        del reset
        gc.collect()
    link.close()
    assert not [str(warning.message) for warning in unclosed]


@pytest.mark.parametrize("field", ["user", "password", "path"])
def test_a_line_break_cannot_become_a_command(field: str) -> None:
    with pytest.raises(Usage):
        FtpTarget("host", **{field: "x\r\nDELE tandem"})  # type: ignore[arg-type]  # one of three fields
