"""What OpenAPI says of the facilitator's routes. Nothing here runs on a request.

Spec: x402 v1 and v2, facilitator interface, as npm @x402/core 2.27.0 reads it.
"""

from typing import Any, Final, Literal

from fastapi.openapi.constants import REF_TEMPLATE
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from service.api.dependencies import IDEMPOTENCY_HEADER
from service.api.mpp.documentation import Documented, Entries
from service.api.mpp.schemas import WALLET, absent_not_null
from service.api.schemas import AMOUNT_PATTERN
from service.domain.limits import IDEMPOTENCY_KEY_CHARS_MAX

_NETWORK: Final = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
_SIGNATURE: Final = (
    "5VERv8NMvzbJMEkV8xnrLkEaWRtSz9CosKDYjCJjBRnbJLgp8uirBgmQpjKhoR4tjF3ZpRzrFmBV6UjKdiSZkQUW"
)


class _Wire(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, json_schema_extra=absent_not_null)


class FacilitatorRequest(_Wire):
    """A payment and what it has to do. v1 and v2 differ; unknown members are ignored."""

    x402_version: Literal[1, 2] = Field(alias="x402Version")
    payment_payload: dict[str, Any] = Field(
        description="As the buyer sent it: v2 `{x402Version, accepted, payload: {transaction}}`, "
        "v1 `{x402Version, scheme, network, payload: {transaction}}`.",
        examples=[{"x402Version": 2, "accepted": {}, "payload": {"transaction": "AQ=="}}],
    )
    payment_requirements: dict[str, Any] = Field(
        description="What the server asks for; `extra.feePayer` is of GET /x402/supported.",
        examples=[
            {
                "scheme": "exact",
                "network": _NETWORK,
                "amount": "10000",
                "asset": "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
                "payTo": WALLET,
                "maxTimeoutSeconds": 60,
                "extra": {"feePayer": WALLET},
            }
        ],
    )


class VerifyReply(_Wire):
    """Whether the payment would settle now, or the published reason why not."""

    model_config = ConfigDict(extra="forbid")

    is_valid: bool
    invalid_reason: str | None = Field(None, examples=["insufficient_funds"])
    invalid_message: str | None = Field(None, description="Our own code and words.")
    payer: str | None = Field(None, examples=[WALLET])


class SettleExactReply(_Wire):
    """The settled payment, or the published reason why it is none."""

    model_config = ConfigDict(extra="forbid")

    success: bool
    error_reason: str | None = Field(None, examples=["settlement_pending"])
    error_message: str | None = Field(None, description="Our own code and words.")
    transaction: str = Field(description="The signature; empty while nothing was sent.")
    network: str = Field(examples=[_NETWORK])
    payer: str | None = Field(None, examples=[WALLET])
    amount: str | None = Field(None, pattern=AMOUNT_PATTERN, examples=["10000"])


class SupportedExtra(_Wire):
    """What a server repeats in its requirements."""

    model_config = ConfigDict(extra="forbid")

    fee_payer: str = Field(examples=[WALLET])


class SupportedKind(_Wire):
    """One kind of payment."""

    model_config = ConfigDict(extra="forbid")

    x402_version: Literal[1, 2] = Field(alias="x402Version")
    scheme: Literal["exact"]
    network: str = Field(examples=[_NETWORK])
    extra: SupportedExtra


class SupportedReply(_Wire):
    """What this facilitator settles."""

    model_config = ConfigDict(extra="forbid")

    kinds: list[SupportedKind]
    extensions: list[str]
    signers: dict[str, list[str]]


SCHEMAS: Final[tuple[type[BaseModel], ...]] = (FacilitatorRequest,)
"""What the entries below refer to by name."""

_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": REF_TEMPLATE.format(model=FacilitatorRequest.__name__)}
            }
        },
    }
}
_KEY: Final[dict[str, Any]] = {
    "parameters": [
        {
            "in": "header",
            "name": "Idempotency-Key",
            "required": False,
            "schema": {"type": "string", "maxLength": IDEMPOTENCY_KEY_CHARS_MAX},
            "description": "A success is told once; under the same key it is told again.",
        }
    ]
}
assert _KEY["parameters"][0]["name"].lower() == IDEMPOTENCY_HEADER


def _entries(description: str, reply: type[BaseModel]) -> Entries:
    others = {
        400: "The body is not JSON that can be read.",
        413: "The body is too large.",
        503: "The event log does not answer; the same request may be sent again.",
    }
    return {
        200: {"description": description, "model": reply},
        **{status: {"description": text, "model": reply} for status, text in others.items()},
    }


VERIFY: Final = Documented(_entries("The verdict.", VerifyReply), _BODY)
SETTLE: Final = Documented(_entries("The outcome.", SettleExactReply), {**_KEY, **_BODY})
SUPPORTED: Final = Documented({200: {"description": "The kinds.", "model": SupportedReply}}, {})
