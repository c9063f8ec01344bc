"""Onboarding a buyer: what it has to sign so that we may pay for it, and what came of that.

Everything that is asked, submitted and seen is in the wallet's stream before it is answered or
sent, so any process goes on where another one stopped, with the same bytes and no others.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import structlog

from service.application.commit import Ledger
from service.application.landing import POLL_SECONDS, Landing
from service.application.streams import wallet_stream
from service.domain import onboarding as rules
from service.domain import wallet_events as e
from service.domain.codec import JsonObject
from service.domain.errors import (
    ChainUnavailable,
    FundingSourceRefused,
    OnboardingNotFound,
)
from service.domain.funding import FundingReading, GrantOrder, SourceRef
from service.domain.onboarding import Seen, Wallet
from service.domain.onchain import UnsignedTransaction
from service.domain.terms import FundingKind
from service.domain.units import AtomicUsdc, Slot, UnixMillis
from service.ports import Chain, Clock, FundingSource, Signer, SignerUnavailable
from session_ledger.encoding import base58_encode

Answer = (
    Literal["ready", "transactions_required", "not_eligible", "temporarily_unavailable"]
    | rules.Status
)

STATUS_SECONDS: Final = 5.0
"""Longest that a question for the status waits for the chain; the client gives up after 10."""

_SIGNATURE_BYTES: Final = 64
_NO_ANSWER: Final = "the chain does not answer; try again in a moment"

log: Final = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OnboardingTerms:
    """What this deployment offers to buyers. `wait_seconds` is less than the client's 30."""

    kind: FundingKind
    network: str
    mint: str
    decimals: int
    token_program: str
    wait_seconds: float = 20.0


@dataclass(frozen=True, slots=True)
class OnboardingRequest:
    """What a buyer asks for. Without a limit it is the balance; without `recipients` the earlier
    choice stays, and an empty one is anybody. `exactly`: what allows more is lowered too."""

    wallet: str
    spend_limit: AtomicUsdc | None
    ttl_seconds: int | None
    recipients: tuple[str, ...] | None
    proof: JsonObject
    exactly: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """How it stands with a wallet, with what the log and the chain say of it."""

    status: Answer
    wallet: Wallet
    source: SourceRef | None = None
    reading: FundingReading | None = None
    detail: str | None = None


class OnboardWallet:
    """The onboarding of buyers. `fee_payer` is ours where we pay the fees, otherwise `None`."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        chain: Chain,
        sources: Mapping[FundingKind, FundingSource],
        fee_payer: Signer | None,
        clock: Clock,
        terms: OnboardingTerms,
    ) -> None:
        self._ledger = ledger
        self._landing = Landing(chain)
        self._sources = sources
        self._source = sources[terms.kind]
        self._fee_payer = fee_payer
        self._clock = clock
        self._terms = terms

    @property
    def session_pubkey(self) -> str:
        """Our key, which the buyer lets pay."""
        return self._source.pubkey

    async def onboard(self, request: OnboardingRequest) -> Standing:
        """What the buyer has to sign, or that nothing is left to sign. May be repeated.

        Raises:
            InvalidWallet: the wallet is not a Solana address.
        """
        wallet = await self._read(request.wallet)
        try:
            async with asyncio.timeout(self._terms.wait_seconds):
                plan = await self._plan(request, wallet)
        except FundingSourceRefused as refused:
            return Standing("not_eligible", wallet, detail=refused.detail)
        except (ChainUnavailable, TimeoutError):
            return Standing("temporarily_unavailable", wallet, detail=_NO_ANSWER)
        wallet = await self._commit(request.wallet, plan.decide)
        return Standing(plan.status, wallet, plan.source, plan.reading)

    async def confirm(self, address: str, wires: Sequence[bytes], proof: JsonObject) -> Standing:
        """Submit what the buyer signed, and wait until the chain lets us pay. May be repeated.

        Raises:
            OnboardingNotFound: nothing was issued, or what was has ended.
            TransactionAltered, SignatureInvalid: not what was issued, signed by the buyer.
            TransactionExpired: too late; nothing of it can land any more.
            SimulationFailed: the chain refuses it.
        """
        deadline = asyncio.get_running_loop().time() + self._terms.wait_seconds
        wallet = await self._read(address)
        issued = wallet.issued
        if issued is None:
            raise OnboardingNotFound("no transactions were issued for this wallet")
        signatures = rules.checked_signatures(issued, wires, address)
        if wallet.completed:
            if wallet.status(self._clock.now()) != "active":
                raise OnboardingNotFound("this onboarding was completed, and has ended since")
            return Standing("ready", wallet)
        try:
            async with asyncio.timeout_at(deadline):
                signed = wallet.submitted or await self._signed(issued, signatures, address)
        except (ChainUnavailable, SignerUnavailable, TimeoutError):
            return Standing("temporarily_unavailable", wallet, detail=_NO_ANSWER)
        wallet = await self._commit(address, lambda held: rules.submit(held, signed, issued))
        submitted = wallet.submitted or signed
        try:
            async with asyncio.timeout_at(deadline):
                slot = await self._landing.land(issued, submitted)
                seen = await self._granted(address, slot, proof)
        except (ChainUnavailable, TimeoutError):
            detail = "the transactions are on their way; confirm again with the same ones"
            return Standing("pending", wallet, detail=detail)
        return await self._completed(address, seen, issued, submitted)

    async def status(self, address: str, proof: JsonObject) -> Standing:
        """What the log says, after a look at the chain if it answers at once."""
        wallet = await self._read(address)
        seen: Seen | None = None
        reading: FundingReading | None = None
        issued, submitted = wallet.issued, wallet.submitted
        try:
            async with asyncio.timeout(STATUS_SECONDS):
                if wallet.in_flight and issued and submitted:
                    slot = await self._landing.landed(submitted)
                    if slot is not None:
                        seen = await self._granted(address, slot, proof)
                if seen is None and wallet.onboarded is not None:
                    reading = await self._reading(wallet.onboarded)
        except (ChainUnavailable, TimeoutError):
            log.info("wallet_not_read", address=address)
        if seen and issued and submitted:
            standing = await self._completed(address, seen, issued, submitted)
            wallet, reading = standing.wallet, seen.reading
        elif reading:
            await record_reading(self._ledger, address, reading, self._clock.now())
            wallet = await self._read(address)
        return Standing(wallet.status(self._clock.now()), wallet, reading=reading)

    # --- onboard --------------------------------------------------------------------------------

    async def _plan(self, request: OnboardingRequest, wallet: Wallet) -> "_Plan":
        now = self._clock.now()
        source, reading = await self._look(request.wallet)
        balance = await self._own_balance(request.wallet) if reading is None else reading.balance
        limit = balance if request.spend_limit is None else request.spend_limit
        # Who asks for no limit wants to be able to pay: what is granted already is left as it is.
        content = request.spend_limit is None and wallet.status(now) == "active"
        allowance = AtomicUsdc(0) if reading is None else reading.allowance
        enough = allowance >= (min(limit, 1) if content else limit)
        if request.exactly:
            enough = allowance == limit
        if source and reading and not reading.finding and enough:
            seen = Seen(source, reading, request.proof, now)
            return _Plan(
                "ready",
                lambda held: rules.grant(
                    held,
                    seen,
                    spend_limit=request.spend_limit,
                    ttl_seconds=request.ttl_seconds,
                    recipients=request.recipients,
                ),
                source,
                reading,
            )
        over = None
        if wallet.in_flight and wallet.issued and wallet.submitted:
            if not await self._landing.is_over(wallet.issued, wallet.submitted):
                return _Plan("transactions_required", lambda _: (), source, reading)
            over = wallet.submitted
        if limit == 0:
            raise FundingSourceRefused(
                "the wallet holds no USDC: send it some, or name spend_limit_atomic"
            )
        issued = await self._issued(request, wallet, limit, now)
        if not issued.transactions:
            raise _nothing_to_sign(reading)
        return _Plan(
            "transactions_required",
            lambda held: rules.issue(held, issued, over=over),
            source,
            reading,
        )

    async def _issued(
        self, request: OnboardingRequest, wallet: Wallet, limit: AtomicUsdc, now: UnixMillis
    ) -> e.OnboardingIssued:
        order = GrantOrder(
            buyer=request.wallet,
            mint=self._terms.mint,
            decimals=self._terms.decimals,
            token_program=self._terms.token_program,
            spend_limit=limit,
            fee_payer=request.wallet if self._fee_payer is None else self._fee_payer.pubkey,
        )
        grants = await self._source.grant(order)
        return e.OnboardingIssued(
            at=now,
            kind=self._source.kind,
            network=self._terms.network,
            spend_limit=limit,
            ttl_seconds=request.ttl_seconds,
            recipients=wallet.recipients(request.recipients),
            swig_address=next((grant.swig_address for grant in grants), None),
            transactions=tuple(
                e.IssuedTransaction(
                    grant.type, grant.message, grant.signers, grant.last_valid_block_height
                )
                for grant in grants
            ),
            proof=request.proof,
        )

    # --- confirm --------------------------------------------------------------------------------

    async def _signed(
        self, issued: e.OnboardingIssued, signatures: Sequence[bytes], buyer: str
    ) -> e.OnboardingSubmitted:
        """The wire bytes with every signature, once the first of them was simulated."""
        wires: list[bytes] = []
        for asked, signature in zip(issued.transactions, signatures, strict=True):
            by = {buyer: signature}
            if self._fee_payer is not None and self._fee_payer.pubkey in asked.signers:
                by.setdefault(self._fee_payer.pubkey, await self._fee_payer.sign(asked.message))
            if not by.keys() >= set(asked.signers):
                raise OnboardingNotFound("the fees are no longer sponsored: onboard again")
            wires.append(UnsignedTransaction(asked.message, asked.signers).signed(by))
        await self._landing.simulate(wires[0])
        return e.OnboardingSubmitted(
            at=self._clock.now(),
            signatures=tuple(base58_encode(wire[1 : 1 + _SIGNATURE_BYTES]) for wire in wires),
            transactions=tuple(wires),
        )

    async def _granted(self, address: str, slot: Slot, proof: JsonObject) -> Seen:
        """Wait until a reading at the slot, or later, shows that we may pay."""
        while True:
            source, reading = await self._look(address)
            if source and reading and not reading.finding and reading.slot >= slot:
                return Seen(source, reading, proof, self._clock.now())
            await asyncio.sleep(POLL_SECONDS)

    async def _completed(
        self,
        address: str,
        seen: Seen,
        issued: e.OnboardingIssued,
        submitted: e.OnboardingSubmitted,
    ) -> Standing:
        log.info("wallet_onboarded", address=address, kind=seen.source.kind)
        wallet = await self._commit(
            address, lambda held: rules.complete(held, seen, issued, submitted)
        )
        return Standing("ready", wallet, seen.source, seen.reading)

    # --- reading --------------------------------------------------------------------------------

    async def _look(self, address: str) -> tuple[SourceRef | None, FundingReading | None]:
        """What pays for the wallet and what the chain allows us of it, if there is anything."""
        try:
            source = await self._source.locate(address, None, self._terms.mint)
        except FundingSourceRefused:
            return None, None
        return source, (await self._source.readings([source]))[0]

    async def _own_balance(self, address: str) -> AtomicUsdc:
        """What the wallet holds itself, for the default limit of one that pays otherwise later."""
        delegate = self._sources["delegate"]
        own = await delegate.locate(address, None, self._terms.mint)
        return (await delegate.readings([own]))[0].balance

    async def _reading(self, onboarded: e.WalletOnboarded) -> FundingReading:
        source = SourceRef(
            kind=onboarded.kind,
            token_account=onboarded.source,
            owner=onboarded.owner,
            mint=self._terms.mint,
            swig_address=onboarded.swig_address,
            swig_role_id=onboarded.role_id,
        )
        return (await self._sources[onboarded.kind].readings([source]))[0]

    async def _read(self, address: str) -> Wallet:
        held = await self._ledger.read(wallet_stream(address))
        return (held and held.state) or Wallet()

    async def _commit(self, address: str, decide: "_Decide") -> Wallet:
        return (await self._ledger.commit(wallet_stream(address), decide)).state or Wallet()


_Decide = Callable[[Wallet | None], Sequence[e.WalletEvent]]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to answer, and what to append first."""

    status: Answer
    decide: _Decide
    source: SourceRef | None
    reading: FundingReading | None


async def record_reading(
    ledger: Ledger, address: str, reading: FundingReading, now: UnixMillis
) -> None:
    """Append that the wallet took its permission back, if a reading of its source says so."""
    await ledger.commit(wallet_stream(address), lambda held: rules.revoke(held, reading, now))


def _nothing_to_sign(reading: FundingReading | None) -> FundingSourceRefused:
    """No signature of the buyer's would help."""
    finding = reading and reading.finding
    return FundingSourceRefused(
        f"{finding.code}: {finding.detail}" if finding else "the chain does not show it yet"
    )
