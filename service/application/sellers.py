"""Sellers, their price books and their keys."""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from service.application.commit import Ledger
from service.application.streams import seller_stream
from service.domain import events as e
from service.domain.errors import SellerNotFound
from service.domain.pricing import parse_price_book, price_book_json
from service.domain.seller import Seller, revoke_key
from service.domain.terms import NO_LIMITS, Limits
from service.domain.units import UnixMillis

KEY_PREFIX = "slk"
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class NewSeller:
    """What an operator says of a new seller; `prices` is a price book's JSON."""

    name: str
    recipient: str
    network: str
    prices: Mapping[str, object]
    unknown_channels: Literal["register", "refuse"] = "register"
    require_nonce: bool = False
    shared_recipient: bool = False
    limits: Limits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """An API key, shown once: only its hash is kept."""

    key_id: str
    api_key: str
    label: str


async def register_seller(
    ledger: Ledger, new: NewSeller, now: UnixMillis
) -> tuple[Seller, IssuedKey]:
    """Register a seller with its first price book and its first key.

    Raises:
        InvalidRequest: the price book does not have the documented form.
        RecipientInUse: another seller has this recipient on this network.
    """
    seller_id = f"slr_{secrets.token_hex(10)}"
    book = price_book_json(parse_price_book(new.prices, version=1))
    key, key_event = _new_key("first", now)
    first: list[e.SellerEvent] = [
        e.SellerRegistered(
            at=now,
            seller_id=seller_id,
            name=new.name,
            recipient=new.recipient,
            network=new.network,
            unknown_channels=new.unknown_channels,
            require_nonce=new.require_nonce,
            shared_recipient=new.shared_recipient,
            limits=new.limits,
        ),
        e.PriceBookPublished(at=now, version=1, book=book),
        key_event,
    ]
    outcome = await ledger.commit(seller_stream(seller_id), lambda _: first)
    assert outcome.state is not None
    return outcome.state, key


async def publish_prices(
    ledger: Ledger, seller_id: str, prices: Mapping[str, object], now: UnixMillis
) -> Seller:
    """A new version of the price book; vouchers accepted before keep theirs.

    Raises:
        InvalidRequest: not a price book.
        SellerNotFound: no such seller.
    """

    def decide(seller: Seller) -> Sequence[e.SellerEvent]:
        version = len(seller.price_books) + 1
        book = price_book_json(parse_price_book(prices, version=version))
        if book == seller.price_books[-1]:
            return ()
        return [e.PriceBookPublished(at=now, version=version, book=book)]

    return await _change(ledger, seller_id, decide)


async def issue_key(
    ledger: Ledger, seller_id: str, label: str, now: UnixMillis
) -> tuple[Seller, IssuedKey]:
    """A further key; the older ones stay valid until they are revoked.

    Raises:
        SellerNotFound: no such seller.
    """
    key, event = _new_key(label, now)
    return await _change(ledger, seller_id, lambda _: [event]), key


async def revoke(ledger: Ledger, seller_id: str, key_id: str, now: UnixMillis) -> Seller:
    """Revoke a key; every process refuses it within `AUTH_CACHE_SECONDS`.

    Raises:
        SellerNotFound: no such seller.
        InvalidRequest: no such key.
    """
    return await _change(ledger, seller_id, lambda seller: revoke_key(seller, key_id, now))


def key_id_of(api_key: str) -> str | None:
    """The public part of a key, by which it is looked up."""
    prefix, _, rest = api_key.partition("_")
    key_id, _, secret = rest.partition("_")
    return key_id if prefix == KEY_PREFIX and key_id and secret else None


def key_matches(seller: Seller, key_id: str, api_key: str) -> bool:
    """Whether the key is this seller's and not revoked; compares in constant time."""
    digest = _key_hash(api_key)
    return any(
        key.key_id == key_id
        and key.revoked_at is None
        and hmac.compare_digest(key.key_hash, digest)
        for key in seller.keys
    )


def _new_key(label: str, now: UnixMillis) -> tuple[IssuedKey, e.SellerKeyIssued]:
    key_id = secrets.token_hex(6)
    api_key = f"{KEY_PREFIX}_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    issued = e.SellerKeyIssued(at=now, key_id=key_id, key_hash=_key_hash(api_key), label=label)
    return IssuedKey(key_id, api_key, label), issued


def _key_hash(api_key: str) -> bytes:
    """One fast hash is enough: the secret has 256 random bits, nobody can guess at it."""
    return hashlib.sha256(b"session-ledger-api-key\x00" + api_key.encode()).digest()


async def _change(
    ledger: Ledger, seller_id: str, decide: Callable[[Seller], Sequence[e.SellerEvent]]
) -> Seller:
    def decide_existing(seller: Seller | None) -> Sequence[e.SellerEvent]:
        if seller is None:
            raise SellerNotFound(f"no seller {seller_id!r}")
        return decide(seller)

    outcome = await ledger.commit(seller_stream(seller_id), decide_existing)
    assert outcome.state is not None
    return outcome.state
