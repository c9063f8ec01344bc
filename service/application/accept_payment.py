"""Accept direct payments: a signature buys one resource, once, whoever shows it and where.

The order is decode, replay, fetch, judge, append. The look-up before the fetch only spares the
chain a question: what makes a payment unique is the append at position 0 of its stream, and no
answer says that a payment is valid before that append is durable.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from service.application.commit import ClaimsOf, Ledger, Outcome
from service.application.payment_challenges import PaymentChallenges, Quote
from service.application.seller_terms import SellerTerms
from service.application.streams import Stream, direct_stream
from service.domain.direct_errors import PaymentNotFound
from service.domain.direct_events import DeliveryFailed, PaymentAccepted
from service.domain.direct_judgement import (
    ALREADY_PROCESSED,
    INVALID_HEADER,
    NOT_FOUND,
    DirectClaim,
    DirectFacts,
    Refusal,
    judge,
    may_pass,
    refusal,
)
from service.domain.direct_payment import (
    DirectPayment,
    Shown,
    accept,
    delivery_failed,
    redeliver,
    refused_again,
)
from service.domain.errors import ChainUnavailable, InvalidRequest, NetworkMismatch
from service.domain.units import AtomicUsdc
from service.ports import Chain, Claim, Clock, DirectStore
from session_ledger.challenge import Network
from session_ledger.x402.direct import (
    SCHEME,
    X402_VERSION,
    PaymentPayload,
    PaymentRequirements,
    parse_payment_header,
)
from session_ledger.x402.errors import X402ParseError
from session_ledger.x402.networks import network_of

log = structlog.get_logger()

Keep = Callable[[PaymentAccepted], Sequence[Claim]]
"""Keys to take in the transaction that accepts a payment, such as that of its answer."""


@dataclass(frozen=True, slots=True)
class DirectTerms:
    """How this deployment judges. `unbound`: a payment without a memo passes on its payer."""

    network: Network
    commitment: Literal["confirmed", "finalized"]
    age_seconds_max: int
    unbound: bool


class AcceptPayment:
    """Safe to run in several processes at once, on the same signature too."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: DirectStore,
        chain: Chain,
        challenges: PaymentChallenges,
        clock: Clock,
        terms: DirectTerms,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._chain = chain
        self._challenges = challenges
        self._clock = clock
        self._terms = terms

    @property
    def terms(self) -> DirectTerms:
        """How payments are judged."""
        return self._terms

    async def verify(
        self,
        seller: SellerTerms,
        header: str,
        required: PaymentRequirements,
        keep: Keep = lambda _: (),
    ) -> PaymentAccepted | Refusal:
        """Accept the payment of an X-PAYMENT header, or say why not. Durable on return.

        Raises:
            InvalidRequest: the requirements are not this seller's.
            NetworkMismatch: they are for another network.
            ClaimTaken: a key of `keep` was taken before; nothing was written.
            DatabaseUnavailable: not written, or the outcome is open.
        """
        self._check_requirements(seller, required)
        try:
            paid = parse_payment_header(header)
        except X402ParseError:
            return INVALID_HEADER
        stream = direct_stream(paid.signature)
        shown = Shown(seller.seller_id, required.resource, header, self._clock.now())
        before, ours = await asyncio.gather(
            self._ledger.read(stream), self._store.sent_by_us(paid.signature)
        )
        if ours:
            return ALREADY_PROCESSED
        if before is not None and before.state is not None:
            return refused_again(before.state, shown) or await self._again(stream, shown, keep)
        judged = self._foreign(paid) or await self._judged(seller, paid, required)
        if isinstance(judged, Refusal):
            return judged
        accepted = self._accepted(judged, shown, required)
        outcome = await self._ledger.commit(
            stream, lambda payment: accept(payment, accepted), _claims(keep, accepted)
        )
        return accepted if outcome.events else ALREADY_PROCESSED

    async def delivery_failed(self, seller_id: str, signature: str, resource: str) -> DirectPayment:
        """Note that the seller could not deliver; gives the payment afterwards. Durable on return.

        Raises:
            PaymentNotFound: the seller has no such payment.
            ResourceMismatch: it bought something else.
            PaymentWasReversed: the chain took it back.
        """
        now = self._clock.now()

        def decide(payment: DirectPayment | None) -> Sequence[DeliveryFailed]:
            return delivery_failed(_owned(payment, seller_id), resource, seller_id, now)

        outcome = await self._ledger.commit(direct_stream(signature), decide)
        return _owned(outcome.state, seller_id)

    async def payment(self, seller_id: str, signature: str) -> DirectPayment:
        """An accepted payment, fresh from the database.

        Raises:
            PaymentNotFound: the seller has no such payment.
        """
        held = await self._ledger.read(direct_stream(signature))
        return _owned(held and held.state, seller_id)

    async def _again(
        self, stream: Stream[DirectPayment], shown: Shown, keep: Keep
    ) -> PaymentAccepted | Refusal:
        """The first answer again, where a delivery is owed: one of many who ask gets it."""

        async def claims(outcomes: Sequence[Outcome[Any]]) -> Sequence[Claim]:
            state: DirectPayment | None = outcomes[0].state
            return keep(state.accepted) if outcomes[0].events and state is not None else ()

        outcome = await self._ledger.commit(
            stream, lambda payment: redeliver(payment, shown), claims
        )
        assert outcome.state is not None
        return outcome.state.accepted if outcome.events else ALREADY_PROCESSED

    def _check_requirements(self, seller: SellerTerms, required: PaymentRequirements) -> None:
        if required.scheme != SCHEME:
            raise InvalidRequest(f"paymentRequirements.scheme must be {SCHEME}")
        if network_of(required.network) != self._terms.network:
            raise NetworkMismatch(f"this service is for {self._terms.network.name}")
        if required.pay_to != seller.seller.recipient:
            raise InvalidRequest("paymentRequirements.payTo must be your own recipient")
        if required.max_amount_required == 0:
            raise InvalidRequest("paymentRequirements.maxAmountRequired must be at least 1")

    def _foreign(self, paid: PaymentPayload) -> Refusal | None:
        """Whether the header is for another version, scheme or network than the requirements."""
        ours = self._terms.network
        if paid.x402_version != X402_VERSION:
            return refusal("version_mismatch", f"Wrong x402Version: expected {X402_VERSION}")
        if paid.scheme != SCHEME:
            return refusal("scheme_mismatch", f"Wrong scheme: expected {SCHEME}")
        if network_of(paid.network) != ours:
            return refusal("network_mismatch", f"Wrong network: expected {ours.name}")
        return None

    async def _judged(
        self, seller: SellerTerms, paid: PaymentPayload, required: PaymentRequirements
    ) -> DirectFacts | Refusal:
        try:
            tx = await self._chain.transaction(paid.signature, self._terms.commitment)
        except ChainUnavailable as error:
            log.warning("payment_not_read", code=error.code, detail=error.detail)
            return may_pass("chain_unavailable", "Verification error: the chain does not answer")
        if tx is None:
            return NOT_FOUND
        return judge(tx, self._claim(seller, paid, required), self._clock.now())

    def _claim(
        self, seller: SellerTerms, paid: PaymentPayload, required: PaymentRequirements
    ) -> DirectClaim:
        amount = AtomicUsdc(required.max_amount_required)
        quote = Quote(seller.seller_id, required.resource, amount, required.pay_to, required.asset)
        own_memo = required.memo
        if own_memo is not None and self._challenges.looks_issued(own_memo):
            own_memo = None  # ours: any open one for this quote will do
        longest = self._terms.age_seconds_max
        return DirectClaim(
            pay_to=required.pay_to,
            asset=required.asset,
            required=amount,
            memo=own_memo,
            reference=required.reference,
            payer=paid.payer,
            amount=AtomicUsdc(paid.amount),
            mint=paid.mint,
            age_seconds_max=min(longest, required.max_timeout_seconds or longest),
            issued=lambda memo, at: self._challenges.issued(quote, memo, at),
            unbound=self._terms.unbound,
        )

    def _accepted(
        self, facts: DirectFacts, shown: Shown, required: PaymentRequirements
    ) -> PaymentAccepted:
        return PaymentAccepted(
            at=shown.at,
            signature=facts.signature,
            seller_id=shown.seller_id,
            resource=required.resource,
            chain_id=self._terms.network.chain_id,
            pay_to=required.pay_to,
            asset=required.asset,
            required=AtomicUsdc(required.max_amount_required),
            amount=facts.amount,
            payer=facts.payer,
            fee_payer=facts.fee_payer,
            slot=facts.slot,
            block_time=facts.block_time,
            commitment=self._terms.commitment,
            binding=facts.binding,
            memo=facts.memo,
            reference=required.reference,
            header=shown.header,
            transaction_hash=facts.raw_hash,
        )


def _claims(keep: Keep, accepted: PaymentAccepted) -> ClaimsOf:
    async def claims(outcomes: Sequence[Outcome[Any]]) -> Sequence[Claim]:
        return keep(accepted) if outcomes[0].events else ()

    return claims


def _owned(payment: DirectPayment | None, seller_id: str) -> DirectPayment:
    """The payment, if it is the seller's: another's answers exactly as an unknown one."""
    if payment is None or payment.seller_id != seller_id:
        raise PaymentNotFound("no payment with this signature was accepted")
    return payment
