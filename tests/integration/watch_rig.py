"""Open sessions in a real log, a local chain whose time stands still, and watchers over both.

Test modules import `rig_fixture` to have the fixture.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from fakes import TOKEN_PROGRAM, FakeClock
from settlement_rig import (
    AUTHORITY,
    FEE_PAYER,
    MINT,
    RECIPIENT,
    SOL,
    LocalWorld,
    Process,
    keypair,
    local_world,
)

from service.adapters.postgres.exposure import PostgresExposureStore
from service.adapters.postgres.watching import PostgresWatchStore
from service.adapters.solana.funding_delegate import DelegateFunding
from service.adapters.solana.transfer import associated_token_address
from service.application.settlement_terms import SettlementTerms
from service.application.streams import Stream, session_stream
from service.application.watch_sessions import WatchSessions
from service.domain import events as e
from service.domain.auto_close import AutoClosePolicy
from service.domain.errors import VoucherRejected
from service.domain.onchain import chain_id_of
from service.domain.pricing import Price
from service.domain.session import Session, accept_voucher, open_session
from service.domain.settlement_plan import SettlementPolicy
from service.domain.terms import Terms
from service.domain.units import AtomicUsdc
from service.domain.voucher import VerifiedVoucher
from service.local.chain import LOCALNET_GENESIS_HASH
from service.observability import Metrics
from service.ports import Chain
from service.watcher import SessionWatcher
from tests.integration.log_fixtures import Log, opened

OFF = AutoClosePolicy()
IDLE = AutoClosePolicy(idle_seconds=60)
NOWHERE = "http://127.0.0.1:9"
BUYER = "buyer"
PRICE = Price(amount=1, meter=None, usage=1, version=1)


def wallet(name: str) -> str:
    """A buyer's wallet."""
    return str(keypair(name).pubkey())


def account(name: str) -> str:
    """The token account of a buyer."""
    return associated_token_address(wallet(name), MINT, TOKEN_PROGRAM)


HOW = SettlementTerms(
    authority=AUTHORITY,
    token_program=TOKEN_PROGRAM,
    chain_id=chain_id_of(LOCALNET_GENESIS_HASH),
    token_address=lambda owner, mint: associated_token_address(owner, mint, TOKEN_PROGRAM),
    swig_wallet=lambda swig: swig,
)


@dataclass
class WatchRig:
    """One process's log over a chain, and words for what buyers and watchers do."""

    log: Log
    world: LocalWorld
    clock: FakeClock

    def watch(
        self,
        policy: AutoClosePolicy = OFF,
        *,
        every: float = 30,
        log: Log | None = None,
        chain: Chain | None = None,
    ) -> WatchSessions:
        """A watcher, as a process that just started has it."""
        using = log or self.log
        source = DelegateFunding(chain or self.world.chain, AUTHORITY, TOKEN_PROGRAM)
        return WatchSessions(
            ledger=using.ledger,
            store=PostgresWatchStore(using.store),
            funding={"delegate": source},
            how=HOW,
            policy=policy,
            every_seconds=every,
            clock=self.clock,
        )

    @property
    def exposures(self) -> PostgresExposureStore:
        return PostgresExposureStore(self.log.store)

    async def grant(self, buyer: str = BUYER, amount: int = 100, **changes: Any) -> None:
        """Give the buyer's account this much, all of it delegated to us, for everybody to see."""
        wanted = {"amount": amount, "delegate": AUTHORITY, "delegated_amount": amount, **changes}
        await self.world.set_tokens(wallet(buyer), **wanted)
        await self.world.advance(4)

    async def revoke(self, buyer: str = BUYER) -> None:
        await self.grant(buyer, delegate=None, delegated_amount=0)

    async def open(
        self, channel: str, buyer: str = BUYER, *, seller: str = "slr_1", **terms: Any
    ) -> Stream[Session]:
        """Open a channel of a buyer's."""
        payer = terms.pop("payer", None) or wallet(buyer)
        made = replace(Terms(channel, seller, payer, RECIPIENT, "localnet", MINT, 6), **terms)
        stream = session_stream(seller, channel)
        now = self.clock.now()
        await self.log.ledger.commit(stream, lambda held: open_session(held, made, now))
        return stream

    async def pay(self, stream: Stream[Session], amount: int, *, log: Log | None = None) -> str:
        """Submit the voucher over a total; gives the verdict."""
        held = await self.session(stream)
        voucher = VerifiedVoucher(
            channel_id=held.terms.channel_id,
            payer=held.terms.payer,
            recipient=RECIPIENT,
            cumulative_amount=amount,
            sequence=amount,
            meter=None,
            units=1,
            server_nonce=None,
            expires_at=None,
            signer="signer",
            signature=bytes(64),
            voucher_text="{}",
            message_hash=amount.to_bytes(32, "big"),
        )

        def decide(session: Session | None) -> Sequence[e.SessionEvent]:
            now = self.clock.now()
            return accept_voucher(session, voucher, PRICE, held.terms, charge=None, now=now)

        try:
            await (log or self.log).ledger.commit(stream, decide)
        except VoucherRejected as refused:
            return refused.reason
        return "accepted"

    async def session(self, stream: Stream[Session]) -> Session:
        """The session as the database has it."""
        held = await self.log.ledger.read(stream)
        assert held is not None
        assert held.state is not None
        return held.state

    async def events(self, stream: Stream[Session]) -> list[str]:
        """The types of the session's events."""
        return [logged.row.type async for logged in self.log.store.read(stream.stream_id)]

    async def due(self) -> None:
        """Let every session be due that ever will be, as if its time had come."""
        await self.log.store.fetch(
            sa.text(
                "UPDATE sessions SET check_at = now() - interval '1 s' WHERE check_at IS NOT NULL"
                " RETURNING stream_id"
            )
        )

    async def seconds_left(self) -> dict[str, float]:
        """For each session, how long it is until the next look."""
        rows = await self.log.store.fetch(
            sa.text("SELECT stream_id, extract(epoch FROM check_at - now()) AS left FROM sessions")
        )
        return {row.stream_id: float(row.left) for row in rows}

    async def balance(self, owner: str) -> int:
        """What the owner's account holds."""
        address = associated_token_address(owner, MINT, TOKEN_PROGRAM)
        held = await self.world.chain.token_account(address, "confirmed")
        return 0 if held is None else held.amount

    async def settle(self, *streams: Stream[Session]) -> list[str]:
        """Advance each settlement until nothing more is to be done; gives the statuses."""
        await self.world.fund(FEE_PAYER, SOL)
        await self.world.set_tokens(RECIPIENT, amount=0)
        await self.world.advance(40)
        settler = Process(self.log.ledger, self.world.chain, self.clock, SettlementPolicy()).start()
        statuses: list[str] = []
        for stream in streams:
            while (at := await settler.advance(stream.stream_id)) is not None:
                settlement = (await self.session(stream)).settlement
                assert settlement is not None
                if settlement.status == "parked":
                    break
                self.clock.forward_to(at)
                await self.world.advance(8)
            settlement = (await self.session(stream)).settlement
            assert settlement is not None
            statuses.append(settlement.status)
        return statuses


@pytest.fixture(name="rig")
async def rig_fixture(ledger_url: str) -> AsyncIterator[WatchRig]:
    async with opened(ledger_url) as log, local_world() as world:
        rig = WatchRig(log, world, FakeClock())
        await world.set_tokens(RECIPIENT, amount=0)
        await world.advance(40)
        yield rig


def amount_policy(**bounds: int) -> AutoClosePolicy:
    """A policy of some bounds."""
    return AutoClosePolicy(
        **{
            name: AtomicUsdc(value) if name in ("amount", "headroom") else value
            for name, value in bounds.items()
        }
    )


def watcher_of(watch: Any) -> SessionWatcher:
    """The process loop around a watch."""
    services = SimpleNamespace(watch=watch, metrics=Metrics(), stopping=asyncio.Event())
    return SessionWatcher(services)  # type: ignore[arg-type]  what the loop uses of them
