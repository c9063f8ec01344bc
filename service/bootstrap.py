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
from service.adapters.postgres.exposure import PostgresExposureStore
from service.adapters.postgres.group_commit import GroupCommit
from service.adapters.postgres.leases import PostgresLeases
from service.adapters.postgres.payments import PostgresTallies
from service.adapters.postgres.queries import PostgresQueries
from service.adapters.postgres.rejections import PostgresRejectionTrace
from service.adapters.postgres.session_keys import PostgresSessionKeys
from service.adapters.postgres.watching import PostgresWatchStore
from service.adapters.solana.funding_delegate import DelegateFunding
from service.adapters.solana.funding_swig import SwigFunding
from service.adapters.solana.rpc import SolanaRpc
from service.adapters.solana.shared_reads import SharedReads
from service.adapters.solana.signers import KeychainSigner, KeySourceError, load_signer
from service.adapters.solana.swig_instructions import wallet_pda
from service.adapters.solana.transfer import associated_token_address
from service.adapters.system import SystemClock
from service.application.commit import Ledger
from service.application.directory import SellerDirectory
from service.application.nonces import Nonces
from service.application.onboard import OnboardingTerms, OnboardWallet
from service.application.open_for_buyer import BuyerTerms, OpenForBuyer
from service.application.session_grants import SessionGrants
from service.application.session_keys import SessionKeys, SessionSecret, parse_secrets
from service.application.settle_session import Keys, SettleSession
from service.application.settlement_terms import SettlementTerms
from service.application.sign_voucher import BuyersChannels, SignVoucher
from service.application.watch_sessions import WatchSessions
from service.charges import Charges, wired_charges
from service.config import ConfigurationError, Settings, required_database
from service.direct import Direct, wired_direct
from service.domain.auto_close import AutoClosePolicy
from service.domain.errors import LedgerError
from service.domain.health import USDC_DECIMALS, WEAK_OPEN_PROOF
from service.domain.settlement_plan import SettlementPolicy
from service.domain.terms import FundingKind
from service.domain.units import AtomicUsdc
from service.granting import wired_grants
from service.observability import Metrics
from service.ports import (
    Chain,
    Clock,
    EventStore,
    ExposureStore,
    FundingSource,
    LeaseStore,
    Queries,
    RejectionTrace,
)
from session_ledger.challenge import NETWORKS, Network

log = structlog.get_logger()

TOKEN_PROGRAM: Final = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"  # noqa: S105  an address
DATABASE_WAIT_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class BuyersSessions:
    """What the buyers' session routes need."""

    keys: SessionKeys
    channels: BuyersChannels
    opening: OpenForBuyer
    signing: SignVoucher


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
    charges: Charges
    direct: Direct
    onboarding: OnboardWallet
    buyers: BuyersSessions
    grants: SessionGrants
    watch: WatchSessions
    exposure: ExposureStore
    leases: LeaseStore
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
    secrets = session_secrets(settings)
    engine = reader_engine(address, pool_size=settings.database_pool_size)
    group_commit = GroupCommit(address, synchronous_commit=settings.synchronous_commit)
    store = PostgresEventStore(engine, group_commit)
    queries = PostgresQueries(store)
    trace = PostgresRejectionTrace(engine)
    tallies = PostgresTallies(engine)
    try:
        nonce_key = await _wait_for_database(queries, network)
        await group_commit.start()
        await trace.start()
        await tallies.start()
        ledger = Ledger(store)
        funding = funding_sources(chain, authority_signer.pubkey)
        how = settlement_terms(authority_signer.pubkey, network)
        signing = Keys(sources=funding, authority=authority_signer, fee_payer=fee_payer)
        settle = _settle(settings, ledger, chain, signing, queries)
        yield Services(
            settings=settings,
            network=network,
            clock=SystemClock(),
            engine=engine,
            store=store,
            ledger=ledger,
            trace=trace,
            queries=queries,
            nonces=Nonces(nonce_key),
            directory=_directory(settings, ledger, queries),
            chain=chain,
            funding=funding,
            settlement_terms=how,
            settle=settle,
            charges=wired_charges(
                settings,
                how,
                ledger=ledger,
                store=store,
                queries=queries,
                tallies=tallies,
                chain=chain,
                fee_payer=fee_payer,
                settle=settle,
            ),
            direct=wired_direct(settings, ledger=ledger, store=store, chain=chain, key=nonce_key),
            onboarding=_onboarding(settings, ledger, chain, signing),
            buyers=_buyers(settings, secrets, store, ledger, queries, chain, funding),
            grants=wired_grants(settings, ledger=ledger, store=store, funding=funding),
            watch=_watch(settings, ledger, store, funding, how),
            exposure=PostgresExposureStore(store),
            leases=PostgresLeases(store),
            fee_payer=fee_payer.pubkey,
            metrics=Metrics(),
            stopping=asyncio.Event(),
        )
    finally:
        await tallies.stop()
        await trace.stop()
        await group_commit.stop()
        await engine.dispose()
        await chain.close()


def _warn_of_open_proof(settings: Settings, network: Network) -> None:
    if network.name == "mainnet-beta" and settings.open_proof == "onboarded":
        log.warning("open_needs_no_proof", network=network.name, detail=WEAK_OPEN_PROOF)


def _directory(settings: Settings, ledger: Ledger, queries: Queries) -> SellerDirectory:
    proven = settings.unproven_payers == "refuse"
    return SellerDirectory(ledger, queries, proven_payers_only=proven)


def _settle(
    settings: Settings, ledger: Ledger, chain: Chain, keys: Keys, queries: Queries
) -> SettleSession:
    return SettleSession(
        ledger=ledger,
        chain=chain,
        keys=keys,
        clock=SystemClock(),
        policy=policy_of(settings),
        cluster=queries.cluster,
    )


def _onboarding(settings: Settings, ledger: Ledger, chain: Chain, keys: Keys) -> OnboardWallet:
    return OnboardWallet(
        ledger=ledger,
        chain=chain,
        sources=keys.sources,
        fee_payer=keys.fee_payer if settings.onboard_sponsor_fees else None,
        clock=SystemClock(),
        terms=onboarding_terms(settings, NETWORKS[settings.solana_network]),
    )


def policy_of(settings: Settings) -> SettlementPolicy:
    """How this deployment settles."""
    return SettlementPolicy(
        compute_unit_limit=settings.compute_unit_limit,
        compute_unit_price=settings.compute_unit_price,
        create_recipient_account=settings.create_recipient_ata,
        poll_millis=round(settings.settlement_poll_seconds * 1_000),
        resend_millis=round(settings.settlement_resend_seconds * 1_000),
    )


def settlement_terms(authority: str, network: Network) -> SettlementTerms:
    """How this deployment pays, by the key that is allowed to."""
    return SettlementTerms(
        authority=authority,
        token_program=TOKEN_PROGRAM,
        chain_id=network.chain_id,
        token_address=_token_address,
        swig_wallet=_swig_wallet,
    )


def onboarding_terms(settings: Settings, network: Network) -> OnboardingTerms:
    """What this deployment asks buyers to sign."""
    return OnboardingTerms(
        kind=settings.offered_funding,
        network=network.name,
        mint=network.usdc_mint,
        decimals=USDC_DECIMALS,
        token_program=TOKEN_PROGRAM,
    )


def session_secrets(settings: Settings) -> tuple[SessionSecret, ...]:
    """What seals session keys; empty where nothing is configured.

    Raises:
        ConfigurationError: an entry is malformed.
    """
    if settings.session_key_secrets is None:
        return ()
    try:
        return parse_secrets(settings.session_key_secrets.get_secret_value())
    except ValueError as error:
        raise ConfigurationError(f"SESSION_KEY_SECRETS: {error}") from None


def _buyers(
    settings: Settings,
    secrets: tuple[SessionSecret, ...],
    store: PostgresEventStore,
    ledger: Ledger,
    queries: Queries,
    chain: Chain,
    funding: Mapping[FundingKind, FundingSource],
) -> BuyersSessions:
    network = NETWORKS[settings.solana_network]
    _warn_of_open_proof(settings, network)
    keys = SessionKeys(PostgresSessionKeys(store), secrets)
    channels = BuyersChannels(store)
    return BuyersSessions(
        keys=keys,
        channels=channels,
        opening=OpenForBuyer(
            ledger=ledger,
            queries=queries,
            chain=chain,
            sources=funding,
            token_address=_token_address,
            keys=keys,
            clock=SystemClock(),
            terms=BuyerTerms(
                network=network,
                serves_unregistered=settings.mpp_unregistered_sellers == "allow",
                idle_timeout_seconds=settings.auto_close_idle_seconds,
            ),
        ),
        signing=SignVoucher(ledger=ledger, channels=channels, keys=keys, chain_id=network.chain_id),
    )


def _watch(
    settings: Settings,
    ledger: Ledger,
    store: PostgresEventStore,
    funding: Mapping[FundingKind, FundingSource],
    how: SettlementTerms,
) -> WatchSessions:
    return WatchSessions(
        ledger=ledger,
        store=PostgresWatchStore(store),
        funding=funding,
        how=how,
        policy=auto_close_policy(settings),
        every_seconds=settings.watch_seconds,
        clock=SystemClock(),
    )


def auto_close_policy(settings: Settings) -> AutoClosePolicy:
    """When this deployment closes sessions without being asked."""
    amount, headroom = settings.auto_close_amount, settings.auto_close_headroom
    return AutoClosePolicy(
        idle_seconds=settings.auto_close_idle_seconds,
        age_seconds=settings.auto_close_age_seconds,
        amount=None if amount is None else AtomicUsdc(amount),
        headroom=None if headroom is None else AtomicUsdc(headroom),
    )


def _chain(settings: Settings, network: Network) -> SharedReads:
    if not settings.solana_rpc_url:
        raise ConfigurationError("set SOLANA_RPC_URL, or use `session-ledger serve --local-chain`")
    try:
        return SharedReads(SolanaRpc(settings.solana_rpc_url[0], network.genesis_hash))
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


def funding_sources(chain: Chain, pubkey: str) -> Mapping[FundingKind, FundingSource]:
    """Every way in which a payer's money can be reached."""
    return {
        "delegate": DelegateFunding(chain, pubkey, TOKEN_PROGRAM),
        "swig": SwigFunding(chain, pubkey, TOKEN_PROGRAM),
    }


def _swig_wallet(swig_address: str) -> str:
    return str(wallet_pda(Pubkey.from_string(swig_address))[0])


def _token_address(owner: str, mint: str) -> str:
    return associated_token_address(owner, mint, TOKEN_PROGRAM)
