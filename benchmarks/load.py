"""The client: 32 keep-alive connections in a process of its own, each with one request under way.

Plain sockets and one epoll loop, because the client shares the machine with the server and must
cost as little of it as possible. Requests are made before a round, never during one.
"""

import itertools
import multiprocessing
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Protocol, Self

from vouchers import Buyer

CONNECTIONS = 32
CHANNELS_EACH = 8
RECEIVE_BYTES = 65_536
STUCK_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Target:
    """The server and the seller that the load is for."""

    host: str
    port: int
    seller_id: str
    api_key: str
    recipient: str
    prefix: str
    """Starts every channel id, so that two loads never share a channel."""


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body, and what the answer to it must hold where the path consumes it."""

    text: bytes
    expect: bytes


class Bodies(Protocol):
    """What is sent. It crosses over to the client process, so it can be pickled."""

    def bodies(self, connection: int) -> Iterator[Body]:
        """Bodies without end for one of the connections, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Vouchers:
    """Signed vouchers, in channels that each connection has for itself."""

    target: Target

    def bodies(self, connection: int) -> Iterator[Body]:
        """See `Bodies`."""
        buyers = [
            Buyer(f"{self.target.prefix}-{connection}-{channel}", self.target.recipient)
            for channel in range(CHANNELS_EACH)
        ]
        for number in itertools.count(1):
            for buyer in buyers:
                yield Body(buyer.body(number), b"")


@dataclass(frozen=True, slots=True)
class Order:
    """One round. `consumes`: the path takes each body once, so each is sent once."""

    path: str
    expect: bytes
    seconds: float
    consumes: bool


@dataclass(frozen=True, slots=True)
class Round:
    """What one round measured; latencies in seconds, unsorted."""

    requests: int
    seconds: float
    latencies: list[float]
    server_cpu_seconds: float = 0.0
    """Processor time of the server process; filled in by who knows its process id."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


class LoadFailed(Exception):
    """A round met an answer that it must not meet, or none."""


class LoadProcess:
    """The client process; it sends signed vouchers unless it is given something else."""

    def __init__(self, target: Target, source: Bodies | None = None) -> None:
        self._target = target
        self._source = source or Vouchers(target)

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        work = theirs, self._target, self._source
        self._process = context.Process(target=_serve, args=work, daemon=True)
        self._process.start()
        theirs.close()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pipe.close()
        self._process.join()

    def prepare(self, count: int) -> None:
        """Make requests until every connection has `count` of them waiting."""
        self._pipe.send(count)
        self._pipe.recv()

    def run(self, order: Order) -> Round:
        """Play one round.

        Raises:
            LoadFailed: it could not be played to its end.
        """
        self._pipe.send(order)
        outcome: Round | LoadFailed = self._pipe.recv()
        if isinstance(outcome, LoadFailed):
            raise outcome
        return outcome


def _serve(pipe: Connection, target: Target, source: Bodies) -> None:
    load = _Load(target, source)
    while True:
        try:
            order: Order | int = pipe.recv()
        except EOFError:
            return
        if isinstance(order, int):
            load.prepare(order)
            pipe.send(None)
            continue
        try:
            pipe.send(load.run(order))
        except (LoadFailed, OSError) as error:
            pipe.send(LoadFailed(f"{order.path}: {error}"))


class _Client:
    """One connection and the requests that wait for it."""

    def __init__(self, target: Target, bodies: Iterator[Body]) -> None:
        self.socket = socket.create_connection((target.host, target.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.sent_at = 0.0
        self.waiting: deque[Body] = deque()
        self.expect = b""
        self._head = (
            f"\r\nHost: {target.host}:{target.port}\r\nAuthorization: Bearer {target.api_key}"
            "\r\nContent-Type: application/json\r\nContent-Length: "
        ).encode()
        self._bodies = bodies

    def make(self) -> None:
        """Add one request, all but its first line."""
        body = next(self._bodies)
        head = self._head + str(len(body.text)).encode() + b"\r\n\r\n"
        self.waiting.append(Body(head + body.text, body.expect))

    def send(self, first_line: bytes, *, consumes: bool) -> None:
        """Send the oldest request, which stays where it is unless the order consumes it."""
        request = self.waiting.popleft() if consumes else self.waiting[0]
        self.expect = request.expect if consumes else b""
        self.received = b""
        self.sent_at = time.perf_counter()
        self.socket.sendall(first_line + request.text)

    def receive(self) -> bytes | None:
        """The answer once it is whole."""
        fresh = self.socket.recv(RECEIVE_BYTES)
        if not fresh:
            raise LoadFailed("the server closed a connection")
        self.received += fresh
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return None
        _, _, length = head.lower().partition(b"content-length: ")
        return self.received if len(body) == int(length.split(b"\r\n", 1)[0]) else None


class _Load:
    """All connections, driven by one loop."""

    def __init__(self, target: Target, source: Bodies) -> None:
        clients = [_Client(target, source.bodies(number)) for number in range(CONNECTIONS)]
        self._clients = {client.socket.fileno(): client for client in clients}
        self._poll = select.epoll()
        for descriptor in self._clients:
            self._poll.register(descriptor, select.EPOLLIN)

    def prepare(self, count: int) -> None:
        for client in self._clients.values():
            while len(client.waiting) < count:
                client.make()

    def run(self, order: Order) -> Round:
        first_line = f"POST {order.path} HTTP/1.1".encode()
        latencies: list[float] = []
        started = time.perf_counter()
        deadline = started + order.seconds
        for client in self._clients.values():
            client.send(first_line, consumes=order.consumes)
        under_way = len(self._clients)
        ended = started
        while under_way:
            ready = self._poll.poll(STUCK_SECONDS)
            if not ready:
                raise LoadFailed(f"no answer within {STUCK_SECONDS} s")
            for descriptor, _ in ready:
                client = self._clients[descriptor]
                answer = client.receive()
                if answer is None:
                    continue
                ended = time.perf_counter()
                latencies.append(ended - client.sent_at)
                expected = order.expect in answer and client.expect in answer
                if b" 200 " not in answer[:16] or not expected:
                    raise LoadFailed(f"unexpected answer: {answer[:600]!r}")
                if not client.waiting:  # better a shorter round than one with an idle connection
                    deadline = ended
                if ended < deadline:
                    client.send(first_line, consumes=order.consumes)
                else:
                    under_way -= 1
        return Round(len(latencies), ended - started, latencies)
