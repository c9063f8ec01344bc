"""What is judged and what is answered: submissions, verdicts, receipts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from service.domain.errors import VoucherRejected
from service.domain.events import VoucherAccepted
from service.domain.grant_errors import GrantRefused
from service.domain.pricing import AmountCharge, Charge, MeteredCharge, UnitsCharge
from service.domain.session import Session
from service.domain.units import StreamPosition, UnixMillis
from service.domain.voucher import VerifiedVoucher
from service.ports import Claim, Rejection
from session_ledger.voucher import Envelope


@dataclass(slots=True)
class Submission:
    """One signed voucher as the buyer sent it, and what the seller says the request costs."""

    envelope: Envelope
    charge: Charge | None = None


@dataclass(slots=True)
class Receipt:
    """What the log holds of an accepted voucher. Amounts are atomic units."""

    channel_id: str
    position: StreamPosition
    amount_paid: int
    cumulative_amount: int
    sequence: int
    accepted_at: UnixMillis
    event_hash: bytes


@dataclass(slots=True)
class Verdict:
    """The answer for one voucher.

    `session` is the session that a refused voucher met, or that the whole request left behind an
    accepted one; `refusal` says which limit of a grant stood in the way.
    """

    kind: Literal["accepted", "replayed", "rejected"]
    submission: Submission
    voucher: VerifiedVoucher | None = None
    reason: str | None = None
    error: str | None = None
    refusal: GrantRefused | None = None
    receipt: Receipt | None = None
    session: Session | None = None
    position: StreamPosition | None = None


ClaimAnswer = Callable[[Sequence[Verdict]], Sequence[Claim]]
"""Gives, from the verdicts, an idempotency claim that is taken with the append."""


def rejected_verdict(
    submission: Submission,
    rejected: VoucherRejected | GrantRefused,
    voucher: VerifiedVoucher | None = None,
    session: Session | None = None,
) -> Verdict:
    """A refusal; `voucher` and `session` as far as it came."""
    if isinstance(rejected, GrantRefused):
        reason, error, refusal = rejected.code, f"{rejected.code}: {rejected.detail}", rejected
    else:
        reason, error, refusal = rejected.reason, rejected.error, None
    return Verdict("rejected", submission, voucher, reason, error, refusal, session=session)


def receipt_of(
    channel_id: str, position: StreamPosition, event_hash: bytes, event: VoucherAccepted
) -> Receipt:
    """What the log holds of an accepted voucher."""
    return Receipt(
        channel_id=channel_id,
        position=position,
        amount_paid=event.increment,
        cumulative_amount=event.cumulative_amount,
        sequence=event.sequence,
        accepted_at=event.at,
        event_hash=event_hash,
    )


def charge_json(charge: Charge | None) -> dict[str, str] | None:
    """The charge as the event keeps it: counts as decimal strings, like every amount."""
    match charge:
        case None:
            return None
        case UnitsCharge(units):
            return {"units": str(units)}
        case AmountCharge(amount):
            return {"amount": str(amount)}
        case MeteredCharge(meter, usage):
            return {"meter": meter, "usage": str(usage)}


def rejection_of(seller_id: str, verdict: Verdict, now: UnixMillis) -> Rejection:
    """A refused voucher as the seller's trace keeps it."""
    envelope = verdict.submission.envelope
    named = envelope.voucher.get("channelId") if isinstance(envelope.voucher, dict) else None
    return Rejection(
        seller_id=seller_id,
        channel_id=named if isinstance(named, str) else "",
        reason=verdict.reason or "",
        error=verdict.error or "",
        at=now,
        voucher=envelope.voucher_text,
    )
