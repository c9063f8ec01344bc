"""The composition root: from settings to services. The only module that knows every adapter."""

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from solders.pubkey import Pubkey
from sqlalchemy.ext.asyncio import AsyncEngine

from service.adapters.postgres.connections import reader_engine
from service.adapters.postgres.event_store import PostgresEventStore
from service.adapters.postgres.group_commit import GroupCommit
from service.adapters.postgres.queries import PostgresQueries
from service.adapters.postgres.rejections import PostgresRejectionTrace
from service.adapters.solana.funding_delegate import DelegateFunding
from service.adapters.solana.rpc import SolanaRpc
from service.adapters.solana.signers import KeychainSigner, KeySourceError, load_signer
from service.adapters.solana.transfer import associated_token_address
from service.adapters.system import SystemClock
from service.application.commit import Ledger
from service.application.directory import SellerDirectory
from service.application.nonces import Nonces
from service.application.settle_session import Keys, SettleSession
from service.application.settlement_terms import SettlementTerms
from service.config import Settings
from service.domain.errors import LedgerError
from service.domain.settlement_plan import SettlementPolicy
from service.domain.terms import FundingKind
from service.observability import Metrics
from service.ports import Chain, Clock, EventStore, FundingSource, Queries, RejectionTrace
from session_ledger.challenge import CHANNEL_PROGRAM, NETWORKS, Network

log = structlog.get_logger()

TOKEN_PROGRAM: Final = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"  # noqa: S105  an address
DATABASE_WAIT_SECONDS: Final = 60


class ConfigurationError(Exception):
    """A setting is missing or wrong; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a process needs, wired once."""

    settings: Settings
    network: Network
    clock: Clock
    engine: AsyncEngine
    store: EventStore
    ledger: Ledger
    trace: RejectionTrace
    queries: Queries
    nonces: Nonces
    directory: SellerDirectory
    chain: Chain
    funding: Mapping[FundingKind, FundingSource]
    settlement_terms: SettlementTerms
    settle: SettleSession
    fee_payer: str
    metrics: Metrics
    stopping: asyncio.Event


@asynccontextmanager
async def running_services(settings: Settings) -> AsyncGenerator[Services]:
    """The services, started; stopped and drained afterwards.

    Raises:
        ConfigurationError: something needed is not configured, or contradicts the database.
    """
    network = NETWORKS[settings.solana_network]
    address = required_database(settings)
    authority_signer, fee_payer = await _signers(settings)
    chain = _chain(settings, network)
    engine = reader_engine(address, pool_size=settings.database_pool_size)
    group_commit = GroupCommit(address, synchronous_commit=settings.synchronous_commit)
    store = PostgresEventStore(engine, group_commit)
    queries = PostgresQueries(store)
    trace = PostgresRejectionTrace(engine)
    clock = SystemClock()
    try:
        nonce_key = await _wait_for_database(queries, network)
        await group_commit.start()
        await trace.start()
        ledger = Ledger(store)
        funding = _funding(chain, authority_signer.pubkey)
        yield Services(
            settings=settings,
            network=network,
            clock=clock,
            engine=engine,
            store=store,
            ledger=ledger,
            trace=trace,
            queries=queries,
            nonces=Nonces(nonce_key),
            directory=SellerDirectory(ledger, queries),
            chain=chain,
            funding=funding,
            settlement_terms=SettlementTerms(
                authority=authority_signer.pubkey,
                token_program=TOKEN_PROGRAM,
                chain_id=network.chain_id,
                token_address=_token_address,
                swig_wallet=_swig_wallet,
            ),
            settle=SettleSession(
                ledger=ledger,
                chain=chain,
                keys=Keys(sources=funding, authority=authority_signer, fee_payer=fee_payer),
                clock=clock,
                policy=policy_of(settings),
                cluster=queries.cluster,
            ),
            fee_payer=fee_payer.pubkey,
            metrics=Metrics(),
            stopping=asyncio.Event(),
        )
    finally:
        await trace.stop()
        await group_commit.stop()
        await engine.dispose()
        await chain.close()


def policy_of(settings: Settings) -> SettlementPolicy:
    """How this deployment settles."""
    return SettlementPolicy(
        compute_unit_limit=settings.compute_unit_limit,
        compute_unit_price=settings.compute_unit_price,
        create_recipient_account=settings.create_recipient_ata,
        poll_millis=round(settings.settlement_poll_seconds * 1_000),
        resend_millis=round(settings.settlement_resend_seconds * 1_000),
    )


def required_database(settings: Settings) -> str:
    """The database's address.

    Raises:
        ConfigurationError: there is none.
    """
    if settings.database_url is None:
        raise ConfigurationError(
            "set DATABASE_URL, or use `session-ledger serve`, which runs its own"
        )
    return settings.database_url.get_secret_value()


def _chain(settings: Settings, network: Network) -> SolanaRpc:
    if not settings.solana_rpc_url:
        raise ConfigurationError("set SOLANA_RPC_URL, or use `session-ledger serve --local-chain`")
    try:
        return SolanaRpc(settings.solana_rpc_url[0], network.genesis_hash)
    except ValueError as error:
        raise ConfigurationError(f"SOLANA_RPC_URL: {error}") from None


async def _signers(settings: Settings) -> tuple[KeychainSigner, KeychainSigner]:
    """The settlement authority and the fee payer, which may be one key."""
    if settings.settlement_authority is None:
        raise ConfigurationError("set SETTLEMENT_AUTHORITY to a key source, such as file:id.json")
    try:
        authority = await load_signer(settings.settlement_authority.get_secret_value(), os.environ)
        if settings.fee_payer is None:
            return authority, authority
        return authority, await load_signer(settings.fee_payer.get_secret_value(), os.environ)
    except KeySourceError as error:
        raise ConfigurationError(f"SETTLEMENT_AUTHORITY or FEE_PAYER: {error}") from None


async def _wait_for_database(queries: Queries, network: Network) -> bytes:
    """Wait until the schema answers, and make sure that the database belongs to this chain."""
    for waited in range(DATABASE_WAIT_SECONDS):
        try:
            nonce_key = await queries.nonce_key()
            break
        except LedgerError as error:
            log.info("waiting_for_database", seconds=waited, detail=error.detail)
            await asyncio.sleep(1)
    else:
        raise ConfigurationError(
            "the database does not answer, or has no schema: run `session-ledger migrate`"
        )
    bound = await queries.bind_chain(network.chain_id)
    if bound != network.chain_id:
        raise ConfigurationError(
            f"this database belongs to {bound}, but SOLANA_NETWORK is {network.name}"
        )
    await queries.cluster()  # remembers the first one ever seen
    return nonce_key


def _funding(chain: Chain, pubkey: str) -> Mapping[FundingKind, FundingSource]:
    """Every way in which a payer's money can be reached."""
    return {"delegate": DelegateFunding(chain, pubkey, TOKEN_PROGRAM)}


def _swig_wallet(swig_address: str) -> str:
    seeds = [b"swig-wallet-address", bytes(Pubkey.from_string(swig_address))]
    return str(Pubkey.find_program_address(seeds, Pubkey.from_string(CHANNEL_PROGRAM))[0])


def _token_address(owner: str, mint: str) -> str:
    return associated_token_address(owner, mint, TOKEN_PROGRAM)
