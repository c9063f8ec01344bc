"""`/mpp/prepare` and `/mpp/settle`: bodies, codes, and what the chain has afterwards."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from charge_rig import ata, memo, pay
from mpp_charge_rig import Shop, has_no_null, refused, shop_fixture
from running import PRICE, USDC, Service
from solders.keypair import Keypair

__all__ = ["shop_fixture"]

CLIENT_SECONDS = 30
"""When the reference client gives up."""


# --- prepare --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"network":"localnet","more":1}', b'{"network":null}']
)
def test_prepare_gives_what_a_buyer_builds_with(service: Service, body: bytes) -> None:
    answer = service.http.post("/mpp/prepare", content=body)
    assert answer.status_code == 200
    found = answer.json()
    assert set(found) == {
        "success", "ok", "feePayer", "recentBlockhash", "blockhash", "lastValidBlockHeight",
        "network", "splToken", "tokenProgram", "decimals",
    }  # fmt: skip
    assert found["success"] is found["ok"] is True
    assert found["feePayer"] == service.facts["feePayer"]
    assert found["blockhash"] == found["recentBlockhash"]
    assert (found["splToken"], found["decimals"]) == (str(service.chain.mint), 6)
    assert found["network"] == "localnet"
    assert found["tokenProgram"] == "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"
    latest = service.chain.call("getLatestBlockhash", {"commitment": "confirmed"})["value"]
    assert 0 <= latest["lastValidBlockHeight"] - found["lastValidBlockHeight"] < 100


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_request"),
        (b"null", "invalid_request"),
        (b"[]", "invalid_request"),
        (b'{"network":1}', "invalid_request"),
        (b'{"network":"mainnet-beta"}', "network_mismatch"),
    ],
)
def test_prepare_refuses_with_a_status_and_a_body(service: Service, body: bytes, code: str) -> None:
    answer = service.http.post("/mpp/prepare", content=body)
    assert answer.status_code == 400
    found = answer.json()
    assert (found["success"], found["error"]) == (False, code)
    assert found["detail"]


# --- settle ---------------------------------------------------------------------------------


def test_a_payment_is_settled_and_answered_in_both_spellings(shop: Shop) -> None:
    found = shop.settle(shop.bought())
    assert found["success"] is found["ok"] is True
    paid = {
        "recipient": shop.recipient,
        "amount": str(PRICE),
        "asset": str(shop.service.chain.mint),
        "feePayer": shop.service.facts["feePayer"],
    }
    assert found["settlement"] == paid
    assert {name: found[name] for name in paid} == paid
    assert (found["payer"], found["network"]) == (shop.buyer.address, "localnet")
    assert found["details"]["memo"].startswith("mppx:")
    assert has_no_null(found)
    assert shop.service.chain.balance(shop.wallet) == PRICE
    assert shop.service.chain.balance(shop.buyer.wallet) == USDC - PRICE
    status = shop.service.chain.call("getSignatureStatuses", [found["signature"]])["value"][0]
    assert (status["confirmationStatus"], status["err"]) == ("finalized", None)


def test_calling_again_gives_the_same_answer_and_pays_nothing(shop: Shop) -> None:
    transaction = shop.bought()
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: shop.settle(transaction), range(8)))
    assert all(answer == answers[0] for answer in [*answers, shop.settle(transaction)])
    assert shop.service.chain.balance(shop.wallet) == PRICE
    how = {"encoding": "base64", "maxSupportedTransactionVersion": 0}
    complete = shop.service.chain.call("getTransaction", answers[0]["signature"], how)
    assert shop.settle(complete["transaction"][0]) == answers[0]


def test_a_settled_payment_answers_no_other_claim(shop: Shop) -> None:
    transaction = shop.bought()
    assert shop.settle(transaction)["success"]
    other = str(Keypair().pubkey())
    refused(shop.settle(transaction, recipient=other), "recipient_mismatch")
    refused(shop.settle(transaction, amount=str(PRICE + 1)), "amount_mismatch")
    refused(shop.settle(transaction, asset=other), "asset_mismatch")


@pytest.mark.campaign
def test_the_settlement_outlasts_a_chain_that_stands_still(shop: Shop) -> None:
    """The answer comes while the client still listens, and the next call takes up the thread."""
    transaction = shop.bought()
    chain = shop.service.chain
    chain.call("localchain_pause")
    try:
        started = time.monotonic()
        pending = shop.settle(transaction)
        assert 20 < time.monotonic() - started < CLIENT_SECONDS - 2
        refused(pending, "settlement_pending")
        assert pending["signature"]
        assert pending["retryable"] is True
    finally:
        chain.call("localchain_resume")
    found = shop.settle(transaction)
    assert found["success"] is True
    assert found["signature"] == pending["signature"]
    assert chain.balance(shop.wallet) == PRICE


BAD_CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({"transaction": ...}, "invalid_request"),
    ({"transaction": 1}, "invalid_request"),
    ({"transaction": "A" * 5_000}, "invalid_transaction_encoding"),
    ({"transaction": "no base64"}, "invalid_transaction_encoding"),
    ({"transaction": "AAAA"}, "invalid_transaction_encoding"),
    ({"recipient": ...}, "invalid_wallet"),
    ({"recipient": "somebody"}, "invalid_wallet"),
    ({"asset": 7}, "invalid_wallet"),
    ({"amount": PRICE}, "invalid_amount"),
    ({"amount": "1.5"}, "invalid_amount"),
    ({"amount": "18446744073709551616"}, "invalid_amount"),
    ({"network": ...}, "invalid_request"),
    ({"network": "mainnet-beta"}, "network_mismatch"),
]


@pytest.mark.parametrize(("changes", "code"), BAD_CLAIMS)
def test_a_bad_claim_keeps_its_code(shop: Shop, changes: dict[str, Any], code: str) -> None:
    refused(shop.settle(shop.bought(), **changes), code)


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b'"text"', b"\xff"])
def test_a_body_that_is_no_object_keeps_its_code(service: Service, body: bytes) -> None:
    answer = service.http.post("/mpp/settle", content=body)
    assert answer.status_code == 200
    refused(answer.json(), "invalid_request")


def test_a_large_body_is_refused_as_the_client_reads_it(service: Service) -> None:
    answer = service.http.post("/mpp/settle", content=b" " * 70_000)
    assert answer.status_code == 413
    assert answer.json()["success"] is False


def test_what_the_fee_payer_does_not_sign_is_refused_with_its_code(shop: Shop) -> None:
    fee_payer = shop.service.facts["feePayer"]
    mine = ata(shop.buyer.address)
    honest = pay(
        source=mine,
        destination=ata(shop.recipient),
        authority=shop.buyer.address,
        amount=PRICE,
    )
    for steps, code in (
        ([memo(b"nothing", shop.buyer.address)], "no_transfer_instruction"),
        ([honest, honest], "policy:multiple_transfers"),
        ([honest, memo(b"signed by you", fee_payer)], "policy:fee_payer_not_isolated"),
    ):
        refused(shop.settle(shop.bought(steps=steps)), code)
    refused(shop.settle(shop.bought(fee_payer=shop.buyer.address)), "policy:fee_payer_mismatch")
    assert shop.service.chain.balance(shop.wallet) == 0


def test_a_buyer_without_the_money_is_refused(service: Service) -> None:
    poor = Shop.of(service, purse=PRICE - 1)
    refused(poor.settle(poor.bought()), "insufficient_balance")
    assert service.chain.balance(poor.wallet) == 0


def test_a_wallet_without_an_account_is_refused(service: Service) -> None:
    shop = Shop.of(service)
    shop.wallet = Keypair()
    refused(shop.settle(shop.bought()), "recipient_account_missing")
