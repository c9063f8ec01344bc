"""A seller: who it is, what it charges, and the keys that open its routes."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from service.domain import events as e
from service.domain.codec import JsonObject
from service.domain.errors import Corrupt, InvalidRequest
from service.domain.terms import Limits
from service.domain.units import UnixMillis


@dataclass(frozen=True, slots=True)
class SellerKey:
    """An API key by its hash. Revoked keys stay listed."""

    key_id: str
    key_hash: bytes
    label: str
    issued_at: UnixMillis
    revoked_at: UnixMillis | None


@dataclass(frozen=True, slots=True)
class Seller:
    """What the log says of one seller. `price_books` holds every version, oldest first."""

    seller_id: str
    name: str
    recipient: str
    network: str
    unknown_channels: Literal["register", "refuse"]
    require_nonce: bool
    shared_recipient: bool
    limits: Limits
    registered_at: UnixMillis
    price_books: tuple[JsonObject, ...]
    keys: tuple[SellerKey, ...]


def revoke_key(seller: Seller, key_id: str, now: UnixMillis) -> list[e.SellerEvent]:
    """Revoke a key; revoking it again is no event.

    Raises:
        InvalidRequest: the seller never had such a key.
    """
    for key in seller.keys:
        if key.key_id == key_id:
            return [] if key.revoked_at else [e.SellerKeyRevoked(at=now, key_id=key_id)]
    raise InvalidRequest(f"this seller has no key {key_id!r}")


def fold(seller: Seller | None, new: Iterable[e.SellerEvent]) -> Seller | None:
    """The seller after `new`."""
    for event in new:
        seller = evolve(seller, event)
    return seller


def evolve(seller: Seller | None, event: e.SellerEvent) -> Seller:
    """The seller after one event.

    Raises:
        Corrupt: the event cannot follow.
    """
    if isinstance(event, e.SellerRegistered):
        if seller is not None:
            raise Corrupt("a seller was registered twice")
        return _begin(event)
    if seller is None:
        raise Corrupt(f"{type(event).__name__} stands before the seller was registered")
    match event:
        case e.PriceBookPublished():
            if event.version != len(seller.price_books) + 1:
                raise Corrupt("price book versions have a gap")
            return replace(seller, price_books=(*seller.price_books, event.book))
        case e.SellerKeyIssued():
            key = SellerKey(event.key_id, event.key_hash, event.label, event.at, None)
            return replace(seller, keys=(*seller.keys, key))
        case e.SellerKeyRevoked():
            keys = tuple(
                replace(key, revoked_at=event.at) if key.key_id == event.key_id else key
                for key in seller.keys
            )
            return replace(seller, keys=keys)
        case _:
            assert_never(event)


def _begin(event: e.SellerRegistered) -> Seller:
    return Seller(
        seller_id=event.seller_id,
        name=event.name,
        recipient=event.recipient,
        network=event.network,
        unknown_channels=event.unknown_channels,
        require_nonce=event.require_nonce,
        shared_recipient=event.shared_recipient,
        limits=event.limits,
        registered_at=event.at,
        price_books=(),
        keys=(),
    )
