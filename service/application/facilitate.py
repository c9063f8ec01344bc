"""The facilitator of x402: whether a payment would settle, and its settlement, told once as paid.

A server delivers when it is told that a payment settled. A buyer can show one payment to a server
many times, and to many instances of it, so the first answer of success takes a claim in the log's
database; nobody is told again, whoever asks and whatever process answers.
"""

import hmac
import secrets
from typing import Final

import structlog

from service.application.sponsor_payment import SponsorPayment
from service.domain.errors import ClaimTaken, SponsorshipRefused
from service.domain.payment import Payment
from service.domain.sponsorship import TransferClaim
from service.ports import Append, Claim, EventStore

TOLD: Final = "x402/settled"
"""Scope of the claims; the key is the payment's id."""
_MARK_BYTES: Final = 32

log: Final = structlog.stdlib.get_logger(__name__)


class Facilitate:
    """Safe to run in several processes at once, on the same transaction too."""

    def __init__(self, *, sponsor: SponsorPayment, store: EventStore) -> None:
        self._sponsor = sponsor
        self._store = store

    async def verify(self, raw: bytes, claim: TransferClaim) -> str:
        """The payer of a payment that `settle` would settle. Signs nothing, writes nothing.

        A payment that is under way, or settled though nobody was told, is still to be settled.

        Raises:
            InvalidTransaction: the bytes are no sound transaction.
            SponsorshipRefused: with a code of `REFUSALS` or `EXACT_REFUSALS`.
            SellerNotRegistered: only registered sellers are sponsored, and the recipient is none.
            Unavailable: the log or the chain does not answer.
        """
        found = await self._sponsor.verify(raw, claim)
        if isinstance(found, str):
            return found
        if found.settlement.status == "failed":
            raise SponsorshipRefused("transaction_failed", "the payment has failed for good")
        if await self._store.claim(TOLD, found.payment_id) is not None:
            raise _told_before(found)
        return found.payer

    async def settle(
        self, raw: bytes, claim: TransferClaim, *, seconds: float, caller: bytes | None = None
    ) -> Payment:
        """See the payment through until its end or until time is up; settled, it is told once.

        `caller` identifies who asks (32 bytes): only the same one is told the same success again.

        Raises:
            As `verify`, with `duplicate_settlement` for a success that was told before.
        """
        payment = await self._sponsor.settle(raw, claim, seconds=seconds)
        if payment.settlement.status == "settled":
            await self._tell(payment, caller or secrets.token_bytes(_MARK_BYTES))
        return payment

    async def _tell(self, payment: Payment, caller: bytes) -> None:
        try:
            await self._store.append(Append((), (Claim(TOLD, payment.payment_id, caller),)))
        except ClaimTaken:
            # Perhaps by this very append, whose first reply was lost.
            told = await self._store.claim(TOLD, payment.payment_id)
            if told is None or not hmac.compare_digest(told.request_hash, caller):
                raise _told_before(payment) from None
        log.info("payment_told", settlement_id=payment.payment_id, signature=payment.signature)


def _told_before(payment: Payment) -> SponsorshipRefused:
    return SponsorshipRefused(
        "duplicate_settlement", f"{payment.signature} was told as settled before"
    )
