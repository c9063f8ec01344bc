"""A settlement while the local chain's time runs: how long it takes, and what it costs in calls."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fakes import FakeClock
from settlement_rig import (
    AMOUNT,
    PAYER,
    STREAM,
    LocalWorld,
    Process,
    memory_ledger,
    prepare,
    settlement_of,
)

from service.adapters.solana.rpc import SolanaRpc
from service.adapters.solana.shared_reads import SharedReads
from service.domain.settlement_plan import SettlementPolicy
from service.domain.units import UnixMillis
from service.local.chain import LOCALNET_GENESIS_HASH, LocalChain, LocalChainSettings

SLOT_SECONDS, FINALIZED_SLOTS = 0.05, 32
POLICY = SettlementPolicy(poll_millis=125, resend_millis=250)


class RunningClock(FakeClock):
    """The machine's time."""

    def now(self) -> UnixMillis:
        return UnixMillis(time.time_ns() // 1_000_000)


class Counting:
    """A port that counts the calls of each method."""

    def __init__(self, port: Any) -> None:
        self._port, self.calls = port, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if asyncio.iscoroutinefunction(found):
            self.calls[name] += 1
        return found


@pytest.fixture(name="world")
async def world_fixture() -> AsyncIterator[LocalWorld]:
    chain = LocalChain(LocalChainSettings(slot_seconds=SLOT_SECONDS))
    reads = SharedReads(SolanaRpc(chain.start(), LOCALNET_GENESIS_HASH))
    try:
        async with httpx.AsyncClient(timeout=10) as http:
            world = LocalWorld(chain.url, http, reads)
            await prepare(world)
            yield world
    finally:
        await reads.close()
        chain.stop()


async def test_a_settlement_is_finalized_soon_after_the_chain_finalizes_and_asks_little(
    world: LocalWorld,
) -> None:
    ledger, clock, chain = memory_ledger(), RunningClock(), Counting(world.chain)
    settler = Process(ledger, chain, clock, POLICY).start()
    began, looks = time.monotonic(), 0
    while (at := await settler.advance(STREAM)) is not None:
        looks += 1
        await asyncio.sleep(max(0, at - clock.now()) / 1_000)
        assert time.monotonic() - began < 30
    took = time.monotonic() - began
    print(f"finalized after {took:.2f} s, {looks} looks, {chain.calls.total()} calls")
    assert (await settlement_of(ledger)).status == "settled"
    assert await world.balances() == (AMOUNT, AMOUNT)
    assert took > SLOT_SECONDS * (FINALIZED_SLOTS - 2)
    assert chain.calls["send"] == 1
    assert chain.calls["heights"] == 0
    # Signing takes seven calls and the end one; every look between asks for the status alone.
    assert chain.calls.total() <= looks + 8


async def test_a_parked_settlement_asks_for_nothing(world: LocalWorld) -> None:
    await world.set_tokens(PAYER, delegate=None, delegated_amount=0)
    ledger, clock, chain = memory_ledger(), RunningClock(), Counting(world.chain)
    settler = Process(ledger, chain, clock, POLICY).start()
    assert await settler.advance(STREAM) is not None
    asked = chain.calls.total()
    for _ in range(20):
        assert await settler.advance(STREAM) is None
    assert (await settlement_of(ledger)).status == "parked"
    assert chain.calls.total() == asked
