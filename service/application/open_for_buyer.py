"""A buyer opens a session: a key of its own, a deposit that the chain covers, one atomic append.

The append holds the session's first events and the reservation of its deposit, so that racing opens
queue at the funding source, in whichever process they are.
"""

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from service.application.commit import Change, Ledger
from service.application.deposits import needs_of
from service.application.seller_terms import USDC_DECIMALS, SellerTerms
from service.application.session_keys import SessionKeys
from service.application.settlement_terms import TokenAddress
from service.application.streams import (
    Stream,
    funding_stream,
    seller_stream,
    session_stream,
    wallet_stream,
)
from service.domain.errors import (
    DepositExceeded,
    FundingSourceRefused,
    InvalidAmount,
    InvalidWallet,
    ReadingTooOld,
    RecipientNotAllowed,
    Rejected,
    SellerNotRegistered,
    WalletNotOnboarded,
    WrongPosition,
)
from service.domain.events import FundingEvent, FundingObserved, SessionEvent, SessionOpened
from service.domain.failures import FAILURES, Finding
from service.domain.funding import FundingReading, SourceRef
from service.domain.reservations import Need, Reservations, reserve
from service.domain.session import Session
from service.domain.terms import FundingKind, Terms
from service.domain.units import AtomicUsdc, UnixMillis
from service.domain.wallet_events import WalletOnboarded
from service.ports import Chain, Clock, FundingSource, Queries
from session_ledger.challenge import CHANNEL_PROGRAM, Network

RESERVE_ATTEMPTS: Final = 24
"""Each lost race means that another process's open went through."""
READ_AGAIN_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class BuyerTerms:
    """What this deployment asks of buyers. `idle_timeout_seconds` is for who names none."""

    network: Network
    serves_unregistered: bool
    idle_timeout_seconds: int | None


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """What a buyer asks for. `named` is what it calls its Swig address, which may be its wallet or
    its token account where it pays by delegation; `proved` says that the wallet signed this."""

    wallet: str
    named: str | None
    recipient: str
    deposit: AtomicUsdc
    idle_timeout_seconds: int | None
    proved: bool


class OpenForBuyer:
    """One for one process."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        queries: Queries,
        chain: Chain,
        sources: Mapping[FundingKind, FundingSource],
        token_address: TokenAddress,
        keys: SessionKeys,
        clock: Clock,
        terms: BuyerTerms,
    ) -> None:
        self._ledger = ledger
        self._queries = queries
        self._chain = chain
        self._sources = sources
        self._token_address = token_address
        self._keys = keys
        self._clock = clock
        self._terms = terms

    async def open(self, request: OpenRequest) -> Session:
        """Open a session. Durable on return.

        Raises:
            SessionKeysNotConfigured: no key could be kept.
            InvalidAmount, InvalidWallet: a deposit of nothing, a payment to oneself.
            WalletNotOnboarded, RecipientNotAllowed: the wallet's owner did not allow it.
            SellerNotRegistered: the seller is none of ours, and only ours are served.
            FundingSourceRefused: the account cannot pay; `reason` is the finding.
            DepositExceeded: what is open already and this deposit pass what may be spent.
            ChainUnavailable, Conflict: nothing was opened; try again.
        """
        self._keys.require()
        if request.deposit == 0:
            raise InvalidAmount("deposit_atomic must be above 0")
        if request.recipient in (request.wallet, request.named):
            raise InvalidWallet("seller_wallet must be another wallet than the buyer's")
        permission = await self._permission(request)
        channel_id = str(uuid.uuid4())
        terms = await self._seller_terms(channel_id, request)
        source = await self._source(request, permission, terms.mint)
        reading = await self._reading(source)
        stream = session_stream(terms.seller_id, channel_id)
        idle = request.idle_timeout_seconds or self._terms.idle_timeout_seconds
        terms = replace(
            terms,
            session_pubkey=await self._keys.create(stream.stream_id),
            deposit=request.deposit,
            source_token_account=source.token_account,
            swig_address=source.swig_address,
            swig_role_id=source.swig_role_id,
            valid_until=None if permission is None else permission.expires_at,
            idle_timeout_seconds=idle,
            opened_by="buyer",
        )
        limit = None if permission is None else permission.spend_limit
        try:
            return await self._reserved(stream, terms, source, reading, limit)
        except Rejected:
            await self._keys.forget(stream.stream_id)
            raise

    async def _permission(self, request: OpenRequest) -> WalletOnboarded | None:
        """What the wallet's owner allowed at onboarding; `None` where a proof stands for it."""
        held = await self._ledger.read(wallet_stream(request.wallet))
        wallet = None if held is None else held.state
        status = "not_onboarded" if wallet is None else wallet.status(self._clock.now())
        if wallet is not None and status == "active":
            if not wallet.allows(request.recipient):
                raise RecipientNotAllowed(
                    f"{request.wallet} limited who may be paid, and {request.recipient} is not "
                    "among them"
                )
            return wallet.onboarded
        if request.proved and status in ("not_onboarded", "pending"):
            return None
        raise WalletNotOnboarded(
            f"the onboarding of {request.wallet} is {status.replace('_', ' ')}: "
            "POST /api/sessions/onboard first"
        )

    async def _seller_terms(self, channel_id: str, request: OpenRequest) -> Terms:
        network = self._terms.network
        seller_id = await self._queries.seller_of_recipient(request.recipient, network.name)
        if seller_id is not None:
            held = await self._ledger.read(seller_stream(seller_id))
            assert held is not None
            assert held.state is not None
            return SellerTerms.of(held.state).session_terms(channel_id, request.wallet)
        if not self._terms.serves_unregistered:
            raise SellerNotRegistered(f"no seller is registered here for {request.recipient}")
        return Terms(
            channel_id=channel_id,
            seller_id=f"wallet_{request.recipient}",
            payer=request.wallet,
            recipient=request.recipient,
            network=network.name,
            mint=network.usdc_mint,
            decimals=USDC_DECIMALS,
            settles="signed",
        )

    async def _source(
        self, request: OpenRequest, permission: WalletOnboarded | None, mint: str
    ) -> SourceRef:
        """The funding source that the request names, which the wallet has a say over."""
        own = (request.wallet, self._token_address(request.wallet, mint))
        named = request.named or (permission and permission.swig_address) or request.wallet
        swig = named not in own and await self._is_swig(named)
        if not swig and named not in own and (permission is None or permission.kind != "delegate"):
            raise _refused(Finding("swig_account_missing", named))
        kind: FundingKind = "swig" if swig else "delegate"
        if kind not in self._sources:
            raise FundingSourceRefused("this service does not pay out of Swig wallets", "swig_off")
        source = await self._sources[kind].locate(request.wallet, named if swig else None, mint)
        onboarded = permission is not None and permission.source == source.token_account
        if not (onboarded or request.proved):
            raise WalletNotOnboarded(
                f"{request.wallet} onboarded with another funding source than {named}"
            )
        return source

    async def _is_swig(self, address: str) -> bool:
        account = (await self._chain.accounts([address], "confirmed")).accounts[0]
        return account is not None and account.owner == CHANNEL_PROGRAM

    async def _reading(self, source: SourceRef) -> FundingReading:
        reading = (await self._sources[source.kind].readings([source]))[0]
        if reading.finding is not None:
            raise _refused(reading.finding)
        return reading

    async def _reserved(
        self,
        stream: Stream[Session],
        terms: Terms,
        source: SourceRef,
        reading: FundingReading,
        spend_limit: AtomicUsdc | None,
    ) -> Session:
        """Append session and reservation. What has ended is released when there is no room."""
        needs: dict[str, Need] = {}
        looked, attempts = False, 0
        while True:
            attempts += 1
            opening = _Opening(terms, source, reading, spend_limit, needs, self._clock.now())
            try:
                return await self._append(stream, opening)
            except WrongPosition:
                if attempts >= RESERVE_ATTEMPTS:
                    raise
            except ReadingTooOld:
                if attempts >= RESERVE_ATTEMPTS:
                    raise
                await asyncio.sleep(READ_AGAIN_SECONDS)
                reading = await self._reading(source)
            except (DepositExceeded, FundingSourceRefused):
                if looked:
                    raise
                needs, looked = await self._needs(source), True
                reading = await self._reading(source)

    async def _append(self, stream: Stream[Session], opening: "_Opening") -> Session:
        opened, _ = await self._ledger.commit_together(
            [
                Change(stream, lambda _: opening.session_events()),
                Change(
                    funding_stream(opening.source.token_account),
                    lambda held: opening.reserve(stream.stream_id, held),
                ),
            ]
        )
        assert opened.state is not None
        return opened.state

    async def _needs(self, source: SourceRef) -> dict[str, Need]:
        held = await self._ledger.read(funding_stream(source.token_account))
        if held is None or held.state is None:
            return {}
        return await needs_of(self._ledger, held.state)


@dataclass(frozen=True, slots=True)
class _Opening:
    """One try to open: what both streams are decided upon."""

    terms: Terms
    source: SourceRef
    reading: FundingReading
    spend_limit: AtomicUsdc | None
    needs: Mapping[str, Need]
    now: UnixMillis

    def session_events(self) -> list[SessionEvent]:
        """The first events of the session; its stream is new."""
        return [
            SessionOpened(at=self.now, terms=self.terms),
            FundingObserved(
                at=self.now,
                funding="verified",
                source_token_account=self.source.token_account,
                balance=self.reading.balance,
                delegated=self.reading.allowance,
                slot=self.reading.slot,
            ),
        ]

    def reserve(self, stream_id: str, held: Reservations | None) -> list[FundingEvent]:
        """The deposit's reservation; see `reserve`."""
        assert self.terms.deposit is not None
        return reserve(
            held,
            stream_id,
            self.terms.deposit,
            self.reading,
            spend_limit=self.spend_limit,
            needs=self.needs,
            now=self.now,
        )


def _refused(finding: Finding) -> FundingSourceRefused:
    kind = FAILURES[finding.code]
    return FundingSourceRefused(f"{kind.meaning} ({finding.detail}) {kind.remedy}", finding.code)
