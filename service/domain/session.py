"""The session: one channel from its first voucher to its settlement.

`evolve` folds events into a `Session`; the decisions (`open_session`, `accept_voucher`,
`request_close`, ...) look at a session and give the events that follow, or raise. Everything that
varies from outside (the clock, prices) comes in as an argument.

The order of checks in `accept_voucher` is part of the contract: where the reference server has a
check, its place among the others is the reference's.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal, assert_never

from service.domain import events as e
from service.domain.codec import JsonObject
from service.domain.errors import (
    Corrupt,
    SessionExists,
    VoucherRejected,
)
from service.domain.grant_errors import GrantDetails, GrantSignerMismatch
from service.domain.pricing import Price
from service.domain.settlement import TERMINAL_STATUSES, Settlement, evolve_settlement
from service.domain.terms import Terms
from service.domain.units import AtomicUsdc, Slot, UnixMillis
from service.domain.voucher import VerifiedVoucher

Lifecycle = Literal["open", "closing", "settled", "failed"]
State = Literal["open", "closing", "settled", "failed", "removed"]
Funding = Literal["unverified", "verified", "insufficient", "revoked"]

MILLIS: Final = 1_000


@dataclass(frozen=True, slots=True)
class SignedVoucher:
    """The last voucher that we signed for the buyer; `count` of them were signed so far."""

    cumulative_amount: AtomicUsdc
    sequence: int
    voucher: str
    signature: bytes
    message_hash: bytes
    count: int


@dataclass(frozen=True, slots=True)
class Session:
    """What the log says of one channel. Its canonical JSON is the projection.

    `granted` says that the chain once allowed us something of this funding source.
    """

    terms: Terms
    lifecycle: Lifecycle
    removed_at: UnixMillis | None
    session_pubkey: str | None
    funding: Funding
    funding_slot: Slot | None
    granted: bool
    source_token_account: str | None
    cumulative_amount: AtomicUsdc
    voucher_count: int
    last_sequence: int | None
    last_voucher_hash: bytes | None
    last_voucher_signature: bytes | None
    opened_at: UnixMillis
    last_voucher_at: UnixMillis | None
    close_requested_at: UnixMillis | None
    settlement: Settlement | None
    signed: SignedVoucher | None

    @property
    def owed(self) -> AtomicUsdc:
        """What a close pays: what the seller presented, or what was signed for it."""
        if self.terms.settles == "presented":
            return self.cumulative_amount
        return AtomicUsdc(0) if self.signed is None else self.signed.cumulative_amount

    @property
    def owed_voucher(self) -> tuple[bytes, bytes]:
        """Message hash and signature of the voucher that promises what is owed.

        Raises:
            Corrupt: nothing is owed, so there is none.
        """
        if self.terms.settles == "signed" and self.signed is not None:
            return self.signed.message_hash, self.signed.signature
        if self.last_voucher_hash is None or self.last_voucher_signature is None:
            raise Corrupt("a session owes something without a voucher")
        return self.last_voucher_hash, self.last_voucher_signature

    @property
    def reserved(self) -> AtomicUsdc:
        """What of the funding source may still be needed: the deposit, then the settlement."""
        if self.settlement is not None:
            ended = self.settlement.status in TERMINAL_STATUSES
            return AtomicUsdc(0) if ended else self.settlement.amount
        # A removed session accepts nothing more, and still owes what it accepted.
        deposit = self.terms.deposit if self.removed_at is None else None
        return self.owed if deposit is None else deposit

    @property
    def last_activity_at(self) -> UnixMillis:
        """When a voucher was last accepted or signed here, or the channel was opened."""
        return self.opened_at if self.last_voucher_at is None else self.last_voucher_at

    @property
    def state(self) -> State:
        """The lifecycle, or `removed` once the seller removed the session."""
        return self.lifecycle if self.removed_at is None else "removed"

    @property
    def remaining(self) -> AtomicUsdc | None:
        """What vouchers may still add, in atomic units; `None` without a deposit."""
        deposit = self.terms.deposit
        return None if deposit is None else AtomicUsdc(deposit - self.cumulative_amount)


# --- decisions ------------------------------------------------------------------------------


def open_session(session: Session | None, terms: Terms, now: UnixMillis) -> list[e.SessionEvent]:
    """Register a channel. The same terms again are no event; the role is what was found then.

    Raises:
        SessionExists: the channel is known with other terms.
    """
    if session is None:
        return [e.SessionOpened(at=now, terms=terms)]
    if session.terms == replace(terms, swig_role_id=session.terms.swig_role_id):
        return []
    raise SessionExists(f"channel {terms.channel_id!r} is already registered with other terms")


def accept_voucher(
    session: Session | None,
    voucher: VerifiedVoucher,
    price: Price,
    terms: Terms,
    *,
    charge: JsonObject | None,
    now: UnixMillis,
) -> list[e.SessionEvent]:
    """Accept a voucher whose signature, recipient and network are already verified.

    An unknown channel is registered by `terms`. An exact replay is refused here as
    `amount_not_monotonic`; the caller looks up the original receipt.

    Raises:
        VoucherRejected: with the reference's error text, in the reference's order.
        GrantSignerMismatch: a channel under a grant accepts the grant's key only.
    """
    opening: list[e.SessionEvent] = []
    if session is None:
        opened = e.SessionOpened(at=now, terms=terms)
        opening, session = [opened], _begin(opened)
    _check_state(session, voucher, now)
    _check_signer(session, voucher)
    if voucher.payer != session.terms.payer:
        raise VoucherRejected(
            "payer_changed", f"payer_changed: expected {session.terms.payer}, got {voucher.payer}"
        )
    increment = _check_amount(session, voucher, price)
    _check_limits(session, voucher, increment)
    accepted = e.VoucherAccepted(
        at=now,
        cumulative_amount=AtomicUsdc(voucher.cumulative_amount),
        increment=AtomicUsdc(increment),
        required=AtomicUsdc(price.amount),
        sequence=voucher.sequence,
        signer=voucher.signer,
        signature=voucher.signature,
        voucher=voucher.voucher_text,
        message_hash=voucher.message_hash,
        meter=price.meter,
        usage=None if price.usage is None else str(price.usage),
        charge=charge,
        price_version=price.version,
    )
    return [*opening, accepted]


def request_close(
    session: Session,
    intent: e.SettlementIntended | e.SettlementNotNeeded,
    *,
    by: str,
    now: UnixMillis,
) -> list[e.SessionEvent]:
    """Close an open session; closing a closed one again is no event (invariant I1)."""
    if session.settlement is not None:
        return []
    return [e.CloseRequested(at=now, requested_by=by), intent]


def remove_session(session: Session, *, by: str, now: UnixMillis) -> list[e.SessionEvent]:
    """Remove a session from the seller's view; removing twice is no event.

    A settlement under way goes on: removal forgets nothing and moves nothing.
    """
    return [] if session.removed_at is not None else [e.SessionRemoved(at=now, by=by)]


def _check_state(session: Session, voucher: VerifiedVoucher, now: UnixMillis) -> None:
    if session.state == "removed":
        raise VoucherRejected("session_removed")
    if session.state != "open":
        raise VoucherRejected("session_closed", f"session_closed: the session is {session.state}")
    for name, until in (
        ("expiresAt", voucher.expires_at),
        ("validUntil", session.terms.valid_until),
    ):
        if until is not None and until * MILLIS <= now:
            raise VoucherRejected("voucher_expired", f"voucher_expired: {name} was {until}")
    if session.funding == "revoked":
        raise VoucherRejected("funding_revoked")


def _check_signer(session: Session, voucher: VerifiedVoucher) -> None:
    if session.session_pubkey is None or voucher.signer == session.session_pubkey:
        return
    grant_id = session.terms.grant_id
    if grant_id is None:
        raise VoucherRejected("signer_changed_mid_session")
    if voucher.signer != session.terms.payer:  # whether the owner may sign is the grant's to say
        raise GrantSignerMismatch(
            f"vouchers of this channel are signed by {session.session_pubkey}",
            GrantDetails(grant_id),
        )


def _check_amount(session: Session, voucher: VerifiedVoucher, price: Price) -> int:
    if session.last_sequence is None:
        if voucher.cumulative_amount < price.amount or voucher.cumulative_amount < 0:
            raise VoucherRejected(
                "underpaid",
                f"underpaid: expected at least {price.amount}, got {voucher.cumulative_amount}",
            )
        return voucher.cumulative_amount
    increment = voucher.cumulative_amount - session.cumulative_amount
    if increment <= 0:
        raise VoucherRejected("amount_not_monotonic")
    if voucher.sequence <= session.last_sequence:
        raise VoucherRejected("sequence_not_monotonic")
    if increment < price.amount:
        raise VoucherRejected("underpaid", f"underpaid: expected {price.amount}, got {increment}")
    return increment


def _check_limits(session: Session, voucher: VerifiedVoucher, increment: int) -> None:
    amount, deposit, limits = voucher.cumulative_amount, session.terms.deposit, session.terms.limits
    if deposit is not None and amount > deposit:
        raise VoucherRejected(
            "deposit_exceeded",
            f"deposit_exceeded: the deposit is {deposit}, got {amount}",
        )
    for name, bound, value in (
        ("maxIncrement", limits.max_increment, increment),
        ("maxCumulative", limits.max_cumulative, amount),
        ("maxVouchers", limits.max_vouchers, session.voucher_count + 1),
    ):
        if bound is not None and value > bound:
            raise VoucherRejected(
                "limit_exceeded", f"limit_exceeded: {name} is {bound}, got {value}"
            )


# --- fold -----------------------------------------------------------------------------------


def fold(session: Session | None, new: Iterable[e.SessionEvent]) -> Session | None:
    """The session after `new`."""
    for event in new:
        session = evolve(session, event)
    return session


def evolve(session: Session | None, event: e.SessionEvent) -> Session:  # noqa: PLR0911  one return per event
    """The session after one event.

    Raises:
        Corrupt: the event cannot follow; the log was not written by these rules.
    """
    if isinstance(event, e.SessionOpened):
        if session is not None:
            raise Corrupt("a session was opened twice")
        return _begin(event)
    if session is None:
        raise Corrupt(f"{type(event).__name__} stands before the session was opened")
    match event:
        case e.VoucherAccepted():
            return replace(
                session,
                # Under a grant the owner may sign one voucher without becoming the signer.
                session_pubkey=session.session_pubkey or event.signer,
                cumulative_amount=event.cumulative_amount,
                voucher_count=session.voucher_count + 1,
                last_sequence=event.sequence,
                last_voucher_hash=event.message_hash,
                last_voucher_signature=event.signature,
                last_voucher_at=event.at,
            )
        case e.VoucherSigned():
            return replace(session, signed=_signed(session.signed, event), last_voucher_at=event.at)
        case e.FundingObserved():
            return replace(
                session,
                funding=event.funding,
                funding_slot=event.slot,
                granted=event.delegated > 0 or _granted(session, event),
                source_token_account=event.source_token_account,
            )
        case e.CloseRequested():
            return replace(session, lifecycle="closing", close_requested_at=event.at)
        case e.SessionRemoved():
            return replace(session, removed_at=event.at)
        case (
            e.SettlementIntended()
            | e.SettlementNotNeeded()
            | e.AttemptSigned()
            | e.AttemptSent()
            | e.StatusSeen()
            | e.SettlementFinalized()
            | e.AttemptFailed()
            | e.AttemptExpired()
            | e.SettlementParked()
            | e.SettlementResumed()
            | e.SettlementAbandoned()
        ):
            settlement = evolve_settlement(session.settlement, event)
            return replace(session, settlement=settlement, lifecycle=_lifecycle_after(settlement))
        case _:
            assert_never(event)


def _signed(before: SignedVoucher | None, event: e.VoucherSigned) -> SignedVoucher:
    return SignedVoucher(
        cumulative_amount=event.cumulative_amount,
        sequence=event.sequence,
        voucher=event.voucher,
        signature=event.signature,
        message_hash=event.message_hash,
        count=1 if before is None else before.count + 1,
    )


def _granted(session: Session, event: e.FundingObserved) -> bool:
    return session.granted and session.source_token_account == event.source_token_account


def _lifecycle_after(settlement: Settlement) -> Lifecycle:
    match settlement.status:
        case "settled":
            return "settled"
        case "abandoned" | "failed":
            return "failed"
        case _:
            return "closing"


def _begin(event: e.SessionOpened) -> Session:
    return Session(
        terms=event.terms,
        lifecycle="open",
        removed_at=None,
        session_pubkey=event.terms.session_pubkey,
        funding="unverified",
        funding_slot=None,
        granted=False,
        source_token_account=event.terms.source_token_account,
        cumulative_amount=AtomicUsdc(0),
        voucher_count=0,
        last_sequence=None,
        last_voucher_hash=None,
        last_voucher_signature=None,
        opened_at=event.at,
        last_voucher_at=None,
        close_requested_at=None,
        settlement=None,
        signed=None,
    )
