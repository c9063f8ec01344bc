"""What a buyer allowed bounds who is paid, for how long, and by whose word."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from dexter_rig import (
    DEPOSIT,
    NETWORK,
    PURSE,
    connections,
    delivered,
    funded,
    onboarded,
    opened,
    pay,
    refusal_of,
    session_client,
    shop,
    signers,
)
from running import PRICE, Buyer, Service, until
from solders.keypair import Keypair

from tests.e2e.dexter_client import SessionClient, SettlementClient, SettlementError
from tests.e2e.dexter_signing import message_signer, sign_in_header, transaction_signer

TTL_SECONDS = 3


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with connections() as opened_http:
        yield opened_http


async def proof_of(service: Service, buyer: Buyer, network: str = NETWORK) -> str:
    sign = message_signer(buyer.wallet)
    return await sign_in_header(service.url, network, buyer.address, sign)


def address() -> str:
    return str(Keypair().pubkey())


async def test_a_permission_for_some_sellers_pays_no_others(
    devnet_service: Service, http: httpx.AsyncClient
) -> None:
    buyer, friend = funded(devnet_service), address()
    client = SettlementClient(http, devnet_service.url)
    proof, wallet = await proof_of(devnet_service, buyer), {"buyer_wallet": buyer.address}
    asked = await client.onboard(proof, **wallet, recipients=[friend])
    sign = transaction_signer(buyer.wallet)
    signed = [await sign(entry["tx"]) for entry in asked["transactions"]]
    confirmed = await client.confirm(proof, **wallet, signed_transactions=signed)
    assert confirmed["status"] == "ready"
    session = SessionClient(client, buyer.address, confirmed["swig_address"], NETWORK)
    with pytest.raises(SettlementError) as error:
        await session.open(seller=address(), deposit="100")
    assert error.value.code == "recipient_not_allowed"
    assert await opened(session, friend)


async def test_a_permission_that_has_run_out_signs_and_opens_nothing_but_closes(
    devnet_service: Service, http: httpx.AsyncClient
) -> None:
    buyer, seller = funded(devnet_service), Keypair()
    devnet_service.chain.receive(seller)
    before = session_client(devnet_service, http, buyer)
    result = await before.onboard(**signers(buyer, "key pair"), ttl_seconds=TTL_SECONDS)
    session = SessionClient(before.client, buyer.address, result["swigAddress"], NETWORK)
    channel = await opened(session, str(seller.pubkey()))
    assert shop(str(seller.pubkey())).verify(delivered(await pay(session, channel)))["valid"]
    headers = {"sign-in-with-x": await proof_of(devnet_service, buyer)}
    path = f"/api/sessions/onboard/status?buyer_wallet={buyer.address}"

    def has_expired() -> bool:
        return devnet_service.http.get(path, headers=headers).json()["status"] == "expired"

    until(has_expired)
    for call, code in (
        (pay(session, channel), "channel_expired"),
        (session.open(seller=address(), deposit="1"), "wallet_not_onboarded"),
    ):
        with pytest.raises(SettlementError) as error:
            await call
        assert error.value.code == code
    closed = await session.close(channel)
    assert closed["settlement"]["amount_settled"] == str(PRICE)
    assert devnet_service.chain.balance(seller) == PRICE


async def test_the_last_deposit_and_a_settlement_share_one_allowance(
    devnet_service: Service, http: httpx.AsyncClient
) -> None:
    """What a settlement took is gone from the limit, and what it left may be used again."""
    seller = Keypair()
    devnet_service.chain.receive(seller)
    buyer = funded(devnet_service)
    session = await onboarded(devnet_service, http, buyer, spend_limit=DEPOSIT)
    channel = await opened(session, str(seller.pubkey()))
    await pay(session, channel)
    await session.close(channel)
    with pytest.raises(SettlementError) as error:
        await opened(session, str(seller.pubkey()))
    assert error.value.code == "insufficient_deposit"
    channel = await opened(session, str(seller.pubkey()), deposit=DEPOSIT - PRICE)
    await session.pay(channel, amount=str(DEPOSIT - PRICE), server_nonce="all of it")
    await session.close(channel)
    assert devnet_service.chain.balance(seller) == DEPOSIT
    assert devnet_service.chain.balance(buyer.wallet) == PURSE - DEPOSIT


async def test_on_mainnet_an_open_needs_the_wallets_own_proof(
    mainnet_service: Service, http: httpx.AsyncClient
) -> None:
    buyer, thief = funded(mainnet_service), mainnet_service.buyer()
    client = SettlementClient(http, mainnet_service.url)
    session = SessionClient(client, buyer.address, buyer.address)
    await session.onboard(**signers(buyer, "key pair"), spend_limit=str(PURSE))
    with pytest.raises(SettlementError) as error:
        await session.open(seller=thief.address, deposit="100")
    assert error.value.code == "sign_in_required"
    body: dict[str, Any] = {
        "buyer_wallet": buyer.address,
        "buyer_swig_address": buyer.address,
        "seller_wallet": address(),
        "deposit_atomic": "100",
    }
    path = "/mpp/session/open"
    for signer, network in ((thief, "mainnet-beta"), (buyer, "devnet")):
        headers = {"sign-in-with-x": await proof_of(mainnet_service, signer, network)}
        answer = mainnet_service.http.post(path, json=body, headers=headers)
        refusal_of(answer, 401, "sign_in_invalid")
    headers = {"sign-in-with-x": await proof_of(mainnet_service, buyer, "mainnet-beta")}
    answer = mainnet_service.http.post(path, json=body, headers=headers)
    assert answer.json()["success"] is True
    assert answer.json()["network"] == "mainnet-beta"
