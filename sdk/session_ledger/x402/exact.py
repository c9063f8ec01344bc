"""Scheme `exact` on Solana: what a resource server sends to a facilitator, v1 and v2.

The buyer signs a transaction whose fee payer is the facilitator; the server asks the facilitator
to verify and to settle it. The transaction itself is not read here.

Spec: x402 v1 and v2, `POST /verify` and `POST /settle`, scheme `exact` for SVM.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from session_ledger.challenge import Network
from session_ledger.json_text import JsonValue
from session_ledger.x402 import wire
from session_ledger.x402.errors import X402Error
from session_ledger.x402.networks import caip2, network_of, v1_name
from session_ledger.x402.wire import WireError

SCHEME: Final = "exact"
TRANSACTION_CHARS_MAX: Final = 1_644
"""Base64 of the largest packet, 1,232 bytes."""

INVALID_VERSION: Final = "invalid_x402_version"
INVALID_PAYLOAD: Final = "invalid_payload"
INVALID_REQUIREMENTS: Final = "invalid_payment_requirements"
UNSUPPORTED_SCHEME: Final = "unsupported_scheme"
INVALID_NETWORK: Final = "invalid_network"
NETWORK_MISMATCH: Final = "network_mismatch"
MISSING_FEE_PAYER: Final = "invalid_exact_svm_payload_missing_fee_payer"
UNDECODABLE: Final = "invalid_exact_svm_payload_transaction_could_not_be_decoded"

_V1: Final = 1
_V2: Final = 2
_DYNAMIC_EXTRA: Final = frozenset({"recentBlockhash", "lastValidBlockHeight"})
"""What a server renews in each offer, so that it may differ from what the buyer accepted."""

_AMOUNT_NAMES: Final = MappingProxyType({_V1: "maxAmountRequired", _V2: "amount"})

Version = Literal[1, 2]


class ExactError(X402Error):
    """The request is refused before its transaction is read. `reason` is a published one."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class ExactRequirements:
    """What the server asks for: exactly `amount` atomic units of `asset` (a mint) to `pay_to`."""

    network: Network
    network_id: str
    """The network as the request names it; answers repeat it."""
    amount: int
    asset: str
    pay_to: str
    fee_payer: str
    max_timeout_seconds: int
    memo: str | None = None
    resource: str | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True)
class ExactRequest:
    """One call of a facilitator: the buyer's transaction (wire bytes) and what it must do."""

    version: Version
    transaction: bytes
    requirements: ExactRequirements


def parse_facilitator_request(value: JsonValue) -> ExactRequest:
    """The body of `POST /verify` and `POST /settle`.

    Raises:
        ExactError: with the first reason that applies: version, scheme, network, requirements,
            fee payer, what the buyer accepted, transaction.
    """
    body = _object(value, "the body", INVALID_PAYLOAD)
    payload = _object(body.get("paymentPayload"), "paymentPayload", INVALID_PAYLOAD)
    asked = _object(body.get("paymentRequirements"), "paymentRequirements", INVALID_REQUIREMENTS)
    version = _version(body, payload)
    chosen = payload
    if version == _V2:
        chosen = _object(payload.get("accepted"), "accepted", INVALID_PAYLOAD)
    requirements = _requirements(version, asked, chosen, payload)
    if version == _V2:
        _expect_accepted(asked, chosen)
    inner = _object(payload.get("payload"), "payload", INVALID_PAYLOAD)
    try:
        transaction = wire.base64_bytes(
            inner.get("transaction"), "transaction", chars_max=TRANSACTION_CHARS_MAX
        )
    except WireError as error:
        raise ExactError(UNDECODABLE, str(error)) from None
    return ExactRequest(version, transaction, requirements)


def requested_network(value: JsonValue) -> str:
    """The network that an answer about a malformed request names: as asked, or empty."""
    match value:
        case {"paymentRequirements": {"network": str(name)}} if len(name) <= wire.NAME_CHARS_MAX:
            return name if name.isascii() and name.isprintable() else ""
        case _:
            return ""


def _version(body: Mapping[str, JsonValue], payload: Mapping[str, JsonValue]) -> Version:
    """The version of the payload, which that of the body may only repeat."""
    version = payload.get("x402Version")
    if isinstance(version, bool) or version not in (_V1, _V2):
        raise ExactError(INVALID_VERSION, "x402Version must be 1 or 2")
    if body.get("x402Version", version) != version:
        raise ExactError(INVALID_VERSION, "x402Version must be the payload's")
    return _V1 if version == _V1 else _V2


def _requirements(
    version: Version,
    asked: Mapping[str, JsonValue],
    chosen: Mapping[str, JsonValue],
    payload: Mapping[str, JsonValue],
) -> ExactRequirements:
    if asked.get("scheme") != SCHEME or chosen.get("scheme") != SCHEME:
        raise ExactError(UNSUPPORTED_SCHEME, f"scheme must be {SCHEME}")
    network = _network(version, asked.get("network"))
    if chosen.get("network") != asked.get("network"):
        raise ExactError(NETWORK_MISMATCH, "the payment is for another network")
    try:
        extra = wire.optional_object(asked, "extra") or {}
        if not extra.get("feePayer"):
            raise ExactError(MISSING_FEE_PAYER, "extra.feePayer must name the facilitator's key")
        return ExactRequirements(
            network=network,
            network_id=_own_name(version, network),
            amount=wire.amount_of(asked, _AMOUNT_NAMES[version]),
            asset=wire.key_of(asked, "asset"),
            pay_to=wire.key_of(asked, "payTo"),
            fee_payer=wire.key_of(extra, "feePayer"),
            max_timeout_seconds=wire.positive_of(asked, "maxTimeoutSeconds"),
            memo=wire.optional_memo(extra),
            **_resource(version, asked, payload),
        )
    except WireError as error:
        raise ExactError(INVALID_REQUIREMENTS, str(error)) from None


def _network(version: Version, name: JsonValue) -> Network:
    """The network by the version's own kind of name."""
    network = network_of(name) if isinstance(name, str) else None
    if network is None or _own_name(version, network) != name:
        kind = "a CAIP-2 id" if version == _V2 else "a name"
        raise ExactError(INVALID_NETWORK, f"network must be {kind} of a known Solana network")
    return network


def _own_name(version: Version, network: Network) -> str:
    return v1_name(network) if version == _V1 else caip2(network)


def _resource(
    version: Version, asked: Mapping[str, JsonValue], payload: Mapping[str, JsonValue]
) -> dict[str, str | None]:
    """What is paid for: in v1 the server says it, in v2 the buyer repeats it. Not only http."""
    if version == _V1:
        return {
            "resource": wire.uri_of(asked, "resource"),
            "description": wire.optional_text(asked, "description"),
        }
    told = payload.get("resource")
    if not isinstance(told, dict):
        return {}
    try:
        return {
            "resource": wire.uri_of(told, "url"),
            "description": wire.optional_text(told, "description"),
        }
    except WireError as error:
        raise ExactError(INVALID_PAYLOAD, f"resource: {error}") from None


def _expect_accepted(asked: Mapping[str, JsonValue], accepted: Mapping[str, JsonValue]) -> None:
    """The buyer accepted what the server asks for; it may have added to `extra`."""
    for name in ("amount", "asset", "payTo", "maxTimeoutSeconds"):
        if accepted.get(name) != asked.get(name):
            raise ExactError(INVALID_REQUIREMENTS, f"the buyer accepted another {name}")
    asked_extra = _object(asked.get("extra"), "extra", INVALID_REQUIREMENTS)
    accepted_extra = _object(accepted.get("extra"), "accepted.extra", INVALID_PAYLOAD)
    fixed = {name: value for name, value in asked_extra.items() if name not in _DYNAMIC_EXTRA}
    if not _is_within(fixed, accepted_extra):
        raise ExactError(INVALID_REQUIREMENTS, "the buyer accepted another extra")


def _is_within(asked: JsonValue, accepted: JsonValue) -> bool:
    """Whether every member that is asked for was accepted as it is, at any depth."""
    if isinstance(asked, dict) and isinstance(accepted, dict):
        return all(
            name in accepted and _is_within(value, accepted[name]) for name, value in asked.items()
        )
    return asked == accepted


def _object(value: JsonValue, name: str, reason: str) -> dict[str, JsonValue]:
    try:
        return wire.object_of(value, name)
    except WireError as error:
        raise ExactError(reason, str(error)) from None
