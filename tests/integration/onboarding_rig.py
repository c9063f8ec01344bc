"""A buyer to onboard over a real log and the real local chain, whose time stands still.

Each `OnboardWallet` here is a process of its own: what the next one knows, it knows from the log.
Test modules import `world_fixture` to have the fixture.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from fakes import TOKEN_PROGRAM, FakeClock
from settlement_rig import (
    AUTHORITY,
    MINT,
    PAYER,
    SOL,
    SOURCE,
    LocalWorld,
    keypair,
    local_world,
)
from solana_keychain import MemorySigner
from solders.keypair import Keypair

from service.adapters.solana.funding_delegate import DelegateFunding
from service.adapters.solana.funding_swig import SwigFunding
from service.adapters.solana.signers import KeychainSigner
from service.application.commit import Ledger
from service.application.landing import POLL_SECONDS
from service.application.onboard import (
    OnboardingRequest,
    OnboardingTerms,
    OnboardWallet,
    Standing,
)
from service.application.streams import wallet_stream
from service.domain.funding import GrantOrder, GrantTransaction
from service.domain.log import decode
from service.domain.terms import FundingKind
from service.domain.units import AtomicUsdc
from service.ports import Chain
from tests.integration.log_fixtures import Log, opened

BALANCE = 25_000_000
LIMIT = 5_000_000
BUYER = keypair("payer")
STREAM = wallet_stream(PAYER).stream_id
PROOF = {"address": PAYER, "domain": "localhost", "nonce": "0" * 32, "issuedAt": "now"}
PATIENT_SECONDS = 20.0
IMPATIENT_SECONDS = 3 * POLL_SECONDS
CONFIRMED = 4  # slots until a transaction is confirmed, with room to spare


class TwoSteps(DelegateFunding):
    """A grant in two transactions, of which the second needs the first."""

    async def grant(self, order: GrantOrder) -> list[GrantTransaction]:
        small = replace(order, spend_limit=AtomicUsdc(1))
        return [*await super().grant(small), *await super().grant(order)]


@dataclass
class World:
    """The chain, the log, and the processes that onboard."""

    local: LocalWorld
    log: Log
    clock: FakeClock

    def process(
        self,
        *,
        kind: FundingKind = "delegate",
        sponsor: Keypair | None = None,
        source: type[DelegateFunding] = DelegateFunding,
        chain: Chain | None = None,
        wait_seconds: float = PATIENT_SECONDS,
    ) -> OnboardWallet:
        chain = chain or self.local.chain
        return OnboardWallet(
            ledger=Ledger(self.log.store),
            chain=chain,
            sources={
                "delegate": source(chain, AUTHORITY, TOKEN_PROGRAM),
                "swig": SwigFunding(chain, AUTHORITY, TOKEN_PROGRAM),
            },
            fee_payer=None if sponsor is None else KeychainSigner(MemorySigner(sponsor)),
            clock=self.clock,
            terms=OnboardingTerms(kind, "localnet", MINT, 6, TOKEN_PROGRAM, wait_seconds),
        )

    async def events(self) -> list[Any]:
        rows = [logged.row async for logged in self.log.store.read(STREAM)]
        return [decode(row.type, row.schema_version, row.payload) for row in rows]

    async def names(self) -> list[str]:
        return [type(event).__name__ for event in await self.events()]

    async def delegated(self) -> tuple[str | None, int]:
        account = await self.local.chain.token_account(SOURCE, "confirmed")
        assert account is not None
        return account.delegate, account.delegated_amount

    async def fault(self, method: str, kind: str = "error", count: int = 10**6) -> None:
        await self.local.rpc(
            "localchain_injectFault", {"method": method, "kind": kind, "count": count}
        )

    async def heal(self) -> None:
        await self.local.rpc("localchain_clearFaults")


@pytest.fixture(name="world")
async def world_fixture(ledger_url: str) -> AsyncIterator[World]:
    """A buyer with 25 USDC and some SOL, and nothing granted yet."""
    async with local_world() as local, opened(ledger_url) as log:
        await local.fund(PAYER, SOL)
        await local.set_tokens(PAYER, amount=BALANCE)
        await local.advance(40)
        yield World(local, log, FakeClock())


def asking(**changes: Any) -> OnboardingRequest:
    request = OnboardingRequest(PAYER, AtomicUsdc(LIMIT), None, None, PROOF)
    return replace(request, **changes)


def signed(standing: Standing, key: Keypair = BUYER) -> list[bytes]:
    """The transactions that were asked for, signed by the buyer alone."""
    assert standing.status == "transactions_required", standing
    assert standing.wallet.issued is not None
    wires: list[bytes] = []
    for asked in standing.wallet.issued.transactions:
        own = bytes(key.sign_message(asked.message))
        slots = [own if signer == PAYER else bytes(64) for signer in asked.signers]
        wires.append(bytes([len(slots)]) + b"".join(slots) + asked.message)
    return wires


async def left_pending(world: World, wires: Sequence[bytes], **how: Any) -> Standing:
    """A confirmation that gave up waiting once it had submitted, as no time passes."""
    for _ in range(20):  # a busy machine may be too slow even to submit
        impatient = world.process(wait_seconds=IMPATIENT_SECONDS, **how)
        standing = await impatient.confirm(PAYER, wires, PROOF)
        if standing.status != "temporarily_unavailable":
            break
    assert standing.status == "pending"
    return standing


async def with_time(world: World, work: Any) -> Standing:
    """Let slots pass until the work is done."""
    task = asyncio.ensure_future(work)
    while not task.done():
        await world.local.advance(1)
        await asyncio.wait({task}, timeout=0.01)
    return task.result()


async def confirmed(world: World, process: OnboardWallet, wires: Sequence[bytes]) -> Standing:
    return await with_time(world, process.confirm(PAYER, wires, PROOF))
