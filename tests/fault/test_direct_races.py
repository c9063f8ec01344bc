"""T3 and T17: one signature, shown fifty times at once to two processes, buys one thing."""

import asyncio
from collections import Counter
from typing import Any

import httpx
from direct_rig import ata, give, header_of, land, transfer
from kill_harness import Serve
from ledger_checker import connect
from racing import cpu_ticks
from solders.keypair import Keypair
from solders.pubkey import Pubkey

PARALLEL = 50
ROUNDS_MAX = 8
PRICE = 1
ROUTES = ("https://shop.example/a", "https://shop.example/b")
PROCESSED = "Payment already processed"


def call_of(serve: Serve) -> Any:
    def call(method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = httpx.post(serve.facts["rpcUrl"], json=body, timeout=30).json()
        assert "error" not in answer, answer
        return answer["result"]

    return call


def paid(serve: Serve, shop: Pubkey) -> str:
    """The header of a payment of its own."""
    call, mint = call_of(serve), Pubkey.from_string(serve.facts["mint"])
    buyer = Keypair()
    source = give(call, buyer.pubkey(), mint, PRICE)
    step = transfer(source, ata(shop, mint), buyer.pubkey(), PRICE, mint)
    return header_of(land(call, step, signers=[buyer]), buyer.pubkey(), PRICE, mint)


async def show(serve: Serve, seller: dict[str, Any], header: str) -> list[dict[str, Any]]:
    """The header, shown on connections of its own, in turn for the one and the other route."""
    asked = {
        "scheme": "solanaTransferChecked",
        "network": "localnet",
        "maxAmountRequired": str(PRICE),
        "payTo": seller["recipient"],
        "asset": serve.facts["mint"],
    }
    limits = httpx.Limits(max_connections=PARALLEL)
    keys = {"authorization": f"Bearer {seller['apiKey']}"}
    async with httpx.AsyncClient(
        base_url=serve.facts["baseUrl"], headers=keys, limits=limits, timeout=60
    ) as http:

        async def one(number: int) -> dict[str, Any]:
            resource = {"resource": ROUTES[number % 2]}
            body = {"paymentHeader": header, "paymentRequirements": {**asked, **resource}}
            answer = await http.post("/v1/payments/verify", json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()

        return list(await asyncio.gather(*(one(number) for number in range(PARALLEL))))


async def test_t3_t17_one_signature_is_accepted_once_however_often_and_wherever_it_is_shown(
    serve: Serve,
) -> None:
    """The kernel deals the connections out, now and then nearly all to one process: again."""
    seller = serve.register_seller("Direct races")
    shop = Pubkey.from_string(seller["recipient"])
    give(call_of(serve), shop, Pubkey.from_string(serve.facts["mint"]), 0)
    before = cpu_ticks(serve)
    worked = [0, 0]
    for round_number in range(1, ROUNDS_MAX + 1):
        header = await asyncio.to_thread(paid, serve, shop)
        answers = await show(serve, seller, header)
        told = Counter(answer["error"] or "accepted" for answer in answers)
        assert told == {"accepted": 1, PROCESSED: PARALLEL - 1}
        worked = [after - before[pid] for pid, after in cpu_ticks(serve).items()]
        if round_number > 1 and min(worked) > 10:
            break
    assert min(worked) > 10, f"one of the processes had nothing to do: {worked}"
    connection = await connect(serve.facts["databaseUrl"])
    try:
        rows = await connection.fetch(
            "SELECT stream_id, count(*) FROM events WHERE type = 'payment_accepted' GROUP BY 1"
        )
    finally:
        await connection.close()
    assert {row["count"] for row in rows} == {1}
    assert len(rows) == round_number


async def test_a_failed_delivery_is_made_good_once_among_many_who_ask(serve: Serve) -> None:
    seller = serve.register_seller("Direct redelivery")
    shop = Pubkey.from_string(seller["recipient"])
    give(call_of(serve), shop, Pubkey.from_string(serve.facts["mint"]), 0)
    header = await asyncio.to_thread(paid, serve, shop)
    answers = await show(serve, seller, header)
    (won,) = [number for number, answer in enumerate(answers) if answer["isValid"]]
    async with httpx.AsyncClient(base_url=serve.facts["baseUrl"], timeout=60) as http:
        path = f"/v1/payments/{answers[won]['transaction']}/delivery-failed"
        keys = {"authorization": f"Bearer {seller['apiKey']}"}
        failed = [
            http.post(path, json={"resource": ROUTES[won % 2]}, headers=keys) for _ in range(5)
        ]
        assert {answer.status_code for answer in await asyncio.gather(*failed)} == {200}
    again = await show(serve, seller, header)
    served = [number % 2 for number, answer in enumerate(again) if answer["isValid"]]
    assert served == [won % 2]
    assert all(answer["error"] == PROCESSED for answer in again if not answer["isValid"])
