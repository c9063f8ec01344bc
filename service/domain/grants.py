"""The session grant: how much of what its owner allowed is used up, and what it pays for next.

Limits are judged on the fold of the grant's own stream, which is appended to together with the
session that a voucher belongs to: across channels, sellers and processes there is one order of
uses, and none of them passes a limit. Time within a stream never goes back, whichever process
appends, so that what left the rolling window stays out of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal, assert_never

from service.domain import grant_events as e
from service.domain.errors import Corrupt
from service.domain.grant_errors import (
    GrantBudgetExceeded,
    GrantDetails,
    GrantExpired,
    GrantMaxCallsExceeded,
    GrantNotFound,
    GrantNotYetValid,
    GrantPaymentTooLarge,
    GrantRecipientNotAllowed,
    GrantRevoked,
    GrantSignerMismatch,
    GrantWindowExceeded,
)
from service.domain.grant_events import GrantTerms
from service.domain.terms import Terms
from service.domain.units import AtomicUsdc, UnixMillis
from session_ledger.grant import ANY_RECIPIENT

State = Literal["pending", "active", "exhausted", "expired", "revoked"]

SKEW_MILLIS: Final = 30_000
"""How far a buyer's clock may differ from ours at both ends of a grant's life."""
WINDOW_PARTS: Final = 64
"""Payments within this part of a window are remembered as one, at the time of the latest."""
MILLIS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Spent:
    """Payments from `since` to `at`; all of them leave the window with the latest."""

    since: UnixMillis
    at: UnixMillis
    amount: AtomicUsdc


@dataclass(frozen=True, slots=True)
class Grant:
    """What the log says of one grant. Its canonical JSON is the projection.

    `window` holds what was paid within the last `window_seconds`, at most `WINDOW_PARTS` entries
    and a few. `at` is the time of the latest event.
    """

    terms: GrantTerms
    registered_at: UnixMillis
    at: UnixMillis
    amount_used: AtomicUsdc
    calls_used: int
    window: tuple[Spent, ...]
    exhausted_at: UnixMillis | None
    revoked_at: UnixMillis | None
    previous_grant_id: str | None

    @property
    def remaining_amount(self) -> int:
        """What vouchers may still add, in atomic units."""
        return self.terms.max_total - self.amount_used

    @property
    def remaining_calls(self) -> int:
        """How many vouchers may still be accepted."""
        return self.terms.max_calls - self.calls_used

    def state(self, now: UnixMillis) -> State:
        """Whether it pays now, or why not."""
        if self.revoked_at is not None:
            return "revoked"
        if now > self.terms.valid_until * MILLIS + SKEW_MILLIS:
            return "expired"
        if self.exhausted_at is not None:
            return "exhausted"
        early = now < self.terms.valid_from * MILLIS - SKEW_MILLIS
        return "pending" if early else "active"

    def window_used(self, now: UnixMillis) -> int:
        """What counts in the window that ends now; 0 without a window."""
        return sum(one.amount for one in _within(self.window, self.terms, now))


@dataclass(frozen=True, slots=True)
class Use:
    """One voucher under a grant: what it adds in atomic units, by whom, for which channel."""

    session: Terms
    stream_id: str
    signer: str
    amount: AtomicUsdc
    message_hash: bytes


# --- decisions ------------------------------------------------------------------------------


def register(
    grant: Grant | None,
    terms: GrantTerms,
    text: str,
    signature: bytes,
    *,
    previous: str | None,
    now: UnixMillis,
) -> list[e.GrantEvent]:
    """Register a grant that its owner signed; the same grant again is no event."""
    if grant is not None:
        return []
    registered = e.GrantRegistered(at=now, terms=terms, grant=text, signature=signature)
    if previous is None:
        return [registered]
    return [registered, e.GrantRenewed(at=now, previous_grant_id=previous)]


def revoke(grant: Grant, signed_at: int, signature: bytes, now: UnixMillis) -> list[e.GrantEvent]:
    """End a grant for good; ending it twice is no event."""
    if grant.revoked_at is not None:
        return []
    at = _not_before(grant, now)
    return [e.GrantRevoked(at=at, signed_at=signed_at, signature=signature)]


def check_channel(grant: Grant, session: Terms, signer: str | None, now: UnixMillis) -> None:
    """Whether a channel may be opened under the grant, for the signer of its vouchers.

    Raises:
        GrantRefused: the class says why.
    """
    _check_parties(grant.terms, session)
    if signer != grant.terms.session_pubkey:
        raise _signer_mismatch(grant.terms)
    _check_life(grant, _not_before(grant, now))
    _check_recipient(grant.terms, session)


def check_mirrored(grant: Grant, owner: str, now: UnixMillis) -> None:
    """Whether its owner may have the chain limited to what the grant allows.

    Raises:
        GrantNotFound: the grant is another owner's.
        GrantRevoked, GrantExpired, GrantMaxCallsExceeded, GrantBudgetExceeded: it is over.
    """
    if grant.terms.owner != owner:
        raise GrantNotFound("no grant of this wallet has this id")
    _check_not_revoked(grant)
    _check_not_expired(grant, now)
    if grant.remaining_calls < 1:
        raise _calls_used_up(grant)
    if grant.remaining_amount < 1:
        raise GrantBudgetExceeded(
            f"all {grant.terms.max_total} is used", GrantDetails(grant.terms.grant_id)
        )


def use(grant: Grant, voucher: Use, now: UnixMillis) -> list[e.GrantEvent]:
    """Pay for a voucher that its session accepts.

    A voucher that the owner itself signed uses up nothing, where the grant allows it at all.

    Raises:
        GrantRefused: the class says which limit, and its details by how much.
    """
    terms, now = grant.terms, _not_before(grant, now)
    _check_parties(terms, voucher.session)
    by_owner = voucher.signer == terms.owner and terms.owner_may_sign
    if voucher.signer != terms.session_pubkey and not by_owner:
        raise _signer_mismatch(terms)
    if by_owner:
        _check_not_revoked(grant)
        _check_recipient(terms, voucher.session)
        return []
    _check_life(grant, now)
    _check_recipient(terms, voucher.session)
    _check_amounts(grant, voucher.amount, now)
    used = e.GrantUsed(
        at=now,
        stream_id=voucher.stream_id,
        amount=voucher.amount,
        calls=1,
        message_hash=voucher.message_hash,
    )
    after = evolve(grant, used)
    if after.remaining_calls == 0 or after.remaining_amount == 0:
        return [used, e.GrantExhausted(at=now)]
    return [used]


def _not_before(grant: Grant, now: UnixMillis) -> UnixMillis:
    """The clock of another process may be ahead of ours; a grant's time never goes back."""
    return max(now, grant.at)


def _check_parties(terms: GrantTerms, session: Terms) -> None:
    if terms.owner != session.payer:
        raise GrantNotFound(
            "the grant is another owner's than the payer", GrantDetails(terms.grant_id)
        )


def _signer_mismatch(terms: GrantTerms) -> GrantSignerMismatch:
    return GrantSignerMismatch(
        f"vouchers under this grant are signed by {terms.session_pubkey}",
        GrantDetails(terms.grant_id),
    )


def _check_not_revoked(grant: Grant) -> None:
    if grant.revoked_at is not None:
        raise GrantRevoked("the owner revoked the grant", GrantDetails(grant.terms.grant_id))


def _check_life(grant: Grant, now: UnixMillis) -> None:
    _check_not_revoked(grant)
    terms = grant.terms
    if now < (starts := terms.valid_from * MILLIS - SKEW_MILLIS):
        details = GrantDetails(
            terms.grant_id, limit=str(terms.valid_from), retry_after=_seconds(starts - now)
        )
        raise GrantNotYetValid(f"the grant is valid from {terms.valid_from} on", details)
    _check_not_expired(grant, now)


def _check_not_expired(grant: Grant, now: UnixMillis) -> None:
    terms = grant.terms
    if now > terms.valid_until * MILLIS + SKEW_MILLIS:
        details = GrantDetails(terms.grant_id, limit=str(terms.valid_until))
        raise GrantExpired(f"the grant was valid until {terms.valid_until}", details)


def _check_recipient(terms: GrantTerms, session: Terms) -> None:
    details = GrantDetails(terms.grant_id, requested=session.recipient)
    if (terms.network, terms.mint) != (session.network, session.mint):
        raise GrantRecipientNotAllowed(
            f"the grant is for {terms.mint} on {terms.network} only", details
        )
    if terms.recipients != (ANY_RECIPIENT,) and session.recipient not in terms.recipients:
        raise GrantRecipientNotAllowed(
            f"the grant does not allow payments to {session.recipient}", details
        )


def _check_amounts(grant: Grant, amount: AtomicUsdc, now: UnixMillis) -> None:
    terms = grant.terms
    requested = str(amount)
    if amount > terms.max_payment:
        details = GrantDetails(terms.grant_id, str(terms.max_payment), requested=requested)
        raise GrantPaymentTooLarge(f"one payment may be at most {terms.max_payment}", details)
    if grant.remaining_calls < 1:
        raise _calls_used_up(grant)
    if amount > grant.remaining_amount:
        details = GrantDetails(
            terms.grant_id, str(terms.max_total), str(grant.amount_used), requested
        )
        raise GrantBudgetExceeded(
            f"{grant.amount_used} of {terms.max_total} is used, {amount} is asked for", details
        )
    if terms.window_max is not None and grant.window_used(now) + amount > terms.window_max:
        details = GrantDetails(
            terms.grant_id,
            str(terms.window_max),
            str(grant.window_used(now)),
            requested,
            _room_in(grant, amount, now),
        )
        raise GrantWindowExceeded(
            f"{details.used} of {terms.window_max} was paid in the last {terms.window_seconds} "
            f"seconds, {amount} is asked for",
            details,
        )


def _calls_used_up(grant: Grant) -> GrantMaxCallsExceeded:
    terms = grant.terms
    details = GrantDetails(terms.grant_id, str(terms.max_calls), str(grant.calls_used), "1")
    return GrantMaxCallsExceeded(f"all {terms.max_calls} payments are made", details)


def _room_in(grant: Grant, amount: AtomicUsdc, now: UnixMillis) -> int:
    """Seconds until enough has left the window."""
    assert grant.terms.window_max is not None
    held = grant.window_used(now)
    for one in _within(grant.window, grant.terms, now):
        held -= one.amount
        if held + amount <= grant.terms.window_max:
            return _seconds(one.at + _length(grant.terms) - now)
    raise AssertionError("a payment fits into an empty window: registration saw to that")


def _seconds(millis: int) -> int:
    return max(1, -(-millis // MILLIS))


def _length(terms: GrantTerms) -> int:
    return (terms.window_seconds or 0) * MILLIS


def _within(window: Iterable[Spent], terms: GrantTerms, now: UnixMillis) -> list[Spent]:
    return [one for one in window if now - one.at < _length(terms)]


# --- fold -----------------------------------------------------------------------------------


def fold(grant: Grant | None, new: Iterable[e.GrantEvent]) -> Grant | None:
    """The grant after `new`."""
    for event in new:
        grant = evolve(grant, event)
    return grant


def evolve(grant: Grant | None, event: e.GrantEvent) -> Grant:
    """The grant after one event.

    Raises:
        Corrupt: the event cannot follow, or passes a limit: the log was not written by these rules.
    """
    if isinstance(event, e.GrantRegistered):
        if grant is not None:
            raise Corrupt("a grant was registered twice")
        return _begin(event)
    if grant is None:
        raise Corrupt(f"{type(event).__name__} stands before the grant was registered")
    if event.at < grant.at:
        raise Corrupt("a grant's time went back")
    match event:
        case e.GrantUsed():
            return _after_use(grant, event)
        case e.GrantExhausted():
            return replace(grant, at=event.at, exhausted_at=event.at)
        case e.GrantRevoked():
            return replace(grant, at=event.at, revoked_at=event.at)
        case e.GrantRenewed():
            return replace(grant, at=event.at, previous_grant_id=event.previous_grant_id)
        case _:
            assert_never(event)


def _begin(event: e.GrantRegistered) -> Grant:
    return Grant(
        terms=event.terms,
        registered_at=event.at,
        at=event.at,
        amount_used=AtomicUsdc(0),
        calls_used=0,
        window=(),
        exhausted_at=None,
        revoked_at=None,
        previous_grant_id=None,
    )


def _after_use(grant: Grant, event: e.GrantUsed) -> Grant:
    terms = grant.terms
    after = replace(
        grant,
        at=event.at,
        amount_used=AtomicUsdc(grant.amount_used + event.amount),
        calls_used=grant.calls_used + event.calls,
        window=_spend(grant, event),
    )
    passed = (
        after.remaining_amount < 0
        or after.remaining_calls < 0
        or event.amount > terms.max_payment
        or (terms.window_max is not None and after.window_used(event.at) > terms.window_max)
    )
    if passed or grant.revoked_at is not None:
        raise Corrupt("a grant was used beyond its limits")
    return after


def _spend(grant: Grant, event: e.GrantUsed) -> tuple[Spent, ...]:
    """Remember a payment; with the one before if it is close, so that the list stays short."""
    if grant.terms.window_seconds is None:
        return ()
    kept = _within(grant.window, grant.terms, event.at)
    part = _length(grant.terms) // WINDOW_PARTS
    if kept and event.at - kept[-1].since < part:
        last = kept.pop()
        return (*kept, Spent(last.since, event.at, AtomicUsdc(last.amount + event.amount)))
    return (*kept, Spent(event.at, event.at, event.amount))
