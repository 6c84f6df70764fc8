"""The request layer of the server, fed with raw packets (trust.md 23, 28, 38 to 44, 48): what is refused,
what the limits are, what an error says, and that no bytes whatever make it fail in another way."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Semaphore

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_server import wire
from tandem_server.jail import Jail
from tandem_server.limits import MAX_DATA, MAX_PACKET
from tandem_server.sftp import EXTENSIONS, SftpSession
from tandem_server.wire import BadPacketError, Fields, Kind, Open, Splitter, Status, string

HANDLES = 8


class Client:
    """Asks one session and takes its replies apart."""

    def __init__(self, root: Path, budget: int = 100) -> None:
        self.jail = Jail(str(root))
        self.budget = Semaphore(budget)
        self.session = SftpSession(self.jail, HANDLES, self.budget)
        version, answered = self.session.answer([struct.pack(">BI", Kind.INIT, 3)])
        assert (version[4], answered) == (Kind.VERSION, 1)

    def close(self) -> None:
        self.session.close()
        self.jail.close()

    def ask(self, kind: int, *parts: bytes) -> tuple[int, Fields]:
        """(kind, fields) of the reply."""
        data, answered = self.session.answer([struct.pack(">BI", kind, 7) + b"".join(parts)])
        assert answered == 1
        [packet] = Splitter().feed(data)
        fields = Fields(packet)
        kind = fields.byte()
        assert fields.u32() == 7
        return kind, fields

    def status(self, kind: int, *parts: bytes) -> tuple[Status, str]:
        """(code, text) of a status reply."""
        reply, fields = self.ask(kind, *parts)
        assert reply == Kind.STATUS
        return Status(fields.u32()), fields.string().decode()

    def handle(self, kind: int, *parts: bytes) -> bytes:
        reply, fields = self.ask(kind, *parts)
        assert reply == Kind.HANDLE
        return string(fields.string())

    def open(self, path: bytes, flags: Open, attrs: bytes = bytes(4)) -> bytes:
        return self.handle(Kind.OPEN, string(path), u32(flags), attrs)


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def mode_attrs(mode: int) -> bytes:
    return u32(4) + u32(mode)


NEW = Open.WRITE | Open.CREAT | Open.EXCL
OK = (Status.OK, "Success")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    client = Client(tmp_path)
    yield client
    client.close()


def test_write_read_and_end_of_file(client: Client, tmp_path: Path) -> None:
    handle = client.open(b"/a", NEW)
    assert client.status(Kind.WRITE, handle, u64(3), string(b"defg")) == OK
    assert client.status(Kind.WRITE, handle, u64(0), string(b"abc")) == OK
    assert client.status(Kind.CLOSE, handle) == OK
    assert (tmp_path / "a").read_bytes() == b"abcdefg"
    handle = client.open(b"a", Open.READ)
    kind, fields = client.ask(Kind.READ, handle, u64(2), u32(100))
    assert (kind, fields.string()) == (Kind.DATA, b"cdefg")
    assert client.status(Kind.READ, handle, u64(7), u32(1))[0] is Status.EOF


def test_a_read_gives_at_most_what_limits_say(client: Client, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(2 * MAX_PACKET))
    handle = client.open(b"big", Open.READ)
    kind, fields = client.ask(Kind.EXTENDED, string(b"limits@openssh.com"))
    assert kind == Kind.EXTENDED_REPLY
    assert [fields.u64() for _ in range(4)] == [MAX_PACKET, MAX_DATA, MAX_DATA, HANDLES]
    data, _ = client.session.answer([struct.pack(">BI", Kind.READ, 1) + handle + u64(0) + u32(2**32 - 1)])
    assert len(data) <= MAX_PACKET + 4
    [packet] = Splitter().feed(data)
    assert len(packet) == 1 + 4 + 4 + MAX_DATA


def test_a_batch_of_large_reads_is_answered_in_parts(client: Client, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(MAX_DATA))
    handle = client.open(b"big", Open.READ)
    packets = [struct.pack(">BI", Kind.READ, n) + handle + u64(0) + u32(MAX_DATA) for n in range(64)]
    data, answered = client.session.answer(packets)
    assert 1 < answered < 64
    assert len(data) < 2 * 1024 * 1024
    assert len(Splitter().feed(data)) == answered


def test_handles_are_limited_and_folders_count(client: Client, tmp_path: Path) -> None:
    """48: neither one session nor all together hold more than their share, and closing gives it back."""
    (tmp_path / "a").touch()
    handles = [client.open(b"a", Open.READ) for _ in range(HANDLES // 2)]
    handles += [client.handle(Kind.OPENDIR, string(b"/")) for _ in range(HANDLES // 2)]
    before = len(os.listdir("/proc/self/fd"))
    for kind, rest in ((Kind.OPENDIR, b""), (Kind.OPEN, u32(Open.READ) + bytes(4))):
        assert client.status(kind, string(b"/a"), rest) == (Status.FAILURE, "Too many open files")
    assert len(os.listdir("/proc/self/fd")) == before
    assert client.status(Kind.CLOSE, handles[0]) == OK
    assert client.open(b"a", Open.READ) not in handles
    assert client.status(Kind.CLOSE, handles[0])[0] is Status.FAILURE


def test_handles_of_all_sessions_are_limited(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    client = Client(tmp_path, budget=2)
    try:
        client.status(Kind.OPEN, string(b"missing"), u32(Open.READ), bytes(4))  # gives its place back
        client.open(b"a", Open.READ)
        client.open(b"a", Open.READ)
        assert client.status(Kind.OPEN, string(b"a"), u32(Open.READ), bytes(4))[0] is Status.FAILURE
        client.session.close()
        assert client.budget.acquire(blocking=False)
    finally:
        client.close()


def test_closing_a_session_closes_its_files(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    before = len(os.listdir("/proc/self/fd"))
    client = Client(tmp_path)
    for _ in range(3):
        client.open(b"a", Open.READ)
        client.handle(Kind.OPENDIR, string(b"/"))
    client.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o1777, 0o104755])
def test_setuid_and_its_like_are_refused(client: Client, tmp_path: Path, mode: int) -> None:
    """44: neither by path nor by handle, and masked where a file or folder is made."""
    (tmp_path / "a").touch(0o600)
    handle = client.open(b"a", Open.READ | Open.WRITE)
    assert client.status(Kind.SETSTAT, string(b"a"), mode_attrs(mode))[0] is Status.PERMISSION_DENIED
    assert client.status(Kind.FSETSTAT, handle, mode_attrs(mode))[0] is Status.PERMISSION_DENIED
    assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o600
    client.open(b"new", NEW, mode_attrs(mode))
    assert client.status(Kind.MKDIR, string(b"made"), mode_attrs(mode)) == OK
    assert (tmp_path / "new").stat().st_mode & 0o7000 == 0
    assert (tmp_path / "made").stat().st_mode & 0o7000 == 0


def test_owners_cannot_be_set_and_nothing_else_changes_then(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"kept")
    attrs = u32(1 | 2 | 4) + u64(0) + u32(12) + u32(13) + u32(0o777)
    assert client.status(Kind.SETSTAT, string(b"a"), attrs)[0] is Status.PERMISSION_DENIED
    assert (tmp_path / "a").read_bytes() == b"kept"


def test_size_mode_and_times_can_be_set(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123456")
    attrs = u32(1 | 4 | 8) + u64(3) + u32(0o640) + u32(1_000_000_000) + u32(1_100_000_000)
    assert client.status(Kind.SETSTAT, string(b"a"), attrs) == OK
    info = (tmp_path / "a").stat()
    assert (info.st_size, info.st_mode & 0o7777, info.st_mtime) == (3, 0o640, 1_100_000_000)
    kind, fields = client.ask(Kind.STAT, string(b"a"))
    assert kind == Kind.ATTRS
    attributes = fields.attrs()
    assert (attributes.size, attributes.times) == (3, (1_000_000_000, 1_100_000_000))


def test_symbolic_links_cannot_be_made_or_read(client: Client, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    for kind in (Kind.SYMLINK, Kind.READLINK):
        code, text = client.status(kind, string(b"link"), string(b"/etc/passwd"))
        assert (code, text) == (Status.PERMISSION_DENIED, "symbolic links are not kept here")
    assert os.listdir(tmp_path) == ["link"]


@pytest.mark.parametrize(
    ("kind", "parts", "code", "text"),
    [
        (
            Kind.OPEN,
            string(b"none") + u32(Open.READ) + bytes(4),
            Status.NO_SUCH_FILE,
            "No such file or directory",
        ),
        (Kind.OPEN, string(b"file") + u32(NEW) + bytes(4), Status.FAILURE, "File exists"),
        (Kind.OPEN, string(b"folder") + u32(Open.READ) + bytes(4), Status.FAILURE, "Is a directory"),
        (Kind.OPEN, string(b"file") + u32(Open.TRUNC) + bytes(4), Status.FAILURE, "Invalid argument"),
        (Kind.OPEN, string(b"file/x") + u32(NEW) + bytes(4), Status.NO_SUCH_FILE, "Not a directory"),
        (Kind.OPEN, string(b"x\0") + u32(NEW) + bytes(4), Status.FAILURE, "Invalid argument"),
        (Kind.RENAME, string(b"other") + string(b"file"), Status.FAILURE, "File exists"),
        (Kind.MKDIR, string(b"file") + bytes(4), Status.FAILURE, "File exists"),
        (Kind.RMDIR, string(b"folder"), Status.FAILURE, "Directory not empty"),
        (Kind.REMOVE, string(b"folder"), Status.FAILURE, "Is a directory"),
        (Kind.READ, string(b"bad") + u64(0) + u32(1), Status.FAILURE, "Bad file descriptor"),
        (Kind.READDIR, string(b""), Status.FAILURE, "Bad file descriptor"),
        (Kind.EXTENDED, string(b"copy-data"), Status.OP_UNSUPPORTED, "Op unsupported"),
        (99, b"", Status.OP_UNSUPPORTED, "Op unsupported"),
        (Kind.OPEN, u32(2**32 - 1), Status.BAD_MESSAGE, "a field ends behind its packet"),
    ],
)
def test_errors_say_what_and_show_no_path(
    client: Client, tmp_path: Path, kind: int, parts: bytes, code: Status, text: str
) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "other").write_bytes(b"kept")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/below").touch()
    assert client.status(kind, parts) == (code, text)
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_offsets_out_of_range_are_refused(client: Client, tmp_path: Path) -> None:
    handle = client.open(b"a", Open.READ | NEW)
    for offset in (2**63 - 1, 2**63, 2**64 - 1):
        assert client.status(Kind.WRITE, handle, u64(offset), string(b"x")) == (
            Status.FAILURE,
            "File too large",
        )
        assert client.status(Kind.READ, handle, u64(offset), u32(9)) == (Status.FAILURE, "File too large")
        if offset > 2**63 - 1:
            assert client.status(Kind.FSETSTAT, handle, u32(1) + u64(offset))[0] is Status.FAILURE
    assert (tmp_path / "a").stat().st_size == 0


def test_a_write_that_does_not_fit_is_reported(client: Client) -> None:
    """A short write is gone on with, and the reason it was short comes back in words."""
    handle = client.open(b"a", NEW)
    original = os.pwrite
    calls = iter([lambda fd, data, at: original(fd, data[:2], at)])

    def full(fd: int, data: memoryview, at: int) -> int:
        write = next(calls, None)
        if write is None:
            raise OSError(28, "x")
        return write(fd, data, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        assert client.status(Kind.WRITE, handle, u64(0), string(b"abcd")) == (
            Status.FAILURE,
            "No space left on device",
        )


def test_fsync_is_an_fsync(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = client.open(b"a", NEW)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    assert client.status(Kind.EXTENDED, string(b"fsync@openssh.com"), handle) == OK
    assert synced == [(tmp_path / "a").stat().st_ino]

    def broken(_fd: int) -> None:
        raise OSError(5, "x")

    monkeypatch.setattr(os, "fsync", broken)
    assert client.status(Kind.EXTENDED, string(b"fsync@openssh.com"), handle) == (
        Status.FAILURE,
        "Input/output error",
    )


def test_what_is_offered_is_answered(client: Client, tmp_path: Path) -> None:
    """No extension in the greeting that is not there."""
    (tmp_path / "a").touch()
    handle = client.open(b"a", Open.READ)
    arguments: dict[bytes, Callable[[], bytes]] = {
        b"posix-rename@openssh.com": lambda: string(b"a") + string(b"b"),
        b"hardlink@openssh.com": lambda: string(b"b") + string(b"c"),
        b"statvfs@openssh.com": lambda: string(b"/"),
        b"fstatvfs@openssh.com": lambda: handle,
        b"fsync@openssh.com": lambda: handle,
        b"limits@openssh.com": lambda: b"",
    }
    assert set(arguments) == {name for name, _ in EXTENSIONS}
    for name, _ in EXTENSIONS:
        kind, fields = client.ask(Kind.EXTENDED, string(name), arguments[name]())
        assert kind == Kind.EXTENDED_REPLY or fields.u32() == Status.OK
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]
    kind, fields = client.ask(Kind.EXTENDED, string(b"statvfs@openssh.com"), string(b"/"))
    numbers = [fields.u64() for _ in range(11)]
    system = os.statvfs(tmp_path)
    assert (numbers[1], numbers[2], numbers[10]) == (system.f_frsize, system.f_blocks, system.f_namemax)


def test_a_folder_is_listed_once_and_whole(client: Client, tmp_path: Path) -> None:
    names = {b"%03d" % n for n in range(250)} | {b"\xff\xfe", b"new\nline", "ü".encode()}
    for name in names:
        (tmp_path / os.fsdecode(name)).touch()
    handle = client.handle(Kind.OPENDIR, string(b"/"))
    seen: list[bytes] = []
    while True:
        kind, fields = client.ask(Kind.READDIR, handle)
        if kind == Kind.STATUS:
            assert fields.u32() == Status.EOF
            break
        for _ in range(fields.u32()):
            seen.append(fields.string())
            fields.string()
            fields.attrs()
    assert sorted(seen) == sorted(names)


def test_realpath_is_made_on_the_text(client: Client) -> None:
    for path, real in ((b"", b"/"), (b".", b"/"), (b"a/../../b/./c", b"/b/c"), (b"/../..", b"/")):
        kind, fields = client.ask(Kind.REALPATH, string(path))
        assert kind == Kind.NAME
        assert (fields.u32(), fields.string()) == (1, real)


@pytest.mark.parametrize("data", [u32(0), u32(MAX_PACKET + 1), u32(2**32 - 1), b"SSH-2.0-x\r\n"])
def test_a_length_out_of_range_ends_the_session(data: bytes) -> None:
    with pytest.raises(BadPacketError):
        Splitter().feed(data)


def test_a_session_begins_with_version_3(tmp_path: Path) -> None:
    jail = Jail(str(tmp_path))
    for packet in (b"\x01" + u32(2), b"\x01", b"\x05" + u32(3)):
        with pytest.raises(BadPacketError):
            SftpSession(jail, 1, Semaphore(1)).answer([packet])
    jail.close()


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=8), st.data())
def test_packets_come_out_as_they_went_in(packets: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(string(packet) for packet in packets)
    splitter, found = Splitter(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += splitter.feed(stream[:size])
        stream = stream[size:]
    assert found == packets


PATHS = st.sampled_from([b"a", b"d", b"d/a", b"..", b"/", b"../x", b"l", b"l/a", b"a\0", b"d/../../x"])
FIELDS = st.one_of(
    PATHS.map(string),
    st.integers(0, 2**32 - 1).map(u32),
    st.integers(0, 9).map(lambda n: string(u64(n))),
    st.integers(0, 2**64 - 1).map(u64),
    st.sampled_from([string(name) for name, _ in EXTENSIONS]),
    st.binary(max_size=20),
)
REQUESTS = st.tuples(st.sampled_from(list(Kind)), st.lists(FIELDS, max_size=5))


@settings(max_examples=200)
@given(st.lists(REQUESTS, min_size=1, max_size=20))
def test_no_bytes_do_anything_but_get_a_reply(
    tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[int, list[bytes]]]
) -> None:
    """Any requests in any order: one reply each, nothing outside the root touched, no handle left."""
    around = tmp_path_factory.mktemp("fuzz")
    root = around / "root"
    (root / "d").mkdir(parents=True)
    (root / "a").write_bytes(b"x")
    (root / "l").symlink_to(around)
    before = len(os.listdir("/proc/self/fd"))
    client = Client(root)
    for number, (kind, fields) in enumerate(requests):
        body = struct.pack(">BI", kind, number) + b"".join(fields)
        reply, answered = client.session.answer([body])
        [packet] = Splitter().feed(reply)
        assert (answered, Fields(packet[1:]).u32()) == (1, number)
        assert len(packet) <= MAX_PACKET
    client.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(around) == ["root"]


def test_times_beyond_32_bits_are_shown_as_the_last_one(client: Client, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    os.utime(tmp_path / "a", (2**33, 2**33))
    info = os.lstat(tmp_path / "a")
    assert b"2106" in wire.name(b"a", info)
    _, fields = client.ask(Kind.LSTAT, string(b"a"))
    assert fields.attrs().times == (2**32 - 1, 2**32 - 1)
