"""The client that pays by itself: caps, order, lost answers, restarts, and what it tells."""

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from session_ledger.buyer import (
    AutoPay,
    FileStore,
    MemoryStore,
    NetworkMismatch,
    PaidWithoutAnswer,
    PaymentInfo,
    PaymentRefused,
    PaymentTooLarge,
    PaymentUncertain,
    RecipientNotAllowed,
    SessionMissing,
    SessionTransport,
    StoreError,
    SyncSessionTransport,
    TotalExceeded,
    presenting,
)
from session_ledger.challenge import Challenge
from tests.buyer_shop import OWNER, PRICE, RECIPIENT, URL, Shop, autopay

OTHER = "https://shop.example/other"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presenting, "PAUSES", (0.0, 0.0))


def client_of(payer: AutoPay, shop: Callable[[httpx.Request], httpx.Response]) -> httpx.Client:
    return httpx.Client(transport=SyncSessionTransport(payer, httpx.MockTransport(shop)))


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


async def test_a_cancelled_request_lets_the_next_one_pass_and_keeps_its_voucher() -> None:
    shop, started, hang = Shop(), asyncio.Event(), asyncio.Event()

    async def slow(request: httpx.Request) -> httpx.Response:
        answer = shop(request)
        if "x-mpp-voucher" in request.headers and request.url.query == b"slow":
            started.set()
            await hang.wait()
        return answer

    with autopay() as payer:
        transport = SessionTransport(payer, httpx.MockTransport(slow))
        async with httpx.AsyncClient(transport=transport) as client:
            first = asyncio.create_task(client.get(f"{URL}?slow"))
            await started.wait()
            waiting = [asyncio.create_task(client.get(f"{URL}?n={n}")) for n in range(3)]
            await asyncio.sleep(0.05)
            waiting[0].cancel()
            first.cancel()
            assert (await waiting[1]).status_code == 200
            assert (await waiting[2]).status_code == 200
        assert payer.is_paying is False
        assert payer.total_spent == 3 * PRICE  # the cancelled one was taken before
    assert shop.paid == 3 * PRICE


@pytest.mark.parametrize("fault", ["before", "503"])
def test_a_lost_answer_is_asked_for_with_the_same_voucher_and_key(fault: str) -> None:
    shop = Shop(lose=["before", "before"] if fault == "before" else [])
    calls = iter([503, 502])

    def away(request: httpx.Request) -> httpx.Response:
        if fault == "503" and "x-mpp-voucher" in request.headers:
            status = next(calls, 200)
            if status != 200:
                shop.shown.append(request.headers["x-mpp-voucher"])
                shop.keys.append(request.headers["idempotency-key"])
                return httpx.Response(status)
        return shop(request)

    with autopay() as payer, client_of(payer, away) as client:
        assert client.get(URL).status_code == 200
        assert (payer.payment_count, payer.pending) == (1, [])
    assert len(shop.shown) == 3
    assert (len(set(shop.shown)), len(set(shop.keys))) == (1, 1)


def test_an_answer_lost_for_good_is_uncertain_and_its_voucher_is_shown_before_another() -> None:
    shop, uncertain, complete = Shop(lose=["before"] * 3), list[Any](), list[Any]()
    payer = autopay(on_payment_uncertain=uncertain.append, on_payment_complete=complete.append)
    with payer, client_of(payer, shop) as client:
        with pytest.raises(PaymentUncertain) as raised:
            client.get(URL)
        assert uncertain == [raised.value.payment] == payer.pending
        assert (payer.payment_count, payer.total_signed, complete) == (0, PRICE, [])
        assert client.get(OTHER).status_code == 200
        assert (payer.payment_count, payer.pending) == (1, [])
    assert len(set(shop.shown)) == 1
    assert len(set(shop.keys)) == 2  # another request is another thing, though the payment is not
    assert shop.paid == PRICE


def test_a_payment_taken_without_an_answer_is_never_made_twice() -> None:
    shop, complete = Shop(lose=["after"]), list[PaymentInfo]()
    with autopay(on_payment_complete=complete.append) as payer, client_of(payer, shop) as client:
        with pytest.raises(PaidWithoutAnswer):
            client.get(URL)
        assert (payer.payment_count, payer.total_spent, len(complete)) == (1, PRICE, 1)
        assert len(set(shop.shown)) == 1
        assert client.get(URL).status_code == 200
    assert shop.paid == 2 * PRICE == payer.total_spent


def test_a_payment_found_taken_does_not_keep_another_request_from_being_paid() -> None:
    shop = Shop(lose=["after", "before", "before"])
    with autopay() as payer, client_of(payer, shop) as client:
        with pytest.raises(PaymentUncertain):
            client.get(URL)
        assert client.get(OTHER).status_code == 200
        assert (payer.payment_count, payer.total_spent, payer.total_signed) == (2, 20_000, 20_000)
    assert [each["increment"] for each in shop.accepted] == [PRICE, PRICE]


def test_a_failed_handler_leaves_the_voucher_to_be_shown_again() -> None:
    shop, uncertain = Shop(lose=["500"]), list[PaymentInfo]()
    with autopay(on_payment_uncertain=uncertain.append) as payer, client_of(payer, shop) as client:
        assert client.get(URL).status_code == 500
        assert uncertain == payer.pending
        with pytest.raises(PaidWithoutAnswer):
            client.get(URL)
    assert len(set(shop.shown)) == 1
    assert shop.paid == PRICE


@pytest.mark.parametrize("code", ["session_removed", "voucher_expired", "funding_revoked"])
def test_a_refusal_that_says_nothing_of_the_first_time_never_leads_to_a_second_payment(
    code: str,
) -> None:
    shop, uncertain = Shop(lose=["after", f"refuse:{code}"]), list[PaymentInfo]()
    with autopay(on_payment_uncertain=uncertain.append) as payer, client_of(payer, shop) as client:
        with pytest.raises(PaymentUncertain):
            client.get(URL)
        assert (len(shop.accepted), len(set(shop.shown)), len(uncertain)) == (1, 1, 1)
        assert (payer.payment_count, payer.total_signed, payer.pending) == (0, PRICE, [])
        assert client.get(URL).status_code == 200  # the caller knows, and asks again
        assert payer.total_signed == 2 * PRICE


async def test_a_request_cancelled_while_it_signs_does_not_disturb_the_next_one() -> None:
    class Slow(MemoryStore):
        saving = asyncio.Event()
        release = threading.Event()
        loop = asyncio.get_running_loop()

        def save(self, text: str) -> None:
            self.loop.call_soon_threadsafe(self.saving.set)
            self.release.wait(10)
            super().save(text)

    shop, store = Shop(), Slow()
    with autopay(store=store) as payer:
        transport = SessionTransport(payer, shop.transport())
        async with httpx.AsyncClient(transport=transport) as client:
            first = asyncio.create_task(client.get(f"{URL}?first"))
            await store.saving.wait()
            second = asyncio.create_task(client.get(f"{URL}?second"))
            first.cancel()
            await asyncio.sleep(0.05)
            assert shop.shown == []  # the first one's voucher is still being written
            store.release.set()
            assert (await second).status_code == 200
            with pytest.raises(asyncio.CancelledError):
                await first
        assert (payer.total_signed, payer.payment_count) == (PRICE, 1)
    assert len(shop.shown) == 1


def test_after_a_restart_the_voucher_under_way_is_shown_first(tmp_path: Path) -> None:
    shop, path = Shop(lose=["after", "before", "before"]), tmp_path / "purse.json"
    payer = autopay(store=FileStore(path))
    with payer, client_of(payer, shop) as client, pytest.raises(PaymentUncertain):
        client.get(URL)
    with autopay(store=FileStore(path)) as payer, client_of(payer, shop) as client:
        assert [info.sequence for info in payer.pending] == [1]
        with pytest.raises(PaidWithoutAnswer):
            client.get(URL)
        assert client.get(URL).status_code == 200
        assert (payer.payment_count, payer.total_spent) == (2, 2 * PRICE)
    assert len(set(shop.shown[:4])) == 1
    assert [each["sequence"] for each in shop.accepted] == [1, 2]
    assert len({each["channelId"] for each in shop.accepted}) == 1


def test_the_voucher_is_on_disk_before_it_is_sent(tmp_path: Path) -> None:
    path, shop = tmp_path / "purse.json", Shop()

    def looks(request: httpx.Request) -> httpx.Response:
        if (header := request.headers.get("x-mpp-voucher")) is not None:
            (kept,) = json.loads(path.read_text())["channels"].values()
            assert kept["under_way"]["header"] == header
            assert path.stat().st_mode & 0o777 == 0o600
        return shop(request)

    with autopay(store=FileStore(path)) as payer, client_of(payer, looks) as client:
        for _ in range(3):
            assert client.get(URL).status_code == 200


def test_what_cannot_be_saved_is_not_sent() -> None:
    class Full(MemoryStore):
        def save(self, text: str) -> None:
            raise StoreError(f"no space for {len(text)} characters")

    shop, payer = Shop(), autopay(store=Full())
    with client_of(payer, shop) as client, pytest.raises(StoreError):
        client.get(URL)
    assert (shop.shown, payer.total_signed, payer.pending) == ([], 0, [])


def test_a_store_serves_one_client_at_a_time_and_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "purse.json"
    store = FileStore(path)
    with pytest.raises(StoreError):
        FileStore(path)
    store.close()
    path.write_text('{"v": 1, "channels": {"a": {}}}')
    with pytest.raises(StoreError):
        autopay(store=FileStore(path))


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
