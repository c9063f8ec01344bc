"""A paid API and a client that pays it, on this machine.

Start `session-ledger serve`, then run this with its data directory (`.session-ledger` unless it is
given). The server sells two resources; the client buys both, shows one payment twice, and buys
from a handler that fails first. The exit status is 0 only if every expectation holds.
"""

import json
import sys
from itertools import count
from pathlib import Path
from uuid import uuid4

import httpx
from solders.keypair import Keypair

from session_ledger.json_text import JsonValue
from session_ledger.testing import PaidCall, PaidServer, Route, Wallet, pay

USD_MICROS = "100000"


def new_seller(ledger: str, admin_token: str) -> str:
    """Register a seller with a wallet of its own; its API key."""
    body = {
        "name": f"paid-server-{uuid4().hex[:8]}",
        "recipient": str(Keypair().pubkey()),
        "pricePerUnit": "10000",
    }
    headers = {"authorization": f"Bearer {admin_token}"}
    answer = httpx.post(f"{ledger}/v1/sellers", json=body, headers=headers)
    answer.raise_for_status()
    return answer.json()["apiKey"]


calls = count()


def weather(call: PaidCall) -> JsonValue:
    """Fails the first time it is called, as upstream services do."""
    if next(calls) == 0:
        raise RuntimeError("the weather station does not answer")
    return {"sky": "clear", "paidBy": call.payer}


def main() -> None:
    """Sell, buy, and check what came of it."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else ".session-ledger")
    facts = json.loads((directory / "local.json").read_text())
    routes = {
        "/premium": Route(price="0.10", response={"data": "This is premium content."}),
        "/weather": Route(price="0.01", response=weather, description="The weather, now"),
    }
    key = new_seller(facts["baseUrl"], facts["adminToken"])
    with PaidServer(facts["baseUrl"], key, routes) as server, Wallet(facts["rpcUrl"]) as wallet:
        wallet.fund("5", mint=facts["mint"])

        bought = (
            pay(server.url("/premium"), wallet=wallet)
            .with_payment(amount="0.10")
            .expect_status(200)
            .expect_payment_settled()
            .expect_payment_amount(USD_MICROS)
            .expect_body({"data": "This is premium content."})
            .execute()
        )
        assert bought.payment is not None
        assert bought.payment_header is not None
        print("bought", bought.payment.signature)

        pay(server.url("/premium")).with_payment_header(bought.payment_header).expect_status(
            402
        ).expect_body(lambda body: body["error"] == "Payment already processed").execute()
        print("refused the same payment again")

        request = pay(server.url("/weather"), wallet=wallet).with_payment("0.01")
        failed = request.expect_status(500).execute()
        assert failed.payment_header is not None
        pay(server.url("/weather")).with_payment_header(failed.payment_header).expect_status(
            200
        ).expect_body({"sky": "clear", "paidBy": wallet.address}).execute()
        print("delivered what a failed handler owed, for the same payment")


if __name__ == "__main__":
    main()
