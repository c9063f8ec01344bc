"""Onboarding over HTTP: who may ask, what may come back, and what is said to everything else."""

import base64
import json
import time
from typing import Any

import pytest
from buyer_onboarding import (
    CONFIRM,
    DEVNET,
    HEADER,
    LOCALNET,
    MAINNET,
    ONBOARD,
    STATUS,
    Onboarding,
    calls,
    delegation,
    fund,
    onboarding_fixture,
    proof,
    refused,
    signed,
)
from running import Buyer, Service

__all__ = ["onboarding_fixture"]

# --- who may ask ----------------------------------------------------------------------------


async def test_every_route_needs_the_header(onboarding: Onboarding) -> None:
    for answer in (*calls(onboarding, None), *calls(onboarding, "")):
        refused(answer, 401, "sign_in_required")
        assert answer.headers["www-authenticate"] == HEADER
    assert await onboarding.events() == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"domain": "evil.example"}, "domain must be a hostname of this service"),
        ({"domain": "127.0.0.1:8000"}, "hostname without a port"),
        ({"chain_id": "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z"}, "chainId"),
        ({"now_millis": round(time.time() * 1_000) - 3_600_000}, "expired"),
        ({"now_millis": round(time.time() * 1_000) + 3_600_000}, "in the future"),
        ({"nonce": "short"}, "nonce"),
    ],
)
async def test_a_proof_for_anything_else_opens_nothing(
    onboarding: Onboarding, changes: dict[str, Any], what: str
) -> None:
    for answer in calls(onboarding, proof(onboarding.buyer.wallet, **changes)):
        assert what in refused(answer, 401, "sign_in_invalid")
    assert await onboarding.events() == []


async def test_another_wallets_proof_opens_nothing(onboarding: Onboarding) -> None:
    other = onboarding.service.buyer("other")
    for answer in calls(onboarding, proof(other.wallet)):
        assert "address must be" in refused(answer, 401, "sign_in_invalid")
    for header in ("x", "e30=", b"\xff", "A" * 5_000, onboarding.header[:-8]):
        for answer in calls(onboarding, header):
            refused(answer, 401, "sign_in_invalid")
    assert await onboarding.events() == []


def test_this_services_own_chain_may_be_named_and_those_of_the_reference(
    onboarding: Onboarding,
) -> None:
    for chain_id in (LOCALNET, DEVNET, MAINNET):
        for domain in ("localhost", "127.0.0.1", "[::1]"):
            onboarding.header = proof(onboarding.buyer.wallet, chain_id=chain_id, domain=domain)
            assert onboarding.status()["status"] == "not_onboarded"


def test_one_header_serves_a_whole_onboarding_and_its_nonce_no_other_wallet(
    onboarding: Onboarding,
) -> None:
    nonce = "0123456789abcdef" + onboarding.buyer.address[:16]
    onboarding.header = proof(onboarding.buyer.wallet, nonce=nonce)
    for limit in ("1", "2", "3"):
        onboarding.ready(spend_limit_atomic=limit)
    other = onboarding.service.buyer("other")
    fund(other)
    thief = Onboarding(onboarding.service, other, proof(other.wallet, nonce=nonce))
    detail = refused(thief.onboard(), 401, "sign_in_invalid")
    assert "nonce was used by another wallet" in detail
    assert onboarding.status()["status"] == "active"


# --- what comes back ------------------------------------------------------------------------


async def test_only_what_was_issued_is_submitted(onboarding: Onboarding) -> None:
    service, buyer = onboarding.service, onboarding.buyer
    refused(onboarding.confirm(["AA=="]), 400, "onboarding_not_found")
    asked = onboarding.asked(spend_limit_atomic="5000000")
    (good,) = onboarding.sign(asked)
    wire = base64.b64decode(good)
    other = service.buyer("other")
    fund(other)
    (foreign,) = Onboarding.of(service, other).asked(spend_limit_atomic="5000000")["transactions"]

    altered = bytearray(wire)
    altered[wire.index((5_000_000).to_bytes(8, "little"))] ^= 1  # another amount
    resigned = signed(base64.b64encode(altered).decode(), buyer.wallet)
    for transactions in (
        [],
        [good, good],
        [resigned],
        [base64.b64encode(altered).decode()],
        [base64.b64encode(wire + b"\0").decode()],
        [signed(foreign["tx"], other.wallet)],
        ["AA=="],
    ):
        refused(onboarding.confirm(transactions), 400, "transaction_altered")
    empty = base64.b64encode(b"\x02" + bytes(128) + wire[129:]).decode()
    unsigned, (by_another,) = asked["transactions"][0]["tx"], onboarding.sign(asked, other.wallet)
    for transaction in (unsigned, empty, by_another):
        refused(onboarding.confirm([transaction]), 400, "signature_invalid")
    for transaction in ("no base64!", good[:-1], good.rstrip("=") + "\n"):
        refused(onboarding.confirm([transaction]), 400, "invalid_transaction_encoding")
    assert [name for name, _ in await onboarding.events()] == ["onboarding_issued"]
    assert delegation(buyer) == (None, 0)
    assert onboarding.confirm([good]).json()["status"] == "ready"


def test_what_comes_back_too_late_is_refused_with_what_to_do(onboarding: Onboarding) -> None:
    transactions = onboarding.sign(onboarding.asked())
    onboarding.service.chain.call("localchain_advanceSlots", 200)
    refused(onboarding.confirm(transactions), 400, "tx_expired")
    onboarding.ready()


@pytest.mark.parametrize(
    ("prepare", "body", "what"),
    [
        ({"tokens": None}, {}, "holds no USDC"),
        ({"tokens": None}, {"spend_limit_atomic": "1"}, "send it some USDC first"),
        ({"tokens": 0}, {}, "holds no USDC"),
        ({"tokens": 5, "state": "frozen"}, {}, "frozen"),
    ],
)
async def test_a_wallet_that_cannot_onboard_is_told_what_to_do(
    service: Service, buyer: Buyer, prepare: dict[str, Any], body: dict[str, Any], what: str
) -> None:
    onboarding, chain = Onboarding.of(service, buyer), service.chain
    if prepare["tokens"] is not None:
        fund(buyer, prepare["tokens"])
    if "state" in prepare:
        changes = {"state": prepare["state"]}
        chain.call("surfnet_setTokenAccount", buyer.address, str(chain.mint), changes)
    answer = onboarding.onboard(**body)
    assert what in refused(answer, 200, "not_eligible")
    assert answer.json()["status"] == "not_eligible"
    assert isinstance(answer.json()["swig_address"], str)
    assert await onboarding.events() == []


HOSTILE: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    1e400,
    "",
    "\0",
    "\ud800",
    "x" * 9_999,
    [],
    [[]],
    [None],
    {},
]


def test_no_body_is_answered_with_a_server_error(onboarding: Onboarding) -> None:
    wallet = onboarding.buyer.address
    bodies: list[tuple[str, bytes]] = [
        (path, text)
        for path in (ONBOARD, CONFIRM)
        for text in (b"", b"null", b"[]", b"\xff", b"{", b'{"buyer_wallet":1,"buyer_wallet":2}')
    ]
    named = ("buyer_wallet", "spend_limit_atomic", "ttl_seconds", "recipients", "network")
    bodies += [
        (path, json.dumps({"buyer_wallet": wallet, name: value}).encode())
        for path, names in ((ONBOARD, named), (CONFIRM, ("buyer_wallet", "signed_transactions")))
        for name in names
        for value in HOSTILE
    ]
    for path, text in bodies:
        answer = onboarding.send("POST", path, content=text)
        assert answer.status_code < 500, (path, text, answer.text)
        body = answer.json()
        if not body["success"]:
            assert isinstance(body["error"], str), text
            assert isinstance(body["detail"], str), text
    for params in ({}, {"buyer_wallet": ""}, {"buyer_wallet": "x"}, {"wallet": "\0"}):
        refused(onboarding.send("GET", STATUS, params=params), 400, "invalid_wallet")
    params = {"buyer_wallet": wallet, "network": "devnet"}
    refused(onboarding.send("GET", STATUS, params=params), 400, "network_mismatch")
    refused(onboarding.onboard(network="devnet"), 400, "network_mismatch")
    refused(onboarding.onboard(spend_limit_atomic="0"), 400, "invalid_amount")
    refused(onboarding.onboard(recipients=["x"]), 400, "invalid_wallet")
    refused(onboarding.onboard(ttl_seconds=0), 400, "invalid_request")
