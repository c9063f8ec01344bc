"""Another seller's id answers exactly as an unknown one. Spec: "Who may call"."""

import base64
import json
import re
from dataclasses import dataclass
from typing import Any

import direct_rig as direct
import pytest
from buyer_onboarding import Onboarding, fund
from charge_rig import ata, charge, pay, wire
from running import PRICE, USDC, Buyer, Caller, Seller, Service, path_of, settled, until
from solders.keypair import Keypair

OPEN = {"/healthz", "/readyz", "/metrics"}
BUYERS = ("/mpp/", "/api/sessions/", "/x402/", "/v1/grants")
PROVEN = "/api/sessions/onboard"
"""Buyers' routes that a wallet's own proof opens; the others of them are open."""
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
BY_SIGNATURE = {
    "GET /v1/payments/{signature}": None,
    "POST /v1/payments/{signature}/delivery-failed": {"resource": "https://shop.example/a"},
}
"""The same for direct payments, with a body."""
BY_LEASE = {"POST /v1/sessions/{channel_id}/lease", "DELETE /v1/sessions/{channel_id}/lease"}
"""Any channel id may be leased, known or not: each seller has leases of its own."""
BY_GRANT = {"GET /v1/grants/{grant_id}", "POST /v1/grants/{grant_id}/revoke"}
"""A grant's id is in its vouchers, for its sellers to read; its owner's signature revokes it."""
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
    assert named == BY_ID | BY_SIGNATURE.keys() | BY_LEASE | BY_GRANT


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


def test_another_sellers_payment_answers_as_an_unknown_one(
    service: Service, seller: Seller
) -> None:
    call, mint, owner, payer = service.chain.call, service.chain.mint, service.seller(), Keypair()
    till = direct.give(call, owner.wallet.pubkey(), mint, 0)
    source = direct.give(call, payer.pubkey(), mint, PRICE)
    step = direct.transfer(source, till, payer.pubkey(), PRICE, mint)
    signature = direct.land(call, step, signers=[payer])
    query = {"resource": "https://shop.example/a"}
    asked = owner.get("/v1/payments/requirements", **query).json()["accepts"][0]
    header = direct.header_of(signature, payer.pubkey(), PRICE, mint)
    body = {"paymentHeader": header, "paymentRequirements": asked}
    assert owner.post("/v1/payments/verify", json=body).json()["isValid"] is True
    unknown = str(payer.sign_message(b"never sent"))
    for route, given in BY_SIGNATURE.items():
        method, path = route.split(" ")
        seen, wanted = (
            seller.send(method, path.replace("{signature}", name), json=given)
            for name in (signature, unknown)
        )
        assert seen.status_code == wanted.status_code == 404, route
        text, other = (_REQUEST_ID.sub("", answer.text) for answer in (seen, wanted))
        assert text == other
        assert set(seen.headers) == set(wanted.headers)
    found = owner.get(f"/v1/payments/{signature}").json()
    assert (found["deliveriesFailed"], found["redeliveryOwed"]) == (0, False)
    assert seller.get("/v1/payments").json()["payments"] == []


def test_another_sellers_lease_of_the_same_channel_id_is_another_lease(
    owner: Seller, seller: Seller
) -> None:
    path = path_of("secret channel") + "/lease"
    for caller, holder in ((owner, "a" * 32), (seller, "b" * 32)):
        assert caller.post(path, json={"holder": holder, "ttlSeconds": 30}).status_code == 200
    assert seller.send("DELETE", path, params={"holder": "a" * 32}).status_code == 204
    taken = owner.post(path, json={"holder": "c" * 32, "ttlSeconds": 30})
    assert (taken.status_code, taken.json()["code"]) == (409, "lease_held")


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
        closed = path.startswith(PROVEN) or not (path in OPEN or path.startswith(BUYERS))
        for answer in (nobody.send(method, concrete), service.http.request(method, concrete)):
            assert (answer.status_code == 401) == closed, (method, path)


def test_no_key_stands_for_the_proof_of_a_wallet(service: Service, seller: Seller) -> None:
    for method, path in operations(service):
        if path.startswith(PROVEN):
            for caller in (seller, service.admin):
                answer = caller.send(method, path, params={"buyer_wallet": "x"})
                assert answer.json()["error"] == "sign_in_required", (method, path)


def test_a_sellers_key_opens_no_route_of_operators(service: Service, seller: Seller) -> None:
    for method, path in operations(service):
        if path.startswith("/v1/sellers"):
            concrete = path.replace("{sellerId}", seller.id).replace("{keyId}", "0" * 12)
            assert seller.send(method, concrete).status_code == 401, (method, path)
    assert path_of("a/b") == "/v1/sessions/a%2Fb"


# --- buyers ---------------------------------------------------------------------------------


@dataclass
class Paid:
    """What a buyer did with its wallet: sessions with two sellers of three, and a payment."""

    owner: Seller
    buyer: Buyer
    channel: str
    stranger: str
    payment_id: str

    @property
    def secrets(self) -> tuple[str, ...]:
        """What tells of the buyer, its sessions and its payment."""
        return (self.buyer.address, self.buyer.source, self.channel, self.payment_id)


def opened(buyer: Buyer, recipient: str) -> str:
    """The channel of a new session in which one voucher was signed."""
    body = {"buyer_wallet": buyer.address, "seller_wallet": recipient, "deposit_atomic": str(USDC)}
    http = buyer.service.http
    channel = http.post("/mpp/session/open", json=body).json()["channel_id"]
    asked = {"channel_id": channel, "amount": str(PRICE), "serverNonce": "n"}
    assert http.post("/mpp/session/voucher", json=asked).json()["success"]
    return str(channel)


@pytest.fixture
def paid(service: Service, buyer: Buyer) -> Paid:
    """A buyer that onboarded, opened a session with a seller of ours and one with nobody of ours,
    and paid the seller once without a session."""
    owner = service.seller("owner")
    service.chain.receive(owner.wallet)
    fund(buyer)
    Onboarding.of(service, buyer).ready(spend_limit_atomic=str(5 * USDC))
    recipient, mint = owner.facts["recipient"], service.facts["mint"]
    channel, stranger = opened(buyer, recipient), str(Keypair().pubkey())
    opened(buyer, stranger)
    prepared = service.http.post("/mpp/prepare").json()
    transfer = pay(
        source=buyer.source,
        destination=ata(recipient, mint),
        authority=buyer.address,
        amount=PRICE,
        mint=mint,
    )
    raw = wire(
        charge(transfer=transfer),
        blockhash=prepared["blockhash"],
        fee_payer=prepared["feePayer"],
        signers=[buyer.wallet],
    )
    body = {
        "transaction": base64.b64encode(raw).decode(),
        "recipient": recipient,
        "amount": str(PRICE),
        "asset": mint,
        "network": "localnet",
    }
    settled_payment = service.http.post("/mpp/settle", json=body).json()
    assert settled_payment["success"], settled_payment
    return Paid(owner, buyer, channel, stranger, settled_payment["paymentId"])


def seen_by(seller: Seller, paid: Paid) -> str:
    """All that a seller's key shows, by what a stranger could ask for."""
    paths = [
        "/v1/sessions", f"/v1/sessions?payer={paid.buyer.address}", "/v1/rejections",
        "/v1/exposure?by=buyer", "/v1/exposure?by=seller",
    ]  # fmt: skip
    texts = [seller.get(path).text for path in paths]
    return json.dumps(seller.events()) + "".join(texts)


def test_a_buyers_wallet_sessions_and_payments_are_not_shown_to_other_sellers(
    paid: Paid, seller: Seller
) -> None:
    seen = seen_by(seller, paid)
    assert [secret for secret in (*paid.secrets, paid.stranger) if secret in seen] == []
    assert seller.get("/v1/exposure").json()["exposures"] == []
    for path in (
        path_of(paid.channel),
        path_of(paid.channel) + "/vouchers",
        f"/v1/settlements/{paid.payment_id}",
    ):
        assert seller.get(path).status_code == 404, path
    own = seen_by(paid.owner, paid)
    assert [secret for secret in paid.secrets if secret not in own] == []


def test_a_seller_sees_of_a_buyer_what_concerns_itself_only(paid: Paid) -> None:
    feed = until(lambda: [e for e in paid.owner.events() if e["stream"] == "payment"] and
                 paid.owner.events())  # fmt: skip
    assert {event["stream"] for event in feed} == {"seller", "session", "payment"}
    assert {event["channelId"] for event in feed} == {None, paid.channel}
    shown = json.dumps(feed) + seen_by(paid.owner, paid)
    assert paid.stranger not in shown
    assert "onboarding" not in shown
    (session,) = paid.owner.get("/v1/sessions").json()["sessions"]
    (row,) = paid.owner.get("/v1/exposure").json()["exposures"]
    assert (session["channelId"], row["openSessions"]) == (paid.channel, 1)
    assert row["deposits"] == str(USDC)


async def test_what_names_no_seller_is_in_nobodys_feed(service: Service, paid: Paid) -> None:
    rows = await service.rows(
        "SELECT stream_id, seller_id FROM streams WHERE stream_id = ANY($1) ORDER BY stream_id",
        [f"wallet/{paid.buyer.address}", f"funding/{paid.buyer.source}"],
    )
    assert [row["seller_id"] for row in rows] == ["", ""]
    found = await service.rows(
        "SELECT DISTINCT seller_id FROM streams WHERE stream_id LIKE $1",
        f"session/wallet_{paid.stranger}/%",
    )
    assert [row["seller_id"] for row in found] == [f"wallet_{paid.stranger}"]
    for token in (f"slk_wallet_{paid.stranger}_x", f"wallet_{paid.stranger}", "slk__x", "slk_"):
        assert Caller(service, token).get("/v1/events").status_code == 401
