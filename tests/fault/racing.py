"""What all races of vouchers against a close share: answers, money, the log's one settlement."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from kill_clients import Connection
from kill_harness import Serve
from ledger_checker import Ack, StreamImage
from solders.pubkey import Pubkey
from spl.token.instructions import get_associated_token_address

from service.domain.events import CloseRequested, SettlementFinalized, SettlementIntended
from service.domain.log import decode

SPREAD_SECONDS = 0.004
"""Rivals and closes start at random moments within this time."""
SETTLE_SECONDS = 0.5
"""For one settlement, in the deadline of all."""
VERDICTS = {"": "accepted", "amount_not_monotonic": "rejected", "session_closed": "closed"}
"""By the code of the answer; a rival must meet no other."""
_UNAVAILABLE = 503


async def soon(
    chance: random.Random, act: Callable[..., Awaitable[None]], *arguments: object
) -> None:
    """Do it in a moment."""
    await asyncio.sleep(chance.uniform(0, SPREAD_SECONDS))
    await act(*arguments)


async def post(connection: Connection, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    """The answer, asked for again while the service says that it lost a race."""
    while True:
        status, answer = await connection.post(path, body)
        if status != _UNAVAILABLE:
            return status, json.loads(answer)
        await asyncio.sleep(0.01)


async def present(connection: Connection, channel_id: str, amount: int, envelope: bytes) -> Ack:
    """Have a signed voucher verified, and what the seller was told."""
    invoked = time.monotonic_ns()
    status, verdict = await post(connection, "/v1/vouchers/verify", envelope)
    assert status == 200, verdict
    receipt: dict[str, Any] = verdict.get("receipt") or {"position": 0, "eventHash": ""}
    answer = VERDICTS[verdict.get("code", "")], receipt["position"], receipt["eventHash"]
    return Ack(channel_id, amount, *answer, invoked, time.monotonic_ns())


@dataclass(frozen=True, slots=True)
class Settled:
    """The one settlement of a stream, and all of the stream's events."""

    settlement_id: str
    amount: int
    events: list[Any]


def settled_once(image: StreamImage, acks: Sequence[Ack]) -> Settled:
    """One close, one intent and one payment, which covers all that was acknowledged."""
    events = [decode(row.type, row.schema_version, row.payload) for row in image.rows]
    intents = [event for event in events if isinstance(event, SettlementIntended)]
    payments = [event for event in events if isinstance(event, SettlementFinalized)]
    closed = [n for n, event in enumerate(events, start=1) if isinstance(event, CloseRequested)]
    assert (len(intents), len(payments), len(closed)) == (1, 1, 1), image.stream_id
    amount: int = intents[0].amount
    paid = [ack for ack in acks if ack.verdict == "accepted"]
    assert amount == max(ack.amount for ack in paid), image.stream_id
    assert all(ack.position < closed[0] for ack in paid), image.stream_id
    return Settled(intents[0].settlement_id, amount, events)


async def until_settled(connection: Any, seller_id: str, count: int) -> None:
    """Wait until that many settlements of the seller are settled."""
    statuses: Counter[str] = Counter()
    deadline = time.monotonic() + 30 + count * SETTLE_SECONDS
    while statuses["settled"] < count:
        assert time.monotonic() < deadline, statuses
        await asyncio.sleep(0.2)
        rows = await connection.fetch(
            "SELECT status, count(*) FROM settlements WHERE seller_id = $1 GROUP BY 1", seller_id
        )
        statuses = Counter({row["status"]: row["count"] for row in rows})


class Purse:
    """The payers' and the recipient's money on the local chain, in atomic units."""

    def __init__(
        self, serve: Serve, payers: Sequence[str], recipient: str, amount_each: int
    ) -> None:
        self._url, self._mint = serve.facts["rpcUrl"], serve.facts["mint"]
        self._payers, self._recipient = payers, recipient
        self._amount = amount_each * len(payers)
        money = {
            "amount": amount_each,
            "delegate": serve.facts["settlementAuthority"],
            "delegatedAmount": amount_each,
        }
        for payer in payers:
            self._rpc("surfnet_setTokenAccount", payer, self._mint, money)
        self._rpc("surfnet_setTokenAccount", recipient, self._mint, {"amount": 0})

    async def until_moved(self, amount: int) -> bool:
        """Whether exactly `amount` went from the one side to the other, once it is finalized."""
        await until(lambda: self._balance(self._recipient) >= amount, seconds=30)
        left = sum(self._balance(payer) for payer in self._payers)
        return (self._amount - left, self._balance(self._recipient)) == (amount, amount)

    def _balance(self, owner: str) -> int:
        account = get_associated_token_address(
            Pubkey.from_string(owner), Pubkey.from_string(self._mint)
        )
        held = self._rpc("getTokenAccountBalance", str(account), {"commitment": "finalized"})
        return int(held["value"]["amount"])

    def _rpc(self, method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = httpx.post(self._url, json=body, timeout=30).json()
        assert "error" not in answer, answer
        return answer["result"]


async def until(holds: Callable[[], bool], *, seconds: float) -> None:
    """Poll, with a deadline."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.05)


def cpu_ticks(serve: Serve) -> dict[int, int]:
    """Processor time of each server process so far."""
    ticks = dict[int, int]()
    for pid in serve.servers():
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        ticks[pid] = int(user) + int(system)
    return ticks
