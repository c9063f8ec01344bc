"""A facilitator of two processes: a payment that is settled by many at once is one transfer, and
one of them is told of its success.

Every race is played over HTTP and ends on the local chain.
"""

import asyncio
import base64
import json
from collections import Counter
from typing import Any

import httpx
from charge_rig import ata, memo, pay, wire
from kill_clients import Connection
from kill_harness import Serve
from ledger_checker import connect
from racing import Purse, cpu_ticks, post
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.keypair import Keypair

from session_ledger.challenge import NETWORKS
from session_ledger.x402.networks import caip2

RIVALS = 24
"""Connections on which the same payment is settled at once."""
PAYMENTS = 6
PRICE = 10_000
NETWORK = NETWORKS["localnet"]


async def test_of_many_settles_over_two_processes_one_pays_and_one_is_told(serve: Serve) -> None:
    seller = serve.register_seller("Facilitated")
    buyer = Keypair()
    purse = Purse(serve, [str(buyer.pubkey())], seller["recipient"], PAYMENTS * PRICE)
    before = cpu_ticks(serve)
    rivals = [Connection("127.0.0.1", serve.port, seller["apiKey"]) for _ in range(RIVALS)]
    signatures = [
        await _race(rivals, _body(serve, buyer, seller["recipient"], f"race {number}"))
        for number in range(PAYMENTS)
    ]
    for rival in rivals:
        rival.close()
    assert len(set(signatures)) == PAYMENTS
    assert await purse.until_moved(PAYMENTS * PRICE)
    connection = await connect(serve.facts["databaseUrl"])
    query = "SELECT status, count(*) FROM payments WHERE signature = ANY($1) GROUP BY 1"
    assert [tuple(row) for row in await connection.fetch(query, signatures)] == [
        ("settled", PAYMENTS)
    ]
    told = "SELECT count(*) FROM claims WHERE scope = 'x402/settled'"
    assert await connection.fetchval(told) == PAYMENTS
    await connection.close()
    worked = [after - before[pid] for pid, after in cpu_ticks(serve).items()]
    assert len(worked) == 2
    assert min(worked) > 5, f"one of the processes had nothing to do: {worked}"


async def _race(rivals: list[Connection], body: bytes) -> str:
    """The signature of a payment that every rival settles at once, and one is told of."""
    answers = await asyncio.gather(*(post(rival, "/x402/settle", body) for rival in rivals))
    assert {status for status, _ in answers} == {200}
    reasons = Counter(answer.get("errorReason", "told") for _, answer in answers)
    assert reasons == {"told": 1, "duplicate_settlement": RIVALS - 1}
    return next(answer["transaction"] for _, answer in answers if answer["success"])


def _body(serve: Serve, buyer: Keypair, recipient: str, note: str) -> bytes:
    """What a server sends of a payment of the buyer's."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "getLatestBlockhash", "params": []}
    latest = httpx.post(serve.facts["rpcUrl"], json=call, timeout=30).json()["result"]["value"]
    mint, payer, fee_payer = serve.facts["mint"], str(buyer.pubkey()), serve.facts["feePayer"]
    transfer = pay(
        source=ata(payer, mint),
        destination=ata(recipient, mint),
        authority=payer,
        amount=PRICE,
        mint=mint,
    )
    steps = [
        set_compute_unit_limit(20_000),
        set_compute_unit_price(1),
        transfer,
        memo(note.encode()),
    ]
    raw = wire(steps, blockhash=latest["blockhash"], fee_payer=fee_payer, signers=[buyer])
    asked: dict[str, Any] = {
        "scheme": "exact",
        "network": caip2(NETWORK),
        "amount": str(PRICE),
        "asset": mint,
        "payTo": recipient,
        "maxTimeoutSeconds": 60,
        "extra": {"feePayer": fee_payer},
    }
    payload = {
        "x402Version": 2,
        "accepted": asked,
        "payload": {"transaction": base64.b64encode(raw).decode()},
    }
    return json.dumps(
        {"x402Version": 2, "paymentPayload": payload, "paymentRequirements": asked}
    ).encode()
