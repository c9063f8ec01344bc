"""Secrets that go through every error path of a running service stay out of its logs."""

import base64
import json
import re
from typing import Any

from buyer_onboarding import CONFIRM, HEADER, ONBOARD, STATUS, Onboarding, fund, proof
from raw_http import exchange, request
from running import PRICE, USDC, Buyer, Caller, Seller, Service, path_of, settled

VOUCHER = ("voucher", "signature", "signer", "signatureType")


def secrets_of(service: Service, seller: Seller, vouchers: list[dict[str, Any]]) -> set[str]:
    """What must never be written: tokens, the secret keys' files, signatures, whole vouchers."""
    key_files = sorted((service.data_dir / "keys").glob("*.json"))
    assert len(key_files) == 2
    return {
        seller.token,
        seller.token.split("_", 2)[2],
        service.facts["adminToken"],
        re.sub(r"^.*://[^:]*:([^@]*)@.*$", r"\1", service.facts["databaseUrl"]),
        *(file.read_text().strip("[] \n") for file in key_files),
        *(json.dumps(voucher["voucher"])[1:-1] for voucher in vouchers),
        *(voucher["signature"] for voucher in vouchers),
    }


def test_no_secret_reaches_the_log_whatever_fails(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    good = buyer.pay(seller, "c", PRICE, 1)
    vouchers = [good, buyer.pay(seller, "c", PRICE, 2), buyer.pay(seller, "d", 1, 1)]
    vouchers += [{**good, "signature": vouchers[2]["signature"]}]
    secrets = secrets_of(service, seller, vouchers)
    for voucher in vouchers:
        seller.verify(voucher)
    seller.batch(vouchers)
    body = json.dumps(good).encode()
    for caller in (seller, service.admin, Caller(service, seller.token + "x")):
        for path in ("/v1/sessions", "/v1/sellers", "/v1/vouchers/verify-batch", "/v1/nowhere"):
            for content in (body, body[:-1], body + body, b"[" * 100_000, b"x" * 2**20):
                assert caller.post(path, content=content).status_code < 500
        caller.get(path_of("c"), at=seller.token)
        caller.get(path_of(seller.token))
        caller.get("/v1/events", after=service.facts["adminToken"])
    cut = request("POST", "/v1/vouchers/verify", seller.token, body)[:-20]
    assert exchange(service, cut, cut=True) is None
    assert exchange(service, b"\x00" + cut) == 400
    closed = seller.close("c").json()["settlement"]
    settled(seller, closed["settlementId"], "parked")  # the payer has no account
    logged = service.logged()
    assert [secret[:12] for secret in secrets if secret in logged] == []
    assert all(secret and len(secret) > 8 for secret in secrets)
    dropped = {name for line in logged.splitlines() if '"dropped"' in line
               for name in json.loads(line)["dropped"]}  # fmt: skip
    assert dropped == set()


def test_no_proof_of_a_wallet_and_no_voucher_of_ours_reaches_the_log(
    service: Service, seller: Seller, buyer: Buyer
) -> None:
    """The seeds of session keys are looked for in `test_mpp_session_keys`."""
    fund(buyer)
    onboarding = Onboarding.of(service, buyer)
    asked = onboarding.asked(spend_limit_atomic=str(USDC))
    (transaction,) = onboarding.sign(asked)
    assert onboarding.confirm([transaction[:-8] + "AAAAAAA="]).is_client_error
    assert onboarding.confirm([transaction]).json()["status"] == "ready"
    good = onboarding.header
    other = proof(service.buyer().wallet)
    late = proof(buyer.wallet, now_millis=1)
    foreign = proof(buyer.wallet, domain="ledger.example")
    headers = [good, other, late, foreign, good[:-8], good + "AAAA", good * 5]
    wallet = {"buyer_wallet": buyer.address}
    for header in headers:
        given = {HEADER: header}
        for path in (ONBOARD, CONFIRM):
            for body in ({**wallet, "signed_transactions": [header]}, {HEADER: header}, [header]):
                assert service.http.post(path, json=body, headers=given).status_code < 500
        for params in (wallet, {"buyer_wallet": header[:256]}, {"wallet": header}):
            assert service.http.get(STATUS, params=params, headers=given).status_code < 500
        assert service.http.get(f"/mpp/{header[:600]}", headers=given).status_code == 404
    body = {**wallet, "seller_wallet": seller.facts["recipient"], "deposit_atomic": str(PRICE)}
    given = {HEADER: good}
    channel = service.http.post("/mpp/session/open", json=body, headers=given).json()["channel_id"]
    voucher = {"channel_id": channel, "amount": "1", "serverNonce": "a nonce of the seller"}
    signed = service.http.post("/mpp/session/voucher", json=voucher).json()
    service.http.post("/mpp/session/voucher", json={**voucher, "amount": str(2 * PRICE)})
    assert seller.verify({name: signed[name] for name in VOUCHER})["code"] == "underpaid"
    settle = {"transaction": transaction, "recipient": buyer.address, "amount": "1"}
    assert not service.http.post("/mpp/settle", json=settle).json()["success"]
    secrets = {
        *headers,
        *(json.loads(base64.b64decode(each))["signature"] for each in headers[:4]),
        *(json.loads(base64.b64decode(each))["nonce"] for each in headers[:4]),
        (service.data_dir / "session-key-secrets").read_text().strip(),
        signed["signature"],
        voucher["serverNonce"],
        transaction[8:],
    }
    logged = service.logged()
    assert "wallet_onboarded" in logged
    assert [secret[:40] for secret in secrets if secret[:40] in logged] == []
    assert all(len(secret) > 20 for secret in secrets)
