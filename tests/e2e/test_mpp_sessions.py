"""Buyers' sessions over HTTP: the documentation's names, refusals, closes that do not go well.

What the reference's client sees of them is in the `test_mpp_*_sdk` files.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mpp_session_rig import (
    CLOSE,
    DEPOSIT,
    ENVELOPE,
    OPEN,
    VOUCHER,
    close,
    command,
    onboarded,
    open_body,
    opened,
    pay,
    payable,
    proof_of,
    refusal,
)
from running import PRICE, USDC, Seller, Service, fresh, path_of, seed, serving, until
from solders.keypair import Keypair

from session_ledger.challenge import NETWORKS


def presented(seller: Seller, answer: dict[str, Any]) -> dict[str, Any]:
    return seller.verify({name: answer[name] for name in ENVELOPE})


# --- the answers ----------------------------------------------------------------------------


def test_answers_hold_the_names_of_the_code_and_of_the_documentation(service: Service) -> None:
    buyer, seller = onboarded(service), payable(service)
    recipient = seller.facts["recipient"]
    body = open_body(
        buyer,
        recipient,
        buyer_wallet=...,
        wallet=buyer.address,
        idle_timeout_seconds=600,
        metadata={"note": "x" * 2_000},
        unknown_to_us=[1],
    )
    first = service.http.post(OPEN, json=body).json()
    assert first["success"] is first["ok"] is True
    channel = first["channel_id"]
    assert (first["state"], first["network"], first["deposit_atomic"]) == (
        "open", "localnet", str(DEPOSIT),
    )  # fmt: skip
    assert first["channel_program"] == "swigypWHEksbC64pWKwah1WTeh9JXwx8H1rJHLdbQMB"
    assert (first["idle_timeout_seconds"], first["settles"]) == (600, "presented")
    assert not [name for name, value in first.items() if value is None]
    asked = {"channel_id": channel, "cumulative_amount": str(PRICE), "server_nonce": "n"}
    signed = service.http.post(VOUCHER, json=asked).json()
    assert signed["success"] is signed["ok"] is True
    assert list(signed["voucher"].items()) == [
        ("channelId", channel),
        ("payer", buyer.address),
        ("recipient", recipient),
        ("cumulativeAmount", str(PRICE)),
        ("meter", "request"),
        ("units", "1"),
        ("serverNonce", "n"),
        ("chainId", NETWORKS["localnet"].chain_id),
        ("channelProgram", "swigypWHEksbC64pWKwah1WTeh9JXwx8H1rJHLdbQMB"),
        ("sequence", 1),
    ]
    assert (signed["signer"], signed["signatureType"]) == (first["session_pubkey"], "ed25519")
    assert (signed["sequence"], signed["amount"], signed["cumulative_amount"]) == (
        1, str(PRICE), str(PRICE),
    )  # fmt: skip
    assert signed["remaining_atomic"] == str(DEPOSIT - PRICE)
    assert presented(seller, signed)["valid"]
    closed = close(service, channel)
    assert closed["success"] is closed["ok"] is True
    facts = closed["settlement"]
    assert (closed["channel_id"], closed["state"]) == (channel, "settled")
    assert (facts["seller"], facts["amount_settled"]) == (recipient, str(PRICE))
    assert (facts["buyer_refund"], facts["voucher_count"]) == (str(DEPOSIT - PRICE), 1)
    assert facts["session_duration_seconds"] >= 0
    assert facts["signature"]
    assert close(service, channel) == closed


def test_a_session_that_nobody_used_closes_at_once_with_nothing(service: Service) -> None:
    buyer, seller = onboarded(service), payable(service)
    channel = opened(buyer, seller.facts["recipient"])
    closed = close(service, channel)
    assert closed["settlement"] == {
        "seller": seller.facts["recipient"],
        "amount_settled": "0",
        "buyer_refund": str(DEPOSIT),
        "voucher_count": 0,
        "session_duration_seconds": closed["settlement"]["session_duration_seconds"],
    }


def test_a_session_that_its_seller_removed_still_pays_what_was_accepted(service: Service) -> None:
    buyer, seller = onboarded(service), payable(service)
    channel = opened(buyer, seller.facts["recipient"])
    assert presented(seller, pay(service, channel, PRICE))["valid"]
    late = pay(service, channel, 2 * PRICE)
    assert seller.delete(path_of(channel)).status_code == 204
    assert presented(seller, late)["code"] == "session_removed"
    closed = close(service, channel)
    assert (closed["state"], closed["settlement"]["amount_settled"]) == ("settled", str(PRICE))
    assert closed["settlement"]["buyer_refund"] == str(DEPOSIT - PRICE)
    assert service.chain.balance(seller.wallet) == PRICE


def test_a_sellers_feed_does_not_show_a_voucher_that_was_not_presented(service: Service) -> None:
    """It could be presented otherwise, for a request that the seller never served."""
    buyer, seller = onboarded(service), payable(service)
    channel = opened(buyer, seller.facts["recipient"])
    kept = pay(service, channel, 54_321)
    events = seller.events()
    signed = [event for event in events if event["type"] == "voucher_signed"]
    assert [event["payload"] for event in signed] == [None]
    assert signed[0]["hash"]
    shown = json.dumps(events)
    assert kept["signature"] not in shown
    assert "54321" not in shown


# --- refusals -------------------------------------------------------------------------------


def test_a_refused_total_comes_with_the_last_one(service: Service) -> None:
    channel = opened(onboarded(service), str(Keypair().pubkey()))
    body = {"channel_id": channel, "amount": "0", "serverNonce": "n"}
    none = refusal(service.http.post(VOUCHER, json=body), 409, "amount_not_monotonic")
    assert (none["last_amount"], none["last_sequence"]) == ("0", 0)
    pay(service, channel, 7)
    body |= {"amount": "7", "serverNonce": "another"}
    last = refusal(service.http.post(VOUCHER, json=body), 409, "amount_not_monotonic")
    assert (last["last_amount"], last["last_sequence"]) == ("7", 1)
    assert pay(service, channel, 8)["sequence"] == 2


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"metadata": {"note": "x" * 2_048}}, 400, "invalid_request"),
        ({"idle_timeout_seconds": 0}, 400, "invalid_request"),
        ({"idle_timeout_seconds": 30 * 86_400 + 1}, 400, "invalid_request"),
        ({"deposit_atomic": "0"}, 400, "invalid_amount"),
        ({"deposit_atomic": 5}, 400, "invalid_amount"),
        ({"network": "mainnet-beta"}, 400, "network_mismatch"),
        ({"buyer_swig_address": "no address"}, 400, "invalid_wallet"),
        ({"seller_wallet": ...}, 400, "invalid_wallet"),
        ({"deposit_atomic": str(26 * USDC)}, 409, "insufficient_deposit"),
    ],
)
def test_an_open_that_cannot_be_is_refused_with_its_code(
    service: Service, changes: dict[str, Any], status: int, code: str
) -> None:
    buyer = onboarded(service)
    body = open_body(buyer, str(Keypair().pubkey()), **changes)
    refusal(service.http.post(OPEN, json=body), status, code)


def test_paying_oneself_is_refused(service: Service) -> None:
    buyer = onboarded(service)
    body = open_body(buyer, buyer.address)
    refusal(service.http.post(OPEN, json=body), 400, "invalid_wallet")


@pytest.mark.parametrize("units", ["0", "-1", "1.5", "01", "18446744073709551616", "\u0661"])
def test_units_that_no_seller_can_price_are_not_signed(service: Service, units: str) -> None:
    body = {"channel_id": "any", "amount": "1", "serverNonce": "n", "units": units}
    refusal(service.http.post(VOUCHER, json=body), 400, "invalid_request")


def test_a_body_that_is_too_large_is_refused_as_the_wire_has_it(service: Service) -> None:
    for path in (OPEN, VOUCHER, CLOSE, "/api/sessions/onboard"):
        answer = service.http.post(path, content=b" " * 70_000, headers=proof_of(service.buyer()))
        refusal(answer, 413, "body_too_large")


def test_other_routes_keep_their_problems(service: Service) -> None:
    for path in ("/mppx", "/api/session", "/v1/nowhere"):
        answer = service.http.post(path)
        assert answer.headers["content-type"] == "application/problem+json", path


def test_a_source_that_was_revoked_opens_nothing_and_says_what_to_do(service: Service) -> None:
    buyer = onboarded(service)
    buyer.revoke()
    body = open_body(buyer, str(Keypair().pubkey()))
    told = refusal(service.http.post(OPEN, json=body), 409, "delegate_revoked")
    assert "approve" in told["detail"]


# --- one channel, one settlement ------------------------------------------------------------


def test_a_seller_who_registers_later_cannot_settle_the_channel_again(service: Service) -> None:
    name = fresh("late seller")
    recipient = str(Keypair.from_seed(seed(name)).pubkey())
    buyer = onboarded(service)
    channel = opened(buyer, recipient)
    signed = pay(service, channel, PRICE)
    body = {"name": name, "recipient": recipient, "pricePerUnit": str(PRICE)}
    facts = service.admin.post("/v1/sellers", json=body).json()
    late = Seller(service, facts["apiKey"], facts, Keypair.from_seed(seed(name)))
    verdict = presented(late, signed)
    assert (verdict["valid"], verdict["code"]) == (False, "session_not_found")
    assert late.batch([{n: signed[n] for n in ENVELOPE}])[0]["code"] == "session_not_found"
    answer = late.open(buyer, channel, sessionPubkey=signed["signer"])
    assert (answer.status_code, answer.json()["code"]) == (409, "session_exists")
    assert late.get(path_of(channel)).status_code == 404
    own = buyer.pay(late, fresh("own channel"), PRICE, 1)
    assert late.verify(own)["valid"]


# --- closes that do not go well -------------------------------------------------------------


@pytest.mark.campaign
def test_a_close_that_the_money_left_says_so_and_goes_on_when_it_is_back(
    service: Service,
) -> None:
    buyer, seller = onboarded(service), payable(service)
    channel = opened(buyer, seller.facts["recipient"])
    assert presented(seller, pay(service, channel, PRICE))["valid"]
    mint = str(service.chain.mint)
    service.chain.call("surfnet_setTokenAccount", buyer.address, mint, {"amount": 1})
    answer = service.http.post(CLOSE, json={"channel_id": channel})
    told = refusal(answer, 409, "insufficient_balance")
    assert (told["failure"], told["settlement_status"]) == ("insufficient_funds", "parked")
    assert "fund the account" in told["detail"]
    service.chain.call("surfnet_setTokenAccount", buyer.address, mint, {"amount": USDC})
    settlement = seller.session(channel)["settlement"]["settlementId"]
    command(service, "settlement", "retry", settlement)
    closed = until(lambda: _closed(service, channel))
    assert closed["settlement"]["amount_settled"] == str(PRICE)
    assert service.chain.balance(seller.wallet) == PRICE


def _closed(service: Service, channel: str) -> dict[str, Any] | None:
    answer = service.http.post(CLOSE, json={"channel_id": channel})
    return answer.json() if answer.is_success else None


@pytest.mark.timeout(300)
@pytest.mark.campaign
def test_a_close_that_takes_longer_than_the_client_waits_is_called_again(tmp_path: Path) -> None:
    """Nobody settles at first. Both closes end before the client gives up, and one pays."""
    with serving(tmp_path, RUN_WORKER="false") as service:
        buyer, seller = onboarded(service), payable(service)
        channel = opened(buyer, seller.facts["recipient"])
        assert presented(seller, pay(service, channel, PRICE))["valid"]
        started = time.monotonic()
        answer = service.http.post(CLOSE, json={"channel_id": channel})
        told = refusal(answer, 202, "settlement_pending")
        assert time.monotonic() - started < 29
        assert (told["state"], told["channel_id"]) == ("closing", channel)
        keys = service.data_dir / "keys"
        worker = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "worker"],
            stdout=subprocess.DEVNULL,
            env={
                **os.environ,
                "DATABASE_URL": service.facts["databaseUrl"],
                "SOLANA_RPC_URL": service.facts["rpcUrl"],
                "SETTLEMENT_AUTHORITY": f"file:{keys / 'settlement-authority.json'}",
                "FEE_PAYER": f"file:{keys / 'fee-payer.json'}",
                "SETTLEMENT_POLL_SECONDS": "0.2",
            },
        )
        try:
            closed = close(service, channel)
        finally:
            worker.terminate()
            worker.wait(30)
        assert closed["settlement"]["amount_settled"] == str(PRICE)
        assert service.chain.balance(seller.wallet) == PRICE
        assert service.chain.balance(buyer.wallet) == 25 * USDC - PRICE
