"""A TCP proxy in front of Postgres that cuts a connection at a chosen byte."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

Direction = Literal["to_server", "to_client"]
CHUNK_BYTES = 65_536


@dataclass(slots=True)
class CuttingProxy:
    """Forwards, counts, and cuts when it is told to."""

    host: str
    port: int
    forwarded: dict[Direction, int] = field(default_factory=dict[Direction, int])
    cuts: int = 0
    _limit: tuple[Direction, int] | None = None
    _word: tuple[bytes, Callable[[], Awaitable[None]]] | None = None

    def cut_after(self, direction: Direction, count: int) -> None:
        """Cut once, after `count` more bytes in that direction."""
        self.forwarded = {}
        self._limit = direction, count

    def cut_behind(self, word: bytes, before: Callable[[], Awaitable[None]]) -> None:
        """Cut once, behind the message that holds `word`; `before` runs before it is forwarded."""
        self._word = word, before

    def forget(self) -> None:
        """Only forward."""
        self._limit = self._word = None

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """One connection."""
        server, to_server = await asyncio.open_connection(self.host, self.port)
        pumps = [
            asyncio.create_task(self._pump("to_server", client, to_server)),
            asyncio.create_task(self._pump("to_client", server, to_client)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            # The server still reads what it was sent, then finds the end; the client is cut off.
            to_server.close()
            to_client.transport.abort()

    async def _pump(
        self, direction: Direction, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        while chunk := await source.read(CHUNK_BYTES):
            whole = await self._react(direction, chunk)
            allowed = self._allowed(direction, len(chunk))
            sink.write(chunk[:allowed])
            await sink.drain()
            self.forwarded[direction] = self.forwarded.get(direction, 0) + allowed
            if whole or allowed < len(chunk):
                self.cuts += 1
                return

    async def _react(self, direction: Direction, chunk: bytes) -> bool:
        """Whether to cut behind this chunk."""
        if self._word is None or direction != "to_server" or self._word[0] not in chunk:
            return False
        _, before = self._word
        self._word = None
        await before()
        return True

    def _allowed(self, direction: Direction, size: int) -> int:
        if self._limit is None or self._limit[0] != direction:
            return size
        room = self._limit[1] - self.forwarded.get(direction, 0)
        if size <= room:
            return size
        self._limit = None
        return room


@asynccontextmanager
async def cutting_proxy(host: str, port: int) -> AsyncGenerator[tuple[CuttingProxy, int]]:
    """A proxy for `host:port`, and the port at which it listens."""
    proxy = CuttingProxy(host, port)
    tasks = set[asyncio.Task[None]]()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await proxy.serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            tasks.discard(task)

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield proxy, listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
