"""Buyers' sessions over a real database and the fake chain, as several processes have them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from fakes import TOKEN_PROGRAM, FakeClock
from log_fixtures import Log, opened
from settlement_rig import AUTHORITY, MINT, PAYER, RECIPIENT, SOURCE, FakeWorld, keypair

from service.adapters.postgres.session_keys import PostgresSessionKeys
from service.adapters.solana.funding_delegate import DelegateFunding
from service.adapters.solana.transfer import associated_token_address
from service.application.open_for_buyer import BuyerTerms, OpenForBuyer, OpenRequest
from service.application.session_keys import SessionKeys, SessionSecret
from service.application.settlement_terms import SettlementTerms
from service.application.sign_voucher import BuyersChannels, SignVoucher, VoucherRequest
from service.application.streams import funding_stream, session_stream, wallet_stream
from service.domain.reservations import Reservations
from service.domain.session import Session
from service.domain.units import AtomicUsdc, Slot, UnixMillis
from service.domain.wallet_events import WalletOnboarded
from session_ledger.challenge import NETWORKS

NETWORK = NETWORKS["localnet"]
SECRET = SessionSecret(bytes(range(32)))
DEPOSIT = 1_000_000
TOKEN_ACCOUNT = SOURCE
SELLER = RECIPIENT


def token_address(owner: str, mint: str) -> str:
    return associated_token_address(owner, mint, TOKEN_PROGRAM)


@dataclass
class Process:
    """One process of the service, as far as buyers' sessions go."""

    log: Log
    world: FakeWorld
    secrets: tuple[SessionSecret, ...] = (SECRET,)
    serves_unregistered: bool = True
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        ledger, network = self.log.ledger, NETWORK
        self.funding = DelegateFunding(self.world.chain, AUTHORITY, TOKEN_PROGRAM)
        self.key_store = PostgresSessionKeys(self.log.store)
        self.keys = SessionKeys(self.key_store, self.secrets)
        self.opening = OpenForBuyer(
            ledger=ledger,
            queries=self.log.queries,
            chain=self.world.chain,
            sources={"delegate": self.funding},
            token_address=token_address,
            keys=self.keys,
            clock=self.clock,
            terms=BuyerTerms(network, self.serves_unregistered, idle_timeout_seconds=None),
        )
        self.channels = BuyersChannels(self.log.store)
        self.signing = SignVoucher(
            ledger=ledger, channels=self.channels, keys=self.keys, chain_id=network.chain_id
        )
        self.how = SettlementTerms(
            authority=AUTHORITY,
            token_program=TOKEN_PROGRAM,
            chain_id=network.chain_id,
            token_address=token_address,
            swig_wallet=str,
        )

    async def open(self, deposit: int = DEPOSIT, **changes: Any) -> Session:
        request = OpenRequest(
            wallet=PAYER,
            named=PAYER,
            recipient=SELLER,
            deposit=AtomicUsdc(deposit),
            idle_timeout_seconds=None,
            proved=False,
        )
        return await self.opening.open(replace(request, **changes))

    async def sign(self, session: Session, amount: int, nonce: str = "n") -> Any:
        request = VoucherRequest(
            session.terms.channel_id, AtomicUsdc(amount), "request", "1", nonce
        )
        return await self.signing.sign(request, self.clock.now())

    async def onboard(self, **changes: Any) -> None:
        """Record that the payer's wallet has onboarded, without any ceremony."""
        onboarded = WalletOnboarded(
            at=self.clock.now(),
            kind="delegate",
            source=TOKEN_ACCOUNT,
            owner=PAYER,
            swig_address=None,
            role_id=None,
            spend_limit=AtomicUsdc(2**64 - 1),
            expires_at=None,
            recipients=(),
            signatures=(),
            slot=Slot(1),
            proof={},
        )
        event = replace(onboarded, **changes)
        await self.log.ledger.commit(wallet_stream(PAYER), lambda _: [event])

    async def reservations(self) -> Reservations:
        held = await self.log.ledger.read(funding_stream(TOKEN_ACCOUNT))
        assert held is not None
        assert held.state is not None
        return held.state

    def stream_of(self, session: Session) -> Any:
        return session_stream(session.terms.seller_id, session.terms.channel_id)


@asynccontextmanager
async def processes(url: str, count: int = 1, **options: Any) -> AsyncGenerator[list[Process]]:
    """Processes on one database and one chain, with a payer that allows one deposit."""
    world = FakeWorld()
    await allow(world, DEPOSIT)
    async with opened(url) as first:
        found = [Process(first, world, **options)]
        if count == 1:
            yield found
            return
        async with opened(url) as second:
            yield [*found, Process(second, world, **options)]


async def allow(world: FakeWorld, amount: int, balance: int | None = None) -> None:
    """What the payer's account holds and lets us take."""
    await world.set_tokens(
        PAYER,
        amount=amount if balance is None else balance,
        delegate=AUTHORITY,
        delegated_amount=amount,
    )


__all__ = [
    "DEPOSIT", "MINT", "NETWORK", "PAYER", "SECRET", "SELLER", "TOKEN_ACCOUNT",
    "Process", "UnixMillis", "allow", "keypair", "processes",
]  # fmt: skip
