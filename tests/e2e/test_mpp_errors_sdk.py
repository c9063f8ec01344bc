"""Every way in which the buyers' wire says no, as the reference's client reads it."""

import json
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
    payable,
    presented,
    session_client,
    shop,
    signers,
)
from running import PRICE, USDC, Service
from solders.keypair import Keypair

from tests.e2e.dexter_client import PlainError, SessionClient, SettlementClient, SettlementError
from tests.e2e.dexter_signing import message_signer, sign_in_header, transaction_signer

POSTS = (
    "/mpp/session/open",
    "/mpp/session/voucher",
    "/mpp/session/close",
    "/mpp/prepare",
    "/mpp/settle",
    "/api/sessions/onboard",
    "/api/sessions/onboard/confirm",
)
NOBODY = Keypair.from_seed(bytes([9]) * 32)
STRANGER = str(Keypair.from_seed(bytes([8]) * 32).pubkey())


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with connections() as opened_http:
        yield opened_http


@pytest.fixture
async def session(devnet_service: Service, http: httpx.AsyncClient) -> SessionClient:
    return await onboarded(devnet_service, http, funded(devnet_service))


async def refused(call: Any, code: str) -> str:
    """The message of the error that the client throws with this code."""
    with pytest.raises(SettlementError) as error:
        await call
    assert error.value.code == code, error.value.message
    assert isinstance(error.value.message, str)
    assert error.value.message
    return error.value.message


# --- sessions -------------------------------------------------------------------------------


async def test_a_channel_that_nobody_opened_signs_and_closes_nothing(
    session: SessionClient,
) -> None:
    client = session.client
    for channel in ("ch_unknown", "\u8a9e", "../open", "0" * 128):
        call = client.session_voucher(channel_id=channel, amount="1", serverNonce="n")
        await refused(call, "channel_not_found")
        await refused(client.session_close(channel_id=channel), "channel_not_found")


async def test_a_closed_channel_signs_nothing_more(
    devnet_service: Service, session: SessionClient
) -> None:
    seller = payable(devnet_service)
    channel = await opened(session, seller.facts["recipient"])
    signed = await pay(session, channel)
    assert presented(seller, delivered(signed))["valid"]
    await session.close(channel)
    for amount in (PRICE, 2 * PRICE):  # what was signed before is not signed again either
        nonce = signed["voucher"]["serverNonce"]
        call = session.client.session_voucher(
            channel_id=channel, amount=str(amount), serverNonce=nonce
        )
        await refused(call, "channel_already_closed")


async def test_a_deposit_bounds_what_is_signed_to_the_last_unit(session: SessionClient) -> None:
    judge = shop(STRANGER, 1)
    channel = await opened(session, STRANGER, deposit=100)

    async def sign(amount: int) -> dict[str, Any]:
        return await session.pay(channel, amount=str(amount), server_nonce=f"n{amount}")

    await refused(sign(101), "insufficient_deposit")
    await refused(sign(2**64 - 1), "insufficient_deposit")
    assert judge.verify(delivered(await sign(99)))["valid"]
    assert judge.verify(delivered(await sign(100)))["valid"]
    await refused(sign(101), "insufficient_deposit")
    assert session.sessions[channel].cumulative_amount == 100


@pytest.mark.parametrize("amount", ["500", "499", "1", "0"])
async def test_an_amount_that_does_not_rise_is_refused_and_takes_no_number(
    session: SessionClient, amount: str
) -> None:
    channel = await opened(session, STRANGER)
    await session.pay(channel, amount="500", server_nonce="first")
    await refused(
        session.pay(channel, amount=amount, server_nonce="second"), "amount_not_monotonic"
    )
    signed = await session.pay(channel, amount="501", server_nonce="third")
    assert signed["voucher"]["sequence"] == 2


@pytest.mark.parametrize(
    "amount", ["-1", "1.5", "1e3", "", " 5 ", "0x10", "01", "abc", "18446744073709551616", 5, True]
)
async def test_only_a_plain_decimal_string_is_an_amount(
    session: SessionClient, amount: Any
) -> None:
    client = session.client
    channel = await opened(session, STRANGER)
    call = client.session_voucher(channel_id=channel, amount=amount, serverNonce="n")
    assert "amount" in await refused(call, "invalid_amount")
    body = {
        "buyer_wallet": session.buyer_wallet,
        "buyer_swig_address": session.buyer_swig_address,
        "seller_wallet": STRANGER,
        "network": NETWORK,
    }
    call = client.session_open(**body, deposit_atomic=amount)
    assert "deposit_atomic" in await refused(call, "invalid_amount")


@pytest.mark.parametrize("wallet", ["", "abc", "0" * 44, "1" * 31, STRANGER + "1", 7, {}])
@pytest.mark.parametrize("name", ["buyer_wallet", "seller_wallet"])
async def test_a_wallet_that_is_no_address_opens_nothing(
    session: SessionClient, name: str, wallet: Any
) -> None:
    body = {
        "buyer_wallet": session.buyer_wallet,
        "buyer_swig_address": session.buyer_swig_address,
        "seller_wallet": STRANGER,
        "deposit_atomic": "100",
        "network": NETWORK,
    }
    assert name in await refused(
        session.client.session_open(**{**body, name: wallet}), "invalid_wallet"
    )


async def test_a_wallet_that_has_not_onboarded_opens_nothing(
    devnet_service: Service, http: httpx.AsyncClient
) -> None:
    buyer = funded(devnet_service)
    session = session_client(devnet_service, http, buyer)
    await refused(session.open(seller=STRANGER, deposit="100"), "wallet_not_onboarded")
    buyer.fund()  # an approval alone is no consent to strangers' opens
    await refused(session.open(seller=STRANGER, deposit="100"), "wallet_not_onboarded")


@pytest.mark.parametrize("network", ["mainnet-beta", "localnet", "testnet", "Devnet"])
async def test_a_client_for_another_network_opens_nothing(
    session: SessionClient, network: str
) -> None:
    other = SessionClient(session.client, session.buyer_wallet, session.buyer_swig_address, network)
    await refused(other.open(seller=STRANGER, deposit="100"), "network_mismatch")


async def test_a_deposit_beyond_the_funding_source_opens_nothing(
    devnet_service: Service, http: httpx.AsyncClient
) -> None:
    by_limit = await onboarded(
        devnet_service, http, funded(devnet_service), spend_limit=DEPOSIT - 1
    )
    by_balance = await onboarded(devnet_service, http, funded(devnet_service, DEPOSIT - 1))
    for session in (by_limit, by_balance):
        await refused(session.open(seller=STRANGER, deposit=str(DEPOSIT)), "insufficient_deposit")
        assert await opened(session, STRANGER, deposit=DEPOSIT - 1)
        await refused(session.open(seller=STRANGER, deposit="1"), "insufficient_deposit")


async def test_an_approval_that_was_revoked_opens_nothing(
    devnet_service: Service, http: httpx.AsyncClient
) -> None:
    buyer = funded(devnet_service)
    session = await onboarded(devnet_service, http, buyer)
    devnet_service.chain.call("requestAirdrop", buyer.address, USDC)
    buyer.revoke()
    await refused(session.open(seller=STRANGER, deposit="100"), "delegate_revoked")


# --- onboarding -----------------------------------------------------------------------------


async def test_only_the_wallet_itself_can_onboard(
    devnet_service: Service, http: httpx.AsyncClient
) -> None:
    buyer = funded(devnet_service)
    session = session_client(devnet_service, http, buyer)
    wrong_key = session.onboard(signer=NOBODY)
    await refused(wrong_key, "sign_in_invalid")
    other_wallet = session.onboard(
        sign_transaction=transaction_signer(NOBODY),
        sign_message=message_signer(NOBODY),
        public_key=str(NOBODY.pubkey()),
    )
    await refused(other_wallet, "sign_in_invalid")
    for call in (
        session.client.onboard(buyer_wallet=buyer.address),
        session.client.confirm(buyer_wallet=buyer.address, signed_transactions=[]),
        session.client.onboard_status(buyer.address),
    ):
        await refused(call, "sign_in_required")


@pytest.mark.parametrize("url", ["http://ledger.example", "https://127.0.0.1.example"])
async def test_a_proof_for_another_host_proves_nothing_here(
    devnet_service: Service, http: httpx.AsyncClient, url: str
) -> None:
    buyer = funded(devnet_service)
    client = SettlementClient(http, devnet_service.url)
    proof = await sign_in_header(url, NETWORK, buyer.address, message_signer(buyer.wallet))
    await refused(client.onboard(proof, buyer_wallet=buyer.address), "sign_in_invalid")


async def test_a_proof_for_another_network_proves_nothing_here(
    devnet_service: Service, http: httpx.AsyncClient
) -> None:
    buyer = funded(devnet_service)
    session = SessionClient(
        SettlementClient(http, devnet_service.url), buyer.address, buyer.address, "mainnet-beta"
    )
    await refused(session.onboard(**signers(buyer, "key pair")), "sign_in_invalid")


async def test_a_wallet_without_usdc_is_not_eligible(
    devnet_service: Service, http: httpx.AsyncClient
) -> None:
    buyer = devnet_service.buyer()
    session = session_client(devnet_service, http, buyer)
    await refused(session.onboard(**signers(buyer, "key pair")), "onboard_rejected")


async def test_transactions_that_were_not_issued_are_not_sent(
    devnet_service: Service, http: httpx.AsyncClient
) -> None:
    buyer = funded(devnet_service)
    client = SettlementClient(http, devnet_service.url)
    proof = await sign_in_header(
        client.base_url, NETWORK, buyer.address, message_signer(buyer.wallet)
    )
    never = client.confirm(proof, buyer_wallet=buyer.address, signed_transactions=["AA=="])
    await refused(never, "onboarding_not_found")
    asked = await client.onboard(proof, buyer_wallet=buyer.address, spend_limit_atomic=str(PURSE))
    unsigned = [entry["tx"] for entry in asked["transactions"]]
    sign = transaction_signer(buyer.wallet)
    signed = [await sign(transaction) for transaction in unsigned]
    for transactions, code in (
        (unsigned, "signature_invalid"),
        ([], "transaction_altered"),
        ([*signed, signed[0]], "transaction_altered"),
    ):
        call = client.confirm(proof, buyer_wallet=buyer.address, signed_transactions=transactions)
        await refused(call, code)
    confirmed = await client.confirm(proof, buyer_wallet=buyer.address, signed_transactions=signed)
    assert confirmed["status"] == "ready"


# --- bodies that no client sends ------------------------------------------------------------


def wire_refusal(answer: httpx.Response) -> dict[str, Any]:
    """The body of a refusal, which the client can read whatever its status is."""
    assert 200 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = json.loads(answer.content)
    assert body["success"] is False
    assert body["ok"] is False
    assert isinstance(body["error"], str)
    assert body["error"]
    assert isinstance(body["detail"], str)
    assert body["detail"]
    return body


async def headers_for(service: Service) -> dict[str, str]:
    """With a proof that holds, so that the body is what is refused."""
    sign_message = message_signer(NOBODY)
    proof = await sign_in_header(service.url, NETWORK, str(NOBODY.pubkey()), sign_message)
    return {"content-type": "application/json", "sign-in-with-x": proof}


NO_OBJECTS = (
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"1e999",
    b"\xff\xfe",
    b'{"network": NaN}',
    b"[" * 5_000,
    b'{"network":"devnet"}{',
)


@pytest.mark.parametrize("path", POSTS)
async def test_a_body_that_is_no_json_object_is_refused_readably(
    devnet_service: Service, path: str
) -> None:
    headers = await headers_for(devnet_service)
    for content in NO_OBJECTS:
        answer = devnet_service.http.post(path, content=content, headers=headers)
        assert wire_refusal(answer)["error"] == "invalid_request", content


FIELDS = {
    "/mpp/session/open": (
        "buyer_wallet",
        "seller_wallet",
        "deposit_atomic",
        "network",
        "idle_timeout_seconds",
        "metadata",
    ),
    "/mpp/session/voucher": ("channel_id", "amount", "serverNonce", "meter", "units"),
    "/mpp/session/close": ("channel_id",),
    "/mpp/prepare": ("network",),
    "/mpp/settle": ("transaction", "recipient", "amount", "asset", "network"),
    "/api/sessions/onboard": ("buyer_wallet", "spend_limit_atomic", "ttl_seconds"),
    "/api/sessions/onboard/confirm": ("buyer_wallet", "signed_transactions"),
}
VALID: dict[str, Any] = {
    "buyer_wallet": str(NOBODY.pubkey()),
    "buyer_swig_address": STRANGER,
    "seller_wallet": STRANGER,
    "deposit_atomic": "100",
    "network": NETWORK,
    "channel_id": "ch",
    "amount": "1",
    "serverNonce": "n",
    "transaction": "AA==",
    "recipient": STRANGER,
    "asset": STRANGER,
    "signed_transactions": ["AA=="],
}


WRONG_KINDS = (True, -1.5, {"a": "\0" * 9_999}, [None], "\ud800", "x" * 5_000)


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, names in FIELDS.items() for name in names]
)
async def test_a_member_of_the_wrong_kind_is_refused_readably(
    devnet_service: Service, path: str, name: str
) -> None:
    headers = await headers_for(devnet_service)
    for value in WRONG_KINDS:
        content = json.dumps({**VALID, name: value})
        answer = devnet_service.http.post(path, content=content, headers=headers)
        assert wire_refusal(answer)["error"].startswith("invalid_"), value


@pytest.mark.parametrize("path", POSTS)
def test_a_method_or_path_that_is_none_is_refused_readably(
    devnet_service: Service, path: str
) -> None:
    wire_refusal(devnet_service.http.get(path))
    wire_refusal(devnet_service.http.post(path + "/more", json={}))


async def test_a_preparation_for_another_network_fails_with_its_reason(
    devnet_service: Service, http: httpx.AsyncClient
) -> None:
    client = SettlementClient(http, devnet_service.url)
    with pytest.raises(PlainError, match=r"^Dexter prepare failed \(4..\): .*network_mismatch"):
        await client.prepare(network="mainnet-beta")
