"""The sellers' test kit on the real service and the real local chain."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from running import Seller, Service

from session_ledger.challenge import NETWORKS
from session_ledger.encoding import base58_encode
from session_ledger.testing import (
    PaidCall,
    PaidServer,
    Payment,
    PaymentCreationError,
    PaymentVerificationError,
    Route,
    Wallet,
    X402Error,
    pay,
)
from session_ledger.x402.direct import (
    PaymentPayload,
    PaymentRequirements,
    parse_requirements,
    payment_header,
)

ROOT = Path(__file__).parents[2]
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "docs" / "testing.md").read_text(), re.MULTILINE | re.DOTALL
)
PRICE = 100_000
UNKNOWN = base58_encode(bytes(range(1, 65)))
"""A signature of no transaction."""
TOKEN_2022 = "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb"


class Shop:
    """Counts what it delivers, and fails when it is told to."""

    def __init__(self) -> None:
        self.calls: list[PaidCall] = []
        self.broken = False

    def __call__(self, call: PaidCall) -> Any:
        self.calls.append(call)
        if self.broken:
            raise RuntimeError("out of order")
        return {"delivered": len(self.calls)}


@pytest.fixture
def wallet(service: Service) -> Iterator[Wallet]:
    with Wallet(service.facts["rpcUrl"]) as made:
        yield made.fund("5", mint=service.facts["mint"])


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def server(service: Service, seller: Seller, shop: Shop) -> Iterator[PaidServer]:
    routes = {
        "/premium": Route(price="0.10", response=shop, description="Premium content"),
        "/other": Route(price="0.10", response={"other": True}, status=201),
    }
    with PaidServer(service.url, seller.token, routes) as started:
        yield started


def offered(server: PaidServer, path: str = "/premium") -> PaymentRequirements:
    body: Any = pay(server.url(path)).expect_status(402).execute().body
    return parse_requirements(body["accepts"][0])


def header_of(payment: Payment, requirements: PaymentRequirements) -> str:
    return payment_header(
        PaymentPayload(
            signature=payment.signature,
            payer=payment.payer,
            amount=payment.amount,
            mint=payment.asset,
            timestamp=1,
            network=requirements.network,
        )
    )


def refusal(server: PaidServer, path: str, header: str) -> str:
    """Why a 402 was given for the payment."""
    refused = pay(server.url(path)).with_payment_header(header).expect_status(402).execute()
    return refused.body["error"]  # type: ignore[index,call-overload,return-value]


def test_a_buyer_pays_once_and_gets_what_it_paid_for(
    server: PaidServer, wallet: Wallet, shop: Shop, seller: Seller
) -> None:
    response = (
        pay(server.url("/premium?size=2"), wallet=wallet)
        .post({"please": True})
        .with_payment(amount="0.10")
        .expect_status(200)
        .expect_payment_settled()
        .expect_payment_amount("100000")
        .expect_body({"delivered": 1})
        .expect_header("x-payment-response", re.compile("^[A-Za-z0-9+/]+=*$"))
        .execute()
    )
    assert response.payment is not None
    (call,) = shop.calls
    assert (call.method, call.path, call.query) == ("POST", "/premium", "size=2")
    assert (call.body, call.payer, call.amount) == (b'{"please":true}', wallet.address, PRICE)
    assert call.transaction == response.payment.signature
    assert response.settlement is not None
    assert (response.settlement.success, response.settlement.payer) == (True, wallet.address)
    assert wallet.balance() == 5_000_000 - PRICE
    listed = seller.get("/v1/payments").json()["payments"]
    assert [payment["transaction"] for payment in listed] == [call.transaction]


def test_an_offer_names_the_resource_without_its_query_and_binds_the_payment(
    server: PaidServer, seller: Seller
) -> None:
    offer = offered(server, "/premium?size=2")
    assert offer.resource == server.url("/premium")
    assert (offer.max_amount_required, offer.pay_to) == (PRICE, seller.facts["recipient"])
    assert (offer.description, offer.mime_type) == ("Premium content", "application/json")
    assert offer.memo


def test_a_payment_buys_once_however_often_and_concurrently_it_is_presented(
    server: PaidServer, wallet: Wallet, shop: Shop
) -> None:
    offer = offered(server)
    header = header_of(wallet.pay(offer), offer)
    with ThreadPoolExecutor(8) as pool:
        tries = [
            pool.submit(pay(server.url("/premium")).with_payment_header(header).execute)
            for _ in range(8)
        ]
    assert sorted(each.result().status for each in tries) == [200] + [402] * 7
    assert len(shop.calls) == 1
    assert refusal(server, "/premium", header) == "Payment already processed"


def test_a_payment_for_one_resource_does_not_buy_another(
    server: PaidServer, wallet: Wallet
) -> None:
    offer = offered(server)
    header = header_of(wallet.pay(offer), offer)
    assert "Wrong memo" in refusal(server, "/other", header)
    pay(server.url("/premium")).with_payment_header(header).expect_status(200).execute()


def test_a_handler_that_fails_owes_one_delivery_of_the_same_payment(
    server: PaidServer, wallet: Wallet, shop: Shop
) -> None:
    shop.broken = True
    failed = pay(server.url("/premium"), wallet=wallet).with_payment("0.10").execute()
    assert failed.status == 500
    assert failed.payment_header is not None
    assert "x-payment-response" not in failed.headers
    shop.broken = False
    again = pay(server.url("/premium")).with_payment_header(failed.payment_header)
    redelivered = again.expect_status(200).expect_body({"delivered": 2}).execute()
    assert redelivered.settlement is not None
    assert failed.payment is not None
    assert redelivered.settlement.transaction == failed.payment.signature
    assert refusal(server, "/premium", failed.payment_header) == "Payment already processed"
    assert wallet.balance() == 5_000_000 - PRICE


def test_t16_a_malformed_header_is_400_and_an_unknown_route_404(server: PaidServer) -> None:
    pay(server.url("/premium")).with_payment_header("e30=").expect_status(400).expect_body(
        {"error": "Invalid X-PAYMENT header format"}
    ).execute()
    pay(server.url("//[")).expect_status(404).expect_body(
        {"error": "Route not configured in x402test"}
    ).execute()


def test_nothing_is_delivered_while_the_ledger_is_away(wallet: Wallet, shop: Shop) -> None:
    routes = {"/premium": Route(price="0.10", response=shop)}
    mint = NETWORKS["localnet"].usdc_mint
    header = header_of(
        Payment(UNKNOWN, PRICE, mint, wallet.address, mint),
        PaymentRequirements("localnet", PRICE, "http://shop.example", mint, mint),
    )
    with PaidServer("http://127.0.0.1:9", "key", routes) as server:
        for request in (
            pay(server.url("/premium")),
            pay(server.url("/premium")).with_payment_header(header),
        ):
            request.expect_status(503).expect_body(
                {"error": "Payment verification is unavailable"}
            ).execute()
    assert shop.calls == []


def test_payments_of_one_wallet_at_the_same_time_are_each_made_exactly(
    server: PaidServer, wallet: Wallet
) -> None:
    offer = offered(server)
    with ThreadPoolExecutor(4) as pool:
        payments = list(pool.map(wallet.pay, [offer] * 4))
    assert len({payment.signature for payment in payments}) == 4
    assert wallet.balance(offer.asset) == 5_000_000 - 4 * PRICE


def test_a_wallet_without_a_memo_to_pay_behaves_as_the_published_client(
    server: PaidServer, wallet: Wallet
) -> None:
    offer = offered(server)
    bare = PaymentRequirements(
        network=offer.network,
        max_amount_required=offer.max_amount_required,
        resource=offer.resource,
        pay_to=offer.pay_to,
        asset=offer.asset,
    )
    header = header_of(wallet.pay(bare), bare)
    pay(server.url("/premium")).with_payment_header(header).expect_status(200).execute()


def test_a_reference_is_among_the_accounts_of_the_payment(
    service: Service, server: PaidServer, wallet: Wallet, seller: Seller
) -> None:
    offer = offered(server)
    with Wallet(service.facts["rpcUrl"]) as other:
        asked = {**offer.to_json(), "extra": {"reference": other.address}}
        payment = wallet.pay(parse_requirements(asked))
    body = {"paymentHeader": header_of(payment, offer), "paymentRequirements": asked}
    verdict = seller.post("/v1/payments/verify", json=body).json()
    assert verdict["isValid"], verdict
    shown = seller.get(f"/v1/payments/{payment.signature}").json()
    assert (shown["binding"], shown["reference"]) == ("reference", asked["extra"]["reference"])


def test_a_wallet_that_holds_too_little_makes_no_payment(
    server: PaidServer, wallet: Wallet
) -> None:
    wallet.fund("0.099999")
    with pytest.raises(PaymentCreationError) as refused:
        pay(server.url("/premium"), wallet=wallet).with_payment("1").execute()
    assert str(refused.value) == "Insufficient balance"
    assert wallet.balance() == 99_999


def test_a_price_above_the_limit_is_not_paid(server: PaidServer, wallet: Wallet) -> None:
    with pytest.raises(X402Error, match="Client max amount 99999 is less than"):
        pay(server.url("/premium"), wallet=wallet).with_payment("0.099999").execute()
    assert wallet.balance() == 5_000_000


def test_a_payment_that_the_chain_does_not_show_is_not_settled(
    server: PaidServer, wallet: Wallet
) -> None:
    paid = wallet.pay(offered(server))
    wallet.check(paid)
    with pytest.raises(PaymentVerificationError) as refused:
        wallet.check(Payment(paid.signature, PRICE + 1, paid.asset, paid.payer, paid.pay_to))
    assert refused.value.reason == f"Insufficient amount: expected {PRICE + 1}, got {PRICE}"
    with pytest.raises(PaymentVerificationError) as refused:
        wallet.check(Payment(UNKNOWN, PRICE, paid.asset, paid.payer, paid.pay_to))
    assert refused.value.reason == "Transaction not found"


def test_a_token_of_the_newer_program_and_other_decimals_is_paid_exactly(
    service: Service, wallet: Wallet
) -> None:
    authority, decimals = bytes(32), 9
    data = bytes(4) + authority + (0).to_bytes(8, "little") + bytes([decimals, 1]) + bytes(36)
    with Wallet(service.facts["rpcUrl"]) as made, Wallet(service.facts["rpcUrl"]) as seller:
        mint, pay_to = made.address, seller.address
    account = {"lamports": 10_000_000, "owner": TOKEN_2022, "data": data.hex()}
    service.chain.call("surfnet_setAccount", mint, account)
    wallet.fund("1.5", mint=mint)
    assert (wallet.decimals(mint), wallet.balance(mint)) == (9, 1_500_000_000)
    asked = PaymentRequirements("localnet", 7, "http://shop.example", pay_to, mint)
    wallet.check(wallet.pay(asked))
    assert wallet.balance(mint) == 1_499_999_993


def test_the_same_seed_is_the_same_wallet_and_an_unknown_token_is_an_error(
    service: Service,
) -> None:
    with ExitStack() as stack:
        one, same, other = (
            stack.enter_context(Wallet(service.facts["rpcUrl"], seed))
            for seed in (b"1" * 32, b"1" * 32, None)
        )
        assert one.address == same.address != other.address
        assert other.balance() == 0
        with pytest.raises(PaymentCreationError, match="no token"):
            other.balance(other.address)


def test_the_default_wallet_is_made_at_the_configured_node(
    service: Service, server: PaidServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOLANA_RPC_URL", service.facts["rpcUrl"])
    request = pay(server.url("/other")).with_payment("0.10").expect_status(201)
    response = request.expect_payment_settled().execute()
    assert response.payment is not None
    assert pay(server.url("/")).wallet.balance() == 1_000_000_000 - PRICE


async def test_a_test_in_an_event_loop_can_wait_for_it(server: PaidServer, wallet: Wallet) -> None:
    request = pay(server.url("/premium"), wallet=wallet).with_payment("0.10").expect_status(200)
    assert (await request.execute_async()).body == {"delivered": 1}


def test_the_documented_examples_run_as_they_are_written(
    service: Service, seller: Seller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RPC_URL", service.facts["rpcUrl"])
    monkeypatch.setenv("LEDGER_URL", service.url)
    monkeypatch.setenv("SELLER_KEY", seller.token)
    assert len(EXAMPLES) == 6
    exec(compile("\n".join(EXAMPLES), "docs/testing.md", "exec"), {})  # noqa: S102  our own text
    assert len(seller.get("/v1/payments").json()["payments"]) == 2


def test_the_example_program_runs_to_its_end(service: Service) -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "paid_server.py"), str(service.data_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert ran.returncode == 0, ran.stderr
    assert [line.split()[0] for line in ran.stdout.splitlines()] == [
        "bought",
        "refused",
        "delivered",
    ]
