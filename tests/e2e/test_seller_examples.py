"""The examples for sellers, run as they stand: asked, paid, refused, and without a ledger."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import httpx
import pytest
from running import PRICE, Buyer, Service, fresh, running
from seller_shops import Purse, Shop, express_shop, fastapi_shop, paying

from session_ledger.challenge import parse_challenge

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
