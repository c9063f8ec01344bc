"""The seller's package against the service: verdicts, contexts, charged routes, leases."""

import asyncio
import json
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from running import PRICE, Buyer, Seller, Service, fresh, path_of, problem_of, running

from session_ledger.challenge import parse_challenge
from session_ledger.seller import (
    LedgerRefused,
    LedgerUnavailable,
    PaidMiddleware,
    PaidRoute,
    Patience,
    SellerSetupError,
    SessionServer,
    SyncSessionServer,
    Verdict,
)
from session_ledger.seller.fastapi import install, paid


def server_of(seller: Seller, price: int = PRICE, **settings: Any) -> SessionServer:
    return SessionServer(
        seller.facts["recipient"],
        price,
        seller.service.url,
        seller.facts["network"],
        api_key=seller.token,
        **settings,
    )


def header(envelope: dict[str, Any]) -> str:
    return json.dumps(envelope)


def client_of(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://shop")


async def test_the_challenge_is_the_ledgers(seller: Seller) -> None:
    async with server_of(seller) as server:
        assert await server.get_challenge() == seller.get("/v1/challenge").json()
        await server.check()


async def test_a_server_with_another_recipient_or_key_is_told_so(
    service: Service, seller: Seller
) -> None:
    elsewhere = service.seller()
    wrong = {**elsewhere.facts, "recipient": seller.facts["recipient"]}
    async with server_of(Seller(service, elsewhere.token, wrong)) as server:
        with pytest.raises(SellerSetupError, match="recipient is"):
            await server.check()
    async with server_of(Seller(service, "sk_nobody", seller.facts)) as server:
        with pytest.raises(SellerSetupError, match="unauthorized"):
            await server.check()
        with pytest.raises(LedgerRefused, match="401"):
            await server.verify_voucher("{}")


async def test_a_session_is_verified_as_the_reference_verifies_it(
    seller: Seller, buyer: Buyer
) -> None:
    async with server_of(seller) as server:
        assert await server.get_session_context("c") is None
        first = await server.verify_voucher(header(buyer.pay(seller, "c", 2 * PRICE, 1)))
        assert (first.valid, first.amount_paid, first.channel_id) == (True, 2 * PRICE, "c")
        again = await server.verify_voucher(header(buyer.pay(seller, "c", 2 * PRICE, 1)))
        assert (again.valid, again.replayed, again.error) == (False, True, "amount_not_monotonic")
        assert again.receipt == first.receipt
        under = await server.verify_voucher(buyer.pay(seller, "c", 2 * PRICE + 1, 2))
        assert (under.valid, under.replayed, under.reason) == (False, False, "underpaid")
        forged = {**buyer.pay(seller, "c", 9 * PRICE, 3), "signature": "AAAA"}
        assert (await server.verify_voucher(forged)).reason == "signature_verification_failed"
        context = await server.get_session_context("c")
        assert context is not None
        assert (context["cumulativeAmount"], context["voucherCount"]) == (str(2 * PRICE), 1)
        await server.remove_session("c")
        assert await server.get_session_context("c") is None
        late = await server.verify_voucher(buyer.pay(seller, "c", 3 * PRICE, 2))
        assert late.reason == "session_removed"


def test_the_blocking_server_does_the_same(seller: Seller, buyer: Buyer) -> None:
    with SyncSessionServer(
        seller.facts["recipient"], PRICE, seller.service.url, "localnet", api_key=seller.token
    ) as server:
        server.check()
        assert server.verify_voucher(buyer.pay(seller, "c/é", PRICE, 1)).valid
        context = server.get_session_context("c/é")
        assert context is not None
        assert context["voucherCount"] == 1
        server.remove_session("c/é")
        assert server.get_session_context("c/é") is None


async def test_the_price_of_the_server_holds_whatever_the_voucher_claims(
    seller: Seller, buyer: Buyer
) -> None:
    """`charge` is not the buyer's to say, and the registered price is not this server's."""
    async with server_of(seller, 5 * PRICE) as server:
        claims = {**buyer.pay(seller, "c", PRICE, 1), "charge": {"amount": "0"}}
        verdict = await server.verify_voucher(claims)
        assert verdict.error == f"underpaid: expected at least {5 * PRICE}, got {PRICE}"
        assert (await server.verify_voucher(buyer.pay(seller, "c", 5 * PRICE, 1))).valid


async def test_a_metering_function_prices_by_usage(seller: Seller, buyer: Buyer) -> None:
    async with server_of(seller, meter=lambda words: 7 * words) as server:
        short = await server.verify_voucher(buyer.pay(seller, "c", 69, 1), usage=10)
        assert short.error == "underpaid: expected at least 70, got 69"
        assert (await server.verify_voucher(buyer.pay(seller, "c", 70, 1), usage=10)).valid


async def test_a_seller_that_requires_nonces_gets_them_into_its_challenges(
    service: Service, buyer: Buyer
) -> None:
    seller = service.seller(requireNonce=True)
    async with server_of(seller, require_nonce=True) as server:
        nonce = (await server.get_challenge())["serverNonce"]
        bare = await server.verify_voucher(buyer.pay(seller, "c", PRICE, 1))
        assert bare.reason == "nonce_unknown"
        fine = buyer.pay(seller, "c", PRICE, 1, serverNonce=nonce)
        assert (await server.verify_voucher(fine)).valid


class CutAnswers(httpx.AsyncBaseTransport):
    """Sends every request and loses the first answers."""

    def __init__(self, losses: int) -> None:
        self._inner = httpx.AsyncHTTPTransport()
        self.losses = losses

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._inner.handle_async_request(request)
        if self.losses:
            self.losses -= 1
            await answer.aread()
            await answer.aclose()
            raise httpx.ReadTimeout("the answer was lost")
        return answer

    async def aclose(self) -> None:
        await self._inner.aclose()


@pytest.mark.parametrize("losses", [1, 2, 3, 7])
async def test_a_verdict_whose_answer_was_lost_is_accepted_once_and_only_once(
    seller: Seller, buyer: Buyer, losses: int
) -> None:
    voucher = header(buyer.pay(seller, "c", PRICE, 1))
    patience = Patience(attempts=3, pause=0)
    async with server_of(seller, patience=patience, transport=CutAnswers(losses)) as server:
        for _ in range(losses // 3):
            with pytest.raises(LedgerUnavailable):
                await server.verify_voucher(voucher)
        verdicts = [await server.verify_voucher(voucher) for _ in range(3)]
    assert [verdict.valid for verdict in verdicts] == [True, False, False]
    assert all(verdict.replayed for verdict in verdicts[1:])
    assert seller.session("c")["voucherCount"] == 1


async def test_a_ledger_that_stopped_is_one_clear_error_and_a_seller_that_waits() -> None:
    with running() as service:
        seller, buyer = service.seller(), service.buyer()
    async with server_of(seller, patience=Patience(attempts=2, pause=0)) as server:
        voucher = header(buyer.pay(seller, "c", PRICE, 1))
        with pytest.raises(LedgerUnavailable, match=r"cannot be reached.*answer 503"):
            await server.verify_voucher(voucher)
        app = PaidMiddleware(FastAPI(), server, {"/": PRICE})
        async with client_of(app) as client:
            answer = await client.get("/", headers={"x-mpp-voucher": voucher})
            assert (answer.status_code, answer.json()["code"]) == (503, "payment_unavailable")
            assert (await client.get("/")).status_code == 402  # the challenge needs no ledger


def shop(server: SessionServer) -> Any:
    app = FastAPI()
    install(app)

    @app.get("/middleware")
    async def by_middleware(request: Request) -> Any:
        return {"paid": request.state.payment.amount_paid}

    @app.api_route("/dependency", methods=["GET", "OPTIONS"])
    async def by_dependency(
        request: Request, payment: Annotated[Verdict | None, Depends(paid(server, 2 * PRICE))]
    ) -> Any:
        return {"paid": payment and payment.amount_paid}

    return PaidMiddleware(app, server, {"/middleware": PaidRoute(2 * PRICE)})


@pytest.mark.parametrize("path", ["/middleware", "/dependency"])
async def test_a_charged_route_asks_serves_once_and_keeps_the_price(
    seller: Seller, buyer: Buyer, path: str
) -> None:
    channel = fresh("c")
    async with server_of(seller) as server, client_of(shop(server)) as client:
        challenge = parse_challenge((await client.get(path)).json())
        assert challenge.price_per_unit == 2 * PRICE
        cheap = header(buyer.pay(seller, channel, PRICE, 1))
        answer = await client.get(path, headers={"x-mpp-voucher": cheap})
        assert (answer.status_code, answer.json()["code"]) == (402, "underpaid")
        full = header(buyer.pay(seller, channel, 2 * PRICE, 1))
        answers = await asyncio.gather(
            *(client.get(path, headers={"x-mpp-voucher": full}) for _ in range(5))
        )
        assert sorted(answer.status_code for answer in answers) == [200, 402, 402, 402, 402]
        assert [a.json() for a in answers if a.status_code == 200] == [{"paid": 2 * PRICE}]
        assert {a.json()["verdict"] for a in answers if a.status_code == 402} == {"replayed"}
    assert seller.session(channel)["cumulativeAmount"] == str(2 * PRICE)


# --- leases ------------------------------------------------------------------------------------


def lease(seller: Seller, channel: str, holder: str, seconds: Any = 60) -> httpx.Response:
    body = {"holder": holder, "ttlSeconds": seconds}
    return seller.post(path_of(channel) + "/lease", json=body)


def test_a_lease_has_one_holder_until_it_is_given_back(service: Service, seller: Seller) -> None:
    taken = lease(seller, "c", "a")
    assert taken.status_code == 200
    assert taken.json().keys() == {"channelId", "holder", "expiresAt"}
    assert lease(seller, "c", "a").json()["expiresAt"] >= taken.json()["expiresAt"]
    held = problem_of(lease(seller, "c", "b"), 409, "lease_held")
    assert "a" not in held["detail"].split()
    assert lease(service.seller(), "c", "b").status_code == 200  # another seller's channel
    assert lease(seller, "c2", "b").status_code == 200
    release = path_of("c") + "/lease?holder="
    assert seller.delete(release + "b").status_code == 204
    problem_of(lease(seller, "c", "b"), 409, "lease_held")
    assert seller.delete(release + "a").status_code == 204
    assert lease(seller, "c", "b").status_code == 200


async def test_a_lease_that_ended_is_free(service: Service, seller: Seller) -> None:
    assert lease(seller, "c", "a").status_code == 200
    ended = "UPDATE leases SET expires_at = now() WHERE seller_id = $1 RETURNING holder"
    assert await service.rows(ended, seller.id)
    assert lease(seller, "c", "b").status_code == 200
    problem_of(lease(seller, "c", "a"), 409, "lease_held")


def test_of_many_who_want_a_lease_one_gets_it(seller: Seller) -> None:
    async def race() -> list[int]:
        headers = {"authorization": f"Bearer {seller.token}"}
        async with httpx.AsyncClient(base_url=seller.service.url, headers=headers) as client:
            answers = await asyncio.gather(
                *(
                    client.post("/v1/sessions/c/lease", json={"holder": f"h{n}", "ttlSeconds": 60})
                    for n in range(32)
                )
            )
        return [answer.status_code for answer in answers]

    assert sorted(asyncio.run(race())) == [200] + [409] * 31


async def test_leases_that_ended_long_ago_are_swept(service: Service, seller: Seller) -> None:
    for number in range(3):
        lease(seller, f"old-{number}", "a")
    old = "UPDATE leases SET expires_at = now() - interval '2 hours' WHERE seller_id = $1"
    await service.rows(old, seller.id)
    assert lease(seller, "old-0", "b").status_code == 200  # swept and taken in one statement
    left = await service.rows("SELECT channel_id FROM leases WHERE seller_id = $1", seller.id)
    assert [row["channel_id"] for row in left] == ["old-0"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"holder": "", "ttlSeconds": 1},
        {"holder": "a b", "ttlSeconds": 1},
        {"holder": "\0", "ttlSeconds": 1},
        {"holder": "a" * 129, "ttlSeconds": 1},
        {"holder": "a", "ttlSeconds": 0},
        {"holder": "a", "ttlSeconds": 301},
        {"holder": "a", "ttlSeconds": "1"},
        {"holder": "a", "ttlSeconds": 1, "more": 1},
    ],
)
def test_a_lease_that_cannot_be_is_refused(seller: Seller, body: dict[str, Any]) -> None:
    problem_of(seller.post("/v1/sessions/c/lease", json=body), 400, "invalid_request")


def test_a_lease_is_its_sellers_to_take(service: Service) -> None:
    nobody = Seller(service, "sk_nobody", {})
    problem_of(lease(nobody, "c", "a"), 401, "unauthorized")
    problem_of(nobody.delete("/v1/sessions/c/lease?holder=a"), 401, "unauthorized")
    problem_of(nobody.delete("/v1/sessions/c/lease"), 401, "unauthorized")
