"""Streams of a real shop over HTTP: paid line by line, paused, resumed, leased.

The shops are `examples/fastapi_seller.py` and `examples/express`; the first one takes leases, and
a second process of it stands for a second machine.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from running import Buyer, Service, fresh, until
from seller_shops import Purse, Shop, express_shop, fastapi_shop, paying

LINE = 500
pytestmark = pytest.mark.timeout(300)


BOTH = [
    pytest.param(fastapi_shop, id="fastapi"),
    pytest.param(express_shop, id="express", marks=pytest.mark.node),
]


@pytest.fixture(scope="module", params=BOTH)
def shop(request: pytest.FixtureRequest, service: Service) -> Iterator[Shop]:
    with request.param(service.seller()) as started:
        yield started


@pytest.fixture(scope="module")
def leasing(service: Service) -> Iterator[Shop]:
    """A shop that takes a lease for each stream."""
    with fastapi_shop(service.seller()) as started:
        yield started


@pytest.fixture(scope="module")
def other(leasing: Shop) -> Iterator[Shop]:
    """The same seller's second process."""
    with fastapi_shop(leasing.seller) as started:
        yield started


@pytest.fixture
def purse(shop: Shop, buyer: Buyer) -> Purse:
    return Purse(buyer, shop.seller, fresh("c"))


class Reading:
    """A stream as its client reads it, event by event."""

    def __init__(self, shop: Shop, answer: httpx.Response) -> None:
        self._shop, self.answer = shop, answer
        self._lines = answer.iter_lines() if answer.status_code == 200 else iter(())

    def event(self) -> dict[str, Any] | str | None:
        """The next line of the poem, or what a pause says; None at the end."""
        kind = ""
        for line in self._lines:
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                return json.loads(value) if kind else value
        return None

    def take(self, count: int) -> list[Any]:
        return [self.event() for _ in range(count)]

    @property
    def address(self) -> str:
        return self._shop.url + self.answer.headers["x-mpp-stream"]

    def top_up(self, voucher: dict[str, Any] | None) -> httpx.Response:
        return self._shop.http.post(self.address, headers=paying(voucher))

    def status(self) -> httpx.Response:
        return self._shop.http.get(self.address)


@contextmanager
def reading(shop: Shop, voucher: Any, lines: int = 10) -> Iterator[Reading]:
    path = f"{shop.url}/poem?lines={lines}"
    with shop.http.stream("GET", path, headers=paying(voucher)) as answer:
        if answer.status_code != 200:
            answer.read()
        yield Reading(shop, answer)


def busy(shop: Shop, voucher: Any) -> bool:
    with reading(shop, voucher) as stream:
        found = stream.answer
    if found.status_code != 409:
        return False
    assert (found.json()["code"], int(found.headers["retry-after"]) > 0) == ("stream_busy", True)
    return True


def texts(first: int, last: int) -> list[str]:
    return [f"line {number}" for number in range(first, last + 1)]


def test_a_stream_pauses_when_its_voucher_is_used_up_and_goes_on_when_paid(
    shop: Shop, purse: Purse
) -> None:
    with reading(shop, purse.voucher(3 * LINE), lines=6) as stream:
        assert stream.answer.headers["x-mpp-unit-price"] == str(LINE)
        assert stream.take(3) == texts(1, 3)
        pause = stream.event()
        assert isinstance(pause, dict)
        assert (pause["state"], pause["left"], pause["delivered"]) == ("paused", "0", "1500")
        assert shop.url + pause["topUp"] == stream.address
        voucher = purse.voucher(2 * LINE)
        for _ in range(2):  # the second one is the same voucher: nothing is added
            answer = stream.top_up(voucher)
            assert (answer.status_code, answer.json()["paid"]) == (200, "2500")
        assert stream.take(2) == texts(4, 5)
        assert isinstance(stream.event(), dict)
        cheap = stream.top_up(purse.voucher(LINE - 1))
        assert (cheap.status_code, cheap.json()["code"]) == (402, "underpaid")
        stranger = Purse(purse.buyer, purse.seller, fresh("c")).voucher(LINE)
        assert stream.top_up(stranger).json()["code"] == "channel_mismatch"
        assert stream.status().json()["state"] == "paused"
        assert stream.top_up(purse.voucher(1)).status_code == 200  # LINE - 1 + 1
        assert stream.take(2) == [*texts(6, 6), None]
    assert stream.status().status_code == 404
    assert stream.top_up(purse.voucher(LINE)).json()["code"] == "stream_not_found"
    context = shop.seller.session(purse.channel)
    assert context["cumulativeAmount"] == str(6 * LINE)
    assert context["voucherCount"] == 3


def test_a_stream_without_money_does_not_begin(shop: Shop, purse: Purse) -> None:
    for voucher, code in ((None, "payment_required"), (purse.voucher(LINE - 1), "underpaid")):
        with reading(shop, voucher) as stream:
            assert (stream.answer.status_code, stream.answer.json()["code"]) == (402, code)
            assert stream.answer.json()["pricePerUnit"] == str(LINE)
    with reading(shop, purse.voucher(1), lines=1) as stream:
        assert stream.take(2) == ["line 1", None]


def test_a_channel_has_one_live_stream_in_all_processes(
    leasing: Shop, other: Shop, buyer: Buyer
) -> None:
    purse = Purse(buyer, leasing.seller, fresh("c"))
    with reading(leasing, purse.voucher(LINE)) as stream:
        assert stream.take(1) == texts(1, 1)
        further = purse.voucher(LINE)
        assert busy(other, further)
        assert busy(leasing, further)
        context = leasing.seller.session(purse.channel)
        assert context["voucherCount"] == 1  # the refused ones were not used up
        elsewhere = Purse(purse.buyer, purse.seller, fresh("c"))
        with reading(other, elsewhere.voucher(LINE), lines=1) as parallel:
            assert parallel.take(2) == ["line 1", None]
    until(lambda: not busy(other, further))  # the client left, so the lease was given back


def test_who_leaves_early_finds_what_was_left_with_the_same_voucher(
    shop: Shop, purse: Purse
) -> None:
    voucher = purse.voucher(40 * LINE)
    with reading(shop, voucher, lines=1) as stream:
        assert stream.take(2) == ["line 1", None]
    with reading(shop, voucher, lines=100) as stream:
        assert stream.take(39) == texts(1, 39)
        assert isinstance(stream.event(), dict)
    until(lambda: not busy(shop, voucher))
    with reading(shop, voucher) as stream:
        assert (stream.answer.status_code, stream.answer.json()["verdict"]) == (402, "replayed")


async def test_the_lease_of_a_process_that_was_killed_ends_by_itself(
    service: Service, leasing: Shop, buyer: Buyer
) -> None:
    purse = Purse(buyer, leasing.seller, fresh("c"))
    with fastapi_shop(leasing.seller) as doomed:
        with reading(doomed, purse.voucher(LINE)) as stream:
            assert stream.take(1) == texts(1, 1)
            doomed.process.kill()
        further = purse.voucher(LINE)
        assert busy(leasing, further)
    past = "UPDATE leases SET expires_at = now() WHERE channel_id = $1 RETURNING holder"
    assert await service.rows(past, purse.channel)  # as thirty seconds do
    with reading(leasing, further, lines=1) as stream:
        assert stream.take(2) == ["line 1", None]
