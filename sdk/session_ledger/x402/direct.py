"""Direct payments: the buyer sends the transfer itself and presents its signature.

A 402 body offers `PaymentRequirements`; the buyer pays on the chain and repeats the request with
the `X-PAYMENT` header; the seller's answer carries `X-PAYMENT-RESPONSE`. Everything is read
strictly in form and left unjudged in substance: scheme, network, version and amount of a header
are what the buyer claims.

Spec: x402 v1 with the scheme `solanaTransferChecked` of the published test server.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from session_ledger.json_text import JsonTextError, JsonValue, parse
from session_ledger.x402 import wire
from session_ledger.x402.errors import X402ParseError
from session_ledger.x402.wire import WireError

SCHEME: Final = "solanaTransferChecked"
X402_VERSION: Final = 1
PAYMENT_HEADER: Final = "X-PAYMENT"
PAYMENT_RESPONSE_HEADER: Final = "X-PAYMENT-RESPONSE"

HEADER_CHARS_MAX: Final = 4 * 1024
"""Longest header value that is decoded; a payment has about 500 characters."""
ACCEPTS_MAX: Final = 32
"""Offers in one 402 body."""

INVALID_HEADER: Final = "Invalid X-PAYMENT header format"
_HEADER_NOT_JSON: Final = "X-PAYMENT header is not valid JSON"
_INVALID_RESPONSE: Final = "Invalid X-PAYMENT-RESPONSE header"
_INVALID_BODY: Final = "Invalid 402 response format. Expected standard x402 structure."
_INVALID_REQUIREMENTS: Final = "Invalid payment requirements"
_NO_OPTIONS: Final = "Server did not return any payment options"
_DEPTH_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class PaymentRequirements:
    """What one resource costs, in atomic units of `asset` (a mint), and who is to be paid."""

    network: str
    max_amount_required: int
    resource: str
    pay_to: str
    asset: str
    scheme: str = SCHEME
    description: str | None = None
    mime_type: str | None = None
    max_timeout_seconds: int | None = None
    output_schema: dict[str, JsonValue] | None = None
    extra: dict[str, JsonValue] | None = None

    @property
    def memo(self) -> str | None:
        """`extra.memo`: the text that the transaction must carry, if any."""
        return wire.optional_memo(self.extra or {})

    @property
    def reference(self) -> str | None:
        """`extra.reference`: the key that the transaction must name, if any."""
        return wire.optional_reference(self.extra or {})

    def to_json(self) -> dict[str, JsonValue]:
        """One element of `accepts`. Absent optional members are left out."""
        members: dict[str, JsonValue] = {
            "scheme": self.scheme,
            "network": self.network,
            "maxAmountRequired": str(self.max_amount_required),
            "resource": self.resource,
            "description": self.description,
            "mimeType": self.mime_type,
            "payTo": self.pay_to,
            "asset": self.asset,
            "maxTimeoutSeconds": self.max_timeout_seconds,
            "outputSchema": self.output_schema,
            "extra": self.extra,
        }
        return {name: value for name, value in members.items() if value is not None}


@dataclass(frozen=True, slots=True)
class PaymentPayload:
    """The `X-PAYMENT` header. `payer` is its `from`, `timestamp` is in Unix milliseconds."""

    signature: str
    payer: str
    amount: int
    mint: str
    timestamp: int
    network: str
    scheme: str = SCHEME
    x402_version: int = X402_VERSION


@dataclass(frozen=True, slots=True)
class PaymentRequired:
    """The body of a 402: at least one offer, and why the last attempt was refused."""

    accepts: tuple[PaymentRequirements, ...]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PaymentResponse:
    """The `X-PAYMENT-RESPONSE` header; `transaction` is the signature."""

    success: bool
    transaction: str | None
    network: str | None
    payer: str | None = None
    error: str | None = None


def parse_requirements(value: JsonValue) -> PaymentRequirements:
    """Payment requirements as a seller sends them.

    Raises:
        X402ParseError: `reason` names the first member that is missing or malformed.
    """
    try:
        return _requirements(value)
    except WireError as error:
        raise X402ParseError(_INVALID_REQUIREMENTS, str(error)) from None


def parse_payment_header(text: str) -> PaymentPayload:
    """The payment in an `X-PAYMENT` header.

    Raises:
        X402ParseError: with the published text; `reason` says what is wrong.
    """
    try:
        members = wire.object_of(_decoded(text, PAYMENT_HEADER), PAYMENT_HEADER)
        payload = wire.object_of(members.get("payload"), "payload")
        return PaymentPayload(
            x402_version=wire.positive_of(members, "x402Version"),
            scheme=wire.name_of(members, "scheme"),
            network=wire.name_of(members, "network"),
            signature=wire.signature_of(payload, "signature"),
            payer=wire.key_of(payload, "from"),
            amount=wire.amount_of(payload, "amount"),
            mint=wire.key_of(payload, "mint"),
            timestamp=wire.positive_of(payload, "timestamp"),
        )
    except JsonTextError as error:
        raise X402ParseError(_HEADER_NOT_JSON, str(error)) from None
    except WireError as error:
        raise X402ParseError(INVALID_HEADER, str(error)) from None


def payment_header(payload: PaymentPayload) -> str:
    """The value of the `X-PAYMENT` header."""
    return _encoded(
        {
            "x402Version": payload.x402_version,
            "scheme": payload.scheme,
            "network": payload.network,
            "payload": {
                "signature": payload.signature,
                "from": payload.payer,
                "amount": str(payload.amount),
                "mint": payload.mint,
                "timestamp": payload.timestamp,
            },
        }
    )


def payment_required_body(
    accepts: Iterable[PaymentRequirements], error: str | None = None
) -> dict[str, JsonValue]:
    """The body of a 402."""
    return {
        "x402Version": X402_VERSION,
        "accepts": [requirements.to_json() for requirements in accepts],
        "error": error,
    }


def parse_payment_required(value: JsonValue) -> PaymentRequired:
    """The offers in the body of a 402, of any scheme of x402 v1.

    Raises:
        X402ParseError: with one of the published texts.
    """
    try:
        members = wire.object_of(value, "the body")
        wire.positive_of(members, "x402Version")
        accepts = wire.list_of(members, "accepts", items_max=ACCEPTS_MAX)
        found = tuple(_requirements(item) for item in accepts)
        error = wire.optional_text(members, "error")
    except WireError as problem:
        raise X402ParseError(_INVALID_BODY, str(problem)) from None
    if not found:
        raise X402ParseError(_NO_OPTIONS, "accepts is empty")
    return PaymentRequired(found, error)


def payment_response_header(response: PaymentResponse) -> str:
    """The value of `X-PAYMENT-RESPONSE`, with the names of both dialects."""
    return _encoded(
        {
            "success": response.success,
            "error": response.error,
            "txHash": response.transaction,
            "networkId": response.network,
            "transaction": response.transaction,
            "network": response.network,
            "payer": response.payer,
        }
    )


def parse_payment_response(text: str) -> PaymentResponse:
    """What an `X-PAYMENT-RESPONSE` header says, in either dialect.

    Raises:
        X402ParseError: it is not base64 of a JSON object with a boolean `success`.
    """
    try:
        members = wire.object_of(_decoded(text, PAYMENT_RESPONSE_HEADER), PAYMENT_RESPONSE_HEADER)
        return PaymentResponse(
            success=wire.flag_of(members, "success"),
            transaction=_either(members, "transaction", "txHash"),
            network=_either(members, "network", "networkId"),
            payer=wire.optional_text(members, "payer"),
            error=_either(members, "error", "errorReason"),
        )
    except (JsonTextError, WireError) as error:
        raise X402ParseError(_INVALID_RESPONSE, str(error)) from None


def _requirements(value: JsonValue) -> PaymentRequirements:
    members = wire.object_of(value, "payment requirements")
    extra = wire.optional_object(members, "extra")
    wire.optional_memo(extra or {})
    wire.optional_reference(extra or {})
    return PaymentRequirements(
        scheme=wire.name_of(members, "scheme"),
        network=wire.name_of(members, "network"),
        max_amount_required=wire.amount_of(members, "maxAmountRequired"),
        resource=wire.url_of(members, "resource"),
        pay_to=wire.key_of(members, "payTo"),
        asset=wire.key_of(members, "asset"),
        description=wire.optional_text(members, "description"),
        mime_type=wire.optional_text(members, "mimeType"),
        max_timeout_seconds=wire.optional_positive(members, "maxTimeoutSeconds"),
        output_schema=wire.optional_object(members, "outputSchema"),
        extra=extra,
    )


def _either(members: dict[str, JsonValue], name: str, other: str) -> str | None:
    found = wire.optional_text(members, name)
    return wire.optional_text(members, other) if found is None else found


def _decoded(text: str, name: str) -> JsonValue:
    return parse(wire.base64_bytes(text, name, chars_max=HEADER_CHARS_MAX), depth_max=_DEPTH_MAX)


def _encoded(value: JsonValue) -> str:
    return base64.b64encode(json.dumps(value, separators=(",", ":")).encode()).decode()
