"""The kinds of stream: how each is named, folded, projected, and found again."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from service.domain import direct_payment as direct_rules
from service.domain import events as e
from service.domain import grants as grant_rules
from service.domain import onboarding as onboarding_rules
from service.domain import payment as payment_rules
from service.domain import reservations as reservation_rules
from service.domain import seller as seller_rules
from service.domain import session as session_rules
from service.domain.codec import canonical, from_json, to_json
from service.domain.direct_payment import DirectPayment
from service.domain.grants import Grant
from service.domain.onboarding import Wallet
from service.domain.payment import Payment
from service.domain.reservations import Reservations
from service.domain.seller import Seller
from service.domain.session import Session
from service.domain.settlement import Settlement
from service.ports import StreamKind

S = TypeVar("S")
Lookups = tuple[tuple[str, Mapping[str, Any]], ...]


@dataclass(frozen=True, slots=True)
class StreamType(Generic[S]):
    """What the commit loop must know of one kind of stream."""

    kind: StreamKind
    state_class: type[S]
    fold: Callable[[S | None, Sequence[Any]], S | None]
    lookups: Callable[[str, S | None, S], Lookups]
    seller_of: Callable[[S], str] | None = None
    """Whose feed shows the stream, where its name does not say it."""

    def project(self, state: S) -> bytes:
        """The projection: the state's canonical JSON."""
        return canonical(to_json(state))

    def load(self, projection: bytes) -> S:
        """The state of a stored projection."""
        return from_json(self.state_class, json.loads(projection))


@dataclass(frozen=True, slots=True)
class Stream(Generic[S]):
    """One stream: its type, its name, and the seller that its name says."""

    type: StreamType[S]
    stream_id: str
    seller_id: str

    def seller_of(self, state: S) -> str:
        """The seller whose feed shows the stream; "" for nobody's."""
        return self.seller_id if self.type.seller_of is None else self.type.seller_of(state)


def session_stream(seller_id: str, channel_id: str) -> Stream[Session]:
    """Sessions are named by seller and channel, so nobody can squat on another's channel."""
    return Stream(SESSION, f"session/{seller_id}/{channel_id}", seller_id)


def session_stream_of(stream_id: str) -> Stream[Session]:
    """The stream of a stored name."""
    _, seller_id, _ = stream_id.split("/", 2)
    return Stream(SESSION, stream_id, seller_id)


def seller_stream(seller_id: str) -> Stream[Seller]:
    """A seller's own stream: its terms, price books and keys."""
    return Stream(SELLER, f"seller/{seller_id}", seller_id)


def wallet_stream(wallet: str) -> Stream[Wallet]:
    """A buyer's onboarding; it is in no seller's feed."""
    return Stream(WALLET, f"wallet/{wallet}", "")


def funding_stream(token_account: str) -> Stream[Reservations]:
    """The deposits reserved out of one token account; it is in no seller's feed."""
    return Stream(FUNDING, f"funding/{token_account}", "")


def payment_stream(payment_id: str) -> Stream[Payment]:
    """A one-shot payment, in the feed of the seller that it names."""
    return Stream(PAYMENT, f"payment/{payment_id}", "")


def direct_stream(signature: str) -> Stream[DirectPayment]:
    """A payment that the payer sent itself: one signature, one stream, one acceptance."""
    return Stream(DIRECT, f"direct/{signature}", "")


def grant_stream(grant_id: str) -> Stream[Grant]:
    """What is used up of a session grant; it is in no seller's feed."""
    return Stream(GRANT, f"grant/{grant_id}", "")


def settling_stream(stream_id: str) -> Stream[Any]:
    """The stream of a stored name that has a settlement: a session's or a payment's."""
    if stream_id.startswith("payment/"):
        return Stream(PAYMENT, stream_id, "")
    return session_stream_of(stream_id)


def voucher_amount(event: object) -> int | None:
    """What the `cumulative_amount` column of the log holds for an event."""
    return event.cumulative_amount if isinstance(event, e.VoucherAccepted) else None


def _session_lookups(stream_id: str, before: Session | None, after: Session) -> Lookups:
    rows: list[tuple[str, Mapping[str, Any]]] = []
    terms = after.terms
    if before is None or before.state != after.state:
        rows.append(
            (
                "sessions",
                {
                    "stream_id": stream_id,
                    "seller_id": terms.seller_id,
                    "channel_id": terms.channel_id,
                    "state": after.state,
                    "payer": terms.payer,
                    "opened_at": after.opened_at,
                    "opened_by": terms.opened_by,
                },
            )
        )
    if after.settlement is not None:
        known = before and before.settlement
        rows += _settlement_lookups(stream_id, terms.seller_id, known, after.settlement)
    return tuple(rows)


def _settlement_lookups(
    stream_id: str, seller_id: str, before: Settlement | None, settlement: Settlement
) -> Lookups:
    if before == settlement:
        return ()
    row: dict[str, Any] = {
        "settlement_id": settlement.settlement_id,
        "stream_id": stream_id,
        "seller_id": seller_id,
        "status": settlement.status,
        "amount": settlement.amount,
        "intended_at": settlement.intended_at,
    }
    if settlement.status == "intended":  # due at once, whoever looked last
        row |= {"lease_holder": None, "leased_until": None}
    known = before.attempts if before is not None else ()
    attempts = [
        (
            "attempts",
            {
                "stream_id": stream_id,
                "number": attempt.number,
                "signature": attempt.signature,
                "state": attempt.state,
            },
        )
        for attempt in settlement.attempts
        if attempt not in known
    ]
    return ("settlements", row), *attempts


def _payment_lookups(stream_id: str, before: Payment | None, after: Payment) -> Lookups:
    settlement, rows = after.settlement, list[tuple[str, Mapping[str, Any]]]()
    if before is None or before.settlement.status != settlement.status:
        rows.append(
            (
                "payments",
                {
                    "payment_id": after.payment_id,
                    "stream_id": stream_id,
                    "seller_id": after.seller_id or "",
                    "dialect": after.dialect,
                    "payer": after.payer,
                    "recipient": after.recipient,
                    "amount": settlement.amount,
                    "signature": after.signature,
                    "status": settlement.status,
                    "submitted_at": after.submitted_at,
                },
            )
        )
    known = before and before.settlement
    rows += _settlement_lookups(stream_id, after.seller_id or "", known, settlement)
    return tuple(rows)


def _direct_lookups(stream_id: str, before: DirectPayment | None, after: DirectPayment) -> Lookups:
    if before is not None and before.status == after.status:
        return ()
    accepted = after.accepted
    row: dict[str, Any] = {
        "signature": accepted.signature,
        "stream_id": stream_id,
        "seller_id": accepted.seller_id,
        "resource": accepted.resource,
        "payer": accepted.payer,
        "amount": accepted.amount,
        "asset": accepted.asset,
        "status": after.status,
        "slot": after.slot,
        "accepted_at": accepted.at,
    }
    return (("direct_payments", row),)


def _grant_lookups(stream_id: str, before: Grant | None, after: Grant) -> Lookups:
    if before is not None:
        return ()
    row: dict[str, Any] = {
        "grant_id": after.terms.grant_id,
        "stream_id": stream_id,
        "owner": after.terms.owner,
        "registered_at": after.registered_at,
    }
    return (("grants", row),)


def _seller_lookups(_stream_id: str, before: Seller | None, after: Seller) -> Lookups:
    rows: list[tuple[str, Mapping[str, Any]]] = []
    if before is None:
        rows.append(
            (
                "sellers",
                {
                    "seller_id": after.seller_id,
                    "name": after.name,
                    "recipient": after.recipient,
                    "network": after.network,
                    "shared_recipient": after.shared_recipient,
                },
            )
        )
    known = before.keys if before is not None else ()
    rows += [
        (
            "seller_keys",
            {
                "key_id": key.key_id,
                "seller_id": after.seller_id,
                "key_hash": key.key_hash,
                "revoked": key.revoked_at is not None,
            },
        )
        for key in after.keys
        if key not in known
    ]
    return tuple(rows)


def _no_lookups(_stream_id: str, _before: object, _after: object) -> Lookups:
    return ()


SESSION: StreamType[Session] = StreamType("session", Session, session_rules.fold, _session_lookups)
SELLER: StreamType[Seller] = StreamType("seller", Seller, seller_rules.fold, _seller_lookups)
WALLET: StreamType[Wallet] = StreamType("wallet", Wallet, onboarding_rules.fold, _no_lookups)
FUNDING: StreamType[Reservations] = StreamType(
    "funding", Reservations, reservation_rules.fold, _no_lookups
)
PAYMENT: StreamType[Payment] = StreamType(
    "payment", Payment, payment_rules.fold, _payment_lookups, lambda paid: paid.seller_id or ""
)
DIRECT: StreamType[DirectPayment] = StreamType(
    "direct", DirectPayment, direct_rules.fold, _direct_lookups, lambda paid: paid.seller_id
)
GRANT: StreamType[Grant] = StreamType("grant", Grant, grant_rules.fold, _grant_lookups)
TYPES: Mapping[str, StreamType[Any]] = {
    "session": cast("StreamType[Any]", SESSION),
    "seller": cast("StreamType[Any]", SELLER),
    "wallet": cast("StreamType[Any]", WALLET),
    "funding": cast("StreamType[Any]", FUNDING),
    "payment": cast("StreamType[Any]", PAYMENT),
    "direct": cast("StreamType[Any]", DIRECT),
    "grant": cast("StreamType[Any]", GRANT),
}
