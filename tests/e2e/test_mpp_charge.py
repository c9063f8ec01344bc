"""`/mpp/prepare`, `/mpp/settle`, `/mpp/stats`: bodies, codes, and what the ledger keeps of it."""

import base64
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from charge_rig import ata, charge, memo, pay, wire
from running import PRICE, USDC, Buyer, Seller, Service, running, serving, until
from solders.keypair import Keypair

CLIENT_SECONDS = 30
"""When the reference client gives up."""


@dataclass
class Shop:
    """A buyer with USDC and no SOL, and a wallet that can be paid."""

    service: Service
    seller: Seller | None
    wallet: Keypair
    buyer: Buyer
    price: int = PRICE
    facts: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, service: Service, *, registered: bool = True, purse: int = USDC) -> "Shop":
        seller = service.seller() if registered else None
        wallet = seller.wallet if seller else Keypair()
        service.chain.receive(wallet)
        buyer = service.buyer()
        mint = str(service.chain.mint)
        service.chain.call("surfnet_setTokenAccount", buyer.address, mint, {"amount": purse})
        return cls(service, seller, wallet, buyer)

    @property
    def recipient(self) -> str:
        return str(self.wallet.pubkey())

    def prepare(self) -> dict[str, Any]:
        answer = self.service.http.post("/mpp/prepare", json={"network": "localnet"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def bought(self, **changes: Any) -> str:
        """A signed transaction over the price, as base64."""
        prepared = self.prepare()
        mint = prepared["splToken"]
        transfer = pay(
            source=ata(self.buyer.address, mint),
            destination=ata(self.recipient, mint),
            authority=self.buyer.address,
            amount=self.price,
            mint=mint,
        )
        steps = changes.pop("steps", charge(transfer=transfer, text=f"mppx:{uuid4()}".encode()))
        raw = wire(
            steps,
            blockhash=prepared["recentBlockhash"],
            fee_payer=changes.pop("fee_payer", prepared["feePayer"]),
            signers=[self.buyer.wallet],
        )
        return base64.b64encode(raw).decode()

    def claim(self, transaction: str, /, **changes: Any) -> dict[str, Any]:
        body = {
            "transaction": transaction,
            "recipient": self.recipient,
            "amount": str(self.price),
            "asset": str(self.service.chain.mint),
            "network": "localnet",
            **changes,
        }
        return {name: value for name, value in body.items() if value is not ...}

    def settle(self, transaction: str, /, **changes: Any) -> dict[str, Any]:
        body = self.claim(transaction, **changes)
        answer = self.service.http.post("/mpp/settle", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def shop(service: Service) -> Shop:
    return Shop.of(service)


def has_no_null(value: Any) -> bool:
    match value:
        case dict():
            return all(has_no_null(item) for item in value.values())
        case list():
            return all(has_no_null(item) for item in value)
        case _:
            return value is not None


def refused(answer: dict[str, Any], code: str) -> str:
    """The detail of a refusal as the client's schema takes it."""
    assert answer["success"] is answer["ok"] is False
    assert (answer["error"], answer["errorCode"]) == (code, code), answer
    assert isinstance(answer["detail"], str)
    assert answer["detail"]
    assert has_no_null(answer)
    return answer["detail"]


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


# --- what the ledger keeps -------------------------------------------------------------------


def test_a_payment_is_a_settlement_in_the_sellers_eyes(service: Service) -> None:
    shop = Shop.of(service)
    assert shop.seller is not None
    found = shop.settle(shop.bought())
    shown = shop.seller.get(f"/v1/settlements/{found['paymentId']}").json()
    assert (shown["status"], shown["signature"]) == ("settled", found["signature"])
    assert (shown["channelId"], shown["amount"]) == (None, str(PRICE))
    assert shown["authority"] == shop.buyer.address
    events = [event for event in shop.seller.events() if event["stream"] == "payment"]
    types = [event["type"] for event in events]
    assert types[0] == "payment_submitted"
    assert types[-1] == "settlement_finalized"
    assert {event["channelId"] for event in events} == {None}
    assert events[0]["payload"]["paymentId"] == found["paymentId"]
    stranger = service.seller()
    assert stranger.get(f"/v1/settlements/{found['paymentId']}").status_code == 404
    assert [e for e in stranger.events() if e["stream"] == "payment"] == []


def test_operators_see_payments_among_the_settlements(service: Service) -> None:
    shop = Shop.of(service, registered=False)
    found = shop.settle(shop.bought())
    shown = command(service, "settlement", "show", found["paymentId"])
    assert found["signature"] in shown
    listed = command(service, "settlement", "list", "--status", "settled", "--limit", "500")
    assert found["paymentId"] in listed
    command(service, "replay", "--stream", f"payment/{found['paymentId']}")


def command(service: Service, *words: str) -> str:
    """What a command prints that succeeds beside the running service."""
    line = [sys.executable, "-m", "service.cli", *words, "--json", "--data-dir"]
    done = subprocess.run(
        [*line, str(service.data_dir)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_statistics_have_the_documented_shape(shop: Shop) -> None:
    def stats() -> dict[str, Any]:
        answer = shop.service.http.get("/mpp/stats")
        assert answer.status_code == 200
        return answer.json()

    before = stats()
    found = shop.settle(shop.bought())
    refused(shop.settle("AAAA"), "invalid_transaction_encoding")

    def counted() -> dict[str, Any] | None:
        now = stats()
        settled, refusals = now["settle"], before["settle"]["refused"]
        new = settled["success"] > before["settle"]["success"]
        return now if new and settled["refused"] > refusals else None

    after = until(counted)
    assert after is not None
    assert set(after["prepare"]) == {"total", "today"}
    assert after["prepare"]["total"] > before["prepare"]["total"]
    settled = after["settle"]
    assert settled["today"] <= settled["total"]
    assert settled["success"] + settled["fail"] <= settled["total"]
    rate = 100 * settled["success"] / (settled["success"] + settled["fail"])
    assert settled["successRate"] == f"{rate:.1f}%"
    newest = after["recentSettlements"][0]
    assert newest == {
        "signature": found["signature"],
        "recipient": shop.recipient,
        "amount": str(PRICE),
        "network": "localnet",
        "payer": shop.buyer.address,
        "at": after["lastSettlement"],
    }


@pytest.fixture(scope="module")
def strict_service() -> Iterator[Service]:
    with running(SETTLE_CAP_PER_SELLER_PER_DAY="1", MPP_UNREGISTERED_SELLERS="refuse") as started:
        yield started


def test_caps_and_unregistered_sellers_are_refused_where_that_is_configured(
    strict_service: Service,
) -> None:
    shop, stranger = Shop.of(strict_service), Shop.of(strict_service, registered=False)
    refused(stranger.settle(stranger.bought()), "seller_not_registered")
    first = shop.bought()
    assert shop.settle(first)["success"]
    refused(shop.settle(shop.bought()), "seller_settle_cap_exceeded")
    assert shop.settle(first)["success"]
    assert strict_service.chain.balance(shop.wallet) == PRICE


def ended(answer: dict[str, Any]) -> dict[str, Any] | None:
    return None if answer.get("errorCode") == "settlement_pending" else answer


@pytest.mark.timeout(300)
@pytest.mark.campaign
def test_a_killed_service_settles_what_it_had_taken_on(tmp_path: Path) -> None:
    """It dies with the chain while it waits for finality, and is started on what it left."""
    with serving(tmp_path) as service:
        shop = Shop.of(service)
        transaction = shop.bought()
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(shop.settle, transaction)
            until(lambda: b"payment_submitted" in service.log.read_bytes())
            service.process.kill()
            with pytest.raises(httpx.HTTPError):
                waiting.result()
    with serving(tmp_path) as again:
        shop.service = again
        found = until(lambda: ended(shop.settle(transaction)), seconds=90)
        assert found is not None
        if not found["success"]:
            refused(found, "blockhash_expired")
        paid = again.chain.balance(shop.wallet)
        assert paid == (PRICE if found["success"] else 0)
        assert shop.settle(transaction) == found
        assert again.chain.balance(shop.wallet) == paid
