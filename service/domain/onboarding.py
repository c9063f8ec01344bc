"""A buyer's onboarding: what it was asked to sign, what it signed, and what the chain then allowed.

A wallet has at most one submission that may still land. While there is one, its bytes are the only
ones that are sent; otherwise the newest issue replaces whatever was issued before.

Spec: the reference settlement API, `/api/sessions/onboard`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, assert_never

from nacl.bindings import crypto_sign_BYTES, crypto_sign_open
from nacl.exceptions import BadSignatureError

from service.domain import wallet_events as e
from service.domain.codec import JsonObject
from service.domain.errors import (
    Corrupt,
    SignatureInvalid,
    TransactionAltered,
)
from service.domain.funding import FundingReading, SourceRef
from service.domain.units import AtomicUsdc, UnixMillis
from session_ledger.encoding import base58_decode

Status = Literal["not_onboarded", "pending", "active", "expired", "revoked"]

PENDING_MILLIS: Final = 15 * 60 * 1_000
"""An issue that nothing came of for so long is no longer called pending; no proof lives longer."""

MILLIS: Final = 1_000

GONE: Final = frozenset(
    {
        "delegate_revoked",
        "source_account_missing",
        "source_owner_mismatch",
        "swig_account_missing",
        "swig_role_missing",
        "swig_role_wrong_key",
        "swig_role_expired",
        "swig_permission_missing",
    }
)
"""Findings that say that an onboarded wallet took its permission back."""


@dataclass(frozen=True, slots=True)
class Wallet:
    """What the log says of one buyer's wallet. Its canonical JSON is the projection.

    `submitted` belongs to `issued`, and `revoked` to `onboarded`.
    """

    issued: e.OnboardingIssued | None = None
    submitted: e.OnboardingSubmitted | None = None
    onboarded: e.WalletOnboarded | None = None
    revoked: e.OnboardingRevoked | None = None

    @property
    def completed(self) -> bool:
        """Whether the submission led to the permission that stands."""
        return (
            self.submitted is not None
            and self.onboarded is not None
            and self.onboarded.signatures == self.submitted.signatures
        )

    @property
    def in_flight(self) -> bool:
        """Whether something was submitted whose end is not known."""
        return self.submitted is not None and not self.completed

    def status(self, now: UnixMillis) -> Status:
        """What the wire calls the wallet's state. A permission that stands comes first."""
        permission = self.onboarded
        expired = (
            permission is not None
            and permission.expires_at is not None
            and permission.expires_at * MILLIS <= now
        )
        if permission is not None and self.revoked is None and not expired:
            return "active"
        issued = self.issued
        if issued is not None and not self.completed and now < issued.at + PENDING_MILLIS:
            return "pending"
        if permission is None:
            return "not_onboarded"
        return "expired" if self.revoked is None else "revoked"

    def recipients(self, chosen: tuple[str, ...] | None) -> tuple[str, ...]:
        """Who may be paid from now on. A choice that is not made, as by the reference, widens
        nothing: the earlier one stays."""
        if chosen is not None:
            return chosen
        return () if self.onboarded is None else self.onboarded.recipients

    def allows(self, recipient: str) -> bool:
        """Whether the buyer lets us pay this recipient."""
        chosen = self.recipients(None)
        return not chosen or recipient in chosen


@dataclass(frozen=True, slots=True)
class Seen:
    """What the chain was seen to grant, when, and the proof of the sign-in that made us look."""

    source: SourceRef
    reading: FundingReading
    proof: JsonObject
    at: UnixMillis


# --- decisions ------------------------------------------------------------------------------


def issue(
    wallet: Wallet | None, issued: e.OnboardingIssued, *, over: e.OnboardingSubmitted | None
) -> list[e.WalletEvent]:
    """Ask for other signatures, unless something submitted may still land.

    `over` is the submission that is known to have ended, if there is one.
    """
    if wallet is not None and wallet.in_flight and wallet.submitted != over:
        return []
    return [issued]


def submit(
    wallet: Wallet | None, submitted: e.OnboardingSubmitted, issued: e.OnboardingIssued
) -> list[e.WalletEvent]:
    """Keep the signed bytes of `issued`. What was submitted before stays, and is what is sent.

    Raises:
        TransactionAltered: something else was issued since.
    """
    if wallet is None or wallet.issued != issued:
        raise TransactionAltered("other transactions were issued in the meantime")
    return [submitted] if wallet.submitted is None else []


def grant(
    wallet: Wallet | None,
    seen: Seen,
    *,
    spend_limit: AtomicUsdc | None,
    ttl_seconds: int | None,
    recipients: tuple[str, ...] | None,
) -> list[e.WalletEvent]:
    """Record what the chain grants without anything new to sign.

    Without a limit, the one that stands goes on, or it is all that the chain grants.
    """
    held = wallet or Wallet()
    if spend_limit is None:
        standing = held.onboarded if held.status(seen.at) == "active" else None
        spend_limit = seen.reading.allowance if standing is None else standing.spend_limit
    onboarded = _permission(
        seen,
        spend_limit=spend_limit,
        expires_at=None if ttl_seconds is None else seen.at // MILLIS + ttl_seconds,
        recipients=held.recipients(recipients),
        signatures=() if held.submitted is None else held.submitted.signatures,
    )
    return _unless_it_stands(held, onboarded)


def complete(
    wallet: Wallet | None,
    seen: Seen,
    issued: e.OnboardingIssued,
    submitted: e.OnboardingSubmitted,
) -> list[e.WalletEvent]:
    """Record what the submitted transactions brought about."""
    ttl_seconds = issued.ttl_seconds
    onboarded = _permission(
        seen,
        spend_limit=issued.spend_limit,
        expires_at=None if ttl_seconds is None else issued.at // MILLIS + ttl_seconds,
        recipients=issued.recipients,
        signatures=submitted.signatures,
    )
    return _unless_it_stands(wallet or Wallet(), onboarded)


def revoke(wallet: Wallet | None, reading: FundingReading, now: UnixMillis) -> list[e.WalletEvent]:
    """Record that the permission is gone, once, if a reading newer than it says so."""
    if wallet is None or wallet.onboarded is None or wallet.revoked is not None:
        return []
    finding = reading.finding
    if finding is None or finding.code not in GONE or reading.slot <= wallet.onboarded.slot:
        return []
    return [e.OnboardingRevoked(at=now, slot=reading.slot, reason=finding.code)]


def _permission(
    seen: Seen,
    *,
    spend_limit: AtomicUsdc,
    expires_at: int | None,
    recipients: tuple[str, ...],
    signatures: tuple[str, ...],
) -> e.WalletOnboarded:
    source = seen.source
    return e.WalletOnboarded(
        at=seen.at,
        kind=source.kind,
        source=source.token_account,
        owner=source.owner,
        swig_address=source.swig_address,
        role_id=source.swig_role_id,
        spend_limit=spend_limit,
        expires_at=expires_at,
        recipients=recipients,
        signatures=signatures,
        slot=seen.reading.slot,
        proof=seen.proof,
    )


def _unless_it_stands(wallet: Wallet, onboarded: e.WalletOnboarded) -> list[e.WalletEvent]:
    """The permission as an event, unless the one that stands differs in what is read only."""
    held = wallet.onboarded
    if held is not None and wallet.status(onboarded.at) == "active":
        same = {name: getattr(onboarded, name) for name in _READ}
        if replace(held, **same) == onboarded:
            return []
    return [onboarded]


_READ: Final = ("at", "slot", "proof")
"""What differs each time that a permission is looked at."""


# --- what comes back ------------------------------------------------------------------------


def checked_signatures(
    issued: e.OnboardingIssued, wires: Sequence[bytes], buyer: str
) -> tuple[bytes, ...]:
    """The buyer's signature of each transaction that came back, all as issued and in order.

    Raises:
        TransactionAltered: another number of them, or other bytes than were issued.
        SignatureInvalid: the buyer's signature of one does not hold.
    """
    if len(wires) != len(issued.transactions):
        raise TransactionAltered(
            f"{len(issued.transactions)} transactions were issued, {len(wires)} came back"
        )
    pairs = zip(issued.transactions, wires, strict=True)
    return tuple(_signature(at, pair[0], pair[1], buyer) for at, pair in enumerate(pairs))


def _signature(at: int, issued: e.IssuedTransaction, wire: bytes, buyer: str) -> bytes:
    """Spec: Solana transactions: a count, that many signatures of 64 bytes, the message."""
    count = len(issued.signers)
    start = 1 + count * crypto_sign_BYTES
    if wire[:1] != bytes([count]) or wire[start:] != issued.message:
        raise TransactionAltered(f"transaction {at} ({issued.type}) is not the one that was issued")
    place = 1 + issued.signers.index(buyer) * crypto_sign_BYTES
    signature = wire[place : place + crypto_sign_BYTES]
    try:
        crypto_sign_open(signature + issued.message, base58_decode(buyer))
    except BadSignatureError:
        raise SignatureInvalid(
            f"transaction {at} ({issued.type}) is not signed by {buyer}"
        ) from None
    return signature


# --- fold -----------------------------------------------------------------------------------


def fold(wallet: Wallet | None, new: Iterable[e.WalletEvent]) -> Wallet | None:
    """The wallet after `new`."""
    for event in new:
        wallet = evolve(wallet or Wallet(), event)
    return wallet


def evolve(wallet: Wallet, event: e.WalletEvent) -> Wallet:
    """The wallet after one event.

    Raises:
        Corrupt: the event cannot follow.
    """
    match event:
        case e.OnboardingIssued():
            return replace(wallet, issued=event, submitted=None)
        case e.OnboardingSubmitted():
            if wallet.issued is None or wallet.submitted is not None:
                raise Corrupt("transactions were submitted that nobody issued, or twice")
            return replace(wallet, submitted=event)
        case e.WalletOnboarded():
            return replace(wallet, onboarded=event, revoked=None)
        case e.OnboardingRevoked():
            if wallet.onboarded is None:
                raise Corrupt("a permission was revoked that nobody had given")
            return replace(wallet, revoked=event)
        case _:
            assert_never(event)
