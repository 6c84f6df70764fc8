"""A scripted FTP server on loopback that can lie in any way: subclasses override ``on_<command>``.

The rest answers as an honest server with the files of ``files`` (folders are not kept: any may be entered).
``received`` are all bytes of control connections in the clear. Plain by default; ``certificate`` adds AUTH TLS on the
control connection only, which is all that is needed to see who drops it.
"""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

from tandem_protocol.stores.ftp_target import FtpTarget


class ScriptedFtp:
    """One listener; each connection has a thread and one `Session`."""

    features: tuple[str, ...] = ("SIZE", "REST STREAM")
    banner = "220 ready"

    def __init__(self, certificate: Path | None = None, port: int = 0) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.certificate = certificate
        self.received = bytearray()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self.ended = threading.Event()

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for sock in self._open:
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(10)

    def _spawn(self, target: object, *args: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._spawn(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        self._open.append(sock)
        with suppress(OSError, ValueError):
            Session(self, sock).run()
        sock.close()

    def target(self, **changes: object) -> FtpTarget:
        values: dict[str, object] = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "somebody",
            "password": "a-secret",
            "path": "/root",
            "tls": "none",
            "deadline_s": 1.0,
        }
        return FtpTarget(**(values | changes))  # type: ignore[arg-type]  # the tests' own keywords

    def on_user(self, session: Session, _: str) -> str:
        return "331 password"

    def on_pass(self, session: Session, _: str) -> str:
        return "230 in"

    def on_feat(self, session: Session, _: str) -> str:
        return "211-these\r\n" + "".join(f" {name}\r\n" for name in self.features) + "211 end"

    def on_type(self, session: Session, _: str) -> str:
        return "200 yes"

    on_pbsz = on_prot = on_type

    def on_cwd(self, session: Session, path: str) -> str:
        session.folder = path.rstrip("/")
        return "250 there"

    def on_mkd(self, session: Session, _: str) -> str:
        return "250 done"

    on_rmd = on_mkd

    def on_auth(self, session: Session, _: str) -> str:
        return "234 go on" if self.certificate else "502 no"

    def on_size(self, session: Session, path: str) -> str:
        return f"213 {len(self.files[path])}" if path in self.files else "550 what?"

    def on_rest(self, session: Session, offset: str) -> str:
        session.offset = int(offset)
        return "350 from there"

    def on_pasv(self, session: Session, _: str) -> str:
        return session.passive("127,0,0,1")

    def on_stor(self, session: Session, path: str) -> str:
        offset, session.offset = session.offset, 0
        self.files[path] = self.files.get(path, b"")[:offset] + session.receive()
        return "226 complete"

    def on_retr(self, session: Session, path: str) -> str:
        offset, session.offset = session.offset, 0
        session.send(self.files[path][offset:])
        return "226 complete"

    def on_list(self, session: Session, _: str) -> str:
        session.send(b"")
        return "226 complete"

    on_mlsd = on_list

    def on_rnfr(self, session: Session, path: str) -> str:
        session.source = path
        return "350 and to?" if any(f.startswith(path) for f in self.files) else "550 what?"

    def on_rnto(self, session: Session, target: str) -> str:
        for path in [path for path in self.files if path.startswith(session.source)]:
            self.files[target + path.removeprefix(session.source)] = self.files.pop(path)
        return "250 done"

    def on_dele(self, session: Session, path: str) -> str:
        return "250 gone" if self.files.pop(path, None) is not None else "550 what?"


class Session:
    """One control connection, and its data connection if there is one."""

    def __init__(self, server: ScriptedFtp, sock: socket.socket) -> None:
        self.server, self.sock = server, sock
        self.offset, self.source, self.folder = 0, "", ""
        self._waiting: socket.socket | None = None
        self._input = b""

    def run(self) -> None:
        self.say(self.server.banner)
        while line := self._line():
            word, _, argument = line.partition(" ")
            self.server.asked.append(line)
            handler = getattr(self.server, f"on_{word.lower()}", None)
            self.say(handler(self, argument) if handler else "502 no such command")
            if word == "AUTH" and self.server.certificate is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self.server.certificate)
                self.sock = context.wrap_socket(self.sock, server_side=True)
                self.server._open.append(self.sock)

    def say(self, reply: str) -> None:
        if reply:
            self.sock.sendall(reply.encode("utf-8", "surrogateescape") + b"\r\n")

    def _line(self) -> str:
        while b"\r\n" not in self._input:
            part = self.sock.recv(4096)
            if not part:
                return ""
            self._input += part
            self.server.received += part
        line, _, self._input = self._input.partition(b"\r\n")
        return line.decode()

    def passive(self, host: str) -> str:
        """Listen for the data connection, and say that it is at ``host``."""
        self._waiting = socket.create_server(("127.0.0.1", 0))
        self.server._open.append(self._waiting)
        port = self._waiting.getsockname()[1]
        return f"227 here ({host},{port // 256},{port % 256})"

    def data(self) -> socket.socket:
        assert self._waiting is not None
        self.say("150 now")
        conn, _ = self._waiting.accept()
        self._waiting.close()
        self.server._open.append(conn)
        return conn

    def receive(self, most: int | None = None) -> bytes:
        """What is sent, to its end; or ``most`` bytes, and then the connection is cut."""
        parts, got = [], 0
        with self.data() as conn:
            while (most is None or got < most) and (part := conn.recv(65536)):
                parts.append(part)
                got += len(part)
        return b"".join(parts)[:most]

    def send(self, data: bytes) -> None:
        with self.data() as conn:
            conn.sendall(data)
