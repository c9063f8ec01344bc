"""A keep-alive HTTP connection that costs its caller little."""

import asyncio
from collections.abc import Sequence

ANSWER_SECONDS = 60


class Connection:
    """One connection, opened when it is needed, with one request under way at a time."""

    def __init__(self, host: str, port: int, *headers: str) -> None:
        self._place = host, port
        fields = (f"Host: {host}:{port}", *headers, "Content-Type: application/json")
        self._head = "\r\n".join(("", *fields, "Content-Length: "))
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes = b"") -> bytes:
        """The body of an answer that is a success.

        Raises:
            RuntimeError: it is none.
        """
        async with asyncio.timeout(ANSWER_SECONDS):
            status, answer = await self._post(path, body)
        if status >= 300:
            raise RuntimeError(f"{path}: {status} {answer[:300]!r}")
        return answer

    def close(self) -> None:
        """Drop it."""
        if self._streams is not None:
            self._streams[1].transport.abort()

    async def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._place)
        reader, writer = self._streams
        writer.write(f"POST {path} HTTP/1.1{self._head}{len(body)}\r\n\r\n".encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
        return int(head.split(b" ", 2)[1]), await reader.readexactly(length)


async def post_all(
    connections: Sequence[Connection], requests: Sequence[tuple[str, bytes]]
) -> list[bytes]:
    """The answers to all requests, in order; each connection has one under way."""
    answers = [b""] * len(requests)
    waiting = iter(enumerate(requests))

    async def work(connection: Connection) -> None:
        for number, (path, body) in waiting:
            answers[number] = await connection.post(path, body)

    await asyncio.gather(*(work(connection) for connection in connections))
    return answers
