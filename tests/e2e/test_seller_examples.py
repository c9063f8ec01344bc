"""The examples for sellers, run as they stand: asked, paid, refused, and without a ledger."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from http import HTTPStatus

import httpx
import pytest
from grant_rig import granted, owner_key
from running import PRICE, Buyer, Service, fresh, running
from seller_shops import Purse, Shop, express_shop, fastapi_shop, paying

from session_ledger.buyer import KeySigner, PaymentRefused, sync_autopay_client
from session_ledger.challenge import parse_challenge
from tests.buyer_rig import session_of

Opener = Callable[..., AbstractContextManager[Shop]]
pytestmark = pytest.mark.timeout(300)
BOTH = [
    pytest.param(fastapi_shop, id="fastapi"),
    pytest.param(express_shop, id="express", marks=pytest.mark.node),
]


@pytest.fixture(scope="module", params=BOTH)
def opener(request: pytest.FixtureRequest) -> Opener:
    return request.param


@pytest.fixture(scope="module")
def shop(opener: Opener, service: Service) -> Iterator[Shop]:
    with opener(service.seller()) as started:
        yield started


@pytest.fixture
def purse(shop: Shop, buyer: Buyer) -> Purse:
    return Purse(buyer, shop.seller, fresh("c"))


def test_a_client_without_a_voucher_is_told_the_price(shop: Shop) -> None:
    answer = shop.get("/weather")
    assert answer.status_code == 402
    body = answer.json()
    challenge = parse_challenge(body)
    assert (challenge.price_per_unit, challenge.recipient) == (
        PRICE,
        shop.seller.facts["recipient"],
    )
    assert (body["status"], body["code"]) == (402, "payment_required")


def test_each_voucher_buys_one_answer(shop: Shop, purse: Purse) -> None:
    for _ in range(5):
        voucher = purse.voucher(PRICE)
        answer = shop.get("/weather", voucher)
        assert (answer.status_code, answer.json()) == (200, {"sky": "clear", "paid": str(PRICE)})
        assert len(answer.headers["x-mpp-receipt"]) == 64
        again = shop.get("/weather", voucher)
        assert (again.status_code, again.json()["verdict"]) == (402, "replayed")
        assert again.json()["receipt"]["cumulativeAmount"] == str(purse.total)
    assert shop.seller.session(purse.channel)["voucherCount"] == 5


def test_one_voucher_shown_many_times_at_once_is_served_once(shop: Shop, purse: Purse) -> None:
    voucher = purse.voucher(PRICE)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: shop.get("/weather", voucher), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [402] * 7


def test_what_is_wrong_with_a_voucher_reaches_the_client(shop: Shop, purse: Purse) -> None:
    cheap = shop.get("/weather", purse.voucher(PRICE - 1))
    assert (cheap.status_code, cheap.json()["code"]) == (402, "underpaid")
    assert cheap.json()["error"] == f"underpaid: expected at least {PRICE}, got {PRICE - 1}"
    forged = {**purse.voucher(PRICE), "signature": "A" * 86}
    assert shop.get("/weather", forged).json()["code"] == "invalid_signature"
    for text in ("{", "", "x"):
        answer = shop.get("/weather", text)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_voucher_json")
    for text in ("null", "5", "[]", "{}"):
        answer = shop.get("/weather", text)
        assert (answer.status_code, answer.json()["code"]) == (402, "missing_voucher_fields")


def test_the_buyer_does_not_set_the_charge(shop: Shop, purse: Purse) -> None:
    cheap = {**purse.voucher(1), "charge": {"amount": "1"}}
    assert shop.get("/weather", cheap).json()["code"] == "underpaid"


def test_a_grants_refusal_has_its_own_status_and_details(
    shop: Shop, buyer: Buyer, service: Service
) -> None:
    elsewhere = service.seller().facts["recipient"]
    cases = [
        (granted(buyer, maxPaymentAmount="1"), 402, "grant_payment_too_large", "1"),
        (granted(buyer, allowedRecipients=[elsewhere]), 403, "grant_recipient_not_allowed", None),
        ("A" * 43, 404, "grant_not_found", None),
    ]
    for grant, status, code, limit in cases:
        voucher = buyer.pay(shop.seller, fresh("c"), PRICE, 1, grantId=grant)
        answer = shop.get("/weather", voucher)
        body = answer.json()
        assert (answer.status_code, body["status"], body["code"]) == (status, status, code)
        assert (body["verdict"], body["grantId"], body["limit"]) == ("rejected", grant, limit)
        assert body["title"] == HTTPStatus(status).phrase
        assert parse_challenge(body).price_per_unit == PRICE
        kind = "application/json" if status == 402 else "application/problem+json"
        assert answer.headers["content-type"].partition(";")[0] == kind


def test_a_buyers_client_knows_a_grants_refusal_from_an_answer(
    shop: Shop, buyer: Buyer, service: Service
) -> None:
    elsewhere = service.seller().facts["recipient"]
    owner, recipient = KeySigner(owner_key(buyer)), shop.seller.facts["recipient"]
    limits = {"allowed_recipients": (elsewhere,)}
    payer = session_of(service.url, owner, recipient, PRICE, limits=limits)
    with payer, sync_autopay_client(payer, timeout=30) as client:
        with pytest.raises(PaymentRefused) as raised:
            client.get(shop.url + "/weather")
        assert raised.value.code == "grant_recipient_not_allowed"
        assert raised.value.refusal.body["requested"] == recipient
        assert (payer.pending, payer.total_spent) == ([], 0)


def test_options_is_free(shop: Shop) -> None:
    assert shop.http.options(shop.url + "/weather").status_code in (200, 204, 405)


def test_without_a_ledger_nothing_is_served(opener: Opener) -> None:
    with running() as service:
        seller, buyer = service.seller(), service.buyer()
    with opener(seller) as shop:
        answer = shop.get("/weather", Purse(buyer, seller, "c").voucher(PRICE))
        assert (answer.status_code, answer.json()["code"]) == (503, "payment_unavailable")
        assert answer.headers["retry-after"] == "2"


@pytest.mark.node
def test_the_express_example_prices_by_usage(service: Service, buyer: Buyer) -> None:
    with express_shop(service.seller()) as shop:
        purse = Purse(buyer, shop.seller, fresh("c"))

        def ask(text: str, amount: int) -> httpx.Response:
            headers = paying(purse.voucher(amount))
            return shop.http.post(shop.url + "/summary", json={"text": text}, headers=headers)

        assert ask("x" * 201, 3 * PRICE - 1).json()["code"] == "underpaid"
        answer = ask("x" * 201, 1)
        assert (answer.status_code, answer.json()["paid"]) == (200, str(3 * PRICE))
        assert ask("short", PRICE).status_code == 200
        broken = shop.http.post(
            shop.url + "/summary", content="{", headers={"content-type": "application/json"}
        )
        assert (broken.status_code, broken.json()["code"]) == (400, "invalid_request")


_FAILING = """
import express from "express";
import { paid } from "./paid.mjs";
const app = express();
let calls = 0;
app.get("/weather", paid(() => 10000n), (request, response) => {
  calls += 1;
  if (calls === 1) throw new Error("the handler is broken");
  if (calls === 2) return response.status(503).json({});
  if (calls === 3) return response.socket.destroy();
  response.json({ calls });
});
app.use((error, request, response, next) => response.status(500).json({}));
const server = app.listen(0, "127.0.0.1", () => {
  console.log(JSON.stringify({ url: `http://127.0.0.1:${server.address().port}` }));
});
"""


@pytest.mark.node
def test_a_voucher_whose_express_handler_failed_is_served_when_it_comes_again(
    service: Service, buyer: Buyer
) -> None:
    with express_shop(service.seller(), _FAILING) as shop:
        voucher = Purse(buyer, shop.seller, fresh("c")).voucher(PRICE)
        for status in (500, 503):
            failed = shop.get("/weather", voucher)
            assert failed.status_code == status
            assert "x-mpp-receipt" not in failed.headers  # the buyer keeps the voucher
        with pytest.raises(httpx.TransportError):
            shop.get("/weather", voucher)
        served = shop.get("/weather", voucher)
        assert (served.status_code, served.json()) == (200, {"calls": 4})
        assert len(served.headers["x-mpp-receipt"]) == 64
        again = shop.get("/weather", voucher)
        assert (again.status_code, again.json()["verdict"]) == (402, "replayed")
