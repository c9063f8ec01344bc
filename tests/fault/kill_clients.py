"""The clients of the crash tests: one process, many connections, each answer written down.

An answer goes to the client's own file (O_APPEND, one `write`) before its next request, so what
the files say was promised. A request without an answer is sent again, byte for byte, until there
is one. Reads its plan as one line of JSON from standard input, stops at SIGTERM, and prints its
counts as JSON.
"""

import asyncio
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledger_checker import Ack
from nacl.signing import SigningKey

from session_ledger.challenge import CHANNEL_PROGRAM, NETWORKS
from session_ledger.encoding import base58_encode
from session_ledger.voucher import sign_voucher

PRICE = 10
RETRY_SECONDS = 0.05
ANSWER_SECONDS = 30
RECEIPTS_MAX = 256
OK, UNAVAILABLE = 200, 503


@dataclass(frozen=True, slots=True)
class Plan:
    """What the clients do. Each has `own` channels; all together have `shared` ones."""

    host: str
    port: int
    api_key: str
    recipient: str
    directory: str
    seed: int
    clients: int = 32
    own: int = 3
    shared: int = 8
    pause_seconds: float = 0.0
    """Mean of the random time between an answer and the client's next request."""
    repeat: float = 0.05
    """Share of requests that repeat a voucher which was sent before, perhaps a moment ago."""


def key_of(name: str) -> SigningKey:
    """A key that follows from its name."""
    return SigningKey(hashlib.sha256(b"crash test " + name.encode()).digest())


def address_of(name: str) -> str:
    """A public key that follows from a name."""
    return base58_encode(bytes(key_of(name).verify_key))


class Channel:
    """A channel and the buyer that signs for it; shared ones have several users."""

    def __init__(self, channel_id: str, recipient: str, *, shared: bool = False) -> None:
        self.channel_id = channel_id
        self.shared = shared
        self.sent = 0
        self.receipts: dict[int, object] = {}
        self._recipient = recipient
        self._payer = address_of(f"wallet of {channel_id}")
        self._key = key_of(channel_id)

    def body(self, number: int, payer: str | None = None) -> bytes:
        """The request that pays the `number`-th time."""
        fields = {
            "channelId": self.channel_id,
            "payer": payer or self._payer,
            "recipient": self._recipient,
            "cumulativeAmount": str(number * PRICE),
            "sequence": number,
            "meter": "request",
            "units": "1",
            "serverNonce": f"{self.channel_id}-{number}",
            "chainId": NETWORKS["localnet"].chain_id,
            "channelProgram": CHANNEL_PROGRAM,
        }
        return json.dumps(sign_voucher(fields, self._key)).encode()

    def agrees(self, number: int, receipt: object) -> bool:
        """Whether every answer so far gave this receipt; those of long ago are forgotten."""
        self.receipts.pop(number - RECEIPTS_MAX, None)
        return self.receipts.setdefault(number, receipt) == receipt


class Connection:
    """A keep-alive HTTP connection that is opened when it is needed."""

    def __init__(self, host: str, port: int, api_key: str) -> None:
        self._place = host, port
        self._head = (
            f"HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {api_key}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        )
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer.

        Raises:
            OSError, EOFError, TimeoutError: there was none; the connection is closed.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._post(path, body)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
        self._streams = None

    async def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._place)
        reader, writer = self._streams
        writer.write(f"POST {path} {self._head}{len(body)}\r\n\r\n".encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
        answer = await reader.readexactly(length)
        if b"connection: close" in head:
            self.close()
        return int(head.split(b" ", 2)[1]), answer


@dataclass(slots=True)
class Tally:
    """What all clients saw."""

    verdicts: Counter[str] = field(default_factory=Counter[str])
    failures: Counter[str] = field(default_factory=Counter[str])
    violations: list[str] = field(default_factory=list[str])


class Client:
    """One of them."""

    def __init__(self, plan: Plan, number: int, shared: list[Channel], tally: Tally) -> None:
        own = (f"own-{plan.seed}-{number}-{channel}" for channel in range(plan.own))
        self._channels = [Channel(name, plan.recipient) for name in own] + shared
        self._connection = Connection(plan.host, plan.port, plan.api_key)
        self._plan = plan
        self._random = random.Random(f"{plan.seed}/{number}")
        self._tally = tally
        path = Path(plan.directory, f"{number}.acks")
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    async def run(self, stopping: asyncio.Event) -> None:
        """Send vouchers until it is time to stop; the last one still gets its answer."""
        while not stopping.is_set():
            channel = self._random.choice(self._channels)
            repeats = channel.sent > 0 and self._random.random() < self._plan.repeat
            if not repeats:
                channel.sent += 1
            await self._pay(channel, channel.sent, repeats=repeats)
            if self._plan.pause_seconds:
                await asyncio.sleep(self._random.uniform(0, 2 * self._plan.pause_seconds))
        self._connection.close()
        os.close(self._file)

    async def _pay(self, channel: Channel, number: int, *, repeats: bool) -> None:
        body = channel.body(number)
        invoked = time.monotonic_ns()
        verdict, tries = await self._answer(body)
        receipt: dict[str, Any] = verdict.get("receipt") or {"position": 0, "eventHash": ""}
        self._tally.verdicts[verdict["verdict"] + (" after a failure" if tries else "")] += 1
        if self._is_wrong(verdict, alone=not channel.shared, fresh=not (repeats or tries)):
            self._tally.violations.append(f"{channel.channel_id} {number}: {verdict}")
        if "receipt" in verdict and not channel.agrees(number, receipt):
            self._tally.violations.append(f"{channel.channel_id} {number}: another receipt")
        ack = Ack(
            channel.channel_id,
            number * PRICE,
            verdict["verdict"],
            receipt["position"],
            receipt["eventHash"],
            invoked,
            time.monotonic_ns(),
        )
        os.write(self._file, ack.line())

    def _is_wrong(self, verdict: dict[str, Any], *, alone: bool, fresh: bool) -> bool:
        """Whether this user of the channel cannot have deserved the verdict."""
        if not alone:
            return verdict.get("code", "amount_not_monotonic") not in (
                "amount_not_monotonic",
                "sequence_not_monotonic",
            )
        return verdict["verdict"] != "accepted" and (fresh or verdict["verdict"] != "replayed")

    async def _answer(self, body: bytes) -> tuple[dict[str, Any], int]:
        """The verdict, and how often there was no answer before it."""
        tries = 0
        while True:
            try:
                status, answer = await self._connection.post("/v1/vouchers/verify", body)
            except (OSError, EOFError, TimeoutError) as error:
                self._tally.failures[type(error).__name__] += 1
            else:
                if status == OK:
                    return json.loads(answer), tries
                self._tally.failures[str(status)] += 1
                if status != UNAVAILABLE:
                    self._tally.violations.append(f"status {status}: {answer[:300]!r}")
            tries += 1
            await asyncio.sleep(RETRY_SECONDS)


async def main() -> None:
    """Run the plan of standard input."""
    plan = Plan(**json.loads(sys.stdin.readline()))
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    tally = Tally()
    names = (f"shared-{plan.seed}-{number}" for number in range(plan.shared))
    shared = [Channel(name, plan.recipient, shared=True) for name in names]
    clients = [Client(plan, number, shared, tally) for number in range(plan.clients)]
    await asyncio.gather(*(client.run(stopping) for client in clients))
    counts = {"verdicts": tally.verdicts, "failures": tally.failures}
    print(json.dumps({**counts, "violations": tally.violations[:20]}))


if __name__ == "__main__":
    asyncio.run(main())
