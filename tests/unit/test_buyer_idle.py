"""Waiting until nothing is being paid, a single paid request, and when a payment was made."""

import asyncio
import threading
from collections.abc import Callable

import httpx
import pytest

from session_ledger.buyer import (
    AutoPay,
    PaymentInfo,
    PaymentRefused,
    PaymentUncertain,
    SessionTransport,
    SyncSessionTransport,
    autopay_fetch,
    presenting,
)
from session_ledger.buyer import transport as transports
from tests.buyer_shop import PRICE, URL, Shop, autopay

Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presenting, "PAUSES", (0.0, 0.0))


class Held:
    """A shop whose answers to payments wait: one for each name in the query."""

    def __init__(self, *names: str) -> None:
        self.shop = Shop()
        self.gates = {name: asyncio.Event() for name in names}
        self.reached = {name: asyncio.Event() for name in names}

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if "x-mpp-voucher" in request.headers:
            name = request.url.query.decode()
            self.reached[name].set()
            await self.gates[name].wait()
        return self.shop(request)

    def client(self, payer: AutoPay) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=SessionTransport(payer, httpx.MockTransport(self)))


async def settled() -> None:
    """Let everything that can go on in the event loop go on."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_waiting_for_idle_ends_with_the_last_payment_under_way() -> None:
    held, payer = Held("one", "two"), autopay(channels_per_seller=2)
    await asyncio.wait_for(payer.wait_idle(), 5)  # nothing is
    async with held.client(payer) as client:
        gets = [asyncio.create_task(client.get(f"{URL}?{name}")) for name in held.gates]
        for reached in held.reached.values():
            await reached.wait()
        waiters = [asyncio.create_task(payer.wait_idle()) for _ in range(3)]
        held.gates["one"].set()
        await gets[0]
        waiters[2].cancel()
        await settled()
        assert payer.is_paying
        assert [each.done() for each in waiters] == [False, False, True]
        held.gates["two"].set()
        await asyncio.wait_for(asyncio.gather(*waiters[:2]), 5)
        assert not payer.is_paying
        assert payer.payment_count == 2
        await asyncio.gather(*gets)


@pytest.mark.parametrize(
    ("fault", "error"),
    [("refuse:grant_revoked", PaymentRefused), ("before", PaymentUncertain)],
)
async def test_a_payment_that_fails_is_under_way_no_more(
    fault: str, error: type[Exception]
) -> None:
    held, payer = Held("one"), autopay()
    held.shop.lose = [fault] * 3
    async with held.client(payer) as client:
        get = asyncio.create_task(client.get(f"{URL}?one"))
        await held.reached["one"].wait()
        waiter = asyncio.create_task(payer.wait_idle())
        await settled()
        assert not waiter.done()
        held.gates["one"].set()
        with pytest.raises(error):
            await get
        await asyncio.wait_for(waiter, 5)


def test_a_thread_waits_until_the_others_have_paid_or_its_time_is_over() -> None:
    shop, payer = Shop(), autopay()
    reached, gate = threading.Event(), threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        if "x-mpp-voucher" in request.headers:
            reached.set()
            assert gate.wait(10)
        return shop(request)

    payer.wait_idle_sync(0)  # nothing is under way
    with httpx.Client(transport=SyncSessionTransport(payer, httpx.MockTransport(answer))) as client:
        paying = threading.Thread(target=client.get, args=[URL])
        paying.start()
        assert reached.wait(10)
        with pytest.raises(TimeoutError):
            payer.wait_idle_sync(0.01)
        gate.set()
        payer.wait_idle_sync(10)
        assert (payer.is_paying, payer.payment_count) == (False, 1)
        paying.join(10)


async def test_a_single_request_is_paid_and_its_answer_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop = Shop()

    def client_of(payer: AutoPay) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=SessionTransport(payer, shop.transport()))

    monkeypatch.setattr(transports, "autopay_client", client_of)
    with autopay() as payer:
        answer = await autopay_fetch(payer, URL, method="POST", json={"please": True})
        assert (answer.request.method, answer.json()) == ("POST", {"served": 1})
        assert answer.request.content == b'{"please":true}'
        assert payer.total_spent == PRICE


def test_a_payment_tells_when_the_seller_had_taken_it_and_an_uncertain_one_does_not() -> None:
    shop, now = Shop(), 1_800_000_000.5
    taken, uncertain = list[PaymentInfo](), list[PaymentInfo]()
    payer = autopay(
        clock=lambda: now,
        on_payment_complete=taken.append,
        on_payment_uncertain=uncertain.append,
    )
    transport = SyncSessionTransport(payer, shop.transport())
    with payer, httpx.Client(transport=transport) as client:
        client.get(URL)
        assert payer.last_payment == taken[0]
        shop.lose = ["before"] * 3
        with pytest.raises(PaymentUncertain):
            client.get(URL)
        now += 7
        client.get(URL)
        assert [each.timestamp for each in taken] == [1_800_000_000.5, 1_800_000_007.5]
        assert [each.timestamp for each in uncertain] == [None]
        assert payer.last_payment == taken[1]
