"""The kinds of stream: how each is named, folded, projected, and found again."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from service.domain import events as e
from service.domain import seller as seller_rules
from service.domain import session as session_rules
from service.domain.codec import canonical, from_json, to_json
from service.domain.seller import Seller
from service.domain.session import Session
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

    def project(self, state: S) -> bytes:
        """The projection: the state's canonical JSON."""
        return canonical(to_json(state))

    def load(self, projection: bytes) -> S:
        """The state of a stored projection."""
        return from_json(self.state_class, json.loads(projection))


@dataclass(frozen=True, slots=True)
class Stream(Generic[S]):
    """One stream: its type, its name, and the seller whose feed shows it."""

    type: StreamType[S]
    stream_id: str
    seller_id: str


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
                },
            )
        )
    settlement = after.settlement
    if settlement is None or (before is not None and before.settlement == settlement):
        return tuple(rows)
    row: dict[str, Any] = {
        "settlement_id": settlement.settlement_id,
        "stream_id": stream_id,
        "seller_id": terms.seller_id,
        "status": settlement.status,
        "amount": settlement.amount,
        "intended_at": settlement.intended_at,
    }
    if settlement.status == "intended":  # due at once, whoever looked last
        row |= {"lease_holder": None, "leased_until": None}
    rows.append(("settlements", row))
    known = before.settlement.attempts if before is not None and before.settlement else ()
    rows += [
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
    return tuple(rows)


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


SESSION: StreamType[Session] = StreamType("session", Session, session_rules.fold, _session_lookups)
SELLER: StreamType[Seller] = StreamType("seller", Seller, seller_rules.fold, _seller_lookups)
TYPES: Mapping[str, StreamType[Any]] = {
    "session": cast("StreamType[Any]", SESSION),
    "seller": cast("StreamType[Any]", SELLER),
}
