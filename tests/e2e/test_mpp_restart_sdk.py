"""The whole of `serve` is killed under a buyer with the reference's client, and started again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from dexter_rig import (
    DEPOSIT,
    PURSE,
    connections,
    delivered,
    free_port,
    funded,
    onboarded,
    opened,
    pay,
    payable,
    presented,
    shop,
)
from running import PRICE, Seller, Service, serving, until

from tests.e2e.dexter_client import SessionClient

IDLE_SECONDS = 4
PRESENTED = 10


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with connections() as opened_http:
        yield opened_http


def anew(seller: Seller, service: Service) -> Seller:
    """The same seller, served by the next life."""
    return Seller(service, seller.token, seller.facts, seller.wallet)


async def paying_until_it_dies(
    session: SessionClient, channel: str, seller: Seller, service: Service
) -> list[dict[str, Any]]:
    """The vouchers that were acknowledged. Our seller accepted the first `PRESENTED` of them."""
    signed: list[dict[str, Any]] = []
    for _ in range(PRESENTED):
        signed.append(await pay(session, channel, server_nonce=f"n{len(signed)}"))
        assert presented(seller, delivered(signed[-1]))["valid"]
    asyncio.get_running_loop().call_soon(service.process.kill)
    with suppress(httpx.TransportError):
        while True:
            signed.append(await pay(session, channel, server_nonce=f"n{len(signed)}"))
    return signed


@pytest.mark.campaign
@pytest.mark.timeout(300)
async def test_sessions_go_on_after_the_whole_of_serve_was_killed(
    tmp_path: Path, http: httpx.AsyncClient
) -> None:
    options = ("--local-chain", "--port", str(free_port()))
    network = {"SOLANA_NETWORK": "devnet"}

    with serving(tmp_path, *options, **network) as service:
        buyer, seller, idle_seller = funded(service), payable(service), payable(service)
        session = await onboarded(service, http, buyer)
        channel = await opened(session, seller.facts["recipient"])
        idle = await session.open(
            seller=idle_seller.facts["recipient"],
            deposit=str(DEPOSIT),
            idle_timeout_seconds=IDLE_SECONDS,
        )
        assert presented(idle_seller, delivered(await pay(session, idle["channel_id"])))["valid"]
        signed = await paying_until_it_dies(session, channel, seller, service)

    with serving(tmp_path, *options, **network) as service:
        seller, idle_seller = anew(seller, service), anew(idle_seller, service)
        # The payment that nobody knows of is asked for again, and then the next one.
        for _ in range(2):
            signed.append(await pay(session, channel, server_nonce=f"n{len(signed)}"))
        numbers = [one["voucher"]["sequence"] for one in signed]
        assert numbers == list(range(1, len(signed) + 1))
        judge = shop(seller.facts["recipient"])
        verdicts = [judge.verify(delivered(one))["valid"] for one in signed]
        assert verdicts == [True] * len(signed)
        verdicts = [presented(seller, delivered(one))["verdict"] for one in signed]
        assert verdicts == ["replayed"] * PRESENTED + ["accepted"] * (len(signed) - PRESENTED)
        # Nobody closes the idle session: its timeout has outlived the process.
        until(lambda: idle_seller.session(idle["channel_id"])["state"] == "settled")
        assert service.chain.balance(idle_seller.wallet) == PRICE
        closing = asyncio.create_task(session.client.session_close(channel_id=channel))
        while seller.session(channel)["state"] == "open":
            await asyncio.sleep(0)
        service.process.kill()
        with suppress(httpx.TransportError):
            await closing

    with serving(tmp_path, *options, **network) as service:
        closed = await session.close(channel)
        total = len(signed) * PRICE
        assert closed["settlement"]["amount_settled"] == str(total)
        assert closed["settlement"]["voucher_count"] == len(signed)
        assert service.chain.balance(seller.wallet) == total
        assert service.chain.balance(buyer.wallet) == PURSE - total - PRICE
