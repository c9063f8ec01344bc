"""Another seller's id answers exactly as an unknown one. Spec: "Who may call"."""

import json
import re
from typing import Any

import pytest
from running import PRICE, Buyer, Caller, Seller, Service, path_of, settled

OPEN = {"/healthz", "/readyz", "/metrics"}
METHODS = ("get", "post", "delete", "put", "patch")
# Routes of sellers that name something by its id; all others name nothing.
BY_ID = {
    "GET /v1/sessions/{channel_id}",
    "DELETE /v1/sessions/{channel_id}",
    "GET /v1/sessions/{channel_id}/vouchers",
    "GET /v1/sessions/{channel_id}/rejections",
    "POST /v1/sessions/{channel_id}/close",
    "GET /v1/settlements/{settlementId}",
}
_REQUEST_ID = re.compile(r"req_[0-9a-f]{16}")


def operations(service: Service) -> list[tuple[str, str]]:
    paths: dict[str, Any] = service.http.get("/openapi.json").json()["paths"]
    return [
        (method.upper(), path)
        for path, found in paths.items()
        for method in found
        if method in METHODS
    ]


@pytest.fixture
def owner(service: Service, buyer: Buyer) -> Seller:
    """A seller with a parked settlement, which waits for an operator, refusals, and a session."""
    seller = service.seller("owner")
    assert seller.verify(buyer.pay(seller, "secret channel", PRICE, 1))["valid"]
    assert not seller.verify(buyer.pay(seller, "secret channel", PRICE, 2))["valid"]
    assert seller.verify(buyer.pay(seller, "open channel", PRICE, 1))["valid"]
    closed = seller.close("secret channel").json()["settlement"]
    settled(seller, closed["settlementId"], "parked")
    return seller


def test_every_route_that_names_an_id_is_known_here(service: Service) -> None:
    named = {
        f"{method} {path}"
        for method, path in operations(service)
        if "{" in path and not path.startswith("/v1/sellers/")
    }
    assert named == BY_ID


async def test_another_sellers_id_answers_as_an_unknown_one(
    service: Service, owner: Seller, seller: Seller
) -> None:
    before = await service.contents(owner)
    settlement = owner.session("secret channel")["settlement"]["settlementId"]
    for method, path in operations(service):
        if f"{method} {path}" not in BY_ID:
            continue
        foreign = path.replace("{channel_id}", "secret%20channel")
        unknown = path.replace("{channel_id}", "nobodys%20channel")
        foreign = foreign.replace("{settlementId}", settlement)
        unknown = unknown.replace("{settlementId}", "stl_" + "0" * 32)
        seen, wanted = seller.send(method, foreign), seller.send(method, unknown)
        assert seen.status_code == wanted.status_code, (method, path)
        text = seen.text.replace(settlement, "ID")
        text, other = (_REQUEST_ID.sub("", t) for t in (text, wanted.text))
        assert text == other.replace("stl_" + "0" * 32, "ID"), (method, path)
        assert set(seen.headers) == set(wanted.headers)
    assert await service.contents(owner) == before


def test_listings_show_the_callers_own_things_only(owner: Seller, seller: Seller) -> None:
    assert seller.get("/v1/sessions").json()["sessions"] == []
    assert seller.get("/v1/rejections").json() == {"counts": [], "recent": []}
    assert {event["stream"] for event in seller.events()} == {"seller"}
    assert owner.id not in json.dumps(seller.events())
    assert len(owner.get("/v1/sessions").json()["sessions"]) == 2


def test_a_cursor_of_another_seller_opens_nothing_of_theirs(
    owner: Seller, seller: Seller, buyer: Buyer
) -> None:
    cursor = owner.get("/v1/sessions", limit=1).json()["nextCursor"]
    assert seller.verify(buyer.pay(seller, "own", PRICE, 1))["valid"]
    page = seller.get("/v1/sessions", cursor=cursor).json()["sessions"]
    assert {session["channelId"] for session in page} <= {"own"}
    after = owner.events()[0]["cursor"]
    assert owner.id not in json.dumps(seller.events(after=after))


def test_one_channel_id_is_two_channels_for_two_sellers(
    owner: Seller, seller: Seller, buyer: Buyer
) -> None:
    assert seller.verify(buyer.pay(seller, "secret channel", 7 * PRICE, 1))["valid"]
    assert seller.session("secret channel")["cumulativeAmount"] == str(7 * PRICE)
    assert owner.session("secret channel")["cumulativeAmount"] == str(PRICE)
    assert seller.session("secret channel")["state"] == "open"


def test_one_sellers_voucher_is_no_money_for_another(
    owner: Seller, seller: Seller, buyer: Buyer
) -> None:
    verdict = seller.verify(buyer.pay(owner, "c", PRICE, 1))
    assert verdict["code"] == "recipient_mismatch"


def test_no_route_but_the_open_ones_answers_without_a_key(service: Service, seller: Seller) -> None:
    nobody = Caller(service, "slk_nobody_nothing")
    for method, path in operations(service):
        concrete = path.replace("{sellerId}", seller.id).replace("{keyId}", "0" * 12)
        concrete = re.sub(r"\{\w+\}", "x", concrete)
        for answer in (nobody.send(method, concrete), service.http.request(method, concrete)):
            assert (answer.status_code == 401) == (path not in OPEN), (method, path)


def test_a_sellers_key_opens_no_route_of_operators(service: Service, seller: Seller) -> None:
    for method, path in operations(service):
        if path.startswith("/v1/sellers"):
            concrete = path.replace("{sellerId}", seller.id).replace("{keyId}", "0" * 12)
            assert seller.send(method, concrete).status_code == 401, (method, path)
    assert path_of("a/b") == "/v1/sessions/a%2Fb"
