"""Session grants over HTTP: what an owner signs once is all that the session key can spend."""

import time
from typing import Any

import pytest
from buyer_onboarding import HEADER, proof
from grant_rig import grant_of, granted, owner_key, register, revoke, shown
from nacl.signing import SigningKey
from running import PRICE, USDC, Buyer, Seller, Service, fresh, seed, until

from session_ledger.encoding import base58_encode
from session_ledger.grant import sign_grant
from session_ledger.voucher import sign_voucher


def refused(verdict: dict[str, Any], code: str) -> dict[str, Any]:
    """The details of a refusal by the grant."""
    assert (verdict["valid"], verdict["verdict"], verdict["code"]) == (False, "rejected", code)
    assert verdict["error"].startswith(f"{code}: ")
    return verdict["grant"]


def test_a_hundred_calls_pass_and_the_next_is_refused_by_the_calls_limit(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    grant = granted(buyer, maxCalls=100, maxTotalAmount=str(200 * PRICE))
    channel = fresh("ch")
    for number in range(1, 101):
        verdict = seller.verify(buyer.pay(seller, channel, number * PRICE, number, grantId=grant))
        assert verdict["verdict"] == "accepted", verdict
    details = refused(
        seller.verify(buyer.pay(seller, channel, 101 * PRICE, 101)), "grant_max_calls_exceeded"
    )
    assert details == {
        "status": 402,
        "grantId": grant,
        "limit": "100",
        "used": "100",
        "requested": "1",
        "retryable": False,
        "fallback": "owner_signature",
        "alias": "SESSION_MAX_CALLS_EXCEEDED",
        "retryAfter": None,
    }
    now = shown(service, grant)
    assert (now["state"], now["isActive"], now["remainingCalls"]) == ("exhausted", False, 0)
    assert (now["amountUsed"], now["callsUsed"]) == (str(100 * PRICE), 100)
    assert seller.session(channel)["cumulativeAmount"] == str(100 * PRICE)
    assert seller.session(channel)["grantId"] == grant


def test_the_caps_for_one_payment_and_for_all_hold_across_channels_and_sellers(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    grant = granted(buyer, maxPaymentAmount="40000", maxTotalAmount="70000")
    other = service.seller()
    first = buyer.pay(seller, fresh("ch"), 40_001, 1, grantId=grant)
    details = refused(seller.verify(first), "grant_payment_too_large")
    assert (details["limit"], details["requested"], details["alias"]) == ("40000", "40001", None)
    paid = buyer.pay(seller, fresh("ch"), 40_000, 1, grantId=grant)
    assert seller.verify(paid)["verdict"] == "accepted"
    details = refused(
        other.verify(buyer.pay(other, fresh("ch"), 30_001, 1, grantId=grant)),
        "grant_budget_exceeded",
    )
    assert (details["limit"], details["used"], details["requested"]) == ("70000", "40000", "30001")
    assert details["fallback"] == "owner_signature"
    last = buyer.pay(other, fresh("ch"), 30_000, 1, grantId=grant)
    assert other.verify(last)["verdict"] == "accepted"
    assert shown(service, grant)["remainingAmount"] == "0"


def test_only_whitelisted_recipients_are_paid(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    grant = granted(buyer, allowedRecipients=[seller.facts["recipient"]])
    stranger = service.seller()
    voucher = buyer.pay(stranger, fresh("ch"), PRICE, 1, grantId=grant)
    details = refused(stranger.verify(voucher), "grant_recipient_not_allowed")
    assert (details["status"], details["fallback"]) == (403, None)
    answer = stranger.open(buyer, fresh("ch"), grantId=grant)
    assert (answer.status_code, answer.json()["code"]) == (403, "grant_recipient_not_allowed")
    assert seller.verify(buyer.pay(seller, fresh("ch"), PRICE, 1, grantId=grant))["valid"]


def test_a_replay_uses_nothing_up_and_gives_the_receipt(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    grant = granted(buyer, maxCalls=1)
    voucher = buyer.pay(seller, fresh("ch"), PRICE, 1, grantId=grant)
    accepted = seller.verify(voucher)
    for _ in range(3):
        again = seller.verify(voucher)
        assert (again["verdict"], again["receipt"]) == ("replayed", accepted["receipt"])
    assert shown(service, grant)["callsUsed"] == 1


def test_a_batch_passes_what_the_grant_has_left_and_refuses_the_rest(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    grant = granted(buyer, maxCalls=3)
    one, two = fresh("ch"), fresh("ch")
    bodies = [
        buyer.pay(seller, one, PRICE, 1, grantId=grant),
        buyer.pay(seller, two, PRICE, 1, grantId=grant),
        buyer.pay(seller, one, 2 * PRICE + 1, 2),
        buyer.pay(seller, one, 2 * PRICE, 3),
        buyer.pay(seller, two, 2 * PRICE, 2),
    ]
    codes = [result.get("code") for result in seller.batch(bodies)]
    assert codes == [
        None,
        None,
        "grant_payment_too_large",
        None,
        "grant_max_calls_exceeded",
    ]
    assert seller.session(one)["cumulativeAmount"] == str(2 * PRICE)
    assert shown(service, grant)["callsUsed"] == 3


def test_a_channel_under_a_grant_is_its_session_keys_alone(
    seller: Seller, buyer: Buyer, service: Service
) -> None:
    grant, channel = granted(buyer), fresh("ch")
    thief = service.buyer()
    thief.wallet = buyer.wallet
    stolen = thief.pay(seller, channel, PRICE, 1, grantId=grant)
    assert refused(seller.verify(stolen), "grant_signer_mismatch")["status"] == 402
    assert seller.verify(buyer.pay(seller, channel, PRICE, 1, grantId=grant))["valid"]
    stolen = thief.pay(seller, channel, 2 * PRICE, 2)
    refused(seller.verify(stolen), "grant_signer_mismatch")
    answer = seller.open(buyer, fresh("ch"), grantId=grant, sessionPubkey=thief.signer)
    assert (answer.status_code, answer.json()["code"]) == (402, "grant_signer_mismatch")
    assert shown(service, grant)["callsUsed"] == 1


def test_a_grant_pays_for_its_owner_only(seller: Seller, service: Service) -> None:
    victim, thief = service.buyer(), service.buyer()
    thief.key = victim.key
    voucher = thief.pay(seller, fresh("ch"), PRICE, 1, grantId=granted(victim))
    refused(seller.verify(voucher), "grant_not_found")


def test_a_grant_that_is_unknown_or_not_the_channels_pays_nothing(
    seller: Seller, buyer: Buyer
) -> None:
    channel = fresh("ch")
    unknown = "A" * 43
    details = refused(
        seller.verify(buyer.pay(seller, channel, PRICE, 1, grantId=unknown)), "grant_not_found"
    )
    assert (details["status"], details["alias"]) == (404, "SESSION_NOT_REGISTERED")
    assert seller.verify(buyer.pay(seller, channel, PRICE, 1))["valid"]
    for grant in (unknown, granted(buyer)):
        voucher = buyer.pay(seller, channel, 2 * PRICE, 2, grantId=grant)
        refused(seller.verify(voucher), "grant_not_found")
    answer = seller.open(buyer, fresh("ch"), grantId=unknown)
    assert (answer.status_code, answer.json()["code"]) == (404, "grant_not_found")


@pytest.mark.parametrize("named", [5, "", "short", ["A" * 43], {}, False])
def test_a_grant_id_that_is_none_is_malformed(seller: Seller, buyer: Buyer, named: Any) -> None:
    verdict = seller.verify(buyer.pay(seller, fresh("ch"), PRICE, 1, grantId=named))
    assert verdict["code"] == "malformed_voucher"


def test_a_channel_that_is_registered_under_a_grant_is_bound_to_it(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    grant, channel = granted(buyer, maxCalls=1), fresh("ch")
    answer = seller.open(buyer, channel, grantId=grant)
    assert answer.status_code == 201, answer.text
    assert answer.json()["grantId"] == grant
    assert shown(service, grant)["callsUsed"] == 0
    assert seller.verify(buyer.pay(seller, channel, PRICE, 1))["valid"]
    refused(seller.verify(buyer.pay(seller, channel, 2 * PRICE, 2)), "grant_max_calls_exceeded")


def test_what_was_accepted_before_a_revocation_is_settled_and_nothing_after_it(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    buyer.fund()
    service.chain.receive(seller.wallet)
    grant, channel = granted(buyer), fresh("ch")
    assert seller.verify(buyer.pay(seller, channel, PRICE, 1, grantId=grant))["valid"]
    wrong = revoke(buyer, grant, SigningKey(seed(fresh("nobody"))))
    assert (wrong.status_code, wrong.json()["code"]) == (401, "grant_signature_invalid")
    assert revoke(buyer, grant).json()["state"] == "revoked"
    assert revoke(buyer, grant).status_code == 200
    details = refused(seller.verify(buyer.pay(seller, channel, 2 * PRICE, 2)), "grant_revoked")
    assert (details["status"], details["alias"]) == (402, "SESSION_REVOKED")
    closed = seller.close(channel, wait=30).json()
    assert (closed["settlement"]["status"], closed["settlement"]["amount"]) == (
        "settled",
        str(PRICE),
    )


def test_an_expired_grant_falls_back_to_the_owner_where_it_says_so(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    """The skew is 30 s, so a grant that ended 25 s ago still pays, for a moment."""
    now = int(time.time())
    life = {"validFrom": now - 100, "validUntil": now - 25}
    strict = granted(buyer, **life)
    lenient = granted(buyer, **life, fallback="owner_signature")
    one, two = fresh("ch"), fresh("ch")
    assert seller.verify(buyer.pay(seller, one, PRICE, 1, grantId=strict))["valid"]
    assert seller.verify(buyer.pay(seller, two, PRICE, 1, grantId=lenient))["valid"]
    until(lambda: shown(service, lenient)["state"] == "expired")
    for channel in (one, two):
        details = refused(seller.verify(buyer.pay(seller, channel, 2 * PRICE, 2)), "grant_expired")
        assert (details["fallback"], details["alias"]) == ("owner_signature", "SESSION_EXPIRED")
    by_owner = {
        channel: sign_voucher(buyer.pay(seller, channel, 2 * PRICE, 2)["voucher"], owner_key(buyer))
        for channel in (one, two)
    }
    refused(seller.verify(by_owner[one]), "grant_signer_mismatch")
    assert seller.verify(by_owner[two])["verdict"] == "accepted"
    assert seller.session(two)["sessionPubkey"] == buyer.signer
    assert shown(service, lenient)["callsUsed"] == 1


def test_a_full_window_says_when_to_come_again(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    window = {"seconds": 3_000, "maxAmount": "15000"}
    grant, channel = granted(buyer, window=window), fresh("ch")
    assert seller.verify(buyer.pay(seller, channel, PRICE, 1, grantId=grant))["valid"]
    details = refused(
        seller.verify(buyer.pay(seller, channel, 2 * PRICE, 2)), "grant_window_exceeded"
    )
    assert details["retryable"]
    assert 2_900 < details["retryAfter"] <= 3_000
    assert shown(service, grant)["windowRemaining"] == "5000"


def test_a_grant_that_is_not_valid_yet_says_when_it_is(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    now = int(time.time())
    grant = granted(buyer, validFrom=now + 500, validUntil=now + 900)
    assert shown(service, grant)["state"] == "pending"
    details = refused(
        seller.verify(buyer.pay(seller, fresh("ch"), PRICE, 1, grantId=grant)),
        "grant_not_yet_valid",
    )
    assert 400 < details["retryAfter"] < 500
    answer = seller.open(buyer, fresh("ch"), grantId=grant)
    assert answer.status_code == 402
    assert 400 < int(answer.headers["retry-after"]) < 500
    assert answer.json()["retryable"] is True


def test_the_same_grant_again_is_the_same_and_a_renewal_names_the_one_before(
    service: Service, buyer: Buyer
) -> None:
    grant, key = grant_of(buyer), owner_key(buyer)
    first = register(service, grant, key)
    again = register(service, grant, key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    before = first.json()["grantId"]
    renewed = register(service, grant_of(buyer), key, previousGrantId=before)
    assert renewed.json()["previousGrantId"] == before
    stranger = service.buyer()
    foreign = register(service, grant_of(stranger), owner_key(stranger), previousGrantId=before)
    assert (foreign.status_code, foreign.json()["code"]) == (404, "grant_not_found")


def test_a_grant_that_its_owner_did_not_sign_is_refused(service: Service, buyer: Buyer) -> None:
    grant = grant_of(buyer)
    signature = sign_grant(grant, owner_key(buyer))
    raised = {**grant.to_json(), "maxTotalAmount": "100000000"}
    answer = service.http.post("/v1/grants", json={"grant": raised, "signature": signature})
    assert (answer.status_code, answer.json()["code"]) == (401, "grant_signature_invalid")
    by_session = base58_encode(buyer.key.sign(b"anything").signature)
    answer = service.http.post(
        "/v1/grants", json={"grant": grant.to_json(), "signature": by_session}
    )
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"maxCalls": None}, 422, "grant_invalid"),
        ({"allowedRecipients": []}, 422, "grant_invalid"),
        ({"allowedEntrypoints": ["approve"]}, 403, "grant_entrypoint_not_allowed"),
        ({"encryptedPrivateKey": "sealed"}, 422, "grant_invalid"),
    ],
)
def test_what_is_no_grant_is_refused_by_name(
    service: Service, buyer: Buyer, changes: dict[str, Any], status: int, code: str
) -> None:
    body = {"grant": {**grant_of(buyer).to_json(), **changes}, "signature": "1"}
    answer = service.http.post("/v1/grants", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_grant_for_elsewhere_or_for_too_long_or_of_the_past_is_refused(
    service: Service, buyer: Buyer
) -> None:
    now = int(time.time())
    for changes, status in (
        ({"cluster": "devnet"}, 422),
        ({"mint": seller_address()}, 422),
        ({"validFrom": now, "validUntil": now + 6 * 3_600 + 1}, 422),
        ({"validFrom": now - 100, "validUntil": now - 40}, 402),
    ):
        answer = register(service, grant_of(buyer, **changes), owner_key(buyer))
        assert answer.status_code == status, answer.text


def seller_address() -> str:
    return base58_encode(seed(fresh("mint")))


def test_an_owner_lists_its_grants_and_nobody_elses(service: Service, buyer: Buyer) -> None:
    ids = [granted(buyer) for _ in range(3)]
    answer = service.http.get("/v1/grants", params={"owner": buyer.address})
    assert (answer.status_code, answer.json()["code"]) == (401, "sign_in_required")
    header = {HEADER: proof(buyer.wallet)}
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = service.http.get(
            "/v1/grants", params={"owner": buyer.address, "limit": "2", **cursor}, headers=header
        ).json()
        seen += [grant["grantId"] for grant in page["grants"]]
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}
    assert sorted(seen) == sorted(ids)
    other = service.http.get(
        "/v1/grants", params={"owner": service.buyer().address}, headers=header
    )
    assert (other.status_code, other.json()["code"]) == (401, "sign_in_invalid")


def test_the_chain_enforces_a_grant_only_where_it_lets_us_take_no_more(
    service: Service, buyer: Buyer
) -> None:
    grant = granted(buyer, maxTotalAmount=str(USDC))
    assert shown(service, grant)["enforcedBy"] == ["server"]
    buyer.fund(approved=USDC)
    assert shown(service, grant)["enforcedBy"] == ["server", "delegate"]
    buyer.approve(USDC + 1)
    assert shown(service, grant)["enforcedBy"] == ["server"]


@pytest.mark.parametrize("grant", ["x", "A" * 43, "%00", "%ff", "A" * 500])
def test_an_unknown_grant_is_not_found(service: Service, grant: str) -> None:
    for answer in (
        service.http.get(f"/v1/grants/{grant}"),
        service.http.post(f"/v1/grants/{grant}/revoke", json={"signature": "1", "at": 1}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "grant_not_found")
