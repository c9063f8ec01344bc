"""What a 402 asks for, in any of the dialects: read strictly, and judged against the caps."""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import httpx

from session_ledger.buyer.errors import (
    AssetNotAllowed,
    NetworkMismatch,
    PaymentTooLarge,
    RecipientNotAllowed,
    Refusal,
    RequirementError,
)
from session_ledger.buyer.payment import Dialect
from session_ledger.challenge import (
    CHALLENGE_TYPE,
    Challenge,
    ChallengeError,
    Network,
    parse_challenge,
)
from session_ledger.json_text import JsonTextError, JsonValue, parse
from session_ledger.x402 import direct, exact, wire
from session_ledger.x402.direct import PaymentRequirements
from session_ledger.x402.errors import X402ParseError
from session_ledger.x402.networks import network_of
from session_ledger.x402.wire import WireError

ANY_RECIPIENT: Final = "*"
V2_OFFER_HEADER: Final = "PAYMENT-REQUIRED"
_OFFER_CHARS_MAX: Final = 64 * 1024
NO_REASON: Final = frozenset(
    {"payment_required", "Payment required", "X-PAYMENT header is required"}
)
"""What a seller says that has not looked at any payment."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One thing that a seller wants paid: `amount` atomic units of `asset` to `recipient`."""

    dialect: Dialect
    network: str
    recipient: str
    asset: str
    amount: int
    url: str
    challenge: Challenge | None = None
    direct: PaymentRequirements | None = None
    accepted: "Mapping[str, JsonValue] | None" = None
    resource: "JsonValue" = None


@dataclass(frozen=True, slots=True)
class Caps:
    """What the client itself allows, whatever a grant says. An empty list allows nobody."""

    network: Network
    max_payment_amount: int
    allowed_recipients: tuple[str, ...]

    def check(self, asked: Requirement) -> None:
        """Network, asset, price, then recipient.

        Raises:
            NetworkMismatch, AssetNotAllowed, PaymentTooLarge, RecipientNotAllowed.
        """
        known = network_of(asked.network)
        if known is None or known.name != self.network.name:
            raise NetworkMismatch(
                f"the seller is paid on {asked.network}, this client pays on {self.network.name}",
                asked,
            )
        if asked.asset != self.network.usdc_mint:
            raise AssetNotAllowed(
                f"the seller wants {asked.asset}, this client pays {self.network.usdc_mint}", asked
            )
        if asked.amount > self.max_payment_amount:
            raise PaymentTooLarge(
                f"the price is {asked.amount}, max_payment_amount is {self.max_payment_amount}",
                asked,
            )
        allowed = self.allowed_recipients
        if ANY_RECIPIENT not in allowed and asked.recipient not in allowed:
            raise RecipientNotAllowed(f"{asked.recipient} is not an allowed recipient", asked)


def requirements_of(
    response: httpx.Response, url: str, dialects: Sequence[Dialect]
) -> list[Requirement]:
    """All that the 402 offers in these dialects, in their order; a malformed offer is none."""
    body = _body(response)
    readers = {"session": _session, "x402test": _direct, "x402v2": _exact, "x402v1": _exact_v1}
    return [found for dialect in dialects for found in readers[dialect](response, body, url)]


def choose(offers: Sequence[Requirement], caps: Caps) -> Requirement:
    """The first offer within the caps.

    Raises:
        RequirementError: none is; why the first one is not.
    """
    first: RequirementError | None = None
    for offer in offers:
        try:
            caps.check(offer)
        except RequirementError as error:
            first = first or error
        else:
            return offer
    assert first is not None
    raise first


def refusal_of(response: httpx.Response) -> Refusal:
    """What a refusal says against a payment that was shown.

    The code stands in the body: as `code`, or as the reference's `error` text, whose first word it
    is; or inside a `verdict` object. What a grant says more may stand in a `grant` object.
    """
    body = _body(response)
    members: dict[str, JsonValue] = body if isinstance(body, dict) else {}
    nested = members.get("verdict")
    told: dict[str, JsonValue] = {**nested, **members} if isinstance(nested, dict) else members
    grant = told.get("grant")
    told = {**grant, **told} if isinstance(grant, dict) else told
    code = _text(told, "code") or _text(told, "reason") or _first_word(_text(told, "error"))
    kind = nested.get("verdict") if isinstance(nested, dict) else nested
    return Refusal(
        code=None if code in NO_REASON else code,
        detail=_text(told, "detail") or _text(told, "error"),
        fallback=_text(told, "fallback"),
        replayed=kind == "replayed" or told.get("replayed") is True,
        body=told,
    )


def _session(_: httpx.Response, body: JsonValue, url: str) -> Iterator[Requirement]:
    match body:
        case {"type": kind} if kind == CHALLENGE_TYPE:
            value: JsonValue = body
        case {"challenge": {"type": kind, **rest}} if kind == CHALLENGE_TYPE:
            value = {"type": kind, **rest}
        case _:
            return
    with suppress(ChallengeError):
        challenge = parse_challenge(value)
        network = network_of(challenge.network)
        yield Requirement(
            dialect="session",
            network=challenge.network,
            recipient=challenge.recipient,
            asset="" if network is None else network.usdc_mint,
            amount=challenge.price_per_unit,
            url=url,
            challenge=challenge,
        )


def _direct(_: httpx.Response, body: JsonValue, url: str) -> Iterator[Requirement]:
    try:
        found = direct.parse_payment_required(body)
    except X402ParseError:
        return
    for offer in found.accepts:
        if offer.scheme == direct.SCHEME:
            yield Requirement(
                dialect="x402test",
                network=offer.network,
                recipient=offer.pay_to,
                asset=offer.asset,
                amount=offer.max_amount_required,
                url=url,
                direct=offer,
            )


def _exact(response: httpx.Response, _: JsonValue, url: str) -> Iterator[Requirement]:
    match _decoded(response.headers.get(V2_OFFER_HEADER)):
        case {"x402Version": 2, "accepts": [*offers], **others}:
            resource = others.get("resource")
        case _:
            return
    yield from _sponsored("x402v2", offers, "amount", url, resource)


def _exact_v1(_: httpx.Response, body: JsonValue, url: str) -> Iterator[Requirement]:
    match body:
        case {"x402Version": 1, "accepts": [*offers]}:
            yield from _sponsored("x402v1", offers, "maxAmountRequired", url)
        case _:
            return


def _sponsored(
    dialect: Dialect,
    offers: Sequence[JsonValue],
    amount_name: str,
    url: str,
    resource: JsonValue = None,
) -> Iterator[Requirement]:
    """The offers of scheme `exact`, whose transaction the seller's facilitator pays for."""
    for offer in offers[: direct.ACCEPTS_MAX]:
        if not isinstance(offer, dict) or offer.get("scheme") != exact.SCHEME:
            continue
        with suppress(WireError):
            extra = wire.optional_object(offer, "extra") or {}
            wire.key_of(extra, "feePayer")
            wire.optional_memo(extra)
            yield Requirement(
                dialect=dialect,
                network=wire.name_of(offer, "network"),
                recipient=wire.key_of(offer, "payTo"),
                asset=wire.key_of(offer, "asset"),
                amount=wire.amount_of(offer, amount_name),
                url=url,
                accepted=offer,
                resource=resource,
            )


def _body(response: httpx.Response) -> JsonValue:
    try:
        return parse(response.content)
    except JsonTextError:
        return None


def _decoded(text: str | None) -> JsonValue:
    if text is None or len(text) > _OFFER_CHARS_MAX:
        return None
    with suppress(binascii.Error, JsonTextError, ValueError):
        return parse(base64.b64decode(text, validate=True))
    return None


def _text(members: Mapping[str, JsonValue], name: str) -> str | None:
    found = members.get(name)
    return found if isinstance(found, str) else None


def _first_word(text: str | None) -> str | None:
    return None if text is None else text.partition(":")[0].strip() or None
