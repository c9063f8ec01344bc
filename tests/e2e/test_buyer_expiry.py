"""A grant that expires while the buyer's client is paying: the owner signs once for a request, and
the run goes on. The real service, the sellers' middleware, and clocks that are not the same.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from nacl.signing import SigningKey
from running import PRICE, Buyer, Seller, Service, seed, until

from session_ledger.buyer import (
    AutoPay,
    GrantClient,
    GrantRefused,
    KeySigner,
    PaymentRefused,
    SessionTransport,
    SyncSessionTransport,
)
from session_ledger.grant import Grant
from session_ledger.json_text import JsonValue
from tests.buyer_rig import listening, paid_application, session_of

LIFE = 600
SKEW = 30
"""Seconds that the ledger allows after a grant's end."""
LEFT = 10
"""Seconds for which a grant still pays that was made by a clock so far behind."""
AFTER = 3
"""Requests that follow on the fallback."""
MANY = {"max_calls": 10_000, "max_total_amount": 10_000 * PRICE}


@dataclass
class Clock:
    """The buyer's clock; what a grant is signed for follows from it."""

    behind: float = 0

    def __call__(self) -> float:
        return time.time() - self.behind


@dataclass
class Owner:
    """Signs, and counts."""

    key: KeySigner
    signed: int = 0

    @property
    def address(self) -> str:
        return self.key.address

    def sign(self, message: bytes) -> bytes:
        self.signed += 1
        return self.key.sign(message)


@dataclass
class Refusals:
    """What the seller refused, as it says so."""

    bodies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def look_at(self, request: httpx.Request, response: httpx.Response, content: bytes) -> None:
        if "x-mpp-voucher" in request.headers and response.status_code == 402:
            self.bodies.append(httpx.Response(402, content=content).json())

    def sync(self) -> httpx.BaseTransport:
        refusals = self

        class Transport(httpx.HTTPTransport):
            def handle_request(self, request: httpx.Request) -> httpx.Response:
                response = super().handle_request(request)
                refusals.look_at(request, response, response.read())
                return response

        return Transport()

    def asynchronous(self) -> httpx.AsyncBaseTransport:
        refusals = self

        class Transport(httpx.AsyncHTTPTransport):
            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                response = await super().handle_async_request(request)
                refusals.look_at(request, response, await response.aread())
                return response

        return Transport()

    def codes(self) -> list[Any]:
        return [_found(body, "code") for body in self.bodies]


def _found(body: Any, name: str) -> Any:
    """A member at any depth."""
    if not isinstance(body, dict):
        return None
    nested = (_found(each, name) for each in body.values())
    return body[name] if name in body else next((each for each in nested if each), None)


class Run:
    """A session whose grant ends in a few seconds, and what was bought with it."""

    def __init__(self, service: Service, url: str, recipient: str, buyer: Buyer, **changes: Any):
        self.service, self.url = service, url
        self.clock = Clock(behind=LIFE + SKEW - LEFT)
        self.owner = Owner(KeySigner(SigningKey(seed(buyer.name))))
        self.refusals = Refusals()
        limits = {**MANY, **changes.pop("limits", {})}
        owner: Any = self.owner
        self.payer: AutoPay = session_of(
            service.url, owner, recipient, PRICE,
            clock=self.clock, duration=LIFE, limits=limits, **changes,
        )  # fmt: skip
        self.first = self.payer.session.grant_id or ""
        self.http = httpx.Client(transport=SyncSessionTransport(self.payer, self.refusals.sync()))
        self.bought = 0

    def buy(self) -> None:
        assert self.http.get(f"{self.url}/paid?{self.bought}").status_code == 200
        self.bought += 1

    def buy_until(self, holds: Callable[[], bool]) -> None:
        """Request after request, until one of them made it so."""

        def one_more() -> bool:
            self.buy()
            return holds()

        until(one_more)

    def grant(self, identity: str) -> dict[str, Any]:
        found = self.service.http.get(f"/v1/grants/{identity}")
        assert found.status_code == 200, found.text
        return found.json()


@dataclass
class Market:
    """A paid application, and runs that buy from it."""

    service: Service
    seller: Seller
    buyer: Buyer
    url: str
    recipient: str
    served: list[str]

    def run(self, **changes: Any) -> Run:
        return Run(self.service, self.url, self.recipient, self.buyer, **changes)

    def channels(self) -> list[dict[str, Any]]:
        return self.seller.get("/v1/sessions").json()["sessions"]

    def taken(self) -> int:
        return sum(int(each["cumulativeAmount"]) for each in self.channels())


@pytest.fixture
def market(service: Service, seller: Seller, buyer: Buyer) -> Any:
    recipient, served = str(seller.facts["recipient"]), list[str]()
    app = paid_application(service.url, seller.token, recipient, PRICE, served)
    with listening(app) as url:
        yield Market(service, seller, buyer, url, recipient, served)


@pytest.mark.parametrize(
    ("behind", "refused"),
    [
        pytest.param(LIFE / 2, ["grant_expired"], id="the-ledger-says-so"),
        pytest.param(-1, [], id="the-client-knows"),
    ],
)
def test_a_grant_that_expires_during_a_run_is_renewed_once_and_the_run_goes_on(
    market: Market, behind: float, refused: list[str]
) -> None:
    run = market.run()
    with run.payer, run.http:
        run.buy()
        run.clock.behind = behind
        run.buy_until(lambda: run.payer.session.grant_id != run.first)
        for _ in range(AFTER):
            run.buy()
        renewed = run.grant(run.payer.session.grant_id or "")
        assert (run.payer.payment_count, run.payer.total_spent) == (run.bought, run.bought * PRICE)
        assert run.payer.session.state == "active"
    assert run.owner.signed == 2  # the grant, and the one that renews it
    assert run.refusals.codes() == refused
    assert [_found(body, "fallback") for body in run.refusals.bodies] == [
        "owner_signature" for _ in refused
    ]
    assert renewed["previousGrantId"] == run.first
    until(lambda: run.grant(run.first)["state"] == "expired")
    ended = run.grant(run.first)
    assert (ended["callsUsed"], renewed["callsUsed"]) == (run.bought - AFTER - 1, AFTER + 1)
    assert market.served == [str(number) for number in range(run.bought)]
    assert market.taken() == run.bought * PRICE


def test_the_owner_signs_the_vouchers_that_come_after_the_end_of_a_grant_one_each(
    market: Market,
) -> None:
    run = market.run(fallback="once", limits={"owner_may_sign": True})
    with run.payer, run.http:
        run.buy()
        run.clock.behind = LIFE / 2
        run.buy_until(lambda: run.owner.signed > 1)
        for _ in range(AFTER):
            run.buy()
        assert run.payer.session.grant_id == run.first
        assert run.payer.session.state == "expired"
    assert run.owner.signed == 1 + 1 + AFTER  # the grant, and each voucher after its end
    assert run.refusals.codes() == ["grant_expired"]
    assert [_found(body, "fallback") for body in run.refusals.bodies] == ["owner_signature"]
    assert run.grant(run.first)["callsUsed"] == run.bought - 1 - AFTER
    by_owner = [c for c in market.channels() if c["sessionPubkey"] == run.owner.address]
    assert [each["voucherCount"] for each in by_owner] == [1 + AFTER]
    assert market.served == [str(number) for number in range(run.bought)]
    assert market.taken() == run.bought * PRICE


class Slow(GrantClient):
    """Registers a renewed grant, and comes back when its time is over."""

    hurries = False

    def register(
        self, grant: Grant, signature: str, *, previous: str | None = None
    ) -> dict[str, JsonValue]:
        answer = super().register(grant, signature, previous=previous)
        if previous is not None and not self.hurries:
            identity = str(answer["grantId"])
            until(lambda: self.show(identity)["state"] == "expired")
        return answer


def test_a_renewal_that_is_over_as_well_ends_the_request_and_not_the_next_one(
    market: Market,
) -> None:
    ledger = Slow(market.service.url)
    run = market.run(grants=ledger)
    with run.payer, run.http:
        run.buy()
        until(lambda: run.grant(run.first)["state"] == "expired")
        # What is renewed now has as little time left, and comes back without it.
        run.clock.behind = LIFE + SKEW - LEFT
        with pytest.raises(PaymentRefused) as raised:
            run.http.get(f"{run.url}/paid?refused")
        assert raised.value.code == "grant_expired"
        assert run.refusals.codes() == ["grant_expired"] * 2
        assert run.owner.signed == 2
        # One that is over before it is registered is not even tried.
        run.clock.behind = LIFE + 2 * SKEW
        with pytest.raises(GrantRefused) as refused:
            run.http.get(f"{run.url}/paid?refused")
        assert refused.value.code == "grant_expired"
        assert run.owner.signed == 3
        ledger.hurries, run.clock.behind = True, 0
        run.buy()
        assert run.owner.signed == 4
    assert market.served == ["0", "1"]
    assert market.taken() == 2 * PRICE


async def test_requests_that_meet_the_end_of_a_grant_together_share_one_renewal(
    market: Market,
) -> None:
    run = await asyncio.to_thread(market.run, channels_per_seller=4)
    transport = SessionTransport(run.payer, run.refusals.asynchronous())
    async with httpx.AsyncClient(transport=transport, timeout=60) as http:

        async def buy(names: list[str]) -> set[int]:
            gets = (http.get(f"{run.url}/paid?{name}") for name in names)
            return {answer.status_code for answer in await asyncio.gather(*gets)}

        before, after = ([f"{when}{n}" for n in range(8)] for when in ("before", "after"))
        assert await buy(before) == {200}
        await asyncio.to_thread(until, lambda: run.grant(run.first)["state"] == "expired")
        run.clock.behind = LIFE / 2
        assert await buy(after) == {200}
    with run.payer, run.http:
        assert run.payer.payment_count == 16
        renewed = run.grant(run.payer.session.grant_id or "")
    assert run.owner.signed == 2
    assert run.refusals.codes() in [["grant_expired"] * count for count in range(1, 5)]
    assert (renewed["previousGrantId"], renewed["callsUsed"]) == (run.first, 8)
    assert sorted(market.served) == sorted(before + after)
    assert market.taken() == 16 * PRICE
