"""What the middleware and the dependency let through, over a ledger that is played."""

import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse

from session_ledger.challenge import parse_challenge
from session_ledger.seller import (
    LedgerRefused,
    PaidMiddleware,
    PaidRoute,
    Patience,
    SellerSetupError,
    SessionServer,
    Verdict,
)
from session_ledger.seller.asgi import voucher_of
from session_ledger.seller.fastapi import install, paid
from tests.unit.test_seller_server import (
    ACCEPTED,
    RECIPIENT,
    REFUSED,
    REPLAYED,
    VOUCHER,
    Played,
    problem,
)

HEADERS = {"x-mpp-voucher": VOUCHER}
NOW = Patience(attempts=1, pause=0)
Client = httpx.AsyncClient


class Shop:
    """An application with two ways to charge, and what its handlers saw."""

    def __init__(self, played: Played, **route: Any) -> None:
        self.played = played
        self.seen: list[Verdict] = []
        self.fail: Exception | int | None = None
        self.server = SessionServer(
            RECIPIENT,
            10_000,
            network="devnet",
            api_key="k",
            patience=NOW,
            transport=httpx.MockTransport(played),
        )
        app = FastAPI()
        install(app)
        dependency = paid(self.server, **route)

        async def handler(request: Request) -> Any:
            self.seen.append(request.state.payment)
            if isinstance(self.fail, Exception):
                raise self.fail
            return JSONResponse({"served": len(self.seen)}, self.fail or 200)

        async def with_payment(
            request: Request, payment: Annotated[Verdict | None, Depends(dependency)]
        ) -> Any:
            assert request.method == "OPTIONS" or payment is request.state.payment
            return {} if request.method == "OPTIONS" else await handler(request)

        async def free() -> Any:
            return {"free": True}

        app.add_api_route("/middleware", handler, methods=["GET", "POST", "HEAD"])
        app.add_api_route("/middleware/below/{name}", handler)
        app.add_api_route("/dependency", with_payment, methods=["GET", "POST", "OPTIONS"])
        app.add_api_route("/free", free)
        app.add_api_route("/middleware", free, methods=["OPTIONS"])
        routes = {"/middleware": PaidRoute(**route), "/middleware/below/*": 7}
        self.app = PaidMiddleware(app, self.server, routes)

    async def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)  # type: ignore[arg-type]
        async with Client(transport=transport, base_url="http://shop") as client:
            return await client.request(method, path, **options)


Ask = Callable[..., Awaitable[httpx.Response]]
BOTH = pytest.mark.parametrize("path", ["/middleware", "/dependency"])


@BOTH
async def test_a_request_without_a_voucher_is_answered_with_the_challenge(path: str) -> None:
    shop = Shop(Played(ACCEPTED), price=25)
    answer = await shop.send("GET", path)
    assert (answer.status_code, shop.seen, shop.played.asked) == (402, [], [])
    body = answer.json()
    assert parse_challenge(body).price_per_unit == 25
    assert (body["code"], body["status"], body["retryable"]) == ("payment_required", 402, False)
    assert (body["title"], body["error"]) == ("Payment Required", "payment_required")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"


@BOTH
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_paid_request_is_served_and_knows_its_payment(path: str, method: str) -> None:
    shop = Shop(Played(ACCEPTED), price=25)
    answer = await shop.send(method, path, headers=HEADERS)
    assert (answer.status_code, answer.json()) == (200, {"served": 1})
    assert shop.seen[0].amount_paid == 10_000
    assert shop.seen[0].headers == {"x-mpp-receipt": "ab12"}
    if path == "/middleware":  # the other handler returns a response of its own
        assert answer.headers["x-mpp-receipt"] == "ab12"
    assert shop.played.bodies[0]["charge"] == {"amount": "25"}


@BOTH
async def test_a_price_may_follow_from_the_request(path: str) -> None:
    def price(request: Any) -> int:
        query = request["query_string"]
        return int(query.decode().partition("=")[2])

    shop = Shop(Played(ACCEPTED), price=price)
    await shop.send("GET", f"{path}?words=31", headers=HEADERS)
    assert shop.played.bodies[0]["charge"] == {"amount": "31"}
    assert (await shop.send("GET", f"{path}?words=8")).json()["pricePerUnit"] == "8"


@BOTH
async def test_a_refused_voucher_is_told_why_and_serves_nothing(path: str) -> None:
    shop = Shop(Played(REFUSED))
    answer = await shop.send("GET", path, headers=HEADERS)
    body = answer.json()
    assert (answer.status_code, body["status"], shop.seen) == (402, 402, [])
    assert (body["code"], body["error"]) == ("underpaid", "underpaid: expected 2, got 1")
    assert (body["verdict"], body["detail"]) == ("rejected", "adds less")
    assert parse_challenge(body).price_per_unit == 10_000
    assert answer.headers["content-type"] == "application/json"


@BOTH
@pytest.mark.parametrize(
    ("code", "status", "media_type"),
    [
        ("grant_window_exceeded", 402, "application/json"),
        ("grant_recipient_not_allowed", 403, "application/problem+json"),
        ("grant_entrypoint_not_allowed", 403, "application/problem+json"),
        ("grant_not_found", 404, "application/problem+json"),
    ],
)
async def test_a_grants_refusal_has_its_own_status_code_and_details(
    path: str, code: str, status: int, media_type: str
) -> None:
    grant = {"grantId": "g", "limit": "1", "used": "1", "requested": "2", "fallback": None}
    told = {**grant, "alias": "A", "status": status, "retryable": True, "retryAfter": 9}
    shop = Shop(Played({**REFUSED, "code": code, "grant": told}))
    answer = await shop.send("GET", path, headers=HEADERS)
    body = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code)
    assert body.items() >= {**grant, "alias": "A", "retryable": True}.items()
    assert body["title"] == HTTPStatus(status).phrase
    assert (body["verdict"], parse_challenge(body).price_per_unit) == ("rejected", 10_000)
    assert answer.headers["content-type"] == media_type
    assert (answer.headers["retry-after"], answer.headers["cache-control"]) == ("9", "no-store")
    assert shop.seen == []


@BOTH
async def test_a_replayed_voucher_is_not_served_again(path: str) -> None:
    shop = Shop(Played(ACCEPTED, REPLAYED))
    await shop.send("GET", path, headers=HEADERS)
    answer = await shop.send("GET", path, headers=HEADERS)
    body = answer.json()
    assert (answer.status_code, len(shop.seen)) == (402, 1)
    assert (body["verdict"], body["code"]) == ("replayed", "amount_not_monotonic")
    assert body["receipt"] == REPLAYED["receipt"]


@BOTH
async def test_by_choice_a_replay_reaches_the_handler_and_is_marked(path: str) -> None:
    shop = Shop(Played(ACCEPTED, REPLAYED, REFUSED), replays=True)
    for _ in range(2):
        assert (await shop.send("GET", path, headers=HEADERS)).status_code == 200
    assert [payment.replayed for payment in shop.seen] == [False, True]
    assert (await shop.send("GET", path, headers=HEADERS)).status_code == 402


@BOTH
async def test_options_is_free(path: str) -> None:
    shop = Shop(Played(ACCEPTED))
    answer = await shop.send("OPTIONS", path)
    assert (answer.status_code, shop.played.asked) == (200, [])


@BOTH
async def test_a_header_that_is_not_json_is_400(path: str) -> None:
    shop = Shop(Played(ACCEPTED))
    for headers in ({"x-mpp-voucher": "{"}, [("x-mpp-voucher", VOUCHER)] * 2):
        answer = await shop.send("GET", path, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_voucher_json")
    assert (shop.seen, shop.played.asked) == ([], [])


@BOTH
@pytest.mark.parametrize("failure", [httpx.ConnectError("refused"), httpx.Response(503)], ids=repr)
async def test_while_the_ledger_is_away_nothing_is_served_and_nothing_is_lost(
    path: str, failure: Any
) -> None:
    shop = Shop(Played(failure, ACCEPTED))
    answer = await shop.send("GET", path, headers=HEADERS)
    body = answer.json()
    assert (answer.status_code, shop.seen) == (503, [])
    assert (body["code"], body["retryable"]) == ("payment_unavailable", True)
    assert int(answer.headers["retry-after"]) > 0
    assert (await shop.send("GET", path, headers=HEADERS)).status_code == 200
    assert len(set(shop.played.keys)) == 1


@BOTH
async def test_a_seller_with_a_wrong_key_serves_nothing(path: str) -> None:
    shop = Shop(Played(problem(401, "unauthorized")))
    with pytest.raises(LedgerRefused, match="unauthorized"):
        async with Client(transport=httpx.ASGITransport(shop.app), base_url="http://s") as client:  # type: ignore[arg-type]
            await client.get(path, headers=HEADERS)
    assert shop.seen == []


@pytest.mark.parametrize("fail", [RuntimeError("broken"), 500, 503], ids=repr)
async def test_a_voucher_whose_handler_failed_is_served_when_it_comes_again(fail: Any) -> None:
    shop = Shop(Played(ACCEPTED, REPLAYED))
    shop.fail = fail
    failed = await shop.send("GET", "/middleware", headers=HEADERS)
    assert failed.status_code >= 500
    assert "x-mpp-receipt" not in failed.headers  # the buyer keeps the voucher
    shop.fail = None
    assert (await shop.send("GET", "/middleware", headers=HEADERS)).status_code == 200
    assert len(shop.played.asked) == 1
    assert (await shop.send("GET", "/middleware", headers=HEADERS)).status_code == 402


async def test_a_refusal_by_the_handler_is_an_answer_that_was_paid_for() -> None:
    shop = Shop(Played(ACCEPTED, REPLAYED))
    shop.fail = 404
    assert (await shop.send("GET", "/middleware", headers=HEADERS)).status_code == 404
    assert (await shop.send("GET", "/middleware", headers=HEADERS)).status_code == 402


async def test_who_leaves_after_the_first_byte_is_not_served_again_for_nothing() -> None:
    async def cut(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"most of it", "more_body": True})
        raise OSError("the client is gone")

    shop = Shop(Played(ACCEPTED, REPLAYED))
    shop.app = PaidMiddleware(cut, shop.server, {"/": 1})
    await shop.send("GET", "/", headers=HEADERS)
    assert (await shop.send("GET", "/", headers=HEADERS)).status_code == 402


@pytest.mark.parametrize(
    ("path", "price"),
    [
        ("/middleware", "10000"),
        ("/middleware/below/a", "7"),
        ("/middleware/below/a/b", "7"),
        ("/middleware/below/", "7"),
        ("/middleware/below/*", "7"),
        ("/middleware/below/%61", "7"),
        ("/%6diddleware", "10000"),
        ("/middleware?x=/free", "10000"),
        ("/free", None),
        ("/free/middleware", None),
        ("/", None),
    ],
)
async def test_a_path_is_charged_as_the_application_reads_it(path: str, price: str | None) -> None:
    answer = await Shop(Played(ACCEPTED)).send("GET", path)
    if price is None:
        assert answer.status_code in (200, 404)
    else:
        assert (answer.status_code, answer.json()["pricePerUnit"]) == (402, price)


async def test_an_application_under_a_prefix_keeps_its_own_paths() -> None:
    shop = Shop(Played(ACCEPTED))
    inner = shop.app

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "root_path": "/api"}, receive, send)

    shop.app = mounted  # type: ignore[assignment]
    assert (await shop.send("GET", "/api/middleware")).status_code == 402
    assert (await shop.send("GET", "/middleware")).status_code == 402
    assert (await shop.send("GET", "/api/free")).status_code == 200


async def test_a_websocket_on_a_paid_path_is_refused() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/middleware", "headers": []}
    await Shop(Played(ACCEPTED)).app(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize("price", [0, "0", -1, "x", 1.5])
def test_a_paid_route_costs_something(price: Any) -> None:
    with pytest.raises(SellerSetupError, match="price"):
        Shop(Played(ACCEPTED), price=price)


def test_a_voucher_header_is_read_as_the_references_clients_write_it() -> None:
    text = '{"voucher": {"channelId": "é"}}'
    assert voucher_of({"headers": [(b"X-Mpp-Voucher", text.encode("latin-1"))]}) == text
    assert voucher_of({"headers": [(b"x-mpp", b"1")]}) is None


async def test_what_the_buyer_signed_reaches_the_ledger_unchanged() -> None:
    shop = Shop(Played(ACCEPTED))
    voucher = {"voucher": {"channelId": "é", "n": 1}, "signature": "s", "signer": "k"}
    raw = json.dumps(voucher, ensure_ascii=False).encode("latin-1")
    await shop.send("GET", "/middleware", headers={"x-mpp-voucher": raw})  # type: ignore[dict-item]
    assert shop.played.bodies[0]["voucher"] == voucher["voucher"]
