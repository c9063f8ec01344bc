"""One-shot payments with the reference's `charge` methods on both sides."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from dexter_rig import NETWORK, PURSE, connections, funded, payable, payments_of
from running import PRICE, Buyer, Seller, Service, until
from solders.keypair import Keypair

from tests.e2e.dexter_charge import ChargeSeller, charge_transaction
from tests.e2e.dexter_client import SettlementClient, SettlementError

AMOUNT = str(PRICE)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with connections() as opened_http:
        yield opened_http


@pytest.fixture
def client(devnet_service: Service, http: httpx.AsyncClient) -> SettlementClient:
    return SettlementClient(http, devnet_service.url + "/")


@pytest.fixture
def shopper(devnet_service: Service) -> Buyer:
    return funded(devnet_service)


@pytest.fixture
def merchant(devnet_service: Service) -> Seller:
    return payable(devnet_service)


def shop_of(client: SettlementClient, merchant: Seller) -> ChargeSeller:
    return ChargeSeller(client, merchant.facts["recipient"], NETWORK)


async def refused(shop: ChargeSeller, request: dict[str, Any], transaction: str) -> str:
    """The code with which the payment is refused."""
    with pytest.raises(SettlementError) as error:
        await shop.verify(request, transaction)
    assert isinstance(error.value.message, str)
    assert error.value.message
    return str(error.value.code)


async def test_a_charge_moves_the_price_and_the_buyer_needs_no_sol(
    devnet_service: Service, client: SettlementClient, shopper: Buyer, merchant: Seller
) -> None:
    shop = shop_of(client, merchant)
    request = await shop.challenge(AMOUNT)
    assert request["methodDetails"]["feePayerKey"] == devnet_service.facts["feePayer"]
    assert request["methodDetails"]["splToken"] == str(devnet_service.chain.mint)
    signature = await shop.verify(request, charge_transaction(request, shopper.wallet))
    assert devnet_service.chain.balance(merchant.wallet) == PRICE
    assert devnet_service.chain.balance(shopper.wallet) == PURSE - PRICE
    [payment] = payments_of(devnet_service, shopper)
    assert (payment["signature"], payment["authority"]) == (signature, shopper.address)
    [status] = devnet_service.chain.call("getSignatureStatuses", [signature])["value"]
    assert (status["confirmationStatus"], status["err"]) == ("finalized", None)
    how = {"encoding": "jsonParsed", "maxSupportedTransactionVersion": 0}
    transaction = devnet_service.chain.call("getTransaction", signature, how)
    assert any(request["methodDetails"]["reference"] in line for line in logs_of(transaction))


def logs_of(transaction: dict[str, Any]) -> list[str]:
    return transaction["meta"]["logMessages"]


async def test_a_wallet_that_is_no_seller_of_ours_is_paid_too(
    devnet_service: Service, client: SettlementClient, shopper: Buyer
) -> None:
    stranger = Keypair()
    devnet_service.chain.receive(stranger)
    shop = ChargeSeller(client, str(stranger.pubkey()), NETWORK)
    request = await shop.challenge(AMOUNT)
    assert await shop.verify(request, charge_transaction(request, shopper.wallet))
    assert devnet_service.chain.balance(stranger) == PRICE


async def test_a_payment_that_is_settled_often_is_paid_once(
    devnet_service: Service, client: SettlementClient, shopper: Buyer, merchant: Seller
) -> None:
    shop = shop_of(client, merchant)
    request = await shop.challenge(AMOUNT)
    transaction = charge_transaction(request, shopper.wallet)
    signatures = await asyncio.gather(*(shop.verify(request, transaction) for _ in range(8)))
    assert {*signatures, await shop.verify(request, transaction)} == {signatures[0]}
    assert devnet_service.chain.balance(merchant.wallet) == PRICE
    assert len(payments_of(devnet_service, shopper)) == 1


async def test_parallel_charges_are_payments_of_their_own(
    devnet_service: Service, client: SettlementClient, shopper: Buyer, merchant: Seller
) -> None:
    shop = shop_of(client, merchant)

    async def charge() -> str:
        request = await shop.challenge(AMOUNT)
        return await shop.verify(request, charge_transaction(request, shopper.wallet))

    signatures = await asyncio.gather(*(charge() for _ in range(8)))
    assert len(set(signatures)) == 8
    assert devnet_service.chain.balance(merchant.wallet) == 8 * PRICE


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("recipient", str(Keypair.from_seed(bytes(32)).pubkey()), "recipient_mismatch"),
        ("amount", str(PRICE + 1), "amount_mismatch"),
        ("amount", str(PRICE - 1), "amount_mismatch"),
        ("asset", "So11111111111111111111111111111111111111112", "asset_mismatch"),
        ("network", "mainnet-beta", "network_mismatch"),
    ],
)
async def test_a_payment_must_be_the_one_that_the_seller_asked_for(
    devnet_service: Service,
    client: SettlementClient,
    shopper: Buyer,
    merchant: Seller,
    name: str,
    value: str,
    code: str,
) -> None:
    shop = shop_of(client, merchant)
    request = await shop.challenge(AMOUNT)
    transaction = charge_transaction(request, shopper.wallet)
    claim = {
        "recipient": request["recipient"],
        "amount": AMOUNT,
        "asset": request["methodDetails"]["splToken"],
        "network": NETWORK,
    }
    answer = await client.settle(transaction=transaction, **{**claim, name: value})
    assert answer["success"] is False
    assert answer["errorCode"] == code
    assert "signature" not in answer
    assert devnet_service.chain.balance(merchant.wallet) == 0
    assert await shop.verify(request, transaction)  # nothing is held against the honest claim


async def test_a_payment_that_the_buyer_cannot_make_is_refused_before_it_is_sent(
    devnet_service: Service, client: SettlementClient, merchant: Seller
) -> None:
    shop = shop_of(client, merchant)
    poor = funded(devnet_service, PRICE - 1)
    request = await shop.challenge(AMOUNT)
    transaction = charge_transaction(request, poor.wallet)
    assert await refused(shop, request, transaction) == "insufficient_balance"
    assert payments_of(devnet_service, poor) == []


async def test_a_transaction_without_the_buyers_signature_is_refused(
    client: SettlementClient, shopper: Buyer, merchant: Seller
) -> None:
    shop = shop_of(client, merchant)
    request = await shop.challenge(AMOUNT)
    signed = base64.b64decode(charge_transaction(request, shopper.wallet))
    unsigned = signed[:65] + bytes(64) + signed[129:]
    flipped = signed[:128] + bytes([signed[128] ^ 1]) + signed[129:]
    for transaction, code in ((unsigned, "missing_signature"), (flipped, "invalid_signature")):
        text = base64.b64encode(transaction).decode()
        assert await refused(shop, request, text) == code


@pytest.mark.parametrize("transaction", ["AA==", "not base64", "A" * 4_000, "\u8a9e"])
async def test_what_is_no_transaction_is_refused(
    client: SettlementClient, merchant: Seller, transaction: str
) -> None:
    shop = shop_of(client, merchant)
    request = await shop.challenge(AMOUNT)
    assert await refused(shop, request, transaction) == "invalid_transaction_encoding"


async def test_a_transaction_for_a_blockhash_that_never_was_is_refused(
    client: SettlementClient, shopper: Buyer, merchant: Seller
) -> None:
    shop = shop_of(client, merchant)
    request = await shop.challenge(AMOUNT)
    details = {**request["methodDetails"], "recentBlockhash": str(Keypair().pubkey())}
    transaction = charge_transaction({**request, "methodDetails": details}, shopper.wallet)
    assert await refused(shop, request, transaction) == "blockhash_expired"


async def test_the_statistics_count_what_was_settled(
    devnet_service: Service, client: SettlementClient, shopper: Buyer, merchant: Seller
) -> None:
    def stats() -> dict[str, Any]:
        answer = devnet_service.http.get("/mpp/stats")
        assert answer.status_code == 200
        return answer.json()

    shop = shop_of(client, merchant)
    request = await shop.challenge(AMOUNT)
    signature = await shop.verify(request, charge_transaction(request, shopper.wallet))
    until(lambda: stats()["recentSettlements"][0]["signature"] == signature)  # kept for a moment
    before = stats()
    assert before["recentSettlements"][0]["amount"] == AMOUNT
    assert before["recentSettlements"][0]["payer"] == shopper.address
    request = await shop.challenge(AMOUNT)
    await shop.verify(request, charge_transaction(request, shopper.wallet))
    until(lambda: stats()["recentSettlements"][0]["signature"] != signature)
    for name in ("total", "today", "success"):
        assert stats()["settle"][name] == before["settle"][name] + 1
