"""Sellers, their keys, and the challenge, over HTTP. Spec: HTTP contract, "Sellers"."""

import re
from typing import Any

import pytest
from running import PRICE, Caller, Seller, Service, fresh, problem_of, seed, until
from solders.keypair import Keypair


def terms(**changes: Any) -> dict[str, Any]:
    name = fresh("terms")
    recipient = str(Keypair.from_seed(seed(name)).pubkey())
    body = {"name": name, "recipient": recipient, "pricePerUnit": "7", **changes}
    return {key: value for key, value in body.items() if value is not ...}


def test_a_registration_answers_with_every_term_and_a_key_that_works(service: Service) -> None:
    body = terms(
        network="localnet",
        meter="call",
        meters={"t": {"unit": "u", "rounding": "up", "rate": {"amount": "3", "per": 2}}},
        suggestedDeposit="900",
        strictMeter=True,
        unknownChannels="refuse",
        requireNonce=True,
        limits={"maxIncrement": "5", "maxCumulative": "50", "maxVouchers": 9},
    )
    answer = service.admin.post("/v1/sellers", json=body)
    assert answer.status_code == 201
    shown = answer.json()
    assert re.fullmatch(r"slr_[0-9a-f]{20}", shown["sellerId"])
    assert shown["meters"].pop("t")["rate"] == {"amount": "3", "per": "2"}
    assert {name: shown[name] for name in body} == {**body, "meters": {}}
    assert (shown["priceVersion"], shown["sharedRecipient"]) == (1, False)
    assert [key["keyId"] for key in shown["keys"]] == [shown["keyId"]]
    assert Caller(service, shown["apiKey"]).get("/v1/challenge").status_code == 200
    stored = service.admin.get(f"/v1/sellers/{shown['sellerId']}")
    assert shown["apiKey"] not in stored.text
    assert stored.json()["keys"] == shown["keys"]
    listed = service.admin.get("/v1/sellers").json()["sellers"]
    assert stored.json() in listed


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": ...}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"recipient": ...}, "recipient"),
        ({"recipient": " "}, "recipient"),
        ({"recipient": "1" * 31}, "recipient"),
        ({"recipient": "0" * 32}, "recipient"),
        ({"pricePerUnit": ...}, "pricePerUnit"),
        ({"pricePerUnit": 7}, "pricePerUnit"),
        ({"pricePerUnit": "-1"}, "pricePerUnit"),
        ({"pricePerUnit": "18446744073709551616"}, "pricePerUnit"),
        ({"network": "devnet"}, "network"),
        ({"network": "testnet"}, "network"),
        ({"meter": "a|b"}, "meter"),
        ({"meters": []}, "meters"),
        ({"meters": {"m": {}}}, "meters.m"),
        ({"suggestedDeposit": "1.0"}, "suggestedDeposit"),
        ({"strictMeter": "yes"}, "strictMeter"),
        ({"unknownChannels": "maybe"}, "unknownChannels"),
        ({"requireNonce": 1}, "requireNonce"),
        ({"limits": {"maxVouchers": 0}}, "limits.maxVouchers"),
        ({"limits": {"maxIncrement": "18446744073709551616"}}, "limits.maxIncrement"),
        ({"limits": {"maxSomething": 1}}, "maxSomething"),
        ({"apiKey": "slk_mine"}, "apiKey"),
        ({"sellerId": "slr_mine"}, "sellerId"),
    ],
    ids=str,
)
def test_a_wrong_term_is_refused_by_name(
    service: Service, changes: dict[str, Any], named: str
) -> None:
    answer = service.admin.post("/v1/sellers", json=terms(**changes))
    assert named in problem_of(answer, 400, "invalid_request")["detail"]


def test_a_recipient_belongs_to_one_seller_unless_it_is_shared(service: Service) -> None:
    body = terms()
    assert service.admin.post("/v1/sellers", json=body).status_code == 201
    again = service.admin.post("/v1/sellers", json={**body, "name": "another"})
    problem_of(again, 409, "recipient_in_use")
    shared = service.admin.post("/v1/sellers", json={**body, "sharedRecipient": True})
    assert shared.status_code == 201
    assert shared.json()["sharedRecipient"] is True


def test_a_registration_keeps_no_idempotent_answer(service: Service) -> None:
    answer = service.admin.post("/v1/sellers", json=terms(), headers={"idempotency-key": "k"})
    assert "secret" in problem_of(answer, 400, "invalid_request")["detail"]


def test_the_challenge_says_all_that_a_client_needs(service: Service) -> None:
    seller = service.seller(pricePerUnit="250", meter="call")
    challenge = seller.get("/v1/challenge").json()
    assert re.fullmatch(r"solana:[1-9A-HJ-NP-Za-km-z]{32}", challenge.pop("chainId"))
    assert challenge == {
        "type": "mpp-session",
        "recipient": seller.facts["recipient"],
        "network": "localnet",
        "pricePerUnit": "250",
        "meter": "call",
        "suggestedDeposit": "25000",
        "channelProgram": "swigypWHEksbC64pWKwah1WTeh9JXwx8H1rJHLdbQMB",
    }


def test_the_challenge_names_the_deposit_that_the_seller_suggests(service: Service) -> None:
    seller = service.seller(suggestedDeposit="123")
    assert seller.get("/v1/challenge").json()["suggestedDeposit"] == "123"


def test_a_nonce_of_the_challenge_is_good_for_one_voucher(service: Service) -> None:
    seller, buyer = service.seller(), service.buyer()
    assert "serverNonce" not in seller.get("/v1/challenge").json()
    nonce = seller.get("/v1/challenge", nonce="true").json()["serverNonce"]
    assert nonce != seller.get("/v1/challenge", nonce="true").json()["serverNonce"]
    first = seller.verify(buyer.pay(seller, "a", PRICE, 1, serverNonce=nonce))
    assert first["verdict"] == "accepted"
    spent = seller.verify(buyer.pay(seller, "a", 2 * PRICE, 2, serverNonce=nonce))
    assert (spent["verdict"], spent["code"]) == ("rejected", "nonce_unknown")
    elsewhere = seller.verify(service.buyer().pay(seller, "b", PRICE, 1, serverNonce=nonce))
    assert elsewhere["code"] == "nonce_unknown"
    own = seller.verify(buyer.pay(seller, "a", 2 * PRICE, 2, serverNonce="the buyer's own"))
    assert own["verdict"] == "accepted"


def test_a_replay_of_a_voucher_with_a_spent_nonce_still_gives_its_receipt(
    service: Service,
) -> None:
    seller, buyer = service.seller(requireNonce=True), service.buyer()
    nonce = seller.get("/v1/challenge", nonce="true").json()["serverNonce"]
    signed = buyer.pay(seller, "a", PRICE, 1, serverNonce=nonce)
    first, again = seller.verify(signed), seller.verify(signed)
    assert (again["verdict"], again["receipt"]) == ("replayed", first["receipt"])


def test_a_nonce_is_the_sellers_own_and_cannot_be_forged(service: Service) -> None:
    seller, other = service.seller(requireNonce=True), service.seller()
    buyer = service.buyer()
    nonce = seller.get("/v1/challenge", nonce="true").json()["serverNonce"]
    foreign = other.get("/v1/challenge", nonce="true").json()["serverNonce"]
    flipped = nonce[:-4] + ("A" if nonce[-4] != "A" else "B") + nonce[-3:]
    for bad in (foreign, flipped, nonce + "=", "sln1.", "sln1.%%%", "other", "", ...):
        refused = seller.verify(buyer.pay(seller, "a", PRICE, 1, serverNonce=bad))
        assert refused["error"] == "nonce_unknown", bad
    good = seller.verify(buyer.pay(seller, "a", PRICE, 1, serverNonce=nonce))
    assert good["verdict"] == "accepted"


def test_keys_are_issued_beside_each_other_and_revoked_one_by_one(service: Service) -> None:
    seller = service.seller()
    keys = f"/v1/sellers/{seller.id}/keys"
    issued = service.admin.post(keys, json={"label": "second"})
    assert issued.status_code == 201
    second = Caller(service, issued.json()["apiKey"])
    assert second.token != seller.token
    assert [key["label"] for key in issued.json()["keys"]] == ["first", "second"]
    assert seller.get("/v1/challenge").json() == second.get("/v1/challenge").json()
    assert service.admin.delete(f"{keys}/{issued.json()['keyId']}").status_code == 204
    until(lambda: second.get("/v1/challenge").status_code == 401, seconds=3)
    assert seller.get("/v1/challenge").status_code == 200
    shown = service.admin.get(f"/v1/sellers/{seller.id}").json()["keys"]
    assert [bool(key["revokedAt"]) for key in shown] == [False, True]
    assert service.admin.delete(f"{keys}/{issued.json()['keyId']}").status_code == 204
    assert service.admin.get(f"/v1/sellers/{seller.id}").json()["keys"] == shown


def test_a_key_needs_no_body_and_no_label(service: Service) -> None:
    seller = service.seller()
    issued = service.admin.post(f"/v1/sellers/{seller.id}/keys")
    assert issued.status_code == 201
    assert issued.json()["keys"][-1]["label"] == ""


def test_a_key_that_was_never_issued_cannot_be_revoked(service: Service) -> None:
    seller = service.seller()
    answer = service.admin.delete(f"/v1/sellers/{seller.id}/keys/{'0' * 12}")
    problem_of(answer, 400, "invalid_request")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("POST", "/prices", {"pricePerUnit": "1"}),
        ("POST", "/keys", {}),
        ("DELETE", "/keys/" + "0" * 12, None),
    ],
)
def test_an_unknown_seller_is_not_found(
    service: Service, method: str, path: str, body: dict[str, str] | None
) -> None:
    answer = service.admin.send(method, f"/v1/sellers/slr_{'0' * 20}{path}", json=body)
    problem_of(answer, 404, "seller_not_found")


@pytest.mark.parametrize(
    "token", ["nonsense", "slk_", "slk_a", "slk_a_", "slk__b", "Bearer", "slk_0123456789ab_x"]
)
def test_a_key_that_opens_nothing_is_unauthorized_everywhere(service: Service, token: str) -> None:
    stranger = Caller(service, token)
    answers = [
        stranger.get("/v1/challenge"),
        stranger.post("/v1/vouchers/verify", content=b"{"),
        stranger.post("/v1/sellers", content=b"{"),
        stranger.get("/v1/sellers"),
        stranger.get("/v1/events/stream"),
    ]
    for answer in answers:
        problem_of(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_no_key_opens_the_other_kind_of_route(service: Service, seller: Seller) -> None:
    problem_of(service.admin.get("/v1/challenge"), 401, "unauthorized")
    problem_of(seller.get("/v1/sellers"), 401, "unauthorized")
    problem_of(seller.post("/v1/sellers", json=terms()), 401, "unauthorized")
    problem_of(seller.get(f"/v1/sellers/{seller.id}"), 401, "unauthorized")
    key = seller.facts["keyId"]
    problem_of(seller.delete(f"/v1/sellers/{seller.id}/keys/{key}"), 401, "unauthorized")
    assert seller.get("/v1/challenge").status_code == 200


def test_the_secret_of_a_key_decides_not_its_public_part(service: Service, seller: Seller) -> None:
    changed = seller.token[:-1] + ("A" if seller.token[-1] != "A" else "B")
    problem_of(Caller(service, changed).get("/v1/challenge"), 401, "unauthorized")


def test_the_operators_routes_tell_how_the_process_fares(service: Service) -> None:
    assert service.http.get("/healthz").json() == {"status": "ok"}
    ready = service.http.get("/readyz")
    assert (ready.status_code, ready.json()) == (
        200,
        {"status": "ready", "database": "ok", "rpc": "ok"},
    )
    metrics = service.http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert 'session_ledger_requests_total{status="200"}' in metrics.text


def test_every_answer_carries_an_id_and_forbids_keeping_it(service: Service) -> None:
    first, second = service.http.get("/healthz"), service.http.get("/nowhere")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert problem_of(second, 404, "not_found")
    for answer in (first, second):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
