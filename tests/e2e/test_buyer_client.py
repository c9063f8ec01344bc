"""The buyer's client against the real service, the sellers' middleware and the local chain."""

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from exact_rig import Shop
from nacl.signing import SigningKey
from running import PRICE, Buyer, Seller, Service, seed, until

from session_ledger.buyer import (
    AutoPay,
    AutoPayError,
    FileStore,
    KeySigner,
    OwnerSignatureRequired,
    PaidWithoutAnswer,
    PaymentInfo,
    PaymentRefused,
    PaymentTooLarge,
    SessionTransport,
    SyncSessionTransport,
    autopay_client,
    sync_autopay_client,
)
from session_ledger.buyer.chain_wallet import ChainWallet
from session_ledger.testing import PaidServer, Route
from tests.buyer_rig import listening, paid_application, session_of

ROOT = Path(__file__).parents[2]


class Market:
    """A paid application of a seller of its own, and a buyer's wallet."""

    def __init__(self, service: Service, seller: Seller, buyer: Buyer, url: str) -> None:
        self.service, self.seller, self.buyer, self.url = service, seller, buyer, url
        self.recipient = str(seller.facts["recipient"])
        self.owner = KeySigner(SigningKey(seed(buyer.name)))
        self.served: list[str] = []

    def session(self, **changes: Any) -> AutoPay:
        return session_of(self.service.url, self.owner, self.recipient, PRICE, **changes)

    def grant(self, payer: AutoPay) -> dict[str, Any]:
        found = self.service.http.get(f"/v1/grants/{payer.session.grant_id}")
        assert found.status_code == 200, found.text
        return found.json()

    def channels(self) -> list[dict[str, Any]]:
        return self.seller.get("/v1/sessions").json()["sessions"]

    def taken(self) -> int:
        return sum(int(each["cumulativeAmount"]) for each in self.channels())


@pytest.fixture
def market(service: Service, seller: Seller, buyer: Buyer) -> Iterator[Market]:
    market = Market(service, seller, buyer, "")
    app = paid_application(service.url, seller.token, market.recipient, PRICE, market.served)
    with listening(app) as url:
        market.url = url
        yield market


def test_100_calls_pass_and_the_101st_is_refused_with_the_calls_limit(market: Market) -> None:
    with market.session() as payer, sync_autopay_client(payer) as client:
        payer.session.owner = None
        for number in range(100):
            assert client.get(f"{market.url}/paid?{number}").status_code == 200
        with pytest.raises(OwnerSignatureRequired) as raised:
            client.get(f"{market.url}/paid?100")
        assert raised.value.code == "grant_max_calls_exceeded"
        assert payer.session.state == "exhausted"
        assert (payer.payment_count, payer.total_spent) == (100, 100 * PRICE)
        left = market.grant(payer)
    assert (left["remainingCalls"], left["callsUsed"]) == (0, 100)
    assert len(market.served) == 100
    assert market.taken() == 100 * PRICE
    (channel,) = market.channels()
    assert (channel["voucherCount"], channel["lastSequence"]) == (100, 100)
    assert channel["grantId"] == left["grantId"]


async def test_32_concurrent_requests_are_all_accepted_without_a_gap_or_a_double(
    market: Market,
) -> None:
    told: list[PaymentInfo] = []
    payer = market.session(on_payment_complete=told.append)
    with payer:
        async with autopay_client(payer) as client:
            answers = await asyncio.gather(
                *(client.get(f"{market.url}/paid?{number}") for number in range(32))
            )
        assert {answer.status_code for answer in answers} == {200}
        assert [info.sequence for info in told] == list(range(1, 33))
        assert (payer.payment_count, payer.total_spent) == (32, 32 * PRICE)
    assert sorted(map(int, market.served)) == list(range(32))
    (channel,) = market.channels()
    assert (channel["voucherCount"], channel["lastSequence"]) == (32, 32)
    assert market.taken() == 32 * PRICE
    rejected = market.seller.get(f"/v1/sessions/{channel['channelId']}/rejections").json()
    assert rejected["counts"] in ([], {})


def test_an_expired_grant_is_renewed_in_the_middle_of_a_run(market: Market) -> None:
    with market.session(limits={"max_calls": 3}) as payer, sync_autopay_client(payer) as client:
        first = payer.session.grant_id
        for number in range(5):
            assert client.get(f"{market.url}/paid?{number}").status_code == 200
        renewed = market.grant(payer)
        assert renewed["previousGrantId"] == first != renewed["grantId"]
        assert renewed["callsUsed"] == 2
    assert market.taken() == 5 * PRICE


def test_the_owner_signs_single_vouchers_when_the_grant_is_used_up(market: Market) -> None:
    payer = market.session(fallback="once", limits={"max_calls": 2, "owner_may_sign": True})
    with payer, sync_autopay_client(payer) as client:
        for number in range(4):
            assert client.get(f"{market.url}/paid?{number}").status_code == 200
        assert market.grant(payer)["callsUsed"] == 2
    assert market.taken() == 4 * PRICE
    by_owner = [
        each["voucherCount"]
        for each in market.channels()
        if each["sessionPubkey"] == market.owner.address
    ]
    assert by_owner == [2]


def test_what_the_grant_caps_is_refused_by_the_server_too(market: Market) -> None:
    limits = {"max_payment_amount": PRICE - 1, "max_total_amount": PRICE - 1}
    with market.session(limits=limits) as payer, sync_autopay_client(payer) as client:
        with pytest.raises(PaymentRefused) as raised:
            client.get(f"{market.url}/paid")
        assert raised.value.code == "grant_payment_too_large"
        assert raised.value.refusal.body["limit"] == str(PRICE - 1)
        assert market.grant(payer)["callsUsed"] == 0
    with (
        market.session(max_payment_amount=PRICE - 1) as payer,
        sync_autopay_client(payer) as client,
        pytest.raises(PaymentTooLarge),
    ):
        client.get(f"{market.url}/paid")
    assert market.taken() == 0


def test_a_revoked_session_buys_nothing_more(market: Market) -> None:
    with market.session() as payer, sync_autopay_client(payer) as client:
        assert client.get(f"{market.url}/paid").status_code == 200
        payer.session.revoke()
        assert market.grant(payer)["state"] == "revoked"
        with pytest.raises(PaymentRefused) as raised:
            client.get(f"{market.url}/paid")
        assert raised.value.code == "grant_revoked"
    assert market.taken() == PRICE


class Losing(httpx.HTTPTransport):
    """Loses the answers to the first payments, after the seller gave them."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if "x-mpp-voucher" in request.headers and self.left:
            self.left -= 1
            response.close()
            raise httpx.ReadError("lost")
        return response


def test_a_lost_answer_never_costs_twice(market: Market, tmp_path: Any) -> None:
    store = FileStore(tmp_path / "purse.json")
    with market.session(store=store) as payer:
        with httpx.Client(transport=SyncSessionTransport(payer, Losing(1))) as client:
            with pytest.raises(PaidWithoutAnswer):
                client.get(f"{market.url}/paid?lost")
            assert client.get(f"{market.url}/paid?next").status_code == 200
        assert (payer.payment_count, payer.total_spent) == (2, 2 * PRICE)
        assert market.grant(payer)["callsUsed"] == 2
    assert market.served == ["lost", "next"]
    assert market.taken() == 2 * PRICE


def wallet_of(service: Service, buyer: Buyer, amount: int) -> ChainWallet:
    chain = service.chain
    chain.call("requestAirdrop", buyer.address, 1_000_000_000)
    chain.call("surfnet_setTokenAccount", buyer.address, str(chain.mint), {"amount": amount})
    return ChainWallet(service.facts["rpcUrl"], seed(buyer.name))


def chain_payer(service: Service, buyer: Buyer, recipient: str, **changes: Any) -> AutoPay:
    return AutoPay(
        network="localnet",
        max_payment_amount=10 * PRICE,
        max_total=100 * PRICE,
        allowed_recipients=[recipient],
        wallet=wallet_of(service, buyer, 10 * PRICE),
        **changes,
    )


def test_a_direct_payment_is_made_once_and_shown_until_it_is_answered(
    service: Service, seller: Seller, buyer: Buyer, tmp_path: Any
) -> None:
    class Loses(httpx.HTTPTransport):
        left = 3

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if "x-payment" in request.headers and self.left:
                self.left -= 1
                raise httpx.ConnectError("lost")
            return super().handle_request(request)

    recipient = str(seller.facts["recipient"])
    routes = {"/premium": Route(price="0.01", response={"premium": True})}
    path = tmp_path / "purse.json"
    with PaidServer(service.url, seller.token, routes) as server:
        payer = chain_payer(service, buyer, recipient, store=FileStore(path))
        with payer, httpx.Client(transport=SyncSessionTransport(payer, Loses())) as client:
            with pytest.raises(AutoPayError):
                client.get(server.url("/premium"))
            assert len(payer.pending) == 1
        payer = chain_payer(service, buyer, recipient, store=FileStore(path))
        with payer, sync_autopay_client(payer, timeout=30) as client:
            answer = client.get(server.url("/premium"))
            assert (answer.status_code, answer.json()) == (200, {"premium": True})
            assert (payer.payment_count, payer.total_spent, payer.pending) == (1, 10_000, [])
            assert payer.last_tx_hash is not None
    assert until(lambda: service.chain.balance(seller.wallet)) == 10_000


async def test_a_sponsored_transaction_of_x402_v2_is_settled_by_the_seller(
    service: Service,
) -> None:
    shop = await asyncio.to_thread(Shop.of, service)

    def resource(request: httpx.Request) -> httpx.Response:
        asked = shop.requirements(2)
        text = request.headers.get("payment-signature")
        if text is None:
            offer = {"x402Version": 2, "resource": {"url": str(request.url)}, "accepts": [asked]}
            return httpx.Response(402, headers={"PAYMENT-REQUIRED": encoded(offer)})
        payload = json.loads(base64.b64decode(text))
        body = {"x402Version": 2, "paymentPayload": payload, "paymentRequirements": asked}
        done = shop.post("settle", body, {"Idempotency-Key": request.headers["idempotency-key"]})
        status = 200 if done["success"] else 402
        return httpx.Response(status, headers={"PAYMENT-RESPONSE": encoded(done)}, json={})

    def encoded(value: Any) -> str:
        return base64.b64encode(json.dumps(value).encode()).decode()

    payer = AutoPay(
        network="localnet",
        max_payment_amount=PRICE,
        max_total=10 * PRICE,
        allowed_recipients=[shop.recipient],
        wallet=ChainWallet(service.facts["rpcUrl"], seed(shop.buyer.name)),
    )

    class Threaded(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return await asyncio.to_thread(resource, request)

    with payer:
        async with httpx.AsyncClient(transport=SessionTransport(payer, Threaded())) as client:
            answer = await client.get("https://shop.example/weather", timeout=60)
        assert answer.status_code == 200
        assert (payer.payment_count, payer.total_spent) == (1, PRICE)
        assert payer.last_tx_hash
    assert until(lambda: service.chain.balance(shop.wallet)) == PRICE


def test_the_example_of_an_agent_that_pays_runs(service: Service) -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "autopay.py"), str(service.data_dir)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("paid 10000") == 10
    assert "refused: grant_max_calls_exceeded" in ran.stdout
