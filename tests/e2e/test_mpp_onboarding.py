"""Onboarding over HTTP: what is answered, and what the chain and the log hold then."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from buyer_onboarding import (
    CONFIRM,
    DEVNET,
    LOCALNET,
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
from running import Buyer, Service, running, until
from solders.transaction import VersionedTransaction

__all__ = ["onboarding_fixture"]

# --- the way --------------------------------------------------------------------------------


async def test_a_wallet_onboards_with_one_signature(onboarding: Onboarding) -> None:
    service, buyer = onboarding.service, onboarding.buyer
    ours = service.facts["settlementAuthority"]
    asked = onboarding.asked(spend_limit_atomic="5000000")
    (transaction,) = asked.pop("transactions")
    assert set(transaction) == {"type", "tx"}
    assert transaction["type"] == "approve_delegate"
    next_step = asked.pop("next_step")
    assert CONFIRM in next_step
    assert asked == {
        "success": True,
        "ok": True,
        "status": "transactions_required",
        "buyer_wallet": buyer.address,
        "network": "localnet",
        "funding_source": "delegate",
        "swig_address": buyer.source,
        "spend_limit_remaining": "0",
        "recipients": [],
        "role_details": {
            "spend_limit_atomic": "5000000",
            "ttl_seconds": None,
            "dexter_session_pubkey": ours,
            "programs": ["TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"],
        },
    }
    assert delegation(buyer) == (None, 0)

    done = onboarding.confirm([signed(transaction["tx"], buyer.wallet)]).json()
    (signature,) = done.pop("onboard_tx_signatures")
    assert isinstance(done.pop("message"), str)
    assert done == {
        "success": True,
        "ok": True,
        "status": "ready",
        "buyer_wallet": buyer.address,
        "swig_address": buyer.source,
        "role_id": 0,
        "source_token_account": buyer.source,
        "recipients": [],
    }
    assert delegation(buyer) == (ours, 5_000_000)
    (found,) = service.chain.call("getSignatureStatuses", [signature])["value"]
    assert found["err"] is None
    names = [name for name, _ in await onboarding.events()]
    assert names == ["onboarding_issued", "onboarding_submitted", "wallet_onboarded"]


def test_a_wallet_that_is_onboarded_is_ready_at_once(onboarding: Onboarding) -> None:
    onboarding.ready(spend_limit_atomic="5000000")
    again = onboarding.onboard(spend_limit_atomic="5000000").json()
    assert (again["status"], again["role_id"]) == ("ready", 0)
    assert "transactions" not in again
    assert again["spend_limit_remaining"] == "5000000"
    assert onboarding.onboard(spend_limit_atomic="5000001").json()["status"] == (
        "transactions_required"
    )


def test_the_status_says_what_is_known_and_null_for_the_rest(onboarding: Onboarding) -> None:
    buyer = onboarding.buyer
    nothing = onboarding.status()
    assert {name: value for name, value in nothing.items() if value is not None} == {
        "success": True,
        "ok": True,
        "buyer_wallet": buyer.address,
        "wallet": buyer.address,
        "network": "localnet",
        "status": "not_onboarded",
        "recipients": [],
    }
    asked = onboarding.asked(spend_limit_atomic="5000000")
    assert onboarding.status()["status"] == "pending"
    onboarding.confirm(onboarding.sign(asked))
    assert onboarding.status() == {
        "success": True,
        "ok": True,
        "buyer_wallet": buyer.address,
        "wallet": buyer.address,
        "network": "localnet",
        "status": "active",
        "swig_address": buyer.source,
        "role_id": 0,
        "funding_source": "delegate",
        "source_token_account": buyer.source,
        "spend_limit_atomic": "5000000",
        "spend_limit_remaining": "5000000",
        "role_expires_at": None,
        "recipients": [],
    }
    params = {"wallet": buyer.address, "network": "localnet"}
    assert onboarding.send("GET", STATUS, params=params).json() == onboarding.status()


def test_a_permission_ends_when_the_buyer_said(onboarding: Onboarding) -> None:
    asked = onboarding.asked(ttl_seconds=3)
    assert asked["role_details"]["ttl_seconds"] == 3
    assert asked["expires_at"].endswith("Z")
    onboarding.confirm(onboarding.sign(asked))
    found = onboarding.status()
    assert found["role_expires_at"][:19] == asked["expires_at"][:19]
    until(lambda: onboarding.status()["status"] == "expired")
    assert onboarding.onboard().json()["status"] == "ready"  # the chain still grants it
    assert onboarding.status()["status"] == "active"
    assert onboarding.status()["role_expires_at"] is None
    again = onboarding.onboard(ttl_seconds=600).json()
    assert again["status"] == "ready"
    assert 500 < again["role_details"]["ttl_seconds"] <= 600


def test_a_buyer_limits_who_is_paid_until_it_says_otherwise(
    onboarding: Onboarding, service: Service
) -> None:
    seller = service.buyer("seller").address
    onboarding.ready(recipients=[seller])
    assert onboarding.status()["recipients"] == [seller]
    assert onboarding.onboard().json()["recipients"] == [seller]
    assert onboarding.onboard(recipients=[]).json()["recipients"] == []
    assert onboarding.status()["recipients"] == []


def test_a_delegation_that_was_revoked_is_given_again(onboarding: Onboarding) -> None:
    onboarding.ready()
    onboarding.buyer.revoke()
    assert onboarding.status()["status"] == "revoked"
    assert onboarding.status()["spend_limit_remaining"] == "0"
    onboarding.ready()
    assert onboarding.status()["status"] == "active"


def test_the_newest_of_several_issues_is_the_one_that_counts(onboarding: Onboarding) -> None:
    limits = [str(1_000_000 + n) for n in range(6)]
    with ThreadPoolExecutor(len(limits)) as pool:
        answers = list(pool.map(lambda limit: onboarding.asked(spend_limit_atomic=limit), limits))
    newest = onboarding.asked(spend_limit_atomic="999")
    for older in answers:
        refused(onboarding.confirm(onboarding.sign(older)), 400, "transaction_altered")
    assert onboarding.confirm(onboarding.sign(newest)).json()["status"] == "ready"
    assert delegation(onboarding.buyer)[1] == 999


def test_a_confirmation_may_be_sent_again(onboarding: Onboarding) -> None:
    transactions = onboarding.sign(onboarding.asked())
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: onboarding.confirm(transactions).json(), range(4)))
    answers.append(onboarding.confirm(transactions).json())
    assert {answer["status"] for answer in answers} == {"ready"}
    assert len({answer["onboard_tx_signatures"][0] for answer in answers}) == 1


# --- other deployments ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def public_service() -> Iterator[Service]:
    """`serve` for mainnet-beta under names of its own; buyers pay the fees of onboarding."""
    options = {"SOLANA_NETWORK": "mainnet-beta", "ONBOARD_SPONSOR_FEES": "false"}
    with running("--local-chain", PUBLIC_HOSTS="ledger.example, pay.example", **options) as started:
        yield started


def test_a_buyer_without_sol_onboards_where_fees_are_sponsored(
    service: Service, buyer: Buyer
) -> None:
    fund(buyer, sol=False)
    onboarding, fee_payer = Onboarding.of(service, buyer), service.facts["feePayer"]
    asked = onboarding.asked(spend_limit_atomic="7")
    (entry,) = asked["transactions"]
    message = VersionedTransaction.from_bytes(base64.b64decode(entry["tx"])).message
    assert message.header.num_required_signatures == 2
    assert str(message.account_keys[0]) == fee_payer
    assert base64.b64decode(entry["tx"])[:129] == b"\x02" + bytes(128)  # nobody has signed yet
    assert onboarding.confirm(onboarding.sign(asked)).json()["status"] == "ready"
    assert delegation(buyer) == (service.facts["settlementAuthority"], 7)


def test_a_buyer_pays_its_own_fee_where_it_is_not_sponsored(public_service: Service) -> None:
    buyer = public_service.buyer()
    fund(buyer, sol=False)
    onboarding = Onboarding(public_service, buyer, proof(buyer.wallet, domain="pay.example"))
    assert "send it about 0.001 SOL" in refused(onboarding.onboard(), 200, "not_eligible")
    public_service.chain.call("requestAirdrop", buyer.address, 1_000_000_000)
    until(lambda: onboarding.onboard().json()["status"] == "transactions_required")
    (entry,) = onboarding.asked()["transactions"]
    message = VersionedTransaction.from_bytes(base64.b64decode(entry["tx"])).message
    assert message.header.num_required_signatures == 1
    assert str(message.account_keys[0]) == buyer.address
    onboarding.ready()


def test_a_public_service_answers_to_its_own_names_and_chain_only(public_service: Service) -> None:
    onboarding = Onboarding.of(public_service, public_service.buyer())
    for domain in ("ledger.example", "pay.example", "localhost"):
        onboarding.header = proof(onboarding.buyer.wallet, domain=domain)
        assert onboarding.status()["status"] == "not_onboarded"
    for changes in (
        {"domain": "example"},
        {"domain": "evil.ledger.example"},
        {"chain_id": DEVNET},
        {"chain_id": LOCALNET},
    ):
        for answer in calls(onboarding, proof(onboarding.buyer.wallet, **changes)):
            refused(answer, 401, "sign_in_invalid")
