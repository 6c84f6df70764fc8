"""`python -m bench.link PORT ROUND_TRIP_MS BYTES_PER_SECOND`: a TCP proxy on loopback that makes the server of PORT far
away, and the line to it narrow.

Every byte arrives half a round trip after it was sent, in each direction. BYTES_PER_SECOND (0: any) is what all
connections together carry towards the server: one bucket of tokens for the line. Prints its port; ends with its
standard input. In a process of its own, so that it takes no time from what is measured but the processor's. It has no
windows, losses or slow start: what holds a sender back is SSH's own window, as on a line that is tuned well.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress

PIECE = 256 * 1024
NARROW_BUFFER = 256 * 1024
BURST_SECONDS = 0.02


class Bucket:
    """Lets `rate` bytes a second through, in order; 0 is any."""

    def __init__(self, rate: int) -> None:
        self._rate, self._free_at = rate, 0.0

    async def take(self, count: int) -> None:
        """Returns when `count` bytes may pass."""
        if not self._rate:
            return
        loop = asyncio.get_running_loop()
        self._free_at = max(self._free_at, loop.time() - BURST_SECONDS) + count / self._rate
        await asyncio.sleep(self._free_at - loop.time())


class Link:
    """The proxy: takes connections until its task ends."""

    def __init__(self, port: int, delay: float, rate: int) -> None:
        """`delay` in seconds, one way; `rate` in bytes a second towards the server."""
        self._port, self._delay = port, delay
        self._up, self._down = Bucket(rate), Bucket(0)
        self._narrow = rate > 0

    async def serve(self) -> asyncio.Server:
        """Starts to listen on a free port."""
        listening = socket.create_server(("127.0.0.1", 0))
        if self._narrow:  # else megabytes are taken at once, and the sender sees a line that is not narrow
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW_BUFFER)
        return await asyncio.start_server(self._connected, sock=listening, limit=PIECE)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError):  # the line is taken down with what is on it
            await self._connect(reader, writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port, limit=PIECE)
        try:
            await asyncio.gather(self._carry(reader, back, self._up), self._carry(there, writer, self._down))
        finally:
            for end in (back, writer):
                end.close()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bucket: Bucket
    ) -> None:
        """One direction, to its end."""
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivery = asyncio.create_task(self._deliver(line, writer))
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while data := await reader.read(PIECE):
                await bucket.take(len(data))
                line.put_nowait((loop.time() + self._delay, data))
        line.put_nowait((loop.time() + self._delay, b""))
        await delivery

    async def _deliver(self, line: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while True:
                due, data = await line.get()
                if (wait := due - loop.time()) > 0:
                    await asyncio.sleep(wait)
                if not data:
                    writer.write_eof()  # the other direction goes on
                    return
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


async def run(port: int, round_trip_ms: float, rate: int) -> None:
    """Serves until standard input ends."""
    server = await Link(port, round_trip_ms / 2000, rate).serve()
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
