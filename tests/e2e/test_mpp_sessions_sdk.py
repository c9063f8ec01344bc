"""Buyers with the reference's client, sellers with its server, and this ledger between them.

Every payment is judged twice: by the reference's rules, which know nothing of us, and by ours.
"""

import asyncio
import random
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
    payments_of,
    presented,
    session_client,
    shop,
    signers,
)
from running import PRICE, Seller, Service, settled
from solders.keypair import Keypair

from tests.e2e.dexter_client import SettlementError
from tests.e2e.dexter_javascript import parse, stringify
from tests.e2e.dexter_signing import message_signer, sign_in_header

PAYMENTS = 100
RACERS = 32


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with connections() as opened_http:
        yield opened_http


def settlement_of(seller: Seller, channel: str) -> dict[str, Any]:
    """The session's settlement, finalized."""
    settlement_id = seller.session(channel)["settlement"]["settlementId"]
    found = settled(seller, settlement_id, "settled", "failed", "parked")
    assert (found["status"], found["confirmationStatus"]) == ("settled", "finalized"), found
    return found


@pytest.mark.parametrize("kind", ["key pair", "callbacks"])
async def test_a_buyer_onboards_pays_a_hundred_times_and_one_transfer_settles_it(
    devnet_service: Service, http: httpx.AsyncClient, kind: str
) -> None:
    service = devnet_service
    buyer, seller = funded(service), payable(service)
    judge = shop(seller.facts["recipient"])
    session = await onboarded(service, http, buyer, kind=kind)
    channel = await opened(session, seller.facts["recipient"])
    for number in range(1, PAYMENTS + 1):
        signed = delivered(await pay(session, channel))
        assert signed["voucher"]["sequence"] == number
        assert signed["voucher"]["payer"] == buyer.address
        assert judge.verify(signed)["amountPaid"] == str(PRICE)
        assert presented(seller, signed)["amountPaid"] == str(PRICE)
    total = PAYMENTS * PRICE
    closed = await session.close(channel)
    assert closed["channel_id"] == channel
    assert closed["settlement"]["seller"] == seller.facts["recipient"]
    assert closed["settlement"]["amount_settled"] == str(total)
    assert closed["settlement"]["buyer_refund"] == str(DEPOSIT - total)
    assert closed["settlement"]["voucher_count"] == PAYMENTS
    assert closed["settlement"]["session_duration_seconds"] >= 0
    assert service.chain.balance(seller.wallet) == total
    assert service.chain.balance(buyer.wallet) == PURSE - total
    signature = settlement_of(seller, channel)["signature"]
    [payment] = payments_of(service, buyer)
    assert (payment["signature"], payment["tokenAmount"]["amount"]) == (signature, str(total))
    assert {step["sequence"] for step in session.progress if step["type"] == "voucher"} == set(
        range(1, PAYMENTS + 1)
    )


async def test_a_wallet_that_has_onboarded_is_ready_at_once(
    devnet_service: Service, http: httpx.AsyncClient
) -> None:
    buyer = funded(devnet_service)
    session = session_client(devnet_service, http, buyer)
    proof = await sign_in_header(
        devnet_service.url, NETWORK, buyer.address, message_signer(buyer.wallet)
    )
    client = session.client
    before = await client.onboard_status(buyer.address, proof)
    assert (before["status"], before["buyer_wallet"]) == ("not_onboarded", buyer.address)
    asked = await client.onboard(proof, buyer_wallet=buyer.address, spend_limit_atomic="5")
    assert asked["status"] == "transactions_required"
    pending = await client.onboard_status(buyer.address, proof)
    assert pending["status"] == "pending"
    first = await session.onboard(**signers(buyer, "key pair"), spend_limit=str(PURSE))
    again = await client.onboard(proof, buyer_wallet=buyer.address, spend_limit_atomic=str(PURSE))
    assert (again["status"], again["swig_address"]) == ("ready", first["swigAddress"])
    assert again["role_id"] == first["roleId"]
    active = await client.onboard_status(buyer.address, proof)
    assert (active["status"], active["spend_limit_atomic"]) == ("active", str(PURSE))
    assert active["role_id"] == first["roleId"]


async def test_two_sellers_are_paid_in_turn_out_of_one_wallet(
    devnet_service: Service, http: httpx.AsyncClient
) -> None:
    service = devnet_service
    buyer = funded(service)
    sellers = [payable(service), payable(service, pricePerUnit=str(3 * PRICE))]
    prices = [PRICE, 3 * PRICE]
    session = await onboarded(service, http, buyer)
    channels = [await opened(session, seller.facts["recipient"]) for seller in sellers]
    judges = [
        shop(seller.facts["recipient"], price)
        for seller, price in zip(sellers, prices, strict=True)
    ]
    for turn in range(20):
        at = turn % 2
        signed = delivered(await pay(session, channels[at], prices[at]))
        assert judges[at].verify(signed)["valid"]
        assert presented(sellers[at], signed)["valid"]
        other = judges[1 - at].verify(signed)
        assert other["error"].startswith("recipient_mismatch: ")
    for at in (1, 0):
        closed = await session.close(channels[at])
        assert closed["settlement"]["amount_settled"] == str(10 * prices[at])
        assert service.chain.balance(sellers[at].wallet) == 10 * prices[at]
    assert service.chain.balance(buyer.wallet) == PURSE - 10 * sum(prices)
    assert len(payments_of(service, buyer)) == 2


@pytest.mark.parametrize("order", ["rising", "shuffled"])
async def test_parallel_payments_have_one_order_and_none_is_signed_twice(
    devnet_service: Service, http: httpx.AsyncClient, order: str
) -> None:
    service = devnet_service
    seller = payable(service)
    judge = shop(seller.facts["recipient"])
    session = await onboarded(service, http, funded(service))
    channel = await opened(session, seller.facts["recipient"])
    amounts = [PRICE * number for number in range(1, RACERS + 1)]
    if order == "shuffled":
        random.Random(7).shuffle(amounts)
    answers = await asyncio.gather(
        *(session.pay(channel, amount=str(a), server_nonce=f"n{a}") for a in amounts),
        return_exceptions=True,
    )
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert {getattr(error, "code", error) for error in refused} <= {"amount_not_monotonic"}
    vouchers = sorted(
        (delivered(answer) for answer in answers if isinstance(answer, dict)),
        key=lambda signed: signed["voucher"]["sequence"],
    )
    assert [signed["voucher"]["sequence"] for signed in vouchers] == list(
        range(1, len(vouchers) + 1)
    )
    assert vouchers[-1]["voucher"]["cumulativeAmount"] == str(max(amounts))
    for signed in vouchers:
        assert judge.verify(signed)["valid"]
        assert presented(seller, signed)["valid"]
    closed = await session.close(channel)
    assert closed["settlement"]["amount_settled"] == str(max(amounts))
    assert closed["settlement"]["voucher_count"] == len(vouchers)


async def test_racing_payments_of_one_amount_are_one_voucher(
    devnet_service: Service, http: httpx.AsyncClient
) -> None:
    service = devnet_service
    session = await onboarded(service, http, funded(service))
    channel = await opened(session, str(Keypair().pubkey()))

    async def racing(*nonces: str) -> list[Any]:
        calls = (session.pay(channel, amount=str(PRICE), server_nonce=nonce) for nonce in nonces)
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = await racing("one", "two", "three", "four")
    [signed] = [answer for answer in answers if isinstance(answer, dict)]
    refused = [answer.code for answer in answers if isinstance(answer, SettlementError)]
    assert refused == ["amount_not_monotonic"] * 3
    nonce = signed["voucher"]["serverNonce"]
    assert await racing(nonce, nonce, nonce) == [signed] * 3  # the same request again is no other


async def test_parallel_closes_pay_once_and_answer_alike(
    devnet_service: Service, http: httpx.AsyncClient
) -> None:
    service = devnet_service
    buyer, seller = funded(service), payable(service)
    session = await onboarded(service, http, buyer)
    channel = await opened(session, seller.facts["recipient"])
    assert presented(seller, delivered(await pay(session, channel)))["valid"]
    closes = [session.client.session_close(channel_id=channel) for _ in range(8)]
    answers = await asyncio.gather(*closes)
    assert [answer["settlement"] for answer in answers] == [answers[0]["settlement"]] * 8
    assert await session.client.session_close(channel_id=channel) == answers[0]
    assert service.chain.balance(seller.wallet) == PRICE
    assert len(payments_of(service, buyer)) == 1


async def test_a_close_among_payments_settles_every_voucher_that_was_accepted(
    devnet_service: Service, http: httpx.AsyncClient
) -> None:
    service = devnet_service
    seller = payable(service)
    session = await onboarded(service, http, funded(service))
    channel = await opened(session, seller.facts["recipient"])
    accepted: list[int] = []
    enough = asyncio.Event()

    async def paying() -> str:
        authorization = {"authorization": f"Bearer {seller.token}"}
        for number in range(1, 150):
            try:
                signed = await session.pay(
                    channel, amount=str(number * PRICE), server_nonce=f"n{number}"
                )
            except SettlementError as error:
                return str(error.code)
            verify = f"{service.url}/v1/vouchers/verify"
            answer = await http.post(verify, content=stringify(signed), headers=authorization)
            if not answer.json()["valid"]:
                return str(answer.json()["code"])
            accepted.append(number * PRICE)
            if number == 10:
                enough.set()
        return "never refused"

    async def closing() -> dict[str, Any]:
        await enough.wait()
        return await session.client.session_close(channel_id=channel)

    stopped, closed = await asyncio.gather(paying(), closing())
    assert stopped in {"channel_already_closed", "session_closed"}
    assert closed["settlement"]["amount_settled"] == str(max(accepted))
    assert closed["settlement"]["voucher_count"] == len(accepted)
    assert service.chain.balance(seller.wallet) == max(accepted)


async def test_a_seller_without_this_ledger_is_paid_all_that_was_signed(
    devnet_service: Service, http: httpx.AsyncClient
) -> None:
    service = devnet_service
    buyer, stranger = funded(service), Keypair()
    service.chain.receive(stranger)
    judge = shop(str(stranger.pubkey()))
    session = await onboarded(service, http, buyer)
    channel = await opened(session, str(stranger.pubkey()))
    for _ in range(5):
        assert judge.verify(delivered(await pay(session, channel)))["valid"]
    closed = await session.close(channel)
    assert closed["settlement"]["amount_settled"] == str(5 * PRICE)
    assert closed["settlement"]["voucher_count"] == 5
    assert service.chain.balance(stranger) == 5 * PRICE
    assert service.chain.balance(buyer.wallet) == PURSE - 5 * PRICE


@pytest.mark.parametrize("shown", [0, 3])
async def test_a_voucher_that_never_reached_our_seller_costs_nothing(
    devnet_service: Service, http: httpx.AsyncClient, shown: int
) -> None:
    service = devnet_service
    buyer, seller = funded(service), payable(service)
    session = await onboarded(service, http, buyer)
    channel = await opened(session, seller.facts["recipient"])
    vouchers = [delivered(await pay(session, channel)) for _ in range(5)]
    for signed in vouchers[:shown]:
        assert presented(seller, signed)["valid"]
    closed = await session.close(channel)
    assert closed["settlement"]["amount_settled"] == str(shown * PRICE)
    assert closed["settlement"]["buyer_refund"] == str(DEPOSIT - shown * PRICE)
    assert service.chain.balance(seller.wallet) == shown * PRICE
    assert service.chain.balance(buyer.wallet) == PURSE - shown * PRICE
    assert len(payments_of(service, buyer)) == bool(shown)
    for late in vouchers[shown:]:
        assert presented(seller, late)["code"] == "session_closed"


@pytest.mark.parametrize(
    ("meter", "nonce"),
    [
        ("caf\u00e9", "\u00fc\u00df"),
        ("\u8a9e\U0001f600", "\u2028\u2029\ufeff"),
        ("e\u0301 is not \u00e9", '\x01\x1f\x7f"\\/\t'),
        ("__proto__", "\ufffd\u0000"[:1]),
    ],
)
async def test_any_text_in_a_voucher_is_signed_as_it_came(
    devnet_service: Service, http: httpx.AsyncClient, meter: str, nonce: str
) -> None:
    service = devnet_service
    seller = payable(service)
    session = await onboarded(service, http, funded(service))
    channel = await opened(session, seller.facts["recipient"])
    signed = await pay(session, channel, meter=meter, server_nonce=nonce)
    assert (signed["voucher"]["meter"], signed["voucher"]["serverNonce"]) == (meter, nonce)
    # Text outside Latin-1 fits no header, so it travels in a body, escaped or not.
    assert shop(seller.facts["recipient"]).verify(parse(stringify(signed)))["valid"]
    assert presented(seller, signed)["valid"]


async def test_opens_that_race_for_one_allowance_are_won_by_one(
    devnet_service: Service, http: httpx.AsyncClient
) -> None:
    buyer = funded(devnet_service)
    session = await onboarded(devnet_service, http, buyer, spend_limit=DEPOSIT)
    opens = [session.open(seller=str(Keypair().pubkey()), deposit=str(DEPOSIT)) for _ in range(32)]
    answers = await asyncio.gather(*opens, return_exceptions=True)
    won = [answer for answer in answers if isinstance(answer, dict)]
    assert len(won) == 1
    refused = [answer.code for answer in answers if isinstance(answer, SettlementError)]
    assert refused == ["insufficient_deposit"] * 31
    await session.client.session_close(channel_id=won[0]["channel_id"])
    assert await opened(session, str(Keypair().pubkey()))  # what nobody spent is free again
