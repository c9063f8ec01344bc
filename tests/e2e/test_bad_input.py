"""No request, however malformed, gives a 5xx or changes state."""

import gzip
import json
from typing import Any, Final

import pytest
from hostile import BODIES, MESSAGES, PATHS, QUERIES, VALUES
from raw_http import exchange, request
from running import PRICE, Buyer, Caller, Seller, Service, fresh

CHANNEL: Final = "bad input"


@pytest.fixture
def buyer(service: Service, seller: Seller) -> Buyer:
    """A buyer with one accepted voucher, so that there is a state to change."""
    buyer = service.buyer()
    assert seller.verify(buyer.pay(seller, CHANNEL, PRICE, 1))["valid"]
    return buyer


def routes_with_body(seller: Seller) -> list[tuple[Caller, str]]:
    admin = seller.service.admin
    return [
        (admin, "/v1/sellers"),
        (admin, f"/v1/sellers/{seller.id}/prices"),
        (admin, f"/v1/sellers/{seller.id}/keys"),
        (seller, "/v1/vouchers/verify"),
        (seller, "/v1/vouchers/verify-batch"),
        (seller, "/v1/sessions"),
        (seller, "/v1/sessions/bad%20input/close"),
    ]


def all_routes(seller: Seller) -> list[tuple[Caller, str, str]]:
    admin, sessions = seller.service.admin, "/v1/sessions"
    reads: list[tuple[Caller, str, str]] = [
        (admin, "GET", "/v1/sellers"),
        (admin, "GET", f"/v1/sellers/{seller.id}"),
        (seller, "GET", "/v1/challenge"),
        (seller, "GET", sessions),
        (seller, "GET", f"{sessions}/bad%20input"),
        (seller, "GET", f"{sessions}/bad%20input/vouchers"),
        (seller, "GET", f"{sessions}/bad%20input/rejections"),
        (seller, "GET", "/v1/rejections"),
        (seller, "GET", "/v1/events"),
        (seller, "GET", "/v1/settlements/stl_unknown"),
        (seller, "GET", "/healthz"),
        (seller, "GET", "/readyz"),
        (seller, "GET", "/metrics"),
        (seller, "GET", "/openapi.json"),
    ]
    return reads + [(caller, "POST", path) for caller, path in routes_with_body(seller)]


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_no_route_wants_is_refused_and_changes_nothing(
    service: Service, seller: Seller, buyer: Buyer, name: str
) -> None:
    before = await service.contents(seller)
    for caller, path in routes_with_body(seller):
        for content_type in ("application/json", "text/plain"):
            answer = caller.post(path, content=BODIES[name], headers={"content-type": content_type})
            refused = 400 <= answer.status_code < 500
            verdict = path == "/v1/vouchers/verify" and answer.status_code == 200
            assert refused or verdict, (path, answer.status_code, answer.text[:500])
            if verdict:
                assert answer.json()["error"] == "missing_voucher_fields"
            else:
                assert answer.headers["content-type"] == "application/problem+json"
    assert await service.contents(seller) == before


async def test_a_name_given_twice_is_refused_although_each_alone_would_do(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    before = await service.contents(seller)
    admin = service.admin
    price, source = b'"pricePerUnit": "7"', json.dumps({"sourceTokenAccount": buyer.source})[1:-1]
    meter = b'{"unit": "u", "rounding": "up", "rate": {"amount": "1", "per": "1", "per": "2"}}'
    for caller, path, body in (
        (admin, f"/v1/sellers/{seller.id}/keys", b'{"label": "x", "label": "x"}'),
        (admin, f"/v1/sellers/{seller.id}/prices", b"{" + price + b"," + price + b"}"),
        (admin, f"/v1/sellers/{seller.id}/prices",
         b"{" + price + b', "meters": {"m": ' + meter + b"}}"),
        (seller, "/v1/sessions/bad%20input/close", f"{{{source}, {source}}}".encode()),
    ):  # fmt: skip
        answer = caller.post(path, content=body)
        assert answer.status_code == 400, answer.text
        assert "repeats a name" in answer.json()["detail"]
    assert await service.contents(seller) == before


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "utf-16", "identity, gzip"])
async def test_a_declared_encoding_changes_no_verdict(
    service: Service, seller: Seller, encoding: str
) -> None:
    before = await service.contents(seller)
    body = gzip.compress(json.dumps(service.buyer().pay(seller, "zipped", PRICE, 1)).encode())
    answer = seller.post(
        "/v1/vouchers/verify", content=body, headers={"content-encoding": encoding}
    )
    assert answer.status_code == 400
    assert await service.contents(seller) == before


FIELDS: Final = [
    pytest.param(field, value, id=f"{field}-{name}")
    for field in ("deposit", "validUntil", "channelId", "payer", "sessionPubkey")
    for name, value in VALUES.items()
    if not (field == "validUntil" and name == "number")
    if not (field == "channelId" and isinstance(value, str) and 0 < len(value) <= 128)
]


@pytest.mark.parametrize(("field", "value"), FIELDS)
async def test_a_registration_with_one_bad_field_is_refused(
    service: Service, seller: Seller, field: str, value: object
) -> None:
    before = await service.contents(seller)
    answer = seller.open(service.buyer(), fresh("channel"), **{field: value})
    assert answer.status_code == 400, answer.text
    assert field in answer.json()["detail"]
    assert await service.contents(seller) == before


@pytest.mark.parametrize(
    "until", [253_402_300_800, 2**43, 9_007_199_254_740, 2**53 - 1, 2**64, -1, 1.5, 1e300]
)
def test_an_end_that_no_calendar_has_is_refused(
    service: Service, seller: Seller, until: float
) -> None:
    answer = seller.open(service.buyer(), fresh("channel"), validUntil=until)
    assert answer.status_code == 400, answer.text


def test_the_last_second_of_the_calendar_is_an_end(service: Service, seller: Seller) -> None:
    answer = seller.open(service.buyer(), fresh("channel"), validUntil=253_402_300_799)
    assert answer.status_code == 201, answer.text
    assert answer.json()["validUntil"] == "9999-12-31T23:59:59.000Z"


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query[:40])
async def test_a_query_of_garbage_is_refused_or_ignored(
    service: Service, seller: Seller, buyer: Buyer, query: str
) -> None:
    before = await service.contents(seller)
    for caller, method, path in all_routes(seller):
        body = b'{"x": 1}' if method == "POST" else b""  # refused, so that only the query is judged
        status = exchange(service, request(method, f"{path}?{query}", caller.token, body))
        assert status is not None
        assert status < 500, (method, path)
    assert await service.contents(seller) == before


@pytest.mark.parametrize("part", PATHS, ids=lambda part: part[:30] or "empty")
async def test_a_path_of_garbage_finds_nothing(
    service: Service, seller: Seller, buyer: Buyer, part: str
) -> None:
    before = await service.contents(seller)
    routes = [
        (seller, "GET", "/v1/sessions/{}"),
        (seller, "GET", "/v1/sessions/{}?at=1"),
        (seller, "GET", "/v1/sessions/{}/vouchers"),
        (seller, "GET", "/v1/sessions/{}/rejections"),
        (seller, "DELETE", "/v1/sessions/{}"),
        (seller, "POST", "/v1/sessions/{}/close"),
        (seller, "GET", "/v1/settlements/{}"),
        (service.admin, "GET", "/v1/sellers/{}"),
        (service.admin, "POST", "/v1/sellers/{}/prices"),
        (service.admin, "POST", "/v1/sellers/{}/keys"),
        (service.admin, "DELETE", f"/v1/sellers/{seller.id}/keys/{{}}"),
        (seller, "GET", "/{}"),
    ]
    for caller, method, path in routes:
        status = exchange(service, request(method, path.format(part), caller.token))
        assert status is not None
        assert status < 500, (method, path, status)
    assert await service.contents(seller) == before


@pytest.mark.parametrize("name", MESSAGES)
async def test_a_message_that_is_hardly_http_harms_nothing(
    service: Service, seller: Seller, buyer: Buyer, name: str
) -> None:
    before = await service.contents(seller)
    log = len(service.logged())
    message = MESSAGES[name]
    auth = b"authorization: Bearer " + seller.token.encode()
    status = exchange(service, message.text.replace(b"{auth}", auth), cut=message.cut)
    assert status is None or status < 500
    assert service.http.get("/healthz").status_code == 200
    assert await service.contents(seller) == before
    assert "request_crashed" not in service.logged()[log:]
    assert "Exception in ASGI" not in service.logged()[log:]


METHODS: Final = ["PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "DELETE", "GET", "POST", "PROPFIND"]


async def test_a_method_that_a_route_does_not_have_is_refused_and_the_others_named(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    before = await service.contents(seller)
    paths: dict[str, Any] = service.http.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        concrete = path.replace("{channel_id}", "bad%20input").replace("{sellerId}", seller.id)
        concrete = concrete.replace("{keyId}", "0" * 12).replace("{settlementId}", "stl_unknown")
        for method in METHODS:
            if method.lower() not in operations:
                answer = seller.send(method, concrete)
                assert answer.status_code == 405, (method, path)
                allowed = {name.strip().lower() for name in answer.headers["allow"].split(",")}
                assert allowed == set(operations) & {"get", "post", "delete"}, path
    assert await service.contents(seller) == before
