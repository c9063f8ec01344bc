"""The direct payment: a transfer of the payer's own, accepted once for the whole deployment.

Its stream begins with the acceptance, at expected position 0: of all who show one signature at the
same moment exactly one appends. Nothing is looked up first and marked later.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from service.domain import direct_events as d
from service.domain.codec import JsonObject
from service.domain.direct_errors import PaymentWasReversed, ResourceMismatch
from service.domain.direct_judgement import ALREADY_PROCESSED, REVERSED, Refusal
from service.domain.errors import Corrupt
from service.domain.units import Slot, UnixMillis

DirectStatus = Literal["accepted", "finalized", "reversed"]


@dataclass(frozen=True, slots=True)
class DirectPayment:
    """What the log says of one direct payment. Its canonical JSON is the projection.

    `owed`: a delivery failed, so the payment may be shown once more. `slot` is where it stands
    on the chain.
    """

    accepted: d.PaymentAccepted
    status: DirectStatus
    slot: Slot
    owed: bool = False
    deliveries_failed: int = 0
    redeliveries: int = 0
    ended_at: UnixMillis | None = None
    reversal: JsonObject | None = None

    @property
    def seller_id(self) -> str:
        """Whose payment it is."""
        return self.accepted.seller_id


@dataclass(frozen=True, slots=True)
class Shown:
    """A payment that somebody shows: by which seller, for what, with which header."""

    seller_id: str
    resource: str
    header: str
    at: UnixMillis


def redeliver(payment: DirectPayment | None, shown: Shown) -> list[d.PaymentRedelivered]:
    """The answer again, once for each failed delivery, to the very same request; else no event."""
    if payment is None or refused_again(payment, shown) is not None:
        return []
    return [d.PaymentRedelivered(shown.at)]


def refused_again(payment: DirectPayment, shown: Shown) -> Refusal | None:
    """Why a signature that was accepted is refused now; `None` where a delivery is owed."""
    accepted = payment.accepted
    same = (accepted.seller_id, accepted.resource, accepted.header) == (
        shown.seller_id,
        shown.resource,
        shown.header,
    )
    if same and payment.status == "reversed":
        return REVERSED
    return None if same and payment.owed else ALREADY_PROCESSED


def accept(
    payment: DirectPayment | None, accepted: d.PaymentAccepted
) -> list[d.PaymentAccepted | d.PaymentFinalized]:
    """Accept a payment; whoever comes later appends nothing, whatever became of it."""
    if payment is not None:
        return []
    if accepted.commitment == "finalized":
        return [accepted, d.PaymentFinalized(accepted.at, accepted.slot)]
    return [accepted]


def delivery_failed(
    payment: DirectPayment, resource: str, by: str, now: UnixMillis
) -> list[d.DeliveryFailed]:
    """Note that the seller could not deliver; while one delivery is owed, no other is.

    Raises:
        ResourceMismatch: the payment bought something else.
        PaymentWasReversed: the chain took it back.
    """
    if payment.accepted.resource != resource:
        raise ResourceMismatch("the payment bought another resource")
    if payment.status == "reversed":
        raise PaymentWasReversed("the chain took the payment back")
    return [] if payment.owed else [d.DeliveryFailed(now, by)]


def finalize(payment: DirectPayment, slot: Slot, now: UnixMillis) -> list[d.PaymentFinalized]:
    """The payment is final; saying so again is no event."""
    return [d.PaymentFinalized(now, slot)] if payment.status == "accepted" else []


def reverse(
    payment: DirectPayment,
    cause: d.ReversalCause,
    evidence: JsonObject,
    now: UnixMillis,
) -> list[d.PaymentReversed]:
    """The chain took the payment back; saying so again is no event."""
    return [d.PaymentReversed(now, cause, evidence)] if payment.status == "accepted" else []


def fold(payment: DirectPayment | None, new: Iterable[d.DirectEvent]) -> DirectPayment | None:
    """The payment after `new`."""
    for event in new:
        payment = evolve(payment, event)
    return payment


def evolve(payment: DirectPayment | None, event: d.DirectEvent) -> DirectPayment:
    """The payment after one event.

    Raises:
        Corrupt: the event cannot follow; the log was not written by these rules.
    """
    if isinstance(event, d.PaymentAccepted):
        if payment is not None:
            raise Corrupt("a signature was accepted twice")
        return DirectPayment(event, "accepted", event.slot)
    if payment is None:
        raise Corrupt(f"{type(event).__name__} stands before the payment was accepted")
    match event:
        case d.DeliveryFailed():
            _expect(not payment.owed and payment.status != "reversed", event)
            return replace(payment, owed=True, deliveries_failed=payment.deliveries_failed + 1)
        case d.PaymentRedelivered():
            _expect(payment.owed and payment.status != "reversed", event)
            return replace(payment, owed=False, redeliveries=payment.redeliveries + 1)
        case d.PaymentFinalized():
            _expect(payment.status == "accepted", event)
            return replace(payment, status="finalized", slot=event.slot, ended_at=event.at)
        case d.PaymentReversed():
            _expect(payment.status == "accepted", event)
            evidence: JsonObject = {**event.evidence, "cause": event.cause}
            return replace(
                payment, status="reversed", owed=False, ended_at=event.at, reversal=evidence
            )
        case _:
            assert_never(event)


def _expect(holds: bool, event: d.DirectEvent) -> None:
    if not holds:
        raise Corrupt(f"{type(event).__name__} cannot follow what the payment is")
