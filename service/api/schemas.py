"""The bodies that routes read, strictly: unknown fields are refused, nothing is coerced.

Names are the wire's camelCase. Amounts, prices and public keys stay text here and are parsed by
the domain, which says what is wrong with them.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from service.domain.limits import (
    CHANNEL_ID_CHARS_MAX,
    LEASE_SECONDS_MAX,
    NAME_CHARS_MAX,
    SAFE_INTEGER_MAX,
    UNIX_SECONDS_MAX,
)
from service.domain.terms import Limits
from service.domain.units import parse_amount

Network = Literal["localnet", "devnet", "mainnet-beta"]
AMOUNT_PATTERN = r"^(0|[1-9][0-9]{0,19})$"
HOLDER_PATTERN = r"^[\x21-\x7e]{1,128}$"
_AMOUNT_EXAMPLE = ["1000000"]


class Body(BaseModel):
    """A request body."""

    model_config = ConfigDict(
        extra="forbid", alias_generator=to_camel, validate_by_name=False, validate_by_alias=True
    )


class LimitsBody(Body):
    """Bounds beside the deposit, amounts in atomic units."""

    max_increment: str | None = Field(default=None, pattern=AMOUNT_PATTERN)
    max_cumulative: str | None = Field(default=None, pattern=AMOUNT_PATTERN)
    max_vouchers: int | None = Field(default=None, ge=1, le=SAFE_INTEGER_MAX)

    def parsed(self) -> Limits:
        """As the domain has them.

        Raises:
            InvalidRequest: an amount above 2^64-1.
        """
        return Limits(
            max_increment=_optional_amount(self.max_increment, "limits.maxIncrement"),
            max_cumulative=_optional_amount(self.max_cumulative, "limits.maxCumulative"),
            max_vouchers=self.max_vouchers,
        )


class PriceBookBody(Body):
    """Prices: see docs/metering.md for meters."""

    price_per_unit: str = Field(examples=["10000"])
    meter: str | None = Field(default=None, examples=["request"])
    meters: dict[str, Any] | None = None
    suggested_deposit: str | None = Field(default=None, examples=_AMOUNT_EXAMPLE)
    strict_meter: bool | None = None

    def price_book(self) -> dict[str, Any]:
        """The price book's own JSON, without what was not given."""
        names = PriceBookBody.model_fields
        given = self.model_dump(by_alias=True, exclude_none=True)
        return {k: v for k, v in given.items() if k in {to_camel(name) for name in names}}


class NewSellerBody(PriceBookBody):
    """A new seller."""

    name: str = Field(min_length=1, max_length=NAME_CHARS_MAX, pattern=r"^[^\x00-\x1f\x7f]+$")
    recipient: str
    network: Network | None = None
    unknown_channels: Literal["register", "refuse"] = "register"
    require_nonce: bool = False
    shared_recipient: bool = False
    limits: LimitsBody = Field(default_factory=LimitsBody)


class NewKeyBody(Body):
    """A further API key."""

    label: str = Field(default="", max_length=NAME_CHARS_MAX, pattern=r"^[^\x00-\x1f\x7f]*$")


class NewSessionBody(Body):
    """A channel to register."""

    channel_id: str | None = Field(default=None, min_length=1, max_length=CHANNEL_ID_CHARS_MAX)
    payer: str
    swig_address: str | None = None
    source_token_account: str | None = None
    session_pubkey: str
    deposit: str = Field(pattern=AMOUNT_PATTERN, examples=_AMOUNT_EXAMPLE)
    valid_until: int | None = Field(
        default=None, ge=0, le=UNIX_SECONDS_MAX, description="Unix seconds."
    )
    limits: LimitsBody | None = None
    grant_id: str | None = Field(default=None, min_length=1, max_length=NAME_CHARS_MAX)


class LeaseBody(Body):
    """Who delivers on a channel, and for how long it may not be heard of."""

    holder: str = Field(pattern=HOLDER_PATTERN, description="Any name that is this holder's own.")
    ttl_seconds: int = Field(ge=1, le=LEASE_SECONDS_MAX)


class CloseBody(Body):
    """How to close; everything may be left out."""

    source_token_account: str | None = Field(
        default=None, description="The token account to pay from, where the session names none."
    )


def _optional_amount(value: str | None, field: str) -> Any:
    return None if value is None else parse_amount(value, field)
