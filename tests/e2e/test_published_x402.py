"""The published x402 clients and servers, unmodified, pay and settle through the facilitator.

PyPI `x402` (httpx client, FastAPI server) and npm `@x402/fetch`, `@x402/express` and `@x402/svm`
are installed from the lock files of tests/x402. Every client buys from every server, our own one
too; what does not depend on the client is shown with one of them.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from dexter_rig import PURSE, funded, payable, payments_of
from published_x402 import (
    ANSWER_SECONDS,
    CAIP2,
    MEMO,
    NODE,
    PYTHON,
    V1_NAME,
    Answer,
    Client,
    Shop,
    decoded,
    node,
    program,
    python,
    terms,
)
from running import PRICE, Seller, Service, seed, until

from session_ledger.buyer import AutoPay, sync_autopay_client
from session_ledger.buyer.chain_wallet import ChainWallet

pytestmark = pytest.mark.timeout(300)

both_clients = pytest.mark.parametrize(
    "client", ["httpx", pytest.param("fetch", marks=pytest.mark.node)], indirect=True
)
one_client = pytest.mark.parametrize("client", ["httpx"], indirect=True)
both_shops = pytest.mark.parametrize(
    "shop", ["fastapi", pytest.param("express", marks=pytest.mark.node)], indirect=True
)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("published-x402")


@pytest.fixture(scope="module")
def seller(devnet_service: Service) -> Seller:
    """Whom both servers sell for."""
    return payable(devnet_service)


@pytest.fixture(scope="module")
def fastapi(devnet_service: Service, seller: Seller, logs: Path) -> Iterator[Shop]:
    command = [*python(), str(PYTHON / "server.py")]
    with program(command, logs / "fastapi", terms(devnet_service, seller)) as running:
        yield Shop(running.read()["url"], seller, devnet_service)


@pytest.fixture(scope="module")
def express(devnet_service: Service, seller: Seller, logs: Path) -> Iterator[Shop]:
    command = [*node(), str(NODE / "server.mjs")]
    with program(command, logs / "express", terms(devnet_service, seller)) as running:
        yield Shop(running.read()["url"], seller, devnet_service)


@pytest.fixture(scope="module", name="httpx")
def httpx_client(devnet_service: Service, logs: Path) -> Iterator[Client]:
    command = [*python(), str(PYTHON / "client.py")]
    with program(command, logs / "httpx", devnet_service.facts["rpcUrl"]) as running:
        yield Client(running, funded(devnet_service))


@pytest.fixture(scope="module", name="fetch")
def fetch_client(devnet_service: Service, logs: Path) -> Iterator[Client]:
    command = [*node(), str(NODE / "client.mjs")]
    with program(command, logs / "fetch", devnet_service.facts["rpcUrl"]) as running:
        yield Client(running, funded(devnet_service))


@pytest.fixture
def shop(request: pytest.FixtureRequest) -> Shop:
    return request.getfixturevalue(request.param)


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Client:
    return request.getfixturevalue(request.param)


def paid(answer: Answer, path: str) -> dict[str, Any]:
    """The settlement that a served answer tells of."""
    assert (answer.status, answer.body) == (200, {"served": path}), answer
    name = "x-payment-response" if path == "/legacy" else "payment-response"
    settled = answer.decoded(name)
    assert settled["success"] is True
    return settled


def ask_facilitator(shop: Shop, route: str, payment: str) -> dict[str, Any]:
    """The facilitator's answer to what a v2 server would send for this payment."""
    payload = decoded(payment)
    body = {
        "x402Version": 2,
        "paymentPayload": payload,
        "paymentRequirements": payload["accepted"],
    }
    answer = httpx.post(f"{shop.service.url}/x402/{route}", json=body, timeout=ANSWER_SECONDS)
    assert answer.status_code == 200, answer.text
    return answer.json()


ROUTES = ("/paid", "/upfront", "/memo", "/hinted", "/legacy")


@both_shops
@both_clients
def test_a_published_client_pays_a_published_server_once_for_each_route(
    client: Client, shop: Shop
) -> None:
    chain = shop.service.chain
    earned, left = shop.earned, chain.balance(client.buyer.wallet)
    answers = client.get(*(shop.url + path for path in ROUTES))
    for path, answer in zip(ROUTES, answers, strict=True):
        settled = paid(answer, path)
        network = V1_NAME if path == "/legacy" else CAIP2
        assert (settled["network"], settled["payer"]) == (network, client.buyer.address)
        logged = shop.payment(settled["transaction"])
        assert (logged["dialect"], logged["amount"]) == ("x402", str(PRICE))
        assert (logged["payer"], logged["finalized"]) == (client.buyer.address, 1)
        assert (logged["memo"] == MEMO) == (path == "/memo")
        [status] = chain.call("getSignatureStatuses", [settled["transaction"]])["value"]
        assert (status["confirmationStatus"], status["err"]) == ("finalized", None)
    assert shop.earned == earned + len(ROUTES) * PRICE
    assert chain.balance(client.buyer.wallet) == left - len(ROUTES) * PRICE


@both_shops
def test_our_client_pays_a_published_server_once_for_each_route(shop: Shop) -> None:
    service = shop.service
    buyer, earned = funded(service), shop.earned
    payer = AutoPay(
        network="devnet",
        max_payment_amount=PRICE,
        max_total=len(ROUTES) * PRICE,
        allowed_recipients=[str(shop.seller.facts["recipient"])],
        wallet=ChainWallet(service.facts["rpcUrl"], seed(buyer.name)),
    )
    with payer, sync_autopay_client(payer, timeout=ANSWER_SECONDS) as client:
        for path in ROUTES:
            found = client.get(shop.url + path)
            answer = Answer(found.status_code, dict(found.headers), found.json(), None)
            signature = paid(answer, path)["transaction"]
            assert payer.last_payment is not None
            version = 1 if path == "/legacy" else 2
            assert payer.last_payment.dialect == f"x402v{version}"
            assert payer.last_tx_hash == signature
            logged = shop.payment(signature)
            assert (logged["payer"], logged["finalized"]) == (buyer.address, 1)
            assert (logged["memo"] == MEMO) == (path == "/memo")
        assert (payer.payment_count, payer.total_spent) == (len(ROUTES), len(ROUTES) * PRICE)
        assert payer.pending == []
    assert shop.earned == earned + len(ROUTES) * PRICE
    assert service.chain.balance(buyer.wallet) == PURSE - len(ROUTES) * PRICE


@both_shops
def test_the_challenge_names_the_sponsor_and_the_terms(shop: Shop) -> None:
    for path in ROUTES:
        unpaid = shop.get(path)
        challenge = unpaid.body if path == "/legacy" else unpaid.decoded("payment-required")
        [asked] = challenge["accepts"]
        assert (unpaid.status, asked["payTo"]) == (402, shop.seller.facts["recipient"])
        assert asked["asset"] == str(shop.service.chain.mint)
        assert asked["extra"]["feePayer"] == shop.service.facts["feePayer"]
        assert ("recentBlockhash" in asked["extra"]) == (path == "/hinted")


@both_shops
@one_client
def test_a_payment_that_is_shown_again_buys_nothing(client: Client, shop: Shop) -> None:
    routes = ("/paid", "/upfront", "/legacy")
    bought = client.get(*(shop.url + path for path in routes))
    earned = shop.earned
    for path, answer in zip(routes, bought, strict=True):
        paid(answer, path)
        assert answer.payment is not None
        version = decoded(answer.payment)["x402Version"]
        assert version == (1 if path == "/legacy" else 2)
        again = shop.get(path, answer.payment, version=version)
        assert again.status == 402
        # A server that verifies first tells of it in the next challenge, the other in a receipt.
        if path == "/paid":
            told = again.decoded("payment-required")["error"]
        elif path == "/upfront":
            told = again.decoded("payment-response")["errorReason"]
        else:
            told = again.body["error"]
        assert told == "duplicate_settlement"
    paid_for = bought[0].payment
    assert paid_for is not None
    assert ask_facilitator(shop, "verify", paid_for)["isValid"] is False
    refused = ask_facilitator(shop, "settle", paid_for)
    assert (refused["success"], refused["errorReason"]) == (False, "duplicate_settlement")
    assert shop.earned == earned


@both_shops
@one_client
def test_a_payment_that_is_shown_eight_times_at_once_buys_once(client: Client, shop: Shop) -> None:
    earned = shop.earned
    # The handler fails behind the verification, so the payment is known and not settled.
    [broken] = client.get(shop.url + "/broken")
    assert (broken.status, broken.body) == (500, {"error": "out of order"})
    assert shop.earned == earned
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shop.get("/paid", broken.payment), range(8)))
    assert sorted(answer.status for answer in answers) == [200] + [402] * 7
    [served] = [answer for answer in answers if answer.status == 200]
    signature = paid(served, "/paid")["transaction"]
    assert shop.payment(signature)["finalized"] == 1
    assert shop.earned == earned + PRICE


@pytest.mark.node
@one_client
def test_a_payment_that_is_shown_to_two_servers_at_once_buys_once(
    client: Client, fastapi: Shop, express: Shop
) -> None:
    earned = fastapi.earned
    [held] = client.get(fastapi.url + "/broken")
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda shop: shop.get("/paid", held.payment), (fastapi, express)))
    assert sorted(answer.status for answer in answers) == [200, 402]
    assert fastapi.earned == earned + PRICE


@both_shops
@one_client
def test_a_payment_that_is_not_final_in_time_buys_when_it_is_shown_again(
    client: Client, shop: Shop
) -> None:
    chain, earned = shop.service.chain, shop.earned
    chain.call("localchain_pause")
    try:
        [early] = client.get(shop.url + "/hurried")
    finally:
        chain.call("localchain_resume")
    pending = early.decoded("payment-response")
    assert (early.status, pending["success"]) == (402, False)
    assert pending["errorReason"] == "settlement_pending"

    def shown_again() -> Answer | None:
        answer = shop.get("/hurried", early.payment)
        if answer.status == 200:
            return answer
        assert answer.decoded("payment-response")["errorReason"] == "settlement_pending"
        return None

    settled = paid(until(shown_again), "/hurried")
    assert settled["transaction"] == pending["transaction"]
    assert shop.get("/hurried", early.payment).status == 402
    assert shop.earned == earned + PRICE


@both_shops
@both_clients
def test_a_wallet_without_the_price_is_refused_with_its_reason(client: Client, shop: Shop) -> None:
    poor = funded(shop.service, PRICE - 1)
    earned, payments = shop.earned, shop.payments()
    refused, upfront = client.get(shop.url + "/paid", shop.url + "/upfront", buyer=poor)
    assert (refused.status, refused.body) == (402, {})
    assert refused.decoded("payment-required")["error"] == "insufficient_funds"
    receipt = upfront.decoded("payment-response")
    assert (upfront.status, receipt["success"], receipt["transaction"]) == (402, False, "")
    assert receipt["errorReason"] == "insufficient_funds"
    assert (shop.earned, shop.payments()) == (earned, payments)
    assert shop.service.chain.balance(poor.wallet) == PRICE - 1


@both_clients
def test_what_left_a_wallet_is_what_the_log_holds(client: Client, fastapi: Shop) -> None:
    [bought] = client.get(fastapi.url + "/paid")
    fastapi.payment(paid(bought, "/paid")["transaction"])
    logged = [p for p in fastapi.payments().values() if p["payer"] == client.buyer.address]
    moved = payments_of(fastapi.service, client.buyer)
    assert sorted(p["signature"] for p in moved) == sorted(p["signature"] for p in logged)
    assert {p["finalized"] for p in logged} == {1}
    balance = fastapi.service.chain.balance(client.buyer.wallet)
    assert balance == PURSE - len(logged) * PRICE


def test_the_lock_files_name_no_registry() -> None:
    lock = json.loads((NODE / "package-lock.json").read_text())
    assert not [name for name, facts in lock["packages"].items() if "resolved" in facts]
    requirements = (PYTHON / "requirements.lock").read_text()
    assert "://" not in requirements
    assert "--index" not in requirements
