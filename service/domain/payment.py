"""The one-shot payment: a transaction of the payer's own, which we sponsor and see through.

The message decides which payment it is. However often it is submitted, and to however many
processes, it is one stream, one transaction and at most one transfer.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from service.domain import events as e
from service.domain.errors import Corrupt
from service.domain.settlement import Settlement, evolve_settlement
from service.domain.units import UnixMillis

_ID_HEX: Final = 32


@dataclass(frozen=True, slots=True)
class Payment:
    """What the log says of one payment. Its canonical JSON is the projection."""

    payment_id: str
    dialect: e.Dialect
    seller_id: str | None
    payer: str
    recipient: str
    resource: str | None
    memo: str | None
    submitted_at: UnixMillis
    settlement: Settlement

    @property
    def signature(self) -> str:
        """The transaction's, known before it lands."""
        return self.settlement.attempts[0].signature


def payment_id(message: bytes) -> str:
    """The payment that a transaction's message is, whoever signed it already."""
    return "pay_" + hashlib.sha256(b"payment\x00" + message).hexdigest()[:_ID_HEX]


def submit_payment(
    payment: Payment | None, submitted: e.PaymentSubmitted
) -> list[e.PaymentSubmitted]:
    """Submit a payment; submitting it again is no event, whatever became of it."""
    return [submitted] if payment is None else []


def fold(payment: Payment | None, new: Iterable[e.PaymentEvent]) -> Payment | None:
    """The payment after `new`."""
    for event in new:
        payment = evolve(payment, event)
    return payment


def evolve(payment: Payment | None, event: e.PaymentEvent) -> Payment:
    """The payment after one event.

    Raises:
        Corrupt: the event cannot follow; the log was not written by these rules.
    """
    if isinstance(event, e.PaymentSubmitted):
        return Payment(
            payment_id=event.payment_id,
            dialect=event.dialect,
            seller_id=event.seller_id,
            payer=event.payer,
            recipient=event.recipient,
            resource=event.resource,
            memo=event.memo,
            submitted_at=event.at,
            settlement=evolve_settlement(payment and payment.settlement, event),
        )
    if payment is None:
        raise Corrupt(f"{type(event).__name__} stands before the payment was submitted")
    return replace(payment, settlement=evolve_settlement(payment.settlement, event))
