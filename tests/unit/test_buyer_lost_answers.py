"""The client that pays by itself when answers get lost, requests are cancelled and programs start
again: nothing is paid twice.
"""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from autopay_rig import client_of, no_pauses_fixture

from session_ledger.buyer import (
    FileStore,
    MemoryStore,
    PaidWithoutAnswer,
    PaymentInfo,
    PaymentUncertain,
    SessionTransport,
    StoreError,
)
from tests.buyer_shop import PRICE, URL, Shop, autopay

__all__ = ["no_pauses_fixture"]

OTHER = "https://shop.example/other"


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
        in_time: ClassVar[list[bool]] = []
        loop = asyncio.get_running_loop()

        def save(self, text: str) -> None:
            self.loop.call_soon_threadsafe(self.saving.set)
            self.in_time.append(self.release.wait(10))
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
    assert all(store.in_time)  # the event loop did not wait for the disk


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
