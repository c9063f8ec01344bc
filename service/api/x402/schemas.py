"""The bodies of the direct payments' routes, as they are read and as OpenAPI shows them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from service.api.answers import Answer
from service.api.schemas import AMOUNT_PATTERN, Body


class VerifyPaymentBody(Body):
    """A payment to verify: the header as the client sent it, and what the seller required."""

    payment_header: str = Field(description="The value of X-PAYMENT.")
    payment_requirements: dict[str, Any] = Field(
        description="One of the `accepts` that the client was offered."
    )


class RequirementsQuery(BaseModel):
    """What is for sale."""

    model_config = ConfigDict(alias_generator=to_camel)

    resource: str = Field(description="The URL that is for sale.", max_length=2_048)
    units: str | None = Field(default=None, description="How many units it costs; 1 by default.")
    amount: str | None = Field(default=None, description="Or its price, in atomic units.")
    description: str | None = Field(default=None, max_length=2_048)
    mime_type: str = Field(default="application/json", max_length=128)
    max_timeout_seconds: int | None = Field(default=None, ge=1, le=86_400)
    output_schema: str | None = Field(default=None, description="A JSON object.", max_length=8_192)


class DeliveryFailedBody(Body):
    """What could not be delivered."""

    resource: str = Field(description="As in the requirements of the payment.")


class PaymentRequirementsAnswer(Answer):
    """The body of a 402."""

    x402_version: Literal[1] = Field(alias="x402Version")
    accepts: list[dict[str, Any]]
    error: str | None


class VerificationAnswer(Answer):
    """Whether a payment buys the resource; docs/x402.md lists the codes.

    `status` is what the seller answers its client. `error` is the documentation's text where it has
    one, `libraryError` the text of the published server.
    """

    is_valid: bool
    error: str | None
    library_error: str | None
    code: str | None
    retryable: bool
    status: Literal[200, 400, 402]
    payer: str | None
    amount: str | None = Field(pattern=AMOUNT_PATTERN)
    transaction: str | None
    payment_response_header: str | None


class DirectPaymentAnswer(Answer):
    """A payment that was accepted, and what became of it."""

    transaction: str
    status: Literal["accepted", "finalized", "reversed"]
    resource: str
    payer: str
    pay_to: str
    asset: str
    amount: str = Field(pattern=AMOUNT_PATTERN, examples=["10000"])
    required: str = Field(pattern=AMOUNT_PATTERN, examples=["10000"])
    network: str
    slot: int
    block_time: str
    commitment: Literal["confirmed", "finalized"]
    binding: Literal["challenge", "memo", "reference", "payer"]
    memo: str | None
    reference: str | None
    accepted_at: str
    ended_at: str | None
    redelivery_owed: bool
    deliveries_failed: int
    redeliveries: int
    reversal: dict[str, Any] | None
    explorer_url: str | None


class DirectPaymentPage(Answer):
    """A page of payments, the newest first."""

    payments: list[DirectPaymentAnswer]
    next_cursor: str | None


SCHEMAS = (VerifyPaymentBody, DeliveryFailedBody)
"""Bodies that the routes read themselves."""
