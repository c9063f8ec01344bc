"""Secrets that go through every error path of a running service stay out of its logs."""

import json
import re
from typing import Any

from raw_http import exchange, request
from running import PRICE, Buyer, Caller, Seller, Service, path_of, settled


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
