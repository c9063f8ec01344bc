"""Payments by transaction: one for each request, kept until it is answered, never two."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from session_ledger.buyer import (
    AssetNotAllowed,
    AutoPay,
    AutoPayError,
    FileStore,
    PaidWithoutAnswer,
    PaymentRefused,
    PaymentUncertain,
    Requirement,
    SyncSessionTransport,
    TotalExceeded,
    WalletMissing,
    presenting,
)
from session_ledger.buyer.transactions import Signed
from session_ledger.challenge import NETWORKS
from session_ledger.encoding import base58_encode
from session_ledger.x402.direct import (
    PaymentRequirements,
    PaymentResponse,
    parse_payment_header,
    payment_required_body,
    payment_response_header,
)
from tests.buyer_shop import PRICE, RECIPIENT, URL, autopay

LOCALNET = NETWORKS["localnet"]
PAYER = base58_encode(bytes(range(5, 37)))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presenting, "PAUSES", (0.0, 0.0))


class Chain:
    """A wallet and what it made and sent."""

    address = PAYER

    def __init__(self) -> None:
        self.made: list[str] = []
        self.landed: set[str] = set()
        self.sends = 0
        self.takes = True

    def transfer(self, asked: Requirement) -> Signed:
        assert (asked.amount, asked.recipient) == (PRICE, RECIPIENT)
        signature = base58_encode(bytes([len(self.made) + 1]) * 64)
        self.made.append(signature)
        return Signed(b"raw" + bytes([len(self.made)]), signature)

    sponsored = transfer

    def send(self, raw: bytes, signature: str) -> bool:
        assert raw.startswith(b"raw")
        self.sends += 1
        if self.takes:
            self.landed.add(signature)
        return self.takes

    def close(self) -> None:
        """Nothing to close."""


class DirectShop:
    """A seller of the direct dialect: each signature that landed buys once."""

    def __init__(self, chain: Chain, **offer: Any) -> None:
        self.chain = chain
        self.used: list[str] = []
        self.shown: list[str] = []
        self.lose: list[str] = []
        given: dict[str, Any] = {
            "network": "localnet",
            "max_amount_required": PRICE,
            "resource": URL,
            "pay_to": RECIPIENT,
            "asset": LOCALNET.usdc_mint,
        }
        self.offer = PaymentRequirements(**{**given, **offer})

    def __call__(self, request: httpx.Request) -> httpx.Response:
        header = request.headers.get("x-payment")
        if header is None:
            return self._unpaid(None)
        self.shown.append(header)
        fault = self.lose.pop(0) if self.lose else ""
        if fault == "before":
            raise httpx.ReadTimeout("lost")
        signature = parse_payment_header(header).signature
        if signature in self.used:
            return self._unpaid("Payment already processed")
        if signature not in self.chain.landed:
            return self._unpaid("Transaction not found")
        if fault == "unknown":
            return self._unpaid("Transaction not found")
        self.used.append(signature)
        if fault == "after":
            raise httpx.ReadTimeout("lost")
        told = payment_response_header(PaymentResponse(True, signature, "localnet", PAYER))
        return httpx.Response(200, headers={"X-PAYMENT-RESPONSE": told})

    def _unpaid(self, error: str | None) -> httpx.Response:
        return httpx.Response(402, json=payment_required_body([self.offer], error))


def client_of(payer: AutoPay, shop: Callable[[httpx.Request], httpx.Response]) -> httpx.Client:
    return httpx.Client(transport=SyncSessionTransport(payer, httpx.MockTransport(shop)))


def test_a_direct_payment_is_sent_shown_and_counted_once() -> None:
    chain = Chain()
    shop = DirectShop(chain)
    with autopay(wallet=chain) as payer, client_of(payer, shop) as client:
        assert client.get(URL).status_code == 200
        assert client.get(f"{URL}?2").status_code == 200
        assert (payer.payment_count, payer.total_spent, payer.pending) == (2, 2 * PRICE, [])
        assert payer.last_tx_hash == chain.made[1]
    assert shop.used == chain.made
    header = parse_payment_header(shop.shown[0])
    assert (header.payer, header.amount, header.mint) == (PAYER, PRICE, LOCALNET.usdc_mint)


def test_a_direct_payment_is_shown_again_after_a_restart_and_not_made_anew(tmp_path: Path) -> None:
    chain, path = Chain(), tmp_path / "purse.json"
    shop = DirectShop(chain)
    shop.lose = ["before"] * 3
    payer = autopay(wallet=chain, store=FileStore(path))
    with payer, client_of(payer, shop) as client, pytest.raises(PaymentUncertain):
        client.get(URL)
    payer = autopay(wallet=chain, store=FileStore(path))
    with payer, client_of(payer, shop) as client:
        assert len(payer.pending) == 1
        assert client.get(URL).status_code == 200
        assert (payer.payment_count, payer.total_spent, payer.total_signed) == (1, PRICE, PRICE)
    assert len(chain.made) == 1
    assert len(set(shop.shown)) == 1


def test_a_seller_that_does_not_see_the_payment_yet_is_shown_it_again() -> None:
    chain = Chain()
    shop = DirectShop(chain)
    shop.lose = ["unknown", "unknown"]
    with autopay(wallet=chain) as payer, client_of(payer, shop) as client:
        for _ in range(2):
            with pytest.raises(PaymentRefused) as raised:
                client.get(URL)
            assert raised.value.code == "Transaction not found"
        assert client.get(URL).status_code == 200
    assert len(chain.made) == 1


def test_a_direct_payment_taken_without_an_answer_is_said_so_and_never_made_twice() -> None:
    chain = Chain()
    shop = DirectShop(chain)
    shop.lose = ["after"]
    with autopay(wallet=chain) as payer, client_of(payer, shop) as client:
        with pytest.raises(PaidWithoutAnswer):
            client.get(URL)
        assert (payer.payment_count, len(chain.made)) == (1, 1)


def test_a_transaction_that_never_lands_is_forgotten_and_costs_nothing() -> None:
    chain = Chain()
    shop = DirectShop(chain)
    chain.takes = False
    with autopay(wallet=chain) as payer, client_of(payer, shop) as client:
        with pytest.raises(PaymentRefused):
            client.get(URL)
        assert (payer.total_signed, payer.pending, shop.shown) == (0, [], [])
        chain.takes = True
        assert client.get(URL).status_code == 200
    assert len(chain.made) == 2


@pytest.mark.parametrize(
    ("offer", "changes", "error"),
    [
        ({"asset": RECIPIENT}, {}, AssetNotAllowed),
        ({}, {"wallet": None}, WalletMissing),
        ({}, {"max_total": PRICE - 1}, TotalExceeded),
        ({"network": "solana-devnet"}, {}, AutoPayError),
    ],
)
def test_no_transaction_is_sent_beyond_the_caps(
    offer: dict[str, Any], changes: dict[str, Any], error: type[Exception]
) -> None:
    chain = Chain()
    shop = DirectShop(chain, **offer)
    with autopay(**{"wallet": chain, **changes}) as payer, client_of(payer, shop) as client:
        with pytest.raises(error):
            client.get(URL)
        assert payer.total_signed == 0
    assert (chain.sends, shop.shown) == (0, [])


def encoded(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


UNSEEN = ("X-PAYMENT header is required", "Payment required")
"""What servers of either version say that saw no payment."""


class ExactShop:
    """A seller of scheme `exact`, x402 v1 or v2; `says` are the reasons of its next refusals."""

    def __init__(self, *says: str, version: int) -> None:
        self.says = list(says)
        self.version = version
        self.shown: list[dict[str, Any]] = []
        own = {
            1: {"network": "solana-localnet", "maxAmountRequired": str(PRICE), "resource": URL},
            2: {"network": LOCALNET.chain_id, "amount": str(PRICE)},
        }
        self.offer: dict[str, Any] = {
            "scheme": "exact",
            "asset": LOCALNET.usdc_mint,
            "payTo": RECIPIENT,
            "maxTimeoutSeconds": 60,
            "extra": {"feePayer": PAYER, "custom": [1]},
            **own[version],
        }

    def __call__(self, request: httpx.Request) -> httpx.Response:
        text = request.headers.get("x-payment" if self.version == 1 else "payment-signature")
        if text is None:
            return self._unpaid(UNSEEN[self.version - 1])
        self.shown.append(json.loads(base64.b64decode(text)))
        reason = self.says.pop(0) if self.says else None
        if reason in UNSEEN or (reason is not None and self.version == 1):
            return self._unpaid(reason)
        told = {"success": reason is None, "transaction": "", "network": self.offer["network"]}
        told |= {"transaction": "sig"} if reason is None else {"errorReason": reason}
        name = "X-PAYMENT-RESPONSE" if self.version == 1 else "PAYMENT-RESPONSE"
        return httpx.Response(200 if reason is None else 402, headers={name: encoded(told)})

    def _unpaid(self, error: str) -> httpx.Response:
        offers = [{"scheme": "upto"}, {"scheme": "exact", "network": 1}, self.offer]
        body = {"x402Version": self.version, "accepts": offers, "error": error}
        if self.version == 1:
            return httpx.Response(402, json=body)
        body["resource"] = {"url": URL}
        return httpx.Response(402, headers={"PAYMENT-REQUIRED": encoded(body)})


both_versions = pytest.mark.parametrize("version", [1, 2])


@both_versions
def test_an_exact_payment_names_what_was_offered_and_its_transaction(version: int) -> None:
    chain, shop = Chain(), ExactShop(version=version)
    with autopay(wallet=chain) as payer, client_of(payer, shop) as client:
        assert client.get(URL).status_code == 200
        assert (payer.payment_count, payer.last_tx_hash, chain.sends) == (1, "sig", 0)
        assert payer.last_payment is not None
        assert payer.last_payment.dialect == f"x402v{version}"
    (shown,) = shop.shown
    assert base64.b64decode(shown.pop("payload")["transaction"]) == b"raw\x01"
    if version == 1:
        assert shown == {"x402Version": 1, "scheme": "exact", "network": "solana-localnet"}
    else:
        assert shown == {"x402Version": 2, "accepted": shop.offer, "resource": {"url": URL}}


@both_versions
def test_an_exact_payment_that_is_pending_is_shown_again_and_a_refused_one_is_over(
    version: int,
) -> None:
    pending = ("settlement_pending", "unexpected_verify_error")
    chain, shop = Chain(), ExactShop(*pending, "insufficient_funds", version=version)
    with autopay(wallet=chain) as payer, client_of(payer, shop) as client:
        for reason in (*pending, "insufficient_funds"):
            with pytest.raises(PaymentRefused) as raised:
                client.get(URL)
            assert raised.value.code == reason
        assert (payer.payment_count, payer.pending, len(chain.made)) == (0, [], 1)
        assert client.get(URL).status_code == 200
        assert payer.total_signed == 2 * PRICE  # what was refused is signed all the same
    *early, fresh = (each["payload"]["transaction"] for each in shop.shown)
    assert len(set(early)) == 1
    assert fresh not in early


@both_versions
def test_a_settled_payment_whose_answer_was_lost_is_not_made_twice(version: int) -> None:
    chain = Chain()
    shop = ExactShop("settlement_pending", "duplicate_settlement", version=version)
    with autopay(wallet=chain) as payer, client_of(payer, shop) as client:
        with pytest.raises(PaymentRefused):
            client.get(URL)
        with pytest.raises(PaidWithoutAnswer):
            client.get(URL)
        assert (payer.payment_count, len(chain.made)) == (1, 1)


@both_versions
def test_a_seller_that_did_not_look_at_the_payment_is_shown_the_same_again(version: int) -> None:
    chain, shop = Chain(), ExactShop(UNSEEN[version - 1], version=version)
    with autopay(wallet=chain) as payer, client_of(payer, shop) as client:
        with pytest.raises(PaymentRefused):
            client.get(URL)
        assert [info.dialect for info in payer.pending] == [f"x402v{version}"]
        assert client.get(URL).status_code == 200
        assert (payer.payment_count, len(chain.made)) == (1, 1)


def test_a_restarted_client_shows_a_payment_of_version_1_as_it_was(tmp_path: Path) -> None:
    chain, path = Chain(), tmp_path / "purse.json"
    shop = ExactShop("settlement_pending", version=1)
    payer = autopay(wallet=chain, store=FileStore(path))
    with payer, client_of(payer, shop) as client, pytest.raises(PaymentRefused):
        client.get(URL)
    payer = autopay(wallet=chain, store=FileStore(path))
    with payer, client_of(payer, shop) as client:
        assert client.get(URL).status_code == 200
    first, again = shop.shown
    assert (first, len(chain.made)) == (again, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"maxAmountRequired": str(PRICE + 1)},
        {"payTo": PAYER},
        {"asset": PAYER},
        {"network": "solana"},
    ],
)
def test_an_offer_of_version_1_beyond_the_caps_is_not_signed(change: dict[str, Any]) -> None:
    chain, shop = Chain(), ExactShop(version=1)
    shop.offer |= change
    with autopay(wallet=chain) as payer, client_of(payer, shop) as client:
        with pytest.raises(AutoPayError):
            client.get(URL)
        assert (payer.total_signed, chain.made) == (0, [])
