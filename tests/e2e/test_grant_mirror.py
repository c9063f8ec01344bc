"""A grant on the chain: what its owner approves, who enforces it then, and what stays payable."""

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
from buyer_onboarding import Onboarding, delegation, fund, onboarding_fixture, refused
from grant_rig import granted, revoke, shown
from running import PRICE, USDC, Buyer, Seller, Service, fresh, path_of, settled, until
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from spl.token.constants import TOKEN_PROGRAM_ID
from spl.token.instructions import get_associated_token_address, transfer_checked
from spl.token.models import TransferCheckedParams

__all__ = ["onboarding_fixture"]

TOTAL = 100_000
CHAIN_TOO = ["server", "delegate"]


def mirrored(onboarding: Onboarding, grant: str) -> int:
    """Go all the way; gives what the chain allows our key then."""
    onboarding.ready(grant_id=grant)
    delegate, amount = delegation(onboarding.buyer)
    assert delegate == onboarding.service.facts["settlementAuthority"]
    return amount


def taken(buyer: Buyer, seller: Seller, amount: int) -> Any:
    """The error of a transfer that the settlement key signs, past the ledger."""
    service, chain = buyer.service, buyer.service.chain
    key = service.data_dir / "keys" / "settlement-authority.json"
    authority = Keypair.from_bytes(bytes(json.loads(Path(key).read_text())))
    transfer = transfer_checked(
        TransferCheckedParams(
            program_id=TOKEN_PROGRAM_ID,
            source=Pubkey.from_string(buyer.source),
            mint=chain.mint,
            dest=get_associated_token_address(seller.wallet.pubkey(), chain.mint),
            owner=authority.pubkey(),
            amount=amount,
            decimals=6,
        )
    )
    blockhash = Hash.from_string(chain.call("getLatestBlockhash")["value"]["blockhash"])
    payer = seller.wallet
    message = MessageV0.try_compile(payer.pubkey(), [transfer], [], blockhash)
    raw = base64.b64encode(bytes(VersionedTransaction(message, [payer, authority]))).decode()
    how = {"encoding": "base64", "skipPreflight": True}
    signature = chain.call("sendTransaction", raw, how)
    return until(lambda: chain.call("getSignatureStatuses", [signature])["value"][0])["err"]


def test_the_chain_itself_refuses_more_than_a_mirrored_grant(
    service: Service, onboarding: Onboarding
) -> None:
    buyer, seller = onboarding.buyer, service.seller()
    service.chain.receive(seller.wallet)
    grant = granted(buyer, maxTotalAmount=str(TOTAL))
    assert shown(service, grant)["enforcedBy"] == ["server"]
    asked = onboarding.asked(grant_id=grant)
    assert asked["role_details"]["spend_limit_atomic"] == str(TOTAL)
    assert mirrored(onboarding, grant) == TOTAL
    assert shown(service, grant)["enforcedBy"] == CHAIN_TOO
    insufficient_funds = {"InstructionError": [0, {"Custom": 1}]}
    assert taken(buyer, seller, TOTAL + 1) == insufficient_funds
    assert taken(buyer, seller, TOTAL) is None
    assert taken(buyer, seller, 1) is not None


def test_an_allowance_above_the_grant_is_lowered_and_then_nothing_is_left_to_sign(
    service: Service, buyer: Buyer
) -> None:
    buyer.fund(approved=25 * USDC)
    onboarding = Onboarding.of(service, buyer)
    assert onboarding.onboard(spend_limit_atomic=str(TOTAL)).json()["status"] == "ready"
    grant = granted(buyer, maxTotalAmount=str(TOTAL))
    assert shown(service, grant)["enforcedBy"] == ["server"]
    assert mirrored(onboarding, grant) == TOTAL
    again = onboarding.onboard(grant_id=grant).json()
    assert (again["status"], again["role_details"]["spend_limit_atomic"]) == ("ready", str(TOTAL))
    assert shown(service, grant)["enforcedBy"] == CHAIN_TOO


def test_what_is_owed_stays_payable_when_another_grant_is_mirrored(
    service: Service, onboarding: Onboarding
) -> None:
    buyer, seller = onboarding.buyer, service.seller()
    service.chain.receive(seller.wallet)
    first = granted(buyer, maxPaymentAmount="30000", maxTotalAmount="70000")
    channel = fresh("ch")
    verdict = seller.verify(buyer.pay(seller, channel, 30_000, 1, grantId=first))
    assert verdict["verdict"] == "accepted", verdict
    second = granted(buyer, maxTotalAmount="50000")
    assert mirrored(onboarding, second) == 70_000 + 50_000
    for grant in (first, second):  # the chain's limit is one for both, and neither's own
        assert shown(service, grant)["enforcedBy"] == ["server"]
    assert revoke(buyer, first).status_code == 200
    assert mirrored(onboarding, second) == 30_000 + 50_000
    assert shown(service, second)["enforcedBy"] == ["server"]
    closed = seller.close(channel).json()["settlement"]
    assert settled(seller, closed["settlementId"], "settled")["amount"] == "30000"
    assert service.chain.balance(seller.wallet) == 30_000
    assert delegation(buyer)[1] == 50_000
    assert shown(service, second)["enforcedBy"] == CHAIN_TOO


def test_the_chain_enforces_what_is_left_of_a_grant_and_not_its_total_once_more(
    service: Service, onboarding: Onboarding
) -> None:
    buyer, seller = onboarding.buyer, service.seller()
    service.chain.receive(seller.wallet)
    grant = granted(buyer, maxPaymentAmount="60000", maxTotalAmount=str(TOTAL))
    assert mirrored(onboarding, grant) == TOTAL
    channel = fresh("ch")
    verdict = seller.verify(buyer.pay(seller, channel, 60_000, 1, grantId=grant))
    assert verdict["verdict"] == "accepted", verdict
    assert onboarding.onboard(grant_id=grant).json()["status"] == "ready"
    assert shown(service, grant)["enforcedBy"] == CHAIN_TOO
    closed = seller.close(channel).json()["settlement"]
    settled(seller, closed["settlementId"], "settled")
    assert delegation(buyer)[1] == TOTAL - 60_000
    assert onboarding.onboard(grant_id=grant).json()["status"] == "ready"
    assert shown(service, grant)["enforcedBy"] == CHAIN_TOO
    buyer.approve(TOTAL)  # no more than the grant's total, and more than what is left of it
    assert shown(service, grant)["enforcedBy"] == ["server"]


def test_an_open_session_stays_covered_and_so_does_what_a_removed_one_owes(
    service: Service, seller: Seller, onboarding: Onboarding
) -> None:
    buyer = onboarding.buyer
    onboarding.ready(spend_limit_atomic=str(5 * USDC))
    body = {
        "buyer_wallet": buyer.address,
        "buyer_swig_address": buyer.address,
        "seller_wallet": seller.facts["recipient"],
        "deposit_atomic": str(USDC),
    }
    opened = service.http.post("/mpp/session/open", json=body)
    assert opened.status_code == 200, opened.text
    grant = granted(buyer, maxTotalAmount=str(TOTAL))
    assert mirrored(onboarding, grant) == USDC + TOTAL
    asked = {"channel_id": opened.json()["channel_id"], "amount": str(PRICE), "serverNonce": "n"}
    signed = service.http.post("/mpp/session/voucher", json=asked).json()
    envelope = {name: signed[name] for name in ("voucher", "signature", "signer", "signatureType")}
    assert seller.verify(envelope)["verdict"] == "accepted"
    assert onboarding.onboard(grant_id=grant).json()["status"] == "ready"
    assert seller.delete(path_of(asked["channel_id"])).is_success
    assert mirrored(onboarding, grant) == PRICE + TOTAL


def test_a_grant_that_does_not_pay_is_not_mirrored(
    service: Service, seller: Seller, onboarding: Onboarding
) -> None:
    buyer = onboarding.buyer

    def asks(grant: str, status: int, code: str) -> None:
        refused(onboarding.onboard(grant_id=grant), status, code)

    asks(granted(service.buyer()), 404, "grant_not_found")
    for unknown in ("A" * 43, "x"):
        asks(unknown, 404, "grant_not_found")
    ended = granted(buyer)
    revoke(buyer, ended)
    asks(ended, 402, "grant_revoked")
    for changes, code in (
        ({"maxCalls": 1}, "grant_max_calls_exceeded"),
        ({"maxTotalAmount": str(PRICE)}, "grant_budget_exceeded"),
    ):
        grant = granted(buyer, **changes)
        voucher = buyer.pay(seller, fresh("ch"), PRICE, 1, grantId=grant)
        assert seller.verify(voucher)["verdict"] == "accepted"
        asks(grant, 402, code)
    now = int(time.time())
    late = granted(buyer, validFrom=now - 100, validUntil=now - 28)
    until(lambda: shown(service, late)["state"] == "expired")
    asks(late, 402, "grant_expired")
    assert delegation(buyer) == (None, 0)
    assert onboarding.status()["status"] == "not_onboarded"


@pytest.mark.parametrize(
    "more", [{"spend_limit_atomic": "5"}, {"spend_limit": "5"}, {"grant_id": 7}, {"grant_id": ""}]
)
def test_a_grant_says_its_own_limit(onboarding: Onboarding, more: dict[str, Any]) -> None:
    grant = granted(onboarding.buyer)
    refused(onboarding.onboard(**{"grant_id": grant, **more}), 400, "invalid_request")


def test_only_the_owner_mirrors(service: Service, onboarding: Onboarding) -> None:
    grant = granted(onboarding.buyer)
    other = service.buyer()
    fund(other)
    stolen = Onboarding.of(service, other)
    body = {"buyer_wallet": onboarding.buyer.address, "grant_id": grant}
    answer = stolen.send("POST", "/api/sessions/onboard", json=body)
    refused(answer, 401, "sign_in_invalid")


def test_a_sum_that_no_approval_can_name_is_refused(onboarding: Onboarding) -> None:
    most = str(2**64 - 1)
    first = granted(onboarding.buyer, maxTotalAmount=most)
    assert mirrored(onboarding, first) == 2**64 - 1
    refused(onboarding.onboard(grant_id=granted(onboarding.buyer)), 400, "invalid_amount")
