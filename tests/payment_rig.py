"""One-shot payments over a real log: processes that sponsor, and chains that a test drives."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from charge_rig import (
    AMOUNT,
    FEE_PAYER,
    MINT,
    PAYER,
    POLICY,
    RECIPIENT,
    SPONSOR,
    ata,
    charge,
    pay,
    wire,
)
from fakes import FakeClock
from settlement_rig import SOL, World
from solana_keychain import MemorySigner

from service.adapters.postgres.payments import PostgresPaymentStore
from service.adapters.solana.parsing import parse_transaction
from service.adapters.solana.signers import KeychainSigner
from service.application.commit import Ledger
from service.application.facilitate import Facilitate
from service.application.settle_session import Keys, SettleSession
from service.application.sponsor_payment import Lookups, SponsorPayment, SponsorTerms
from service.application.streams import payment_stream
from service.domain.onchain import chain_id_of, message_of
from service.domain.payment import Payment, payment_id
from service.domain.settlement_plan import SettlementPolicy
from service.domain.sponsorship import TransferClaim, exact_policy
from service.domain.units import AtomicUsdc, UnixMillis
from service.local.chain import LOCALNET_GENESIS_HASH
from service.ports import Chain, Cluster, EventStore, Signer
from tests.integration.log_fixtures import Log

CHAIN_ID = chain_id_of(LOCALNET_GENESIS_HASH)
TERMS = SponsorTerms(POLICY, "localnet", CHAIN_ID, False, None, None)
EXACT = replace(TERMS, policy=exact_policy(POLICY), dialect="x402")
SETTLEMENT = SettlementPolicy()
LOOKS_MAX = 400


@dataclass(slots=True)
class Sponsor:
    """One process: fresh objects over a log and a chain that outlive it."""

    log: Log
    chain: Chain
    clock: FakeClock
    terms: SponsorTerms = TERMS
    trusted_cluster: str = "test/1"
    seller_id: str | None = None
    wrap: Callable[[Any], Any] = lambda port: port
    ledger: Any = field(init=False)
    settle: Any = field(init=False)
    sponsor: Any = field(init=False)
    facilitate: Any = field(init=False)

    def __post_init__(self) -> None:
        """`wrap` may put something around each port."""
        store: EventStore = self.wrap(self.log.store)
        chain: Chain = self.wrap(self.chain)
        fee_payer: Signer = self.wrap(KeychainSigner(MemorySigner(SPONSOR)))
        self.ledger = Ledger(store)
        self.settle = SettleSession(
            ledger=self.ledger,
            chain=chain,
            keys=Keys(sources={}, authority=fee_payer, fee_payer=fee_payer),
            clock=self.clock,
            policy=SETTLEMENT,
            cluster=self._cluster,
        )
        self.sponsor = SponsorPayment(
            ledger=self.ledger,
            chain=chain,
            fee_payer=fee_payer,
            clock=self.clock,
            terms=self.terms,
            lookups=Lookups(
                payments=PostgresPaymentStore(self.log.store),
                seller_of=self._seller_of,
                cluster=self._cluster,
                parse=parse_transaction,
                advance=self.settle.advance,
            ),
        )
        self.facilitate = Facilitate(sponsor=self.sponsor, store=store)

    async def submit(self, raw: bytes, claim: TransferClaim | None = None) -> Payment:
        """What a request does that does not wait."""
        return await self.sponsor.settle(raw, claim or claim_of(), seconds=0)

    async def work(self, world: World, stream_id: str) -> None:
        """What a worker does, until the payment is terminal. Blocks pass while it waits."""
        for _ in range(LOOKS_MAX):
            at: UnixMillis | None = await self.settle.advance(stream_id)
            if at is None:
                return
            if at > self.clock.time:
                self.clock.forward_to(at)
                await world.advance(3)
        raise AssertionError("the payment did not end")

    async def _cluster(self) -> Cluster:
        return Cluster("test/1", self.trusted_cluster)

    async def _seller_of(self, _recipient: str, _network: str) -> str | None:
        return self.seller_id


def claim_of(recipient: str = RECIPIENT) -> TransferClaim:
    return TransferClaim(recipient, AtomicUsdc(AMOUNT), MINT)


async def prepare(world: World, *, held: int = 2 * AMOUNT) -> None:
    """A buyer with USDC and without SOL, a seller with an empty account, and our fee payer."""
    await world.fund(FEE_PAYER, SOL)
    await world.set_tokens(PAYER, amount=held)
    await world.set_tokens(RECIPIENT, amount=0)
    await world.advance(40)


async def bought(world: World, note: str = "", recipient: str = RECIPIENT) -> bytes:
    """A buyer's transaction over a fresh blockhash; every `note` makes another payment."""
    latest = await world.chain.latest_blockhash()
    transfer = pay(destination=ata(recipient))
    steps = charge(transfer=transfer, text=b"mppx:" + note.encode())
    return wire(steps, blockhash=latest.blockhash)


def name_of(raw: bytes) -> str:
    return payment_id(message_of(raw))


def stream_of(raw: bytes) -> str:
    return payment_stream(name_of(raw)).stream_id


async def payment_of(log: Log, raw: bytes) -> Payment | None:
    """The payment as the log has it."""
    held = await Ledger(log.store).read(payment_stream(name_of(raw)))
    return None if held is None else held.state


async def tokens(world: World, owner: str) -> int:
    """What the owner's account holds at `processed`."""
    account = await world.chain.token_account(ata(owner), "processed")
    return 0 if account is None else account.amount


async def types_of(log: Log, raw: bytes) -> list[str]:
    """The types of the payment's events, in order."""
    return [logged.row.type async for logged in log.store.read(stream_of(raw))]


def signed_anew(raw: bytes) -> bytes:
    """The same message under another signature of the payer's, as only the payer can make one.

    For chains that do not verify signatures.
    """
    start = 1 + 64
    return raw[:start] + sha256(raw).digest() * 2 + raw[start + 64 :]
