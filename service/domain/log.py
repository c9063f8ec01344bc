"""How events become rows of the log: canonical bytes, versions and the hash chain.

An event is stored under a plain string (never a Python path) with a schema version. Its payload is
made here once, as canonical JSON bytes, and those bytes are hashed; nothing re-serialises them.
Old versions are upcast on read and never migrated; `tests/vectors/events/` keeps one golden file
for each version.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from service.domain import direct_events, events, grant_events, wallet_events
from service.domain.codec import canonical, from_json, to_json
from service.domain.errors import Corrupt
from service.domain.events import Event
from service.domain.units import StreamPosition

HASH_DOMAIN: Final = b"session-ledger-event-v1\x00"
GENESIS_HASH: Final = bytes(32)
"""`prev_hash` of the first event of every stream."""

_TYPE_NAMES: Final[dict[type, str]] = {
    events.SessionOpened: "session_opened",
    events.VoucherAccepted: "voucher_accepted",
    events.VoucherSigned: "voucher_signed",
    events.FundingObserved: "funding_observed",
    events.CloseRequested: "close_requested",
    events.SettlementIntended: "settlement_intended",
    events.SettlementNotNeeded: "settlement_not_needed",
    events.AttemptSigned: "attempt_signed",
    events.AttemptSent: "attempt_sent",
    events.StatusSeen: "status_seen",
    events.SettlementFinalized: "settlement_finalized",
    events.AttemptFailed: "attempt_failed",
    events.AttemptExpired: "attempt_expired",
    events.SettlementParked: "settlement_parked",
    events.SettlementResumed: "settlement_resumed",
    events.SettlementAbandoned: "settlement_abandoned",
    events.SessionRemoved: "session_removed",
    events.PaymentSubmitted: "payment_submitted",
    direct_events.PaymentAccepted: "payment_accepted",
    direct_events.DeliveryFailed: "delivery_failed",
    direct_events.PaymentRedelivered: "payment_redelivered",
    direct_events.PaymentFinalized: "payment_finalized",
    direct_events.PaymentReversed: "payment_reversed",
    events.DepositReserved: "deposit_reserved",
    events.DepositReleased: "deposit_released",
    events.SellerRegistered: "seller_registered",
    events.PriceBookPublished: "price_book_published",
    events.SellerKeyIssued: "seller_key_issued",
    events.SellerKeyRevoked: "seller_key_revoked",
    wallet_events.OnboardingIssued: "onboarding_issued",
    wallet_events.OnboardingSubmitted: "onboarding_submitted",
    wallet_events.WalletOnboarded: "wallet_onboarded",
    wallet_events.OnboardingRevoked: "onboarding_revoked",
    grant_events.GrantRegistered: "grant_registered",
    grant_events.GrantRenewed: "grant_renewed",
    grant_events.GrantUsed: "grant_used",
    grant_events.GrantExhausted: "grant_exhausted",
    grant_events.GrantRevoked: "grant_revoked",
}
_CLASSES: Final[dict[str, type[Any]]] = {name: cls for cls, name in _TYPE_NAMES.items()}
EVENT_TYPES: Final = frozenset(_CLASSES)

SCHEMA_VERSIONS: Final[dict[str, int]] = dict.fromkeys(_CLASSES, 1) | {
    "session_opened": 2,
    "settlement_intended": 2,
}
"""Current version of each type. Raise it with an upcaster from the version before."""

Upcast = Callable[[dict[str, Any]], dict[str, Any]]


def _with_funding_source(intended: dict[str, Any]) -> dict[str, Any]:
    """Version 1 knew delegations only, and did not name the source's owner."""
    return {**intended, "sourceOwner": None, "swigAddress": None, "swigRoleId": None}


def _with_buyer_terms(opened: dict[str, Any]) -> dict[str, Any]:
    """Version 1 knew only what sellers register."""
    added = {
        "swigRoleId": None,
        "idleTimeoutSeconds": None,
        "openedBy": "seller",
        "settles": "presented",
    }
    return {**opened, "terms": {**opened["terms"], **added}}


_UPCASTS: Final[dict[tuple[str, int], Upcast]] = {
    ("session_opened", 1): _with_buyer_terms,
    ("settlement_intended", 1): _with_funding_source,
}
"""(type, version) to a function that gives the payload of version + 1."""


@dataclass(frozen=True, slots=True)
class EventRow:
    """One row of the log: what is hashed, and the hash."""

    stream_id: str
    position: StreamPosition
    type: str
    schema_version: int
    payload: bytes
    prev_hash: bytes
    hash: bytes


def type_name(event: Event) -> str:
    """The plain string under which the event is stored."""
    return _TYPE_NAMES[type(event)]


def event_hash(
    stream_id: str,
    position: int,
    event_type: str,
    schema_version: int,
    prev_hash: bytes,
    payload: bytes,
) -> bytes:
    """SHA-256 over the domain tag and every field, each with its length so that none can slide."""
    stream, name = stream_id.encode(), event_type.encode()
    head = struct.pack(">I", len(stream)) + stream + struct.pack(">QI", position, len(name)) + name
    return hashlib.sha256(
        HASH_DOMAIN + head + struct.pack(">I", schema_version) + prev_hash + payload
    ).digest()


def chain(
    stream_id: str, position: StreamPosition, head_hash: bytes, new: Iterable[Event]
) -> tuple[EventRow, ...]:
    """The rows that append `new` behind the event at `position` (0: the empty stream)."""
    rows: list[EventRow] = []
    for event in new:
        position = StreamPosition(position + 1)
        name = type_name(event)
        version = SCHEMA_VERSIONS[name]
        payload = canonical(to_json(event))
        digest = event_hash(stream_id, position, name, version, head_hash, payload)
        rows.append(EventRow(stream_id, position, name, version, payload, head_hash, digest))
        head_hash = digest
    return tuple(rows)


def decode(event_type: str, schema_version: int, payload: bytes) -> Event:
    """The event of a stored row, upcast to the current version.

    Raises:
        Corrupt: an unknown type or version, or a payload of another form.
    """
    cls = _CLASSES.get(event_type)
    if cls is None:
        raise Corrupt(f"event type {event_type!r} is unknown to this version of the service")
    try:
        document: dict[str, Any] = json.loads(payload)
    except ValueError as error:
        raise Corrupt(f"a {event_type} payload is not JSON: {error}") from error
    while schema_version < SCHEMA_VERSIONS[event_type]:
        document = _UPCASTS[event_type, schema_version](document)
        schema_version += 1
    if schema_version > SCHEMA_VERSIONS[event_type]:
        raise Corrupt(f"{event_type} version {schema_version} is newer than this service")
    event: Event = from_json(cls, document)
    return event


def check_chain(
    rows: Iterable[EventRow], head_hash: bytes = GENESIS_HASH, position: int = 0
) -> bytes:
    """Verify positions and hashes of consecutive rows; gives the last hash.

    Raises:
        Corrupt: a gap, a row in the wrong place, or changed bytes; the message names the row.
    """
    for row in rows:
        position += 1
        where = f"{row.stream_id} at {row.position}"
        if row.position != position:
            raise Corrupt(f"{where}: position {position} was expected")
        if row.prev_hash != head_hash:
            raise Corrupt(f"{where}: prev_hash is not the hash of the event before")
        head_hash = event_hash(
            row.stream_id, row.position, row.type, row.schema_version, row.prev_hash, row.payload
        )
        if head_hash != row.hash:
            raise Corrupt(f"{where}: the stored hash is not the hash of the stored bytes")
    return head_hash
