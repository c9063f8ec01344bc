"""The client that pays by itself: caps, order, concurrency, and what it tells."""

import asyncio
import json
import threading
from typing import Any

import httpx
import pytest
from autopay_rig import client_of, no_pauses_fixture

from session_ledger.buyer import (
    NetworkMismatch,
    PaymentInfo,
    PaymentRefused,
    PaymentTooLarge,
    RecipientNotAllowed,
    SessionMissing,
    SessionTransport,
    TotalExceeded,
)
from session_ledger.challenge import Challenge
from tests.buyer_shop import OWNER, PRICE, RECIPIENT, URL, Shop, autopay

__all__ = ["no_pauses_fixture"]


def test_a_402_is_paid_and_its_answer_is_given() -> None:
    shop, told = Shop(), list[PaymentInfo]()
    with autopay(on_payment_complete=told.append) as payer, client_of(payer, shop) as client:
        answer = client.post(URL, json={"please": True})
        assert (answer.status_code, answer.json()) == (200, {"served": 1})
        assert (payer.payment_count, payer.total_spent, payer.is_paying) == (1, PRICE, False)
        assert payer.last_payment == told[0]
        assert payer.last_amount == PRICE
        assert payer.last_tx_hash is None
        assert (told[0].cumulative, told[0].delta, told[0].sequence) == (PRICE, PRICE, 1)
        assert client.get(URL).json() == {"served": 2}
    (first, second) = shop.accepted
    assert first["payer"] == OWNER.address
    assert (second["cumulative"], second["sequence"]) == (2 * PRICE, 2)
    assert second["channelId"] == first["channelId"]


def test_what_needs_no_payment_passes_untouched() -> None:
    def free(request: httpx.Request) -> httpx.Response:
        assert "x-mpp-voucher" not in request.headers
        return httpx.Response(200 if request.url.path == "/free" else 402, text="no offer")

    with autopay() as payer, client_of(payer, free) as client:
        assert client.get("https://shop.example/free").text == "no offer"
        assert client.get("https://shop.example/unknown-402").status_code == 402
        assert payer.total_signed == 0


@pytest.mark.parametrize(
    ("shop", "changes", "error"),
    [
        (Shop(price=PRICE + 1), {}, PaymentTooLarge),
        (Shop(), {"allowed_recipients": []}, RecipientNotAllowed),
        (Shop(), {"allowed_recipients": [OWNER.address]}, RecipientNotAllowed),
        (Shop(network="devnet"), {}, NetworkMismatch),
        (Shop(), {"max_total": PRICE - 1}, TotalExceeded),
        (Shop(), {"session_key": None}, SessionMissing),
        (Shop(), {"payer": None}, SessionMissing),
    ],
)
def test_nothing_is_signed_beyond_the_caps(
    shop: Shop, changes: dict[str, Any], error: type[Exception]
) -> None:
    with autopay(**changes) as payer, client_of(payer, shop) as client:
        with pytest.raises(error):
            client.get(URL)
        assert (payer.total_signed, payer.payment_count, payer.is_paying) == (0, 0, False)
    assert shop.shown == []


def test_a_price_at_the_cap_is_paid_and_everybody_may_be_allowed() -> None:
    shop = Shop()
    payer = autopay(allowed_recipients=["*"], max_total=PRICE)
    with payer, client_of(payer, shop) as client:
        assert client.get(URL).status_code == 200
        with pytest.raises(TotalExceeded):
            client.get(URL)
    assert shop.paid == PRICE


async def test_32_concurrent_requests_are_all_paid_in_order_without_a_gap() -> None:
    shop = Shop()

    async def slow(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        return shop(request)

    with autopay() as payer:
        transport = SessionTransport(payer, httpx.MockTransport(slow))
        async with httpx.AsyncClient(transport=transport) as client:
            answers = await asyncio.gather(*(client.get(f"{URL}?n={n}") for n in range(32)))
        assert {answer.status_code for answer in answers} == {200}
        assert (payer.payment_count, payer.total_spent) == (32, 32 * PRICE)
    assert [each["sequence"] for each in shop.accepted] == list(range(1, 33))
    assert [each["increment"] for each in shop.accepted] == [PRICE] * 32
    assert len(shop.shown) == 32


def test_threads_and_several_channels_pay_each_request_once() -> None:
    shop = Shop()
    with autopay(channels_per_seller=4) as payer, client_of(payer, shop) as client:
        threads = [threading.Thread(target=client.get, args=(f"{URL}?n={n}",)) for n in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (payer.payment_count, payer.total_spent) == (24, 24 * PRICE)
    assert shop.paid == 24 * PRICE
    assert len(shop.shown) == 24


def test_a_channel_that_is_over_is_replaced_once() -> None:
    shop = Shop()
    with autopay() as payer, client_of(payer, shop) as client:
        assert client.get(URL).status_code == 200
        shop.lose = ["refuse:session_closed"]
        assert client.get(URL).status_code == 200
        assert len({each["channelId"] for each in shop.accepted}) == 2
        assert (payer.payment_count, payer.total_spent) == (2, 2 * PRICE)
        assert payer.total_signed == 3 * PRICE  # the refused signature is out all the same
        shop.lose = ["refuse:session_closed"] * 2
        with pytest.raises(PaymentRefused) as raised:
            client.get(URL)
    assert raised.value.code == "session_closed"
    assert shop.paid == 2 * PRICE


def test_a_seller_that_refuses_and_asks_again_gets_no_more_than_the_total() -> None:
    shop = Shop()
    with autopay(max_total=5 * PRICE) as payer, client_of(payer, shop) as client:
        for _ in range(20):
            shop.lose = ["refuse:session_closed"] * 10
            with pytest.raises((PaymentRefused, TotalExceeded)):
                client.get(URL)
        assert payer.total_signed <= 5 * PRICE
    by_channel: dict[str, int] = {}
    for header in shop.shown:
        voucher = json.loads(header)["voucher"]
        by_channel[voucher["channelId"]] = int(voucher["cumulativeAmount"])
    assert sum(by_channel.values()) <= 5 * PRICE


def test_a_seller_that_ignores_the_voucher_is_told_apart_and_gets_no_second_one() -> None:
    shop = Shop()

    def ignores(request: httpx.Request) -> httpx.Response:
        if "x-mpp-voucher" in request.headers:
            shop.shown.append(request.headers["x-mpp-voucher"])
        challenge = Challenge.of(recipient=RECIPIENT, network="localnet", price_per_unit=PRICE)
        return httpx.Response(402, json=challenge.to_json())

    with autopay() as payer, client_of(payer, ignores) as client:
        for _ in range(3):
            with pytest.raises(PaymentRefused):
                client.get(URL)
        assert payer.total_signed == PRICE
    assert len(set(shop.shown)) == 1


def test_a_price_that_rose_meanwhile_is_paid_within_the_cap_only() -> None:
    shop = Shop()

    def rising(request: httpx.Request) -> httpx.Response:
        answer = shop(request)
        shop.price = shop.price * 2 if answer.status_code == 402 else shop.price
        return answer

    payer = autopay(max_payment_amount=2 * PRICE)
    with payer, client_of(payer, rising) as client, pytest.raises(PaymentTooLarge):
        client.get(URL)  # asked for 1, then for 2, then for 4 prices
    assert shop.paid == 0
    assert payer.total_signed <= 2 * PRICE


def test_a_failing_callback_changes_nothing() -> None:
    def fails(_: PaymentInfo) -> None:
        raise RuntimeError("out of order")

    shop = Shop()
    with autopay(on_payment_complete=fails) as payer, client_of(payer, shop) as client:
        assert client.get(URL).status_code == 200
        assert payer.payment_count == 1


async def test_an_asynchronous_callback_is_awaited_before_the_answer_is_given() -> None:
    told: list[PaymentInfo] = []

    async def tell(info: PaymentInfo) -> None:
        await asyncio.sleep(0)
        told.append(info)

    with autopay(on_payment_complete=tell) as payer:
        transport = SessionTransport(payer, Shop().transport())
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get(URL)
    assert len(told) == 1


def test_the_callers_own_headers_and_body_are_sent_with_the_payment() -> None:
    shop, bodies = Shop(), list[tuple[bytes, str | None]]()

    def reads(request: httpx.Request) -> httpx.Response:
        bodies.append((request.content, request.headers.get("x-own")))
        return shop(request)

    with autopay() as payer, client_of(payer, reads) as client:
        client.post(URL, content=iter([b"in ", b"parts"]), headers={"x-own": "yes"})
    assert bodies == [(b"in parts", "yes")] * 2


def test_the_session_key_is_dropped_when_the_client_is_closed() -> None:
    payer = autopay()
    assert payer.session.state == "created"
    payer.close()
    assert payer.session.state == "none"
