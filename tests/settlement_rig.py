"""Worlds to settle in: the fake chain, and the local chain behind the real adapter.

Both are driven by the same few words, so one test runs against either.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Protocol

import httpx
from fakes import TOKEN_PROGRAM, FakeChain, FakeClock, MemoryLedger, empty_account
from solana_keychain import MemorySigner
from solders.keypair import Keypair

from service.adapters.solana.funding_delegate import DelegateFunding
from service.adapters.solana.rpc import SolanaRpc
from service.adapters.solana.shared_reads import SharedReads
from service.adapters.solana.signers import KeychainSigner
from service.adapters.solana.transfer import associated_token_address
from service.application.settle_session import Keys, SettleSession
from service.domain import events as e
from service.domain.events import SessionEvent
from service.domain.onchain import Mint, TransferOrder, chain_id_of
from service.domain.settlement import Settlement
from service.domain.settlement_plan import SettlementPolicy
from service.domain.terms import Terms
from service.domain.units import AtomicUsdc, UnixMillis
from service.local.chain import (
    LOCALNET_GENESIS_HASH,
    USDC_DEVNET_MINT,
    LocalChain,
    LocalChainSettings,
)
from service.ports import Chain, Cluster, Ledger

SOL = 10**9
AMOUNT = 2_500_000
STREAM = "session:seller-1:channel-1"
SETTLEMENT_ID = "stl_test"
MINT = str(USDC_DEVNET_MINT)


def keypair(name: str) -> Keypair:
    """A key that follows from its name."""
    return Keypair.from_seed(sha256(b"settlement test " + name.encode()).digest())


PAYER = str(keypair("payer").pubkey())
RECIPIENT = str(keypair("recipient").pubkey())
AUTHORITY = str(keypair("authority").pubkey())
FEE_PAYER = str(keypair("fee payer").pubkey())
SOURCE = associated_token_address(PAYER, MINT, TOKEN_PROGRAM)
DESTINATION = associated_token_address(RECIPIENT, MINT, TOKEN_PROGRAM)
ORDER = TransferOrder(
    settlement_id=SETTLEMENT_ID,
    amount=AtomicUsdc(AMOUNT),
    source=SOURCE,
    destination=DESTINATION,
    recipient=RECIPIENT,
    mint=MINT,
    decimals=6,
    token_program=TOKEN_PROGRAM,
    authority=AUTHORITY,
    fee_payer=FEE_PAYER,
    create_recipient_account=False,
    compute_unit_limit=100_000,
    compute_unit_price=10_000,
    source_owner=PAYER,
)
"""Pays the amount from the payer to the recipient."""


class World(Protocol):
    """A chain, and what tests do to it. Amounts are atomic units."""

    chain: Chain

    async def advance(self, blocks: int) -> None: ...

    async def drop_fork(self, blocks: int) -> None: ...

    async def fund(self, address: str, lamports: int) -> None: ...

    async def set_tokens(self, owner: str, **changes: Any) -> None:
        """amount, delegate, delegated_amount, frozen of the owner's associated account."""
        ...

    async def balances(self) -> tuple[int, int]:
        """Source and destination now, at `processed`; a missing account holds 0."""
        ...


class FakeWorld:
    """The fake chain."""

    def __init__(self) -> None:
        self.fake = FakeChain(LOCALNET_GENESIS_HASH)
        self.fake.mints[MINT] = Mint(MINT, TOKEN_PROGRAM, 6, ())
        self.chain: Chain = self.fake

    async def advance(self, blocks: int) -> None:
        self.fake.advance(blocks)

    async def drop_fork(self, blocks: int) -> None:
        self.fake.drop_fork(blocks)

    async def fund(self, address: str, lamports: int) -> None:
        self.fake.sol[address] = lamports

    async def set_tokens(self, owner: str, **changes: Any) -> None:
        address = associated_token_address(owner, MINT, TOKEN_PROGRAM)
        old = await self.fake.token_account(address, "processed")
        old = old or empty_account(address, owner=owner, mint=MINT)
        self.fake.write(replace(old, **changes))

    async def balances(self) -> tuple[int, int]:
        return await _balances(self.chain)


class LocalWorld:
    """The local chain, its time standing still, through the real adapter."""

    def __init__(self, url: str, http: httpx.AsyncClient, chain: Chain) -> None:
        self.url, self._http = url, http
        self.chain = chain

    async def rpc(self, method: str, *params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        answer = (await self._http.post(self.url, json=body)).json()
        assert "error" not in answer, answer
        return answer["result"]

    async def advance(self, blocks: int) -> None:
        await self.rpc("localchain_advanceSlots", blocks)

    async def drop_fork(self, blocks: int) -> None:
        await self.rpc("localchain_dropFork", blocks)

    async def fund(self, address: str, lamports: int) -> None:
        await self.rpc("surfnet_setAccount", address, {"lamports": lamports})

    async def set_tokens(self, owner: str, **changes: Any) -> None:
        known = {"amount": "amount", "delegate": "delegate", "delegated_amount": "delegatedAmount"}
        wire = {known[name]: value for name, value in changes.items() if name in known}
        wire = {name: "null" if value is None else value for name, value in wire.items()}
        if "frozen" in changes:
            wire["state"] = "frozen" if changes["frozen"] else "initialized"
        await self.rpc("surfnet_setTokenAccount", owner, MINT, wire)

    async def balances(self) -> tuple[int, int]:
        return await _balances(self.chain)


async def _balances(chain: Chain) -> tuple[int, int]:
    accounts = [await chain.token_account(a, "processed") for a in (SOURCE, DESTINATION)]
    source, destination = (account.amount if account else 0 for account in accounts)
    return source, destination


@asynccontextmanager
async def local_world(*, shared: bool = True) -> AsyncIterator[LocalWorld]:
    """A local chain in memory whose slots pass only by `advance`; read as the service is wired,
    or by the adapter alone."""
    local = LocalChain(LocalChainSettings(slot_seconds=3_600.0))
    rpc = SolanaRpc(local.start(), LOCALNET_GENESIS_HASH)
    chain = SharedReads(rpc) if shared else rpc
    try:
        async with httpx.AsyncClient(timeout=10) as http:
            world = LocalWorld(local.url, http, chain)
            await world.rpc("localchain_pause")
            yield world
    finally:
        await chain.close()
        local.stop()


async def prepare(world: World) -> None:
    """A payer with twice the amount, all of it delegated to us; a recipient with an account."""
    await world.fund(FEE_PAYER, SOL)
    await world.set_tokens(
        PAYER, amount=2 * AMOUNT, delegate=AUTHORITY, delegated_amount=2 * AMOUNT
    )
    await world.set_tokens(RECIPIENT, amount=0)
    await world.advance(40)


def closing_events(now: int = 1_700_000_000_000) -> list[SessionEvent]:
    """A session with one voucher over the amount, closed."""
    at = UnixMillis(now)
    terms = Terms("channel-1", "seller-1", PAYER, RECIPIENT, "localnet", MINT, 6)
    return [
        e.SessionOpened(at, terms),
        e.VoucherAccepted(
            at=at,
            cumulative_amount=AtomicUsdc(AMOUNT),
            increment=AtomicUsdc(AMOUNT),
            required=AtomicUsdc(1),
            sequence=1,
            signer=PAYER,
            signature=bytes(64),
            voucher="{}",
            message_hash=bytes(32),
            meter=None,
            usage=None,
            charge=None,
            price_version=1,
        ),
        e.CloseRequested(at, "seller"),
        intended(at),
    ]


def intended(at: int = 0, **changes: Any) -> e.SettlementIntended:
    """The intent to pay the amount by delegation."""
    intent = e.SettlementIntended(
        at=UnixMillis(at),
        settlement_id=SETTLEMENT_ID,
        amount=AtomicUsdc(AMOUNT),
        voucher_hash=bytes(32),
        voucher_signature=bytes(64),
        source=SOURCE,
        destination=DESTINATION,
        recipient=RECIPIENT,
        mint=MINT,
        decimals=6,
        token_program=TOKEN_PROGRAM,
        authority_kind="delegate",
        authority=AUTHORITY,
        guard=None,
        chain_id=chain_id_of(LOCALNET_GENESIS_HASH),
        source_owner=PAYER,
    )
    return replace(intent, **changes)


@dataclass(slots=True)
class Process:
    """One worker process: fresh objects over a log and a chain that outlive it."""

    ledger: Ledger
    chain: Chain
    clock: FakeClock
    policy: SettlementPolicy
    trusted_cluster: str = "test/1"

    async def cluster(self) -> Cluster:
        return Cluster("test/1", self.trusted_cluster)

    def start(self) -> SettleSession:
        signers = {n: KeychainSigner(MemorySigner(keypair(n))) for n in ("authority", "fee payer")}
        return SettleSession(
            ledger=self.ledger,
            chain=self.chain,
            keys=Keys(
                sources={"delegate": DelegateFunding(self.chain, AUTHORITY, TOKEN_PROGRAM)},
                authority=signers["authority"],
                fee_payer=signers["fee payer"],
            ),
            clock=self.clock,
            policy=self.policy,
            cluster=self.cluster,
        )


async def run(
    world: World,
    settler: SettleSession,
    clock: FakeClock,
    *,
    blocks_per_look: int = 3,
    looks_max: int = 400,
    between: Callable[[int], Any] | None = None,
) -> int:
    """Advance until nothing more is to be done; gives the number of looks.

    Blocks pass while the worker waits, never while it works.
    """
    for look in range(looks_max):
        at = await settler.advance(STREAM)
        if at is None:
            return look
        if at > clock.time:
            clock.forward_to(at)
            await world.advance(blocks_per_look)
        if between is not None:
            await between(look)
    raise AssertionError("the settlement did not end")


async def settlement_of(ledger: Ledger) -> Settlement:
    """The settlement as the log has it."""
    found = await ledger.settling(STREAM)
    assert found is not None
    assert found.settlement is not None
    return found.settlement


def memory_ledger(events: Sequence[SessionEvent] | None = None) -> MemoryLedger:
    """A log that holds a closed session."""
    ledger = MemoryLedger()
    ledger.append(STREAM, 0, closing_events() if events is None else events)
    return ledger
