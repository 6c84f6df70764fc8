"""A TCP proxy that makes a server far away: every byte arrives a fixed time after it was sent, in each
direction, at any rate or (a slow line) at so many bytes a second. Runs in the test's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


@asynccontextmanager
async def far_away(port: int, delay_s: float, rate: float | None = None) -> AsyncIterator[int]:
    """The port on which the server of ``port`` (on loopback) is ``2 * delay_s`` away; ``rate``: bytes a second
    that each connection carries in each direction."""
    tasks: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A slow line takes no more than it carries, so that its end notices.
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(0 if rate is None else 2)

        async def deliver() -> None:
            while True:
                due, data = await line.get()
                await asyncio.sleep(due - loop.time())
                if not data:
                    writer.close()
                    return
                writer.write(data)
                if rate is not None:
                    await asyncio.sleep(len(data) / rate)

        delivery = asyncio.create_task(deliver())
        try:
            while data := await reader.read(1 << 16):
                await line.put((loop.time() + delay_s, data))
            await line.put((loop.time() + delay_s, b""))
            await delivery
        except ConnectionError:
            pass  # the other direction notices too
        finally:
            delivery.cancel()
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        for one, other in ((reader, back), (there, writer)):
            task = asyncio.create_task(carry(one, other))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
