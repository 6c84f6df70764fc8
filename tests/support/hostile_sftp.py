"""An SFTP server that lies: a program that sshd runs as its subsystem, between the client and the real sftp-server.

    python -S -E hostile_sftp.py SFTP_SERVER MODE_FILE

Packets pass through in both directions; what is done to them is the word in MODE_FILE when the session begins (see
`LIES`), so that a tier can be made by an honest server and then be lied to. Needs the standard library only.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time

INIT, READ, WRITE, READDIR, STATUS, DATA, NAME = 1, 5, 6, 12, 101, 103, 104
OK, EOF, DENIED = 0, 1, 3
ODD = (
    b"..",
    b".",
    b"../../escaped",
    b"/etc/passwd",
    b"a/b",
    b"c\0d",
    b"\x1b[2Jx",
    b"UPPER",
    b"x" * 300,
    b"\xff",
)
TEXT = b"\x1b]0;owned\x07\x1b[2J" + b"no " * 60_000
"""Terminal escapes, and more words than anyone reads."""

LIES = ("honest", "names", "endless", "length", "short", "drops", "stall", "text")


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def listed(name: bytes) -> bytes:
    return string(name) + string(b"") + struct.pack(">IQI", 0x5, 7, 0o100600)


class Wire:
    """One direction: whole packets out of a pipe, and bytes into another."""

    def __init__(self, source: int, target: int) -> None:
        self._source, self._target = source, target
        self._lock = threading.Lock()

    def packet(self) -> bytes:
        """Type, number and body of the next packet; b"" at the end."""
        head = self._exactly(4)
        return self._exactly(int.from_bytes(head, "big")) if head else b""

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count and (part := os.read(self._source, count)):
            parts.append(part)
            count -= len(part)
        return b"".join(parts) if not count else b""

    def send(self, body: bytes) -> None:
        self.raw(struct.pack(">I", len(body)) + body)

    def raw(self, data: bytes) -> None:
        with self._lock:
            while data:
                data = data[os.write(self._target, data) :]


class Between:
    """The session: requests one way, answers the other."""

    def __init__(self, lie: str, server: subprocess.Popen[bytes]) -> None:
        assert server.stdin is not None and server.stdout is not None
        self.lie = lie
        self.up = Wire(0, server.stdin.fileno())
        self.down = Wire(server.stdout.fileno(), 1)
        self.asked: dict[bytes, int] = {}
        self.told = 0

    def requests(self) -> None:
        while packet := self.up.packet():
            kind, number = packet[0], packet[1:5]
            self.asked[number] = kind
            if self.lie == "drops" and kind == WRITE:
                self.down.send(self.status(number, OK))
            elif self.lie == "short" and kind == READ:
                self.up.send(packet[:-4] + struct.pack(">I", min(1000, int.from_bytes(packet[-4:], "big"))))
            else:
                self.up.send(packet)
        os._exit(0)

    def answers(self) -> None:
        while packet := self.down.packet():
            number = packet[1:5]
            self.answer(packet, number, self.asked.pop(number, INIT))
        os._exit(0)

    def answer(self, packet: bytes, number: bytes, kind: int) -> None:
        if self.lie == "length" and kind == READ and packet[0] == DATA:
            self.down.raw(b"\xff\xff\xff\xff" + packet)
        elif self.lie == "stall" and kind == READ and packet[0] == DATA:
            self.down.raw(struct.pack(">I", len(packet)) + packet[: len(packet) // 2])
            time.sleep(3600)
        elif self.lie == "text" and kind == READ:
            self.down.send(self.status(number, DENIED, TEXT))
        elif self.lie == "names" and kind == READDIR and packet[0] == NAME:
            self.down.send(self.with_odd_names(packet))
        elif self.lie == "endless" and kind == READDIR:
            self.down.send(self.more_names(number))
        else:
            self.down.send(packet)

    @staticmethod
    def status(number: bytes, code: int, text: bytes = b"") -> bytes:
        return bytes([STATUS]) + number + struct.pack(">I", code) + string(text) + string(b"en")

    @staticmethod
    def with_odd_names(packet: bytes) -> bytes:
        """Each name twice, and some that lead elsewhere."""
        count, entries = int.from_bytes(packet[5:9], "big"), packet[9:]
        odd = b"".join(map(listed, ODD))
        return packet[:5] + struct.pack(">I", 2 * count + len(ODD)) + entries + odd + entries

    def more_names(self, number: bytes) -> bytes:
        self.told += 1000
        names = b"".join(listed(b"%016x" % (self.told + n)) for n in range(1000))
        return bytes([NAME]) + number + struct.pack(">I", 1000) + names


def main() -> None:
    """Run the real server, and stand in between."""
    with open(sys.argv[2], encoding="ascii") as file:
        lie = file.read().strip()
    server = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    between = Between(lie, server)
    threading.Thread(target=between.requests, daemon=True).start()
    between.answers()


if __name__ == "__main__":
    main()
